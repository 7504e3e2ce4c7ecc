import { useData } from '../lib/data'
import { number } from '../lib/time'
import { Card, Empty, Link, Page, Shown, Table, When } from '../ui/parts'

export interface PriceVersion {
  id: number
  list: string
  effective_from: string
  until?: string | null
  state: string
  multiplier: string
  own_cards: number
  parent?: string | null
}
interface PriceList {
  name: string
  parent?: string | null
  users: number
  in_force?: PriceVersion | null
}

export default function Prices() {
  const lists = useData<{ price_lists: PriceList[] }>('/api/admin/price-lists')
  return (
    <Page title="Price lists" intro="What each model costs, by list. A list changes by a draft that you publish.">
      <Card>
        <Shown of={lists}>
          {(found) =>
            found.price_lists.length === 0 ? (
              <Empty title="No list">
                <code>polysystems prices --help</code> says how to make one.
              </Empty>
            ) : (
              <Table
                label="Price lists"
                items={found.price_lists}
                id={(one) => one.name}
                columns={[
                  {
                    name: 'List',
                    wide: true,
                    cell: (one) => <Link page={`/operate/prices/${encodeURIComponent(one.name)}`}>{one.name}</Link>,
                  },
                  {
                    name: 'In force',
                    cell: (one) => (one.in_force ? `version ${one.in_force.id}` : <span class="muted">none</span>),
                  },
                  { name: 'Since', cell: (one) => <When time={one.in_force?.effective_from} /> },
                  { name: 'Inherits from', cell: (one) => one.parent ?? <span class="muted">–</span> },
                  { name: 'Users', number: true, cell: (one) => number(one.users) },
                ]}
              />
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
