// The server's names in words of people.
import type { Tone } from '../ui/parts'

const ENDINGS: Record<string, [string, Tone]> = {
  completed: ['Completed', 'good'],
  failed: ['Upstream failed', 'bad'],
  upstream_cut: ['Upstream broke off', 'bad'],
  client_left: ['Client left', 'warn'],
  client_left_drained: ['Client left, read to its end', 'warn'],
  credits_ended: ['Credits or a limit ended it', 'warn'],
  unwritable: ['Ledger not writable', 'bad'],
  server_stopped: ['Server stopped', 'bad'],
}
export const ending = (name: string): [string, Tone] => ENDINGS[name] ?? [name, 'plain']
export const ENDING_NAMES: [string, string][] = Object.entries(ENDINGS).map(([name, [words]]) => [name, words])

const KINDS: Record<string, string> = {
  top_up: 'Top-up',
  charge: 'Charge',
  capture: 'Cost of a call',
  refund: 'Refund of a call',
  grant: 'Credits given',
  deduction: 'Credits taken',
  payment_refund: 'Payment refunded',
  dispute: 'Payment disputed',
  reinstatement: 'Payment came back',
}
export const kind = (name: string): string => KINDS[name] ?? name
export const KIND_NAMES: [string, string][] = Object.entries(KINDS)

const STATES: Record<string, [string, Tone]> = {
  created: ['Waits for you', 'accent'],
  confirming: ['Being confirmed', 'accent'],
  confirmed: ['Confirmed', 'good'],
  failed: ['Failed', 'bad'],
  expired: ['Expired', 'warn'],
}
export const state = (name: string): [string, Tone] => STATES[name] ?? [name, 'plain']
export const STATE_NAMES: [string, string][] = Object.entries(STATES).map(([name, [words]]) => [name, words])

const PROVIDERS: Record<string, string> = { sandbox: 'Sandbox', stripe: 'Card by Stripe', x402: 'Stablecoin by x402' }
export const provider = (name: string): string => PROVIDERS[name] ?? name

export const statusTone = (status: number): Tone => (status < 300 ? 'good' : status < 500 ? 'warn' : 'bad')

/** Which browser, on what, in two words. */
export function agent(text: string): string {
  const browser = [
    ['Edg/', 'Edge'],
    ['Firefox/', 'Firefox'],
    ['Chrome/', 'Chrome'],
    ['Safari/', 'Safari'],
    ['curl/', 'curl'],
    ['python', 'Python'],
    ['node', 'Node'],
  ].find(([mark]) => text.includes(mark as string))?.[1]
  const system = [
    ['Android', 'Android'],
    ['iPhone', 'iPhone'],
    ['iPad', 'iPad'],
    ['Windows', 'Windows'],
    ['Mac OS', 'macOS'],
    ['Linux', 'Linux'],
  ].find(([mark]) => text.includes(mark as string))?.[1]
  return [browser, system].filter(Boolean).join(' on ') || text || 'no program named'
}
