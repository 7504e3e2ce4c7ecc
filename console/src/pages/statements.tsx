import { query } from '../lib/api'
import { useData } from '../lib/data'
import { digits } from '../lib/money'
import { useFilters } from '../lib/nav'
import { environment, user } from '../lib/session'
import { day, month as monthName, number } from '../lib/time'
import type { Statement } from '../lib/types'
import { kind } from '../lib/words'
import { Badge, Card, type Column, Empty, Money, Page, Select, Shown, Table, Tile } from '../ui/parts'

/** The months since somebody registered, the latest first: `2026-11`. */
export function months(since: string | undefined, now = new Date()): string[] {
  const found: string[] = []
  const first = (since ?? now.toISOString()).slice(0, 7)
  const time = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1))
  do {
    found.push(time.toISOString().slice(0, 7))
    time.setUTCMonth(time.getUTCMonth() - 1)
  } while (time.toISOString().slice(0, 7) >= first && found.length < 240)
  return found
}

type Sum = Statement['totals'][number]

/** The columns of sums. The amounts of one statement have the same digits in all its tables. */
function sums({ days, totals }: Statement): Column<Sum>[] {
  const least = digits((days.length > 0 ? days : totals).map(({ amount }) => amount))
  return [
    { name: 'Kind', cell: (one) => kind(one.kind) },
    { name: 'Entries', number: true, cell: (one) => number(one.count) },
    { name: 'Amount', number: true, cell: (one) => <Money amount={one.amount} whole sign least={least} /> },
  ]
}

export default function Statements() {
  const [filter, set] = useFilters()
  const all = months(user.value?.created_at)
  const month = filter('month') || (all[0] as string)
  const path = query(`/api/payments/statements/${month}`, { environment: environment.value })
  const statement = useData<Statement>(path)
  return (
    <Page
      title="Statements"
      actions={['html', 'csv', 'json'].map((format) => (
        <a key={format} class="button" href={query(path, { format })} target="_blank" rel="noreferrer">
          {format === 'html' ? 'To print' : format.toUpperCase()}
        </a>
      ))}
    >
      <div class="filters">
        <Select
          label="Month (UTC)"
          value={month}
          of={all.map((one) => [one, monthName(`${one}-01T00:00:00Z`)])}
          onChoose={(chosen) => set({ month: chosen })}
        />
      </div>
      <Shown of={statement} rows={6}>
        {(found) => (
          <>
            <div class="tiles exact">
              <Tile name="Opening balance" value={<Money amount={found.opening_balance} whole />} />
              <Tile
                name={found.is_complete ? 'Closing balance' : 'Balance so far'}
                value={<Money amount={found.closing_balance} whole />}
                hint={found.is_complete ? undefined : 'The month still goes on'}
              />
            </div>
            <Card
              title="Sums"
              actions={
                <Badge tone={found.is_complete ? 'good' : 'accent'}>
                  {found.is_complete ? 'Complete' : 'Not complete yet'}
                </Badge>
              }
            >
              {found.totals.length === 0 ? (
                <Empty title="Nothing moved in this month">Choose another month.</Empty>
              ) : (
                <Table
                  label="Sums by kind"
                  items={found.totals}
                  id={(one) => one.kind}
                  columns={sums(found)}
                />
              )}
            </Card>
            {found.days.length > 0 && (
              <Card title="By day (UTC)">
                <Table
                  label="Sums by day"
                  items={[...found.days].reverse()}
                  id={(one) => one.day + one.kind}
                  columns={[
                    { name: 'Day', cell: (one) => day(`${one.day}T00:00:00Z`) },
                    ...sums(found),
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
