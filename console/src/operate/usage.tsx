import { useCallback } from 'preact/hooks'
import { query } from '../lib/api'
import { useData } from '../lib/data'
import { digits } from '../lib/money'
import { useFilters } from '../lib/nav'
import { environment } from '../lib/session'
import { few, milliseconds, number, rate } from '../lib/time'
import type { Group, Usage } from '../lib/types'
import { METRICS, modelName, value } from '../lib/usage'
import { Card, Empty, Link, Money, Page, Segments, Select, Shown, Table, Tile } from '../ui/parts'
import { UsageChart } from '../ui/usage-chart'

const SPANS: [string, string][] = [
  ['1', '24 hours'],
  ['7', '7 days'],
  ['30', '30 days'],
  ['90', '90 days'],
  ['365', '12 months'],
]
const GROUPS: [string, string][] = [
  ['user', 'User'],
  ['tier', 'Tier'],
  ['model', 'Model'],
  ['endpoint', 'Route'],
  ['upstream', 'Upstream'],
  ['status', 'Status'],
]

export default function UsageOfAll() {
  const [filter, set] = useFilters()
  const metric = filter('metric') || 'cost'
  const by = filter('by') || 'model'
  const days = Number(filter('days') || '30')
  const interval = days === 1 ? 'hour' : days > 90 ? 'month' : 'day'
  const unit = interval === 'hour' ? 3_600_000 : 86_400_000
  const until = Math.ceil(Date.now() / unit) * unit
  const time = (at: number) => new Date(at).toISOString().replace(/\.\d+/, '')
  const usage = useData<Usage>(
    query('/api/admin/usage', {
      interval,
      from: time(until - days * 86_400_000),
      until: time(until),
      group_by: by,
      environment: environment.value,
      fill: 'zero',
    }),
  )
  const name = useCallback(
    (group: string) => (by === 'model' ? modelName(group) : group || (by === 'tier' ? 'default' : 'none')),
    [by],
  )
  const title = GROUPS.find(([key]) => key === by)?.[1] ?? by
  return (
    <Page title="Usage of all" intro="What the calls of all users come to.">
      <div class="filters">
        <Segments
          label="What is shown"
          value={metric}
          of={METRICS}
          onChoose={(chosen) => set({ metric: chosen === 'cost' ? '' : chosen })}
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
          onChoose={(chosen) => set({ by: chosen === 'model' ? '' : chosen })}
        />
      </div>
      <Shown of={usage} rows={12}>
        {(found) => (
          <>
            <div class="tiles">
              <Tile name="Cost" value={<Money amount={found.totals.cost} />} />
              <Tile name="Calls" value={few(found.totals.calls)} />
              <Tile name="Tokens" value={few(found.totals.prompt_tokens + found.totals.completion_tokens)} />
              <Tile name="Failed" value={rate(found.totals.error_rate)} />
            </div>
            {found.totals.calls === 0 ? (
              <Card>
                <Empty title="No calls here">Choose a longer span.</Empty>
              </Card>
            ) : (
              <>
                <Card>
                  <UsageChart usage={found} metric={metric} name={name} />
                </Card>
                <Card title={`By ${title.toLowerCase()}`}>
                  <Table
                    label="Groups"
                    items={[...found.groups].sort((a, b) => value(b, metric) - value(a, metric))}
                    id={(group) => group.group}
                    columns={[
                      {
                        name: title,
                        wide: true,
                        cell: (group: Group) =>
                          by === 'user' ? (
                            <Link page={`/operate/users/${group.group}`}>
                              <span class="clip">{group.group}</span>
                            </Link>
                          ) : (
                            <span class={group.group ? 'clip' : 'muted'} title={group.group}>
                              {name(group.group)}
                            </span>
                          ),
                      },
                      {
                        name: 'Cost',
                        number: true,
                        cell: (group) => (
                          <Money amount={group.cost} whole least={digits(found.groups.map(({ cost }) => cost))} />
                        ),
                      },
                      { name: 'Calls', number: true, cell: (group) => number(group.calls) },
                      { name: 'Failed', number: true, cell: (group) => rate(group.error_rate) },
                      { name: 'Tokens in', number: true, minor: true, cell: (group) => few(group.prompt_tokens) },
                      { name: 'Tokens out', number: true, minor: true, cell: (group) => few(group.completion_tokens) },
                      { name: 'p95', number: true, cell: (group) => milliseconds(group.latency_ms.p95) },
                    ]}
                  />
                </Card>
              </>
            )}
          </>
        )}
      </Shown>
    </Page>
  )
}
