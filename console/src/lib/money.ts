// Amounts of money: decimal texts in, decimal texts out. No amount is ever a double here.
import { Digits, type Exact } from './json'

const NANO = 9
/** Digits after the point that are shown: parts of a bill have more than nine before its sum is rounded. */
const SHOWN = 20
const ONE = 10n ** BigInt(NANO)

/** The amount in nano-dollars. More than nine digits after the point do not occur. */
export function nano(amount: Exact): bigint {
  const [, sign, whole = '0', part = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(plain(amount)) ?? []
  const size = BigInt(whole) * ONE + BigInt(part.slice(0, NANO).padEnd(NANO, '0'))
  return sign === '-' ? -size : size
}

/** The shortest decimal text of an amount in nano-dollars. */
export function text(amount: bigint): string {
  const size = amount < 0n ? -amount : amount
  const part = (size % ONE).toString().padStart(NANO, '0').replace(/0+$/, '')
  return `${amount < 0n ? '-' : ''}${size / ONE}${part && `.${part}`}`
}

/** The text of an amount for a field: at least two digits after the point. */
export function editable(amount: Exact): string {
  const [whole, part = ''] = text(nano(amount)).split('.')
  return `${whole}.${part.padEnd(2, '0')}`
}

export const sum = (amounts: Exact[]): string => text(amounts.reduce((all, amount) => all + nano(amount), 0n))

const formats = new Map<string, Intl.NumberFormat>()
function format(currency: string, digits: number, least = 2): Intl.NumberFormat {
  const name = `${currency}${digits}/${least}`
  let found = formats.get(name)
  if (!found) {
    found = new Intl.NumberFormat(undefined, {
      style: 'currency',
      currency,
      currencyDisplay: 'narrowSymbol',
      minimumFractionDigits: least,
      maximumFractionDigits: digits,
    })
    formats.set(name, found)
  }
  return found
}

/** The sign that is as wide as a plus. */
const minus = (words: string): string => words.replace('-', '−')

/** `$24.9953199`: every digit of the amount, at least two after the point. */
export const exact = (amount: Exact, least = 2, currency = 'USD'): string =>
  minus(format(currency, SHOWN, least).format(plain(amount) as `${number}`))

/** How many digits after the point the longest of some amounts has: so a column of them stands point under point. */
export const digits = (amounts: Exact[]): number =>
  amounts.reduce(
    (most: number, amount) => Math.max(most, plain(amount).split('.')[1]?.replace(/0+$/, '').length ?? 0),
    2,
  )

/** `$24.99`, cut and not rounded up, so that nobody reads more than there is. Less than a cent is shown wholly. */
export function short(amount: Exact, currency = 'USD'): string {
  const value = nano(amount)
  const size = value < 0n ? -value : value
  if (size !== 0n && size < ONE / 100n) return exact(amount, 2, currency)
  const cents = ONE / 100n
  return minus(format(currency, 2).format(text((value / cents) * cents) as `${number}`))
}

/** For bars and charts alone: their pixels need no more. */
export const drawn = (amount: Exact): number => Number(amount)

/** What somebody typed as an amount; `undefined` if it is none. */
export function typed(input: string): Digits | undefined {
  const cleaned = input.trim().replace(/^\$/, '').replace(/,/g, '')
  return /^\d{1,12}(\.\d{1,9})?$/.test(cleaned) ? new Digits(cleaned) : undefined
}

/** A part of a whole in percent, 0 to 100 and above. */
export function percent(part: Exact, whole: Exact): number {
  const all = nano(whole)
  return all === 0n ? (nano(part) > 0n ? 100 : 0) : Number((nano(part) * 1000n) / all) / 10
}

/** Exponents do not occur in amounts, except in what a browser made of a tiny number. */
function plain(amount: Exact): string {
  const given = String(amount)
  return /e/i.test(given) ? Number(given).toFixed(NANO) : given
}
