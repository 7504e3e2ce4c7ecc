import { useCallback } from 'preact/hooks'
import { query } from '../lib/api'
import { useData } from '../lib/data'
import { digits } from '../lib/money'
import { go, useFilters } from '../lib/nav'
import { environment } from '../lib/session'
import { few, milliseconds, number, rate } from '../lib/time'
import { csv, METRICS, modelName, save, value } from '../lib/usage'
import type { Group, Key, Usage, Use } from '../lib/types'
import { Card, Empty, Link, Money, Page, Segments, Select, Shown, Table, Tile, Typed } from '../ui/parts'
import { UsageChart } from '../ui/usage-chart'

const SPANS: [string, string][] = [
  ['1', '24 hours'],
  ['7', '7 days'],
  ['30', '30 days'],
  ['90', '90 days'],
  ['365', '12 months'],
]
const GROUPS: [string, string][] = [
  ['model', 'Model'],
  ['key', 'Key'],
  ['endpoint', 'Route'],
  ['status', 'Status'],
  ['upstream', 'Upstream'],
  ['none', 'Nothing'],
]
const FILTERS: [string, string][] = [
  ['model', 'Model'],
  ['key_id', 'Key'],
  ['endpoint', 'Route'],
  ['status', 'Status'],
  ['upstream', 'Upstream'],
]

const DAY = 86_400_000
const begin = (time: number) => new Date(time).toISOString().replace(/\.\d+/, '')

/** The span that is asked for, and the one before it. Whole hours or days, so that a repeat is the same question. */
function span(days: number, interval: string) {
  const unit = interval === 'hour' ? 3_600_000 : DAY
  const until = Math.ceil(Date.now() / unit) * unit
  return { from: begin(until - days * DAY), until: begin(until), before: begin(until - 2 * days * DAY) }
}

/** More or less than before. */
function Change({ now, before }: { now: number; before: number | undefined }) {
  if (before === undefined) return <>{'\u00a0'}</>
  if (before === 0) return <>{now === 0 ? 'as before' : 'nothing before'}</>
  const part = (now - before) / before
  return <>{part === 0 ? 'as before' : `${part > 0 ? '▲' : '▼'} ${rate(Math.abs(part))} on the span before`}</>
}

export default function UsagePage() {
  const [filter, set] = useFilters()
  const metric = filter('metric') || 'cost'
  const by = filter('by') || 'model'
  const days = Number(filter('days') || '30')
  const interval = filter('interval') || (days === 1 ? 'hour' : days > 90 ? 'month' : 'day')
  const { from, until, before } = span(days, interval)
  const only = Object.fromEntries(FILTERS.map(([name]) => [name, filter(name)]).filter(([, wanted]) => wanted))
  const common = { ...only, interval, environment: environment.value }
  const usage = useData<Usage>(
    query('/api/monitoring/usage', { ...common, from, until, group_by: by === 'none' ? '' : by, fill: 'zero' }),
  )
  const former = useData<Usage>(
    days > 365 ? null : query('/api/monitoring/usage', { ...common, from: before, until: from }),
  )
  const keys = useData<Key[]>('/api/keys')
  const name = useCallback(
    (group: string) => {
      if (by === 'key') return keys.data?.find(({ id }) => id === group)?.name ?? (group || 'deleted key')
      return by === 'model' ? modelName(group) : group || 'none'
    },
    [by, keys.data],
  )
  const filterOf = (group: string): Record<string, string> => ({ [by === 'key' ? 'key_id' : by]: group })
  const download = (found: Usage) => {
    const head = [
      'period_utc',
      'group',
      'calls',
      'errors',
      'cost_usd',
      'prompt_tokens',
      'completion_tokens',
      'latency_ms_p95',
    ]
    save(
      `usage-${from.slice(0, 10)}-${until.slice(0, 10)}.csv`,
      csv([
        head,
        ...found.series.map((row) => [
          row.period,
          row.group == null ? '' : name(row.group),
          row.calls,
          row.errors,
          String(row.cost),
          row.prompt_tokens,
          row.completion_tokens,
          String(row.latency_ms.p95 ?? ''),
        ]),
      ]),
    )
  }
  const tile = (label: string, kind: string, text: string | preact.ComponentChildren, of: Use) => (
    <Tile
      name={label}
      value={text}
      hint={<Change now={value(of, kind)} before={former.data && value(former.data.totals, kind)} />}
    />
  )
  return (
    <Page
      title="Usage"
      actions={
        usage.data &&
        usage.data.totals.calls > 0 && (
          <button type="button" onClick={() => usage.data && download(usage.data)}>
            Save as CSV
          </button>
        )
      }
    >
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
          onChoose={(chosen) => set({ days: chosen === '30' ? '' : chosen, interval: '' })}
        />
        <Select
          label="By"
          value={interval}
          of={
            [
              ['hour', 'Hour'],
              ['day', 'Day'],
              ['month', 'Month'],
            ].filter(([unit]) => !(unit === 'hour' && days > 30) && !(unit === 'month' && days < 30)) as [
              string,
              string,
            ][]
          }
          onChoose={(chosen) => set({ interval: chosen })}
        />
        <Select
          label="Grouped by"
          value={by}
          of={GROUPS}
          onChoose={(chosen) => set({ by: chosen === 'model' ? '' : chosen })}
        />
        <details class="fold inline" open={Object.keys(only).length > 0}>
          <summary>Only calls of{Object.keys(only).length ? ` (${Object.keys(only).length})` : ''}</summary>
          <div class="filters">
            {FILTERS.map(([key, label]) =>
              key === 'key_id' ? (
                <Select
                  key={key}
                  label={label}
                  value={filter(key)}
                  of={[['', 'all'], ...(keys.data ?? []).map((one): [string, string] => [one.id, one.name])]}
                  onChoose={(chosen) => set({ [key]: chosen })}
                />
              ) : (
                <Typed
                  key={key}
                  label={label}
                  value={filter(key)}
                  placeholder="all"
                  onGive={(text) => set({ [key]: text })}
                />
              ),
            )}
            {Object.keys(only).length > 0 && (
              <button
                type="button"
                class="quiet"
                onClick={() => set(Object.fromEntries(FILTERS.map(([key]) => [key, ''])))}
              >
                Clear
              </button>
            )}
          </div>
        </details>
      </div>
      <Shown of={usage} rows={14}>
        {(found) => (
          <>
            <div class="tiles">
              {tile('Cost', 'cost', <Money amount={found.totals.cost} />, found.totals)}
              {tile('Calls', 'calls', few(found.totals.calls), found.totals)}
              {tile(
                'Tokens',
                'tokens',
                few(found.totals.prompt_tokens + found.totals.completion_tokens),
                found.totals,
              )}
              {tile('Failed', 'errors', rate(found.totals.error_rate), found.totals)}
            </div>
            <Card>
              {found.totals.calls === 0 ? (
                <Empty
                  title="No calls here"
                  action={
                    Object.keys(only).length ? undefined : (
                      <Link page="/start" class="button">
                        Make a call
                      </Link>
                    )
                  }
                >
                  {Object.keys(only).length
                    ? 'No call is like this. Take a filter away, or choose a longer span.'
                    : 'Choose a longer span, or make a first call.'}
                </Empty>
              ) : (
                <UsageChart
                  usage={found}
                  metric={metric}
                  name={name}
                  onPick={(start, end) => go('/calls', { ...only, from: start, until: end })}
                />
              )}
            </Card>
            {found.groups.length > 0 && (
              <Card title={`By ${(GROUPS.find(([key]) => key === by)?.[1] ?? by).toLowerCase()}`}>
                <Table
                  label="Groups"
                  items={[...found.groups].sort((a, b) => value(b, metric) - value(a, metric))}
                  id={(group) => group.group}
                  columns={[
                    {
                      name: GROUPS.find(([key]) => key === by)?.[1] ?? by,
                      wide: true,
                      cell: (group: Group) =>
                        group.group ? (
                          <button
                            type="button"
                            class="link"
                            title="Only these"
                            onClick={() => set({ ...filterOf(group.group), by: by === 'key' ? 'model' : 'key' })}
                          >
                            <span class="clip">{name(group.group)}</span>
                          </button>
                        ) : (
                          <span class="muted">{name('')}</span>
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
                    { name: 'p50', number: true, minor: true, cell: (group) => milliseconds(group.latency_ms.p50) },
                    { name: 'p95', number: true, cell: (group) => milliseconds(group.latency_ms.p95) },
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
