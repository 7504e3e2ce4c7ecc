// The chart of a usage, with its legend and its numbers as a table.
import { useEffect, useMemo, useState } from 'preact/hooks'
import type { ComponentType } from 'preact'
import { digits, exact, short } from '../lib/money'
import { few, milliseconds, number, period } from '../lib/time'
import { METRICS, periods, series, value } from '../lib/usage'
import type { Usage } from '../lib/types'
import { COLOURS_MAX } from '../lib/theme'

type ChartProps = Parameters<(typeof import('./chart'))['default']>[0]
let Loaded: ComponentType<ChartProps> | undefined

export function show(metric: string, amount: number): string {
  if (metric === 'p95') return amount === 0 ? '0 ms' : milliseconds(amount)
  if (metric !== 'cost') return few(amount)
  return amount !== 0 && Math.abs(amount) < 0.01 ? exact(amount.toPrecision(3)) : short(amount.toFixed(9))
}

/** A chart, whose script comes when it is wanted. */
export function LazyChart(props: ChartProps) {
  const [, arrived] = useState(false)
  useEffect(() => {
    if (!Loaded)
      void import('./chart').then((module) => {
        Loaded = module.default
        arrived(true)
      })
  }, [])
  return Loaded ? <Loaded {...props} /> : <div class="chart-room" />
}

export function UsageChart({
  usage,
  metric,
  name,
  onPick,
}: {
  usage: Usage
  metric: string
  name: (group: string) => string
  onPick?: (from: string, until: string) => void
}) {
  const times = useMemo(() => periods(usage), [usage])
  const lines = useMemo(() => series(usage, metric, times, name), [usage, metric, times, name])
  const least = digits(lines.flatMap(({ amounts }) => amounts ?? []))
  const title = METRICS.find(([key]) => key === metric)?.[1] ?? metric
  const total = show(metric, value(usage.totals, metric))
  const pick =
    onPick &&
    ((index: number) => {
      const from = times[index]
      const until = times[index + 1] ?? Date.parse(usage.until) / 1000
      if (from) onPick(new Date(from * 1000).toISOString(), new Date(until * 1000).toISOString())
    })
  return (
    <>
      <LazyChart
        times={times}
        series={lines}
        interval={usage.interval}
        show={(amount) => show(metric, amount)}
        label={`${title} by ${usage.interval}, ${total} in all. The table below has the numbers.`}
        onPick={pick}
      />
      {lines.length > 1 && (
        <ul class="legend">
          {lines.map((line, index) => (
            <li key={line.name}>
              <span class={`dot c${(index % COLOURS_MAX) + 1}`} aria-hidden="true" />
              {line.name}
            </li>
          ))}
        </ul>
      )}
      <details class="numbers">
        <summary>The numbers of the chart</summary>
        <div class="table" role="region" aria-label="The numbers of the chart" tabIndex={0}>
          <table>
            <thead>
              <tr>
                <th scope="col">
                  {usage.interval === 'hour' ? 'Hour' : usage.interval === 'month' ? 'Month' : 'Day'} (UTC)
                </th>
                {lines.map((line) => (
                  <th key={line.name} scope="col" class="number">
                    {line.name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {times.map((time, index) => (
                <tr key={time}>
                  <th scope="row">
                    {pick ? (
                      <button type="button" class="link" title="Its calls" onClick={() => pick(index)}>
                        {period(new Date(time * 1000).toISOString(), usage.interval)}
                      </button>
                    ) : (
                      period(new Date(time * 1000).toISOString(), usage.interval)
                    )}
                  </th>
                  {lines.map((line) => (
                    <td key={line.name} class="number">
                      {line.amounts ? exact(line.amounts[index] ?? 0, least) : number(line.values[index] ?? 0)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </>
  )
}
