import { query, send } from '../lib/api'
import { refresh, useData, usePages } from '../lib/data'
import { digits, nano } from '../lib/money'
import { useFilters } from '../lib/nav'
import { environment } from '../lib/session'
import { number } from '../lib/time'
import type { Balance, Entry, Key } from '../lib/types'
import { kind, KIND_NAMES } from '../lib/words'
import { Card, Empty, Link, Money, More, Page, say, Select, Shown, Table, Tile, Typed, When } from '../ui/parts'

const NAMES = ['kind', 'key_id', 'from', 'until']

/** Where an entry comes from: a call, a payment, or an operator. */
export function Reference({ of }: { of: Entry }) {
  if (of.reference.startsWith('req-')) return <Link page={`/calls/${of.reference}`}>Call</Link>
  if (of.reference.startsWith('pay-')) return <Link page={`/payments/${of.reference}`}>Payment</Link>
  return <span class="muted">–</span>
}

export default function Ledger() {
  const [filter, set] = useFilters()
  const isTest = environment.value === 'test'
  const times = {
    from: filter('from') && `${filter('from')}T00:00:00Z`,
    until: filter('until') && `${filter('until')}T00:00:00Z`,
  }
  const values = { kind: filter('kind'), key_id: filter('key_id'), ...times, environment: environment.value }
  const isNarrow = NAMES.some((name) => filter(name))
  const balance = useData<Balance>(query('/api/payments/credits/balance', { environment: environment.value }))
  const entries = usePages<Entry>(query('/api/payments/transactions', { ...values, limit: 50 }), 'transactions')
  const keys = useData<Key[]>('/api/keys')
  const file = (format: string) => query('/api/payments/transactions/export', { ...values, format })
  return (
    <Page
      title="Ledger"
      intro="All that has ever changed the balance, newest first. Entries are never changed."
      actions={
        <>
          {isTest && (
            <button
              type="button"
              onClick={() =>
                void send('POST', '/api/payments/test/reset').then(
                  () => {
                    refresh()
                    say('The test credits are full again.')
                  },
                  (error) => say(error.message),
                )
              }
            >
              Refill test credits
            </button>
          )}
          <a class="button" href={file('csv')} download>
            Save as CSV
          </a>
          <a class="button" href={file('jsonl')} download>
            JSON lines
          </a>
        </>
      }
    >
      <Shown of={balance} rows={2}>
        {(money) => (
          <div class="tiles exact">
            <Tile name="Balance" value={<Money amount={money.balance} whole />} />
            <Tile name="Held" value={<Money amount={money.held} whole />} hint="For calls that run now" />
            <Tile name="Available" value={<Money amount={money.available} whole />} />
          </div>
        )}
      </Shown>
      <div class="filters">
        <Select
          label="Kind"
          value={filter('kind')}
          of={[['', 'All'], ...KIND_NAMES]}
          onChoose={(chosen) => set({ kind: chosen })}
        />
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
        <Typed label="From (UTC)" type="date" value={filter('from')} onGive={(from) => set({ from })} />
        <Typed label="Before (UTC)" type="date" value={filter('until')} onGive={(until) => set({ until })} />
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
      <Card>
        <Shown of={{ data: entries.items, error: entries.error, busy: entries.busy }} rows={8}>
          {(items) =>
            items.length === 0 && !entries.more ? (
              <Empty
                title={isNarrow ? 'No entry is like this' : 'Nothing yet'}
                action={
                  isNarrow ? undefined : (
                    <Link page="/top-up" class="button primary">
                      Top up
                    </Link>
                  )
                }
              >
                {isNarrow ? 'Take a filter away to see more.' : 'The first entry comes with the first credits.'}
              </Empty>
            ) : (
              <>
                <Table
                  label="Entries"
                  items={items}
                  id={(entry) => String(entry.sequence)}
                  columns={[
                    { name: 'Number', minor: true, cell: (entry) => number(entry.sequence) },
                    { name: 'Time', cell: (entry) => <When time={entry.created_at} /> },
                    { name: 'Kind', cell: (entry) => <span class="nowrap">{kind(entry.kind)}</span> },
                    {
                      name: 'Key',
                      minor: true,
                      cell: (entry) =>
                        entry.key_id ? (
                          <Link page={`/keys/${entry.key_id}`}>
                            <span class="clip">
                              {keys.data?.find(({ id }) => id === entry.key_id)?.name ?? 'deleted key'}
                            </span>
                          </Link>
                        ) : (
                          <span class="muted">–</span>
                        ),
                    },
                    { name: 'From', cell: (entry) => <Reference of={entry} /> },
                    {
                      name: 'Amount',
                      number: true,
                      cell: (entry) => (
                        <span class={nano(entry.amount) > 0n ? 'plus' : ''}>
                          <Money amount={entry.amount} whole sign least={digits(items.map(({ amount }) => amount))} />
                        </span>
                      ),
                    },
                    {
                      name: 'Balance after',
                      number: true,
                      cell: (entry) => (
                        <Money
                          amount={entry.balance_after}
                          whole
                          least={digits(items.map(({ balance_after }) => balance_after))}
                        />
                      ),
                    },
                  ]}
                />
                <More of={entries} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
