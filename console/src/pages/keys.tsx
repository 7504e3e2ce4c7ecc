import { useState } from 'preact/hooks'
import { query } from '../lib/api'
import { useData } from '../lib/data'
import { useFilters } from '../lib/nav'
import { environment } from '../lib/session'
import type { Key, KeyLimits } from '../lib/types'
import { Badge, Card, Empty, Limit, Link, Page, Segments, Shown, Table, Typed, When } from '../ui/parts'

/** In a word, whether a key works. */
export function KeyState({ of }: { of: Key }) {
  if (!of.is_active) return <Badge tone="bad">Revoked</Badge>
  if (of.expires_at && Date.parse(of.expires_at) < Date.now()) return <Badge tone="bad">Expired</Badge>
  if (of.expires_soon) return <Badge tone="warn">Ends soon</Badge>
  return <Badge tone="good">Active</Badge>
}

const works = (key: Key) => key.is_active && !(key.expires_at && Date.parse(key.expires_at) < Date.now())

export default function Keys() {
  const keys = useData<Key[]>('/api/keys')
  const limits = useData<{ keys: KeyLimits[] }>(query('/api/monitoring/limits', { environment: environment.value }))
  const [filter, set] = useFilters()
  const [shown, more] = useState(50)
  const wanted = filter('state') || 'active'
  const search = filter('search').toLowerCase()
  const limited = new Map(limits.data?.keys.map((key) => [key.key_id, key]))
  return (
    <Page
      title="Keys"
      actions={
        <Link page="/keys/new" class="button primary">
          Make a key
        </Link>
      }
    >
      <Shown of={keys} rows={5}>
        {(all) => {
          const mine = all.filter((key) => key.environment === environment.value)
          const found = mine.filter(
            (key) =>
              (wanted === 'all' || works(key)) &&
              (!search || `${key.name} ${key.key_value_preview} ${key.id}`.toLowerCase().includes(search)),
          )
          if (mine.length === 0) {
            return (
              <Card>
                <Empty
                  title="No key yet"
                  action={
                    <Link page="/keys/new" class="button primary">
                      Make a key
                    </Link>
                  }
                >
                  A program shows its key with each call. Give each program one of its own, with a limit.
                </Empty>
              </Card>
            )
          }
          return (
            <>
              <div class="filters">
                <Segments
                  label="Which keys"
                  value={wanted}
                  of={[
                    ['active', 'Active'],
                    ['all', 'All'],
                  ]}
                  onChoose={(state) => set({ state: state === 'active' ? '' : state })}
                />
                <Typed
                  label="Search"
                  type="search"
                  value={filter('search')}
                  placeholder="Name or first signs"
                  onGive={(text) => set({ search: text })}
                />
              </div>
              <Card>
                {found.length === 0 ? (
                  <Empty title="No key is like this">Look at all keys, or search for something else.</Empty>
                ) : (
                  <Table
                    label="Keys"
                    items={found.slice(0, shown)}
                    id={(key) => key.id}
                    columns={[
                      {
                        name: 'Name',
                        wide: true,
                        cell: (key) => (
                          <>
                            <Link page={`/keys/${key.id}`}>
                              <span class="clip">{key.name}</span>
                            </Link>
                            <code class="muted small block">{key.key_value_preview}</code>
                          </>
                        ),
                      },
                      { name: 'State', cell: (key) => <KeyState of={key} /> },
                      {
                        name: 'Spent',
                        wide: true,
                        cell: (key) => {
                          const of = limited.get(key.id)
                          if (!of) return <span class="muted">–</span>
                          const bound = (
                            [
                              ['Day', of.daily],
                              ['Month', of.monthly],
                              ['In all', of.total],
                            ] as const
                          ).filter(([, { limit }]) => limit != null)
                          return bound.length ? (
                            bound.map(([name, window]) => (
                              <Limit key={name} name={name} spent={window.spent} limit={window.limit} />
                            ))
                          ) : (
                            <Limit name="Month" spent={of.monthly.spent} limit={null} />
                          )
                        },
                      },
                      {
                        name: 'Last used',
                        cell: (key) =>
                          key.last_used_at ? (
                            <When time={key.last_used_at} relative />
                          ) : (
                            <span class="muted">never</span>
                          ),
                      },
                      {
                        name: 'Ends',
                        cell: (key) =>
                          key.expires_at ? <When time={key.expires_at} relative /> : <span class="muted">never</span>,
                      },
                    ]}
                  />
                )}
                {found.length > shown && (
                  <p class="more">
                    <button type="button" onClick={() => more(shown + 50)}>
                      Show more
                    </button>
                  </p>
                )}
              </Card>
            </>
          )
        }}
      </Shown>
    </Page>
  )
}
