import { query } from '../lib/api'
import { useData, usePages } from '../lib/data'
import { digits } from '../lib/money'
import { useFilters } from '../lib/nav'
import type { AdminUser } from '../lib/types'
import { Badge, Card, Empty, Link, Money, More, Page, Select, Shown, Table, Typed, When } from '../ui/parts'

export function UserState({ of }: { of: AdminUser }) {
  if (of.is_erased) return <Badge>Erased</Badge>
  if (of.status === 'suspended') return <Badge tone="bad">Suspended</Badge>
  return of.is_email_verified ? <Badge tone="good">Open</Badge> : <Badge tone="warn">Not verified</Badge>
}

/** What was found by an id or by the preview of a key. */
interface Found {
  kind: string
  id: string
  user: AdminUser
}

const KINDS: Record<string, string> = { user: 'User', key: 'Key', payment: 'Payment', request: 'Call' }

export default function Users() {
  const [filter, set] = useFilters()
  const search = filter('search')
  // Ids, and the beginning of a key, are looked up in another way than names.
  const isId = /^(req|pay|key|user|session)-|^ps_|\.\.\./.test(search)
  const found = useData<{ data: Found[] }>(isId ? query('/api/admin/search', { q: search }) : null)
  const users = usePages<AdminUser>(
    isId
      ? null
      : query('/api/admin/users', {
          search,
          role: filter('role'),
          status: filter('status'),
          verified: filter('verified'),
          sort: filter('sort'),
          limit: 50,
        }),
    'users',
  )
  return (
    <Page title="Users" intro="The audit log says whom you have looked at.">
      <div class="filters">
        <Typed
          label="Search"
          type="search"
          value={search}
          placeholder="Name, address, id, part of a key"
          onGive={(text) => set({ search: text })}
        />
        <Select
          label="Role"
          value={filter('role')}
          of={[
            ['', 'All'],
            ['user', 'Users'],
            ['admin', 'Operators'],
          ]}
          onChoose={(role) => set({ role })}
        />
        <Select
          label="State"
          value={filter('status')}
          of={[
            ['', 'All'],
            ['open', 'Open'],
            ['suspended', 'Suspended'],
          ]}
          onChoose={(status) => set({ status })}
        />
        <Select
          label="Address"
          value={filter('verified')}
          of={[
            ['', 'All'],
            ['true', 'Verified'],
            ['false', 'Not verified'],
          ]}
          onChoose={(verified) => set({ verified })}
        />
        <Select
          label="Order"
          value={filter('sort')}
          of={[
            ['', 'Newest'],
            ['oldest', 'Oldest'],
            ['balance', 'Highest balance'],
          ]}
          onChoose={(sort) => set({ sort })}
        />
      </div>
      <Card>
        {isId ? (
          <Shown of={{ ...found, data: found.data?.data }}>
            {(items) =>
              items.length === 0 ? (
                <Empty title="Nothing has this id">Look for a mistyped sign.</Empty>
              ) : (
                <Table
                  label="Found"
                  items={items}
                  id={(one) => one.kind + one.id}
                  columns={[
                    { name: 'What', cell: (one) => KINDS[one.kind] ?? one.kind },
                    { name: 'Id', wide: true, cell: (one) => <code class="break">{one.id}</code> },
                    {
                      name: 'User',
                      cell: (one) => (
                        <>
                          <Link page={`/operate/users/${one.user.id}`}>{one.user.username}</Link>
                          <span class="muted small block">{one.user.email}</span>
                        </>
                      ),
                    },
                  ]}
                />
              )
            }
          </Shown>
        ) : (
          <Shown of={{ data: users.items, error: users.error, busy: users.busy }} rows={8}>
            {(items) =>
              items.length === 0 ? (
                <Empty title="Nobody is like this">Search for something else.</Empty>
              ) : (
                <>
                  <Table
                    label="Users"
                    items={items}
                    id={(one) => one.id}
                    columns={[
                      {
                        name: 'User',
                        wide: true,
                        cell: (one) => (
                          <>
                            <Link page={`/operate/users/${one.id}`}>
                              <span class="clip">{one.username}</span>
                            </Link>
                            <span class="muted small block clip">{one.email}</span>
                          </>
                        ),
                      },
                      { name: 'State', cell: (one) => <UserState of={one} /> },
                      {
                        name: 'Role',
                        cell: (one) => (
                          <>
                            {one.role}
                            {one.has_two_factor && <span class="muted"> + 2nd factor</span>}
                          </>
                        ),
                      },
                      { name: 'Tier', cell: (one) => one.tier ?? <span class="muted">default</span> },
                      { name: 'Since', cell: (one) => <When time={one.created_at} /> },
                      {
                        name: 'Last call',
                        cell: (one) =>
                          one.last_call_at ? (
                            <When time={one.last_call_at} relative />
                          ) : (
                            <span class="muted">none</span>
                          ),
                      },
                      {
                        name: 'Spent, 30 days',
                        number: true,
                        cell: (one) => <Money amount={one.spent_30d ?? 0} />,
                      },
                      ...(items.some(({ balance }) => balance != null)
                        ? [
                            {
                              name: 'Balance',
                              number: true,
                              cell: (one: AdminUser) =>
                                one.balance == null ? (
                                  '–'
                                ) : (
                                  <Money
                                    amount={one.balance}
                                    whole
                                    least={digits(items.map(({ balance }) => balance ?? 0))}
                                  />
                                ),
                            },
                          ]
                        : []),
                    ]}
                  />
                  <More of={users} />
                </>
              )
            }
          </Shown>
        )}
      </Card>
    </Page>
  )
}
