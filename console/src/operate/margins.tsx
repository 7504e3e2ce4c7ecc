import { query } from '../lib/api'
import { useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { digits, nano } from '../lib/money'
import { useFilters } from '../lib/nav'
import { number, rate } from '../lib/time'
import { Card, Empty, Link, Money, Note, Page, Select, Shown, Table, Tile } from '../ui/parts'

interface Margin {
  calls: number
  revenue: Exact
  cost: Exact
  margin: Exact
  unknown_calls: number
  unknown_revenue: Exact
}
interface Margins {
  from: string
  to: string
  total: Margin
  groups: (Margin & { name: string })[]
  unknown: { reason: string; calls: number }[]
  failed_attempts: {
    deployment?: string | null
    deployment_number: number
    outcome: string
    attempts: number
    may_cost: boolean
  }[]
  complete: boolean
}

const GROUPS: [string, string][] = [
  ['model', 'Model'],
  ['deployment', 'Deployment'],
  ['provider', 'Provider'],
  ['user', 'User'],
  ['day', 'Day'],
]
const SPANS: [string, string][] = [
  ['1', '24 hours'],
  ['7', '7 days'],
  ['30', '30 days'],
  ['90', '90 days'],
]
const REASONS: Record<string, string> = {
  no_record: 'the record of the call is gone',
  no_deployment: 'sold by its route, or nobody knows who served it',
  no_list: 'neither the deployment nor its provider names a list of costs',
  no_card: 'the list of costs has no card for the model',
  no_price: 'the card has no price for something that was used',
}

/** The margin as a part of what is known of the revenue. */
function part({ revenue, unknown_revenue, margin }: Margin): string {
  const known = nano(revenue) - nano(unknown_revenue)
  return known > 0n ? rate(Number((nano(margin) * 10_000n) / known) / 10_000) : '–'
}

export default function MarginsPage() {
  const [filter, set] = useFilters()
  const by = filter('by') || 'model'
  const days = Number(filter('days') || '30')
  const day = 86_400_000
  const to = Math.ceil(Date.now() / day) * day
  const time = (at: number) => new Date(at).toISOString().replace(/\.\d+/, '')
  const path = query('/api/admin/margins', { by, from: time(to - days * day), to: time(to) })
  const margins = useData<Margins>(path)
  return (
    <Page
      title="Margins"
      intro="What calls of live accounts brought, less what they cost us."
      actions={
        <a class="button" href={query(path, { format: 'csv' })} download>
          Save as CSV
        </a>
      }
    >
      <div class="filters">
        <Select
          label="Of the last"
          value={String(days)}
          of={SPANS}
          onChoose={(chosen) => set({ days: chosen === '30' ? '' : chosen })}
        />
        <Select
          label="By"
          value={by}
          of={GROUPS}
          onChoose={(chosen) => set({ by: chosen === 'model' ? '' : chosen })}
        />
      </div>
      <Shown of={margins} rows={8}>
        {({ total, groups, unknown, failed_attempts, complete }) => (
          <>
            {!complete && (
              <Note tone="warn" title="Not all of it">
                The span has too many entries. Choose a shorter one.
              </Note>
            )}
            <div class="tiles">
              <Tile name="Revenue" value={<Money amount={total.revenue} />} hint={`${number(total.calls)} calls`} />
              <Tile
                name="Cost"
                value={<Money amount={total.cost} />}
                hint={
                  total.unknown_calls > 0 ? `of ${number(total.unknown_calls)} calls nobody knows it` : 'of all calls'
                }
              />
              <Tile name="Margin" value={<Money amount={total.margin} />} hint={`${part(total)} of what is known`} />
            </div>
            <Card title={`By ${by}`}>
              {groups.length === 0 ? (
                <Empty title="No call was charged">Choose a longer span.</Empty>
              ) : (
                <Table
                  label="Margins"
                  items={groups}
                  id={(one) => one.name}
                  columns={[
                    {
                      name: GROUPS.find(([key]) => key === by)?.[1] ?? by,
                      wide: true,
                      cell: (one) =>
                        !one.name ? (
                          <span class="muted">not known</span>
                        ) : by === 'user' ? (
                          <Link page={`/operate/users/${one.name}`}>
                            <span class="clip">{one.name}</span>
                          </Link>
                        ) : (
                          <span class="clip" title={one.name}>
                            {one.name}
                          </span>
                        ),
                    },
                    { name: 'Calls', number: true, minor: true, cell: (one) => number(one.calls) },
                    {
                      name: 'Revenue',
                      number: true,
                      cell: (one) => (
                        <Money amount={one.revenue} whole least={digits(groups.map(({ revenue }) => revenue))} />
                      ),
                    },
                    {
                      name: 'Cost',
                      number: true,
                      cell: (one) => <Money amount={one.cost} whole least={digits(groups.map(({ cost }) => cost))} />,
                    },
                    {
                      name: 'Margin',
                      number: true,
                      cell: (one) => (
                        <Money amount={one.margin} whole least={digits(groups.map(({ margin }) => margin))} />
                      ),
                    },
                    { name: 'Part', number: true, minor: true, cell: part },
                    { name: 'Not known', number: true, minor: true, cell: (one) => number(one.unknown_calls) },
                  ]}
                />
              )}
            </Card>
            {unknown.some(({ calls }) => calls > 0) && (
              <Card title="Why a cost is not known">
                <Table
                  label="Reasons"
                  items={unknown.filter(({ calls }) => calls > 0)}
                  id={(one) => one.reason}
                  columns={[
                    { name: 'Reason', wide: true, cell: (one) => REASONS[one.reason] ?? one.reason },
                    { name: 'Calls', number: true, cell: (one) => number(one.calls) },
                  ]}
                />
              </Card>
            )}
            {failed_attempts.length > 0 && (
              <Card title="Attempts without an answer">
                <Table
                  label="Attempts"
                  items={failed_attempts}
                  id={(one) => `${one.deployment_number}${one.outcome}`}
                  columns={[
                    {
                      name: 'Deployment',
                      wide: true,
                      cell: (one) =>
                        one.deployment ?? (
                          <span class="muted">number {one.deployment_number}, no more in the catalogue</span>
                        ),
                    },
                    { name: 'Ended as', cell: (one) => one.outcome.replace(/_/g, ' ') },
                    { name: 'May have cost', cell: (one) => (one.may_cost ? 'yes' : 'no') },
                    { name: 'Attempts', number: true, cell: (one) => number(one.attempts) },
                  ]}
                />
              </Card>
            )}
          </>
        )}
      </Shown>
    </Page>
  )
}
