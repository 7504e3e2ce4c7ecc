import { usePages } from '../lib/data'
import type { Act } from '../lib/types'
import { agent } from '../lib/words'
import { Card, Empty, Link, More, Page, Shown, Table, When } from '../ui/parts'

/** Acts of the audit log. */
export function Acts({ items, users }: { items: Act[]; users?: boolean }) {
  return (
    <Table
      label="Acts"
      items={items}
      id={(act) => act.id}
      columns={[
        { name: 'Time', cell: (act) => <When time={act.at} /> },
        {
          name: 'Act',
          cell: (act) => (
            <code class="break">
              {act.action.split('.').map((word, place) => (
                <>
                  {place > 0 && (
                    <>
                      .<wbr />
                    </>
                  )}
                  {word}
                </>
              ))}
            </code>
          ),
        },
        ...(users
          ? [
              {
                name: 'User',
                cell: (act: Act) => (
                  <Link page={`/operate/users/${act.user_id}`}>
                    <code class="clip" title={act.user_id}>
                      {act.user_id}
                    </code>
                  </Link>
                ),
              },
            ]
          : []),
        {
          name: 'What',
          wide: true,
          cell: (act) =>
            act.detail || act.subject ? (
              <>
                {act.detail}
                {act.subject && (
                  <code class="muted small block clip" title={act.subject}>
                    {act.subject}
                  </code>
                )}
              </>
            ) : (
              <span class="muted">–</span>
            ),
        },
        {
          name: 'By',
          cell: (act) => (
            <>
              <span class="nowrap">{act.actor.replace('_', ' ')}</span>
              <span class="muted small block nowrap">
                {[act.address, act.user_agent && agent(act.user_agent)].filter(Boolean).join(', ')}
              </span>
            </>
          ),
        },
      ]}
    />
  )
}

export default function Activity() {
  const acts = usePages<Act>('/api/auth/audit-log?limit=50', 'acts')
  return (
    <Page title="Activity" intro="What you did, what operators did to your account, and what they have read of it.">
      <Card>
        <Shown of={{ data: acts.items, error: acts.error, busy: acts.busy }} rows={8}>
          {(items) =>
            items.length === 0 ? (
              <Empty title="Nothing yet">Each change to your account stands here.</Empty>
            ) : (
              <>
                <Acts items={items} />
                <More of={acts} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
