import { query } from '../lib/api'
import { usePages } from '../lib/data'
import { useFilters } from '../lib/nav'
import { number } from '../lib/time'
import { Badge, Card, Empty, Link, More, Page, Select, Shown, Table, When } from '../ui/parts'

interface Endpoint {
  id: string
  user_id: string
  environment: string
  url: string
  switched_off_at?: string | null
  failing_since?: string | null
  last_failure?: { at: string; status?: number | null; error?: string | null } | null
  oldest_event_at?: string | null
  waiting: number
}

/** Webhooks of all users that do not accept what is sent. */
export default function Failing() {
  const [filter, set] = useFilters()
  const state = filter('state') || 'failing'
  const hooks = usePages<Endpoint>(query('/api/admin/webhooks', { state, limit: 50 }), 'webhooks')
  return (
    <Page
      title="Failing webhooks"
      intro="Endpoints of all users that do not accept what is sent to them. That you have read of a user stands in the audit log."
    >
      <div class="filters">
        <Select
          label="Show"
          value={state}
          of={[
            ['failing', 'All that fail'],
            ['switched_off', 'Switched off'],
          ]}
          onChoose={(chosen) => set({ state: chosen === 'failing' ? '' : chosen })}
        />
      </div>
      <Card>
        <Shown of={{ data: hooks.items, error: hooks.error, busy: hooks.busy }} rows={6}>
          {(items) =>
            items.length === 0 ? (
              <Empty title="No webhook fails">Every endpoint has accepted what was sent to it last.</Empty>
            ) : (
              <>
                <Table
                  label="Webhooks that fail"
                  items={items}
                  id={(one) => one.id}
                  columns={[
                    {
                      name: 'Endpoint',
                      wide: true,
                      cell: (one) => (
                        <>
                          <span class="clip long" title={one.url}>
                            {one.url}
                          </span>
                          <span class="small block">
                            <Link page={`/operate/users/${one.user_id}`} query={{ part: 'webhooks' }}>
                              <span class="clip">{one.user_id}</span>
                            </Link>
                          </span>
                        </>
                      ),
                    },
                    {
                      name: 'State',
                      cell: (one) => (
                        <>
                          <Badge tone={one.switched_off_at ? 'bad' : 'warn'}>
                            {one.switched_off_at ? 'Switched off' : 'Failing'}
                          </Badge>
                          {one.environment === 'test' && <span class="muted small block">test account</span>}
                        </>
                      ),
                    },
                    { name: 'Since', cell: (one) => <When time={one.failing_since ?? one.switched_off_at} relative /> },
                    {
                      name: 'Last error',
                      cell: (one) =>
                        one.last_failure ? (
                          <>
                            {one.last_failure.status ? `Status ${one.last_failure.status}` : 'No answer'}
                            {one.last_failure.error && (
                              <span class="muted small block break">{one.last_failure.error}</span>
                            )}
                          </>
                        ) : (
                          <span class="muted">not kept any more</span>
                        ),
                    },
                    {
                      name: 'Oldest event',
                      cell: (one) => (
                        <>
                          <When time={one.oldest_event_at} relative />
                          {one.waiting > 0 && <span class="muted small block">{number(one.waiting)} wait</span>}
                        </>
                      ),
                    },
                  ]}
                />
                <More of={hooks} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
