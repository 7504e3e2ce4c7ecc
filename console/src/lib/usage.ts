// Usage as charts and tables need it.
import type { Series } from '../ui/chart'
import { drawn, nano, text } from './money'
import type { Period, Usage, Use } from './types'

export const METRICS: [string, string][] = [
  ['cost', 'Cost'],
  ['calls', 'Calls'],
  ['tokens', 'Tokens'],
  ['errors', 'Errors'],
  ['p95', 'Latency p95'],
]

export function value(use: Use, metric: string): number {
  if (metric === 'cost') return drawn(use.cost)
  if (metric === 'tokens') return use.prompt_tokens + use.completion_tokens
  if (metric === 'errors') return use.errors
  if (metric === 'p95') return Number(use.latency_ms.p95 ?? 0)
  return use.calls
}

/** The beginnings of all periods of a span, in seconds, also of those without a call. */
export function periods(usage: Usage): number[] {
  const found: number[] = []
  const until = Date.parse(usage.until)
  const time = new Date(usage.from)
  while (time.getTime() < until && found.length < 1000) {
    found.push(time.getTime() / 1000)
    if (usage.interval === 'hour') time.setUTCHours(time.getUTCHours() + 1)
    else if (usage.interval === 'month') time.setUTCMonth(time.getUTCMonth() + 1)
    else time.setUTCDate(time.getUTCDate() + 1)
  }
  return found
}

const GROUPS_MAX = 7

/** A name for what calls without a model are of. */
export const modelName = (group: string): string => group || 'no model named'

/** One row of a chart: what is drawn, and for money the exact sums. */
function row(times: number[]) {
  const values = times.map(() => 0)
  const sums = times.map(() => 0n)
  return {
    values,
    sums,
    add(at: number, period: Period, metric: string) {
      // Percentiles are not summed: the highest counts.
      if (metric === 'p95') values[at] = Math.max(values[at] ?? 0, value(period, metric))
      else values[at] = (values[at] ?? 0) + value(period, metric)
      if (metric === 'cost') sums[at] = (sums[at] ?? 0n) + nano(period.cost)
    },
  }
}

/** The series of a chart: the largest groups, and the others as one. */
export function series(usage: Usage, metric: string, times: number[], name: (group: string) => string): Series[] {
  const place = new Map(times.map((time, index) => [time, index]))
  const isOne = usage.groups.length === 0 || metric === 'p95'
  const largest = isOne
    ? []
    : [...usage.groups].sort((a, b) => value(b, metric) - value(a, metric)).slice(0, GROUPS_MAX)
  const rows = new Map(largest.map(({ group }) => [group, row(times)]))
  const others = row(times)
  for (const period of usage.series) {
    const at = place.get(Date.parse(period.period) / 1000)
    if (at !== undefined) (rows.get(period.group ?? '') ?? others).add(at, period, metric)
  }
  const made = (title: string, { values, sums }: ReturnType<typeof row>): Series =>
    metric === 'cost' ? { name: title, values, amounts: sums.map(text) } : { name: title, values }
  const found = largest.map(({ group }) => made(name(group), rows.get(group) ?? others))
  if (isOne) return [made(usage.groups.length === 0 ? 'All' : 'Slowest group', others)]
  return others.values.some((amount) => amount > 0) ? [...found, made('Others', others)] : found
}

/** A cell of a CSV file. A text that a spreadsheet would compute is made one that it shows. */
function cell(content: string | number): string {
  const words = String(content)
  const safe = /^[=+@\t\r]|^-(?![\d.]+$)/.test(words) ? `'${words}` : words
  return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe
}

export const csv = (rows: (string | number)[][]): string =>
  rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n'

/** Gives the browser a file to save. */
export function save(name: string, content: string, type = 'text/csv'): void {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([content], { type }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}
