import { query } from '../lib/api'
import { usePages } from '../lib/data'
import { useFilters } from '../lib/nav'
import type { Act } from '../lib/types'
import { Acts } from '../pages/activity'
import { Card, Empty, More, Page, Shown, Typed } from '../ui/parts'

export default function Audit() {
  const [filter, set] = useFilters()
  const acts = usePages<Act>(query('/api/admin/audit-log', { user_id: filter('user_id'), limit: 50 }), 'acts')
  return (
    <Page title="Audit log" intro="Who did what to whom. That you have read it stands in it as well.">
      <div class="filters">
        <Typed label="User" value={filter('user_id')} placeholder="user-…" onGive={(user_id) => set({ user_id })} />
      </div>
      <Card>
        <Shown of={{ data: acts.items, error: acts.error, busy: acts.busy }} rows={8}>
          {(items) =>
            items.length === 0 ? (
              <Empty title="No act is like this">Look for another user.</Empty>
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
