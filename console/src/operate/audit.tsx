import { query } from '../lib/api'
import { usePages } from '../lib/data'
import { useFilters } from '../lib/nav'
import type { Act } from '../lib/types'
import { Acts } from '../pages/activity'
import { Card, Empty, More, Page, Select, Shown, Typed } from '../ui/parts'

export default function Audit() {
  const [filter, set] = useFilters()
  const day = (name: string) => (filter(name) ? `${filter(name)}T00:00:00Z` : '')
  const asked = {
    user_id: filter('user_id'),
    actor: filter('actor'),
    actor_id: filter('actor_id'),
    action: filter('action'),
    address: filter('address'),
    from: day('from'),
    until: day('until'),
  }
  const acts = usePages<Act>(query('/api/admin/audit-log', { ...asked, limit: 50 }), 'acts')
  return (
    <Page
      title="Audit log"
      intro="Who did what to whom. That you have read it stands in it as well."
      actions={
        <a class="button" href={query('/api/admin/audit-log', { ...asked, format: 'csv' })} download>
          CSV
        </a>
      }
    >
      <div class="filters">
        <Typed label="User" value={filter('user_id')} placeholder="user-…" onGive={(user_id) => set({ user_id })} />
        <Select
          label="By"
          value={filter('actor')}
          of={[
            ['', 'Anybody'],
            ['user', 'Users'],
            ['operator', 'Operators'],
            ['command_line', 'Command line'],
            ['server', 'Server'],
          ]}
          onChoose={(actor) => set({ actor })}
        />
        <Typed
          label="By the person"
          value={filter('actor_id')}
          placeholder="user-…"
          onGive={(actor_id) => set({ actor_id })}
        />
        <Typed label="Act" value={filter('action')} placeholder="key.created" onGive={(action) => set({ action })} />
        <Typed label="Address" value={filter('address')} placeholder="192.0.2.1" onGive={(address) => set({ address })} />
        <Typed label="From (UTC)" type="date" value={filter('from')} onGive={(from) => set({ from })} />
        <Typed label="Before (UTC)" type="date" value={filter('until')} onGive={(until) => set({ until })} />
      </div>
      <Card>
        <Shown of={{ data: acts.items, error: acts.error, busy: acts.busy }} rows={8}>
          {(items) =>
            items.length === 0 ? (
              <>
                <Empty title="No act is like this">
                  {acts.more ? 'Older acts were not looked at yet.' : 'Leave a filter out.'}
                </Empty>
                <More of={acts} />
              </>
            ) : (
              <>
                <Acts items={items} users />
                <More of={acts} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
