import { query } from '../lib/api'
import { useData, usePages } from '../lib/data'
import { useFilters } from '../lib/nav'
import { environment } from '../lib/session'
import { at } from '../lib/time'
import type { Call, Key } from '../lib/types'
import { ENDING_NAMES } from '../lib/words'
import { CallsTable } from '../ui/calls-table'
import { Card, Empty, Link, More, Page, Select, Shown, Typed } from '../ui/parts'

const NAMES = ['key_id', 'model', 'endpoint', 'status', 'ending', 'request_id', 'from', 'until']

export default function Calls() {
  const [filter, set] = useFilters()
  const values = Object.fromEntries(NAMES.map((name) => [name, filter(name)]))
  const isNarrow = NAMES.some((name) => filter(name))
  const calls = usePages<Call>(
    query('/api/monitoring/requests', { ...values, environment: environment.value, limit: 50 }),
    'requests',
  )
  const keys = useData<Key[]>('/api/keys')
  return (
    <Page
      title="Calls"
      intro="Each call that reached an upstream, the latest first. What is refused before that is not listed."
    >
      <div class="filters">
        <Select
          label="Key"
          value={filter('key_id')}
          of={[
            ['', 'All'],
            ...(keys.data ?? [])
              .filter((key) => key.environment === environment.value)
              .map((key): [string, string] => [key.id, key.name]),
          ]}
          onChoose={(key_id) => set({ key_id })}
        />
        <Typed label="Model" value={filter('model')} placeholder="all" onGive={(model) => set({ model })} />
        <Typed label="Route" value={filter('endpoint')} placeholder="all" onGive={(endpoint) => set({ endpoint })} />
        <Select
          label="Ending"
          value={filter('ending')}
          of={[['', 'All'], ...ENDING_NAMES]}
          onChoose={(ending) => set({ ending })}
        />
        <Typed label="Status" value={filter('status')} placeholder="all" onGive={(status) => set({ status })} />
        <Typed
          label="Request"
          value={filter('request_id')}
          placeholder="req-…"
          onGive={(request_id) => set({ request_id })}
        />
        {isNarrow && (
          <button
            type="button"
            class="quiet"
            onClick={() => set(Object.fromEntries(NAMES.map((name) => [name, ''])))}
          >
            Clear
          </button>
        )}
      </div>
      {filter('from') && (
        <p class="muted">
          From {at(filter('from'))}
          {filter('until') ? ` until ${at(filter('until'))}` : ''}.
        </p>
      )}
      <Card>
        <Shown of={{ data: calls.items, error: calls.error, busy: calls.busy }} rows={8}>
          {(items) =>
            items.length === 0 ? (
              <Empty
                title={isNarrow ? 'No call is like this' : 'No call yet'}
                action={
                  isNarrow ? undefined : (
                    <Link page="/start" class="button">
                      Quick start
                    </Link>
                  )
                }
              >
                {isNarrow ? 'Take a filter away to see more.' : 'Calls appear here as they end.'}
              </Empty>
            ) : (
              <>
                <CallsTable calls={items} keys={keys.data} />
                <More of={calls} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
