// The fields of a key that two pages have: what it may spend, and what it may be used for.
import type { Digits } from '../lib/json'
import type { Key } from '../lib/types'
import { Amount, amount, Check, Field, field, fault, words } from './form'

export const SCOPES: [string, string][] = [
  ['v1', 'Models (/v1, /v1beta)'],
  ['hub', 'Hub'],
  ['omm', 'Omm'],
  ['yggdrasil', 'Yggdrasil'],
]

export function LimitFields({ values = {} }: { values?: Record<string, string> }) {
  return (
    <div class="field-row pairs">
      <Amount label="A call" name="per_request_limit" value={values.per_request_limit ?? ''} placeholder="no limit" />
      <Amount label="A day" name="daily_limit" value={values.daily_limit ?? ''} placeholder="no limit" />
      <Amount label="A month" name="monthly_limit" value={values.monthly_limit ?? ''} placeholder="no limit" />
      <Amount label="In all" name="total_limit" value={values.total_limit ?? ''} placeholder="no limit" />
    </div>
  )
}

export type Limits = Record<'per_request_limit' | 'daily_limit' | 'monthly_limit' | 'total_limit', Digits | null>
export const limits = (data: FormData): Limits => ({
  per_request_limit: amount(data, 'per_request_limit'),
  daily_limit: amount(data, 'daily_limit'),
  monthly_limit: amount(data, 'monthly_limit'),
  total_limit: amount(data, 'total_limit'),
})

export function PolicyFields({ of }: { of?: Key }) {
  return (
    <>
      <fieldset>
        <legend>Routes</legend>
        {SCOPES.map(([name, label]) => (
          <Check
            key={name}
            name="scopes"
            value={name}
            label={label}
            checked={of?.scopes ? of.scopes.includes(name) : true}
          />
        ))}
      </fieldset>
      <Field
        label="Models"
        name="allowed_models"
        defaultValue={of?.allowed_models?.join(' ') ?? ''}
        placeholder="all"
        hint="Names with spaces between them. A name may end with *, such as gpt-4o*."
      />
      <Field
        label="Networks"
        name="allowed_ips"
        defaultValue={of?.allowed_ips?.join(' ') ?? ''}
        placeholder="all"
        hint="Addresses or networks, such as 203.0.113.0/24."
      />
      <Field
        label="Calls a minute"
        name="calls_per_minute"
        inputMode="numeric"
        defaultValue={of?.calls_per_minute == null ? '' : String(of.calls_per_minute)}
        placeholder="no limit of its own"
      />
    </>
  )
}

export function policy(data: FormData) {
  const scopes = data.getAll('scopes').map(String)
  if (scopes.length === 0) throw fault('scopes', 'Choose at least one group of routes.')
  const rate = field(data, 'calls_per_minute')
  if (rate && !/^\d{1,9}$/.test(rate)) throw fault('calls_per_minute', 'Write a whole number.')
  return {
    scopes: scopes.length === SCOPES.length ? null : scopes,
    allowed_models: words(data, 'allowed_models'),
    allowed_ips: words(data, 'allowed_ips'),
    calls_per_minute: rate ? Number(rate) : null,
  }
}
