import { query } from '../lib/api'
import { useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { digits, drawn, nano } from '../lib/money'
import { useFilters } from '../lib/nav'
import { number, period } from '../lib/time'
import { kind, provider } from '../lib/words'
import { Card, Empty, Money, Page, Segments, Select, Shown, Table, Tile } from '../ui/parts'
import { LazyChart, show } from '../ui/usage-chart'

interface Sums {
  entries: number
  credited: Exact
  refunded: Exact
  disputed: Exact
  reinstated: Exact
  paid: Exact
  granted: Exact
  taken: Exact
  spent: Exact
  returned: Exact
  corrected: Exact
  earned: Exact
  net: Exact
}
interface Interval extends Sums {
  period: string
  liability: Exact
}
interface Revenue {
  interval: string
  opening_liability: Exact
  closing_liability: Exact
  totals: Sums
  groups: (Sums & { group: string })[]
  series: Interval[]
}

const SPANS: [string, string][] = [
  ['7', '7 days'],
  ['30', '30 days'],
  ['90', '90 days'],
  ['365', '12 months'],
]
const METRICS: ['credited' | 'earned' | 'liability', string][] = [
  ['credited', 'Credited'],
  ['earned', 'Earned'],
  ['liability', 'Liability'],
]
const GROUPS: [string, string][] = [
  ['provider', 'Provider'],
  ['kind', 'Kind'],
]

function name(by: string, group: string): string {
  if (by === 'provider') return group ? provider(group) : 'Of no payment'
  return group === 'correction' ? 'Correction of a charge' : kind(group)
}

const cells = <Row extends Sums>(rows: Row[], of: [keyof Row & string, string][], minor: string[] = []) =>
  of.map(([field, title]) => {
    const amount = (row: Row) => row[field] as Exact
    const least = digits(rows.map(amount))
    return {
      name: title,
      number: true,
      minor: minor.includes(field),
      cell: (row: Row) => <Money amount={amount(row)} whole least={least} />,
    }
  })

/** Amounts that come to the last one. What is nothing is left out. */
function Sum({ of }: { of: [string, string, Exact][] }) {
  const least = digits(of.map(([, , amount]) => amount))
  return (
    <Table
      label="How the liability came about"
      items={of.filter(([sign, , amount]) => !'+−'.includes(sign) || !sign || nano(amount) !== 0n)}
      id={([, title]) => title}
      columns={[
        { name: 'What', wide: true, cell: ([sign, title]) => (sign ? `${sign} ${title}` : title) },
        { name: 'Amount', number: true, cell: ([, , amount]) => <Money amount={amount} whole least={least} /> },
      ]}
    />
  )
}

export default function RevenuePage() {
  const [filter, set] = useFilters()
  const metric = METRICS.find(([known]) => known === filter('metric')) ?? METRICS[0]!
  const by = filter('by') || 'provider'
  const days = Number(filter('days') || '30')
  const interval = days > 90 ? 'month' : 'day'
  const day = 86_400_000
  const until = Math.ceil(Date.now() / day) * day
  const time = (at: number) => new Date(at).toISOString().replace(/\.\d+/, '')
  const path = query('/api/admin/revenue', {
    interval,
    from: time(until - days * day),
    until: time(until),
    group_by: by,
  })
  const revenue = useData<Revenue>(path)
  return (
    <Page
      title="Revenue"
      intro="What customers have paid and spent, and what is owed to them. Test accounts are left out."
      actions={
        <a class="button" href={query(path, { format: 'csv' })} download>
          Save as CSV
        </a>
      }
    >
      <div class="filters">
        <Segments
          label="What is shown"
          value={metric[0]}
          of={METRICS}
          onChoose={(chosen) => set({ metric: chosen === 'credited' ? '' : chosen })}
        />
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
          onChoose={(chosen) => set({ by: chosen === 'provider' ? '' : chosen })}
        />
      </div>
      <Shown of={revenue} rows={12}>
        {({ totals, groups, series, opening_liability, closing_liability }) => (
          <>
            <div class="tiles">
              <Tile
                name="Paid"
                value={<Money amount={totals.paid} />}
                hint={
                  <>
                    <Money amount={totals.credited} /> credited
                  </>
                }
              />
              <Tile
                name="Earned by calls"
                value={<Money amount={totals.earned} />}
                hint={
                  <>
                    <Money amount={totals.spent} /> spent
                  </>
                }
              />
              <Tile
                name="Liability"
                value={<Money amount={closing_liability} />}
                hint={
                  <>
                    <Money amount={opening_liability} /> before the span
                  </>
                }
              />
              <Tile
                name="Net"
                value={<Money amount={totals.net} />}
                hint={`${number(totals.entries)} entries of the ledgers`}
              />
            </div>
            <Card title={`${metric[1]} by ${interval}`}>
              <LazyChart
                times={series.map((row) => Date.parse(row.period) / 1000)}
                series={[
                  {
                    name: metric[1],
                    values: series.map((row) => drawn(row[metric[0]])),
                    amounts: series.map((row) => String(row[metric[0]])),
                  },
                ]}
                interval={interval}
                show={(amount) => show('cost', amount)}
                label={`${metric[1]} by ${interval}. The table below has the numbers.`}
              />
            </Card>
            <Card title="How the liability came about">
              <Sum
                of={[
                  ['', 'Before the span', opening_liability],
                  ['+', 'Credited for payments', totals.credited],
                  ['−', 'Refunded by providers', totals.refunded],
                  ['−', 'Disputed by payers', totals.disputed],
                  ['+', 'Came back from refunds and disputes', totals.reinstated],
                  ['+', 'Given by operators', totals.granted],
                  ['−', 'Taken by operators', totals.taken],
                  ['−', 'Spent on calls', totals.spent],
                  ['+', 'Given back for failed calls', totals.returned],
                  ['+', 'Corrections of charges', totals.corrected],
                  ['=', 'At the end', closing_liability],
                ]}
              />
            </Card>
            <Card title={`By ${by}`}>
              {groups.length === 0 ? (
                <Empty title="No money moved">Choose a longer span.</Empty>
              ) : (
                <Table
                  label="Groups"
                  items={groups}
                  id={(row) => row.group}
                  columns={[
                    {
                      name: GROUPS.find(([key]) => key === by)?.[1] ?? by,
                      wide: true,
                      cell: (row) => name(by, row.group),
                    },
                    { name: 'Entries', number: true, minor: true, cell: (row) => number(row.entries) },
                    ...(by === 'kind'
                      ? []
                      : cells(groups, [
                          ['credited', 'Credited'],
                          ['refunded', 'Refunded'],
                          ['disputed', 'Disputed'],
                          ['reinstated', 'Came back'],
                        ])),
                    ...cells(groups, [['net', 'Net']]),
                  ]}
                />
              )}
            </Card>
            <Card title={`By ${interval}`}>
              <Table
                label="Intervals"
                items={[...series].reverse()}
                id={(row) => row.period}
                columns={[
                  {
                    name: interval === 'month' ? 'Month (UTC)' : 'Day (UTC)',
                    wide: true,
                    cell: (row) => period(row.period, interval),
                  },
                  ...cells(
                    series,
                    [
                      ['paid', 'Paid'],
                      ['granted', 'Given'],
                      ['taken', 'Taken'],
                      ['earned', 'Earned'],
                      ['net', 'Net'],
                      ['liability', 'Liability'],
                    ],
                    ['granted', 'taken'],
                  ),
                ]}
              />
            </Card>
          </>
        )}
      </Shown>
    </Page>
  )
}
