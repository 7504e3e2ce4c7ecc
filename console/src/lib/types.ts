// What the server answers, as far as pages show it. Amounts are `Exact`: the digits of the answer.
import type { Exact } from './json'

export interface User {
  id: string
  email: string
  username: string
  role: string
  is_email_verified?: boolean
  created_at?: string
}
export interface Settings {
  version: string
  public_url: string | null
  registration: 'open' | 'closed'
  email_verification_required: boolean
  operators_need_second_factor: boolean
  password_length_min: number
  password_length_max: number
  cookie_is_secure: boolean
  is_demo: boolean
}
export interface Balance {
  balance: Exact
  available: Exact
  held: Exact
  currency: string
  last_updated: string
}
export interface Window {
  spent: Exact
  limit?: Exact | null
  percent?: number | null
  resets_at?: string | null
  remaining?: Exact | null
}
export interface KeyLimits {
  key_id: string
  name: string
  is_active: boolean
  per_request_limit?: Exact | null
  daily: Window
  monthly: Window
  total: Window
}
export interface Key {
  id: string
  name: string
  key_value_preview: string
  is_active: boolean
  last_used_at?: string | null
  created_at: string
  expires_at?: string | null
  expires_soon: boolean
  former_value_valid_until?: string | null
  environment: string
  scopes?: string[] | null
  allowed_models?: string[] | null
  allowed_ips?: string[] | null
  calls_per_minute?: number | null
}
export interface NewKey extends Key {
  key_value: string
}
export interface Latency {
  mean?: Exact | null
  p50?: Exact | null
  p90?: Exact | null
  p95?: Exact | null
  p99?: Exact | null
}
export interface Use {
  calls: number
  errors: number
  error_rate: Exact
  cost: Exact
  prompt_tokens: number
  completion_tokens: number
  latency_ms: Latency
}
export interface Group extends Use {
  group: string
}
export interface Period extends Use {
  period: string
  group?: string | null
}
export interface Usage {
  from: string
  until: string
  interval: string
  totals: Use
  groups: Group[]
  series: Period[]
}
export interface Call {
  request_id: string
  started_at: string
  key_id: string
  method: string
  endpoint: string
  model?: string | null
  upstream: string
  status: number
  ending: string
  cost: Exact
  prompt_tokens: number
  completion_tokens: number
  latency_ms: Exact
  tally?: string | null
  has_bill?: boolean
  entries?: Pick<Entry, 'sequence' | 'kind' | 'amount' | 'balance_after' | 'created_at'>[]
}
export interface Entry {
  sequence: number
  kind: string
  amount: Exact
  balance_after: Exact
  currency: string
  reference: string
  key_id?: string | null
  endpoint?: string | null
  created_at: string
}
export interface BillPart {
  dimension: string
  quantity: number
  price: Exact
  per: number
  amount: Exact
}
export interface Bill {
  charge: string
  card: string
  price_version: number
  effective_from: string
  service: string
  over: number
  parts: BillPart[]
  sum: Exact
  rounding: Exact
  cost: Exact
  amount: Exact
  currency: string
  formula: string
  notes: string[]
  later: { kind: string; sequence: number; amount: Exact; created_at: string }[]
}
export interface Forecast {
  balance: Exact
  spent_per_day: Exact
  depleted_at?: string | null
  days_left?: number | null
}
export interface Payment {
  id: string
  amount: Exact
  currency: string
  status: string
  provider: string
  checkout_url?: string | null
  automatic: boolean
  failure?: string | null
  created_at: string
  expires_at?: string | null
  confirming_at?: string | null
  confirmed_at?: string | null
  ended_at?: string | null
}
export interface Provider {
  name: string
  is_enabled: boolean
  is_test: boolean
  amount_min: Exact | null
  amount_max: Exact
  currency: string
}
export interface Method {
  id: string
  type: string
  brand?: string | null
  last4?: string | null
  exp_month?: number | null
  exp_year?: number | null
}
export interface TopUpRule {
  enabled: boolean
  threshold: Exact
  amount: Exact
  monthly_cap: Exact
  payment_method?: string | null
  failures: number
}
export interface Statement {
  month: string
  currency: string
  from: string
  until: string
  is_complete: boolean
  opening_balance: Exact
  closing_balance: Exact
  totals: { kind: string; count: number; amount: Exact }[]
  days: { day: string; kind: string; count: number; amount: Exact }[]
}
export interface Endpoint {
  id: string
  url: string
  description: string
  events?: string[] | null
  environment: string
  enabled: boolean
  created_at: string
  failing_since?: string | null
  switched_off_at?: string | null
  former_secret_until?: string | null
  secret?: string
}
export interface Attempt {
  at: string
  status?: number | null
  error?: string | null
  latency_ms: number
  answer: string
}
export interface Delivery {
  id: string
  event_id: string
  type: string
  status: string
  created_at: string
  next_at?: string | null
  attempts: Attempt[]
  payload?: string
  headers?: Record<string, string | null>
}
export interface Session {
  id: string
  is_current: boolean
  created_at: string
  last_used_at: string
  expires_at: string
  address: string
  user_agent: string
  kind?: string
}
export interface Act {
  id: string
  at: string
  user_id: string
  actor: string
  actor_id?: string | null
  action: string
  subject: string
  detail: string
  address: string
  user_agent: string
}
export interface Quote {
  cost: { least: Exact; most: Exact }
  hold?: Exact | null
  currency: string
  prompt_tokens?: number | null
  max_tokens?: number | null
  admitted: boolean
  reason?: { error?: unknown; message?: string } | null
  balance: Exact
  available: Exact
}
export interface Model {
  name: string
  aliases: string[]
  max_input_tokens: number
  max_output_tokens: number
  modalities: string[]
  protocols: string[]
  prices: { over: number; service: string; rates: Record<string, unknown> }[]
  retires_at?: string | null
  successor?: string | null
}
export interface AdminUser {
  id: string
  email: string
  username: string
  role: string
  tier?: string | null
  is_email_verified: boolean
  has_two_factor: boolean
  is_erased: boolean
  created_at: string
  status?: string
  balance?: Exact | null
  spent_30d?: Exact
  last_call_at?: string | null
}
export interface Account {
  environment: string
  balance: Exact
  available: Exact
  held: Exact
  currency: string
  status: string
}
