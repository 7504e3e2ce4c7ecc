// Times as people read them: in their own time zone. Days of the ledger and of the usage are days of UTC.

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })
const exactly = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' })
const utcDay = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeZone: 'UTC' })
const utcHour = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short', timeZone: 'UTC' })
const utcMonth = new Intl.DateTimeFormat(undefined, { month: 'long', year: 'numeric', timeZone: 'UTC' })
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' })

export const at = (time: string): string => moment.format(new Date(time))
export const precisely = (time: string): string => exactly.format(new Date(time))
export const day = (time: string): string => utcDay.format(new Date(time))
export const month = (time: string): string => utcMonth.format(new Date(time))

/** The name of a period of usage. */
export function period(time: string, interval: string): string {
  if (interval === 'month') return month(time)
  return interval === 'hour' ? `${utcHour.format(new Date(time))} UTC` : day(time)
}

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
]

/** `5 minutes ago`, `in 3 days`. */
export function ago(time: string, now = Date.now()): string {
  const seconds = (Date.parse(time) - now) / 1000
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit)
  }
  return seconds > 0 ? 'in less than a minute' : 'just now'
}

const count = new Intl.NumberFormat()
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const share = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 2 })

export const number = (value: number | string): string => count.format(Number(value))
export const few = (value: number): string => (Math.abs(value) < 10_000 ? number(value) : compact.format(value))
export const rate = (value: number | string): string => share.format(Number(value))
export const milliseconds = (value: number | string | null | undefined): string =>
  value == null
    ? '–'
    : Number(value) < 1
      ? '< 1 ms'
      : Number(value) < 10_000
        ? `${number(value)} ms`
        : `${number((Number(value) / 1000).toFixed(1))} s`
