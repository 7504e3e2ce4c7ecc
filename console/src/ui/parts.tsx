// The small parts that every page is made of.
import { signal } from '@preact/signals'
import type { ComponentChildren, JSX } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { Link as Anchor } from 'wouter-preact'
import type { Refusal } from '../lib/api'
import { refresh } from '../lib/data'
import type { Exact } from '../lib/json'
import { exact, nano, percent, short } from '../lib/money'
import { to } from '../lib/nav'
import { ago, at, precisely } from '../lib/time'

type Children = { children?: ComponentChildren }

export function Link({
  page,
  query,
  children,
  ...rest
}: Children & { page: string; query?: Record<string, string>; class?: string; 'aria-current'?: 'page' | undefined }) {
  return (
    <Anchor href={`~${to(page, query)}`} {...rest}>
      {children}
    </Anchor>
  )
}

/** A page: its name is the first heading, which has the focus when the page comes. */
export function Page({
  title,
  back,
  actions,
  intro,
  children,
}: Children & {
  title: string
  back?: { page: string; name: string }
  actions?: ComponentChildren
  intro?: ComponentChildren
}) {
  const heading = useRef<HTMLHeadingElement>(null)
  useEffect(() => {
    document.title = `${title} · Polysystems`
  }, [title])
  useEffect(() => {
    if (document.activeElement === document.body || document.activeElement?.closest('nav, a, summary'))
      heading.current?.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  }, [])
  return (
    <div class="page">
      {back && (
        <p class="back">
          <Link page={back.page}>← {back.name}</Link>
        </p>
      )}
      <header class="page-head">
        <h1 tabIndex={-1} ref={heading}>
          {title}
        </h1>
        {actions && <div class="actions">{actions}</div>}
      </header>
      {intro && <p class="intro">{intro}</p>}
      {children}
    </div>
  )
}

export function Card({
  title,
  actions,
  children,
  class: kind = '',
}: Children & { title?: string; actions?: ComponentChildren; class?: string }) {
  return (
    <section class={`card ${kind}`}>
      {title && (
        <header class="card-head">
          <h2>{title}</h2>
          {actions && <div class="actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  )
}

export function Money({
  amount,
  whole,
  sign,
  least,
}: {
  amount: Exact
  whole?: boolean
  sign?: boolean
  least?: number
}) {
  const text = whole ? exact(amount, least) : short(amount)
  const plus = sign && nano(amount) > 0n ? '+' : ''
  return (
    <data class="money" value={String(amount)} title={exact(amount)}>
      {plus}
      {text}
    </data>
  )
}

export function When({ time, relative }: { time: string | null | undefined; relative?: boolean }) {
  if (!time) return <span class="muted">–</span>
  return (
    <time dateTime={time} title={precisely(time)}>
      {relative ? ago(time) : at(time)}
    </time>
  )
}

export type Tone = 'good' | 'bad' | 'warn' | 'plain' | 'accent'
const SIGNS: Record<Tone, string> = { good: '✓', bad: '✕', warn: '!', plain: '', accent: '' }

/** A state in words and a sign; its colour only repeats them. */
export function Badge({ tone = 'plain', children }: Children & { tone?: Tone }) {
  return (
    <span class={`badge ${tone}`}>
      {SIGNS[tone] && <span aria-hidden="true">{SIGNS[tone]} </span>}
      {children}
    </span>
  )
}

export function Note({
  tone = 'plain',
  title,
  children,
  action,
}: Children & { tone?: Tone; title?: string; action?: ComponentChildren }) {
  return (
    <div class={`note ${tone}`} role={tone === 'bad' ? 'alert' : undefined}>
      <div>
        {title && <strong>{title}. </strong>}
        {children}
      </div>
      {action && <div class="actions">{action}</div>}
    </div>
  )
}

/** What the server said, in its own sentence. */
export function Failure({ error, again }: { error: Refusal | undefined; again?: () => void }) {
  if (!error) return null
  return (
    <Note
      tone="bad"
      title={error.title}
      action={
        again && (
          <button type="button" onClick={again}>
            Try again
          </button>
        )
      }
    >
      {error.message}
      {error.requestId && (
        <span class="muted small block">
          Request <code>{error.requestId}</code>
        </span>
      )}
    </Note>
  )
}

/** Nothing is here yet, and what to do next. */
export function Empty({ title, children, action }: Children & { title: string; action?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <p>{children}</p>}
      {action && <p>{action}</p>}
    </div>
  )
}

/** The shape of what will come. It shows only if the wait is long enough to be noticed. */
export function Waiting({ rows = 3 }: { rows?: number }) {
  return (
    <div class="waiting" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, row) => (
        <span key={row} />
      ))}
    </div>
  )
}

/** Shows what has been loaded, what went wrong, or that it is on its way. What was shown before stays until then. */
export function Shown<T>({
  of,
  rows,
  children,
}: {
  of: { data: T | undefined; error: Refusal | undefined; busy: boolean }
  rows?: number
  children: (data: T) => ComponentChildren
}) {
  if (of.error && of.data === undefined) return <Failure error={of.error} again={refresh} />
  if (of.data === undefined) return <Waiting {...(rows ? { rows } : {})} />
  return (
    <div aria-busy={of.busy} class="shown">
      <Failure error={of.error} />
      {children(of.data)}
    </div>
  )
}

export interface Column<T> {
  name: string
  cell: (item: T) => ComponentChildren
  number?: boolean
  wide?: boolean
  /** Not on a narrow screen. */
  minor?: boolean
}

/** A table; on a narrow screen each row is a small card with the names of its columns. */
export function Table<T>({
  label,
  columns,
  items,
  id,
  foot,
}: {
  label: string
  columns: Column<T>[]
  items: T[]
  id: (item: T) => string
  foot?: ComponentChildren
}) {
  const kind = (column: Column<T>) =>
    [column.number && 'number', column.wide && 'wide', column.minor && 'minor'].filter(Boolean).join(' ') || undefined
  return (
    <div class="table" role="region" aria-label={label} tabIndex={0}>
      <table role="table">
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((column) => (
              <th key={column.name} role="columnheader" scope="col" class={kind(column)}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {items.map((item) => (
            <tr key={id(item)} role="row">
              {columns.map((column) => (
                <td key={column.name} role="cell" data-label={column.name} class={kind(column)}>
                  <div>{column.cell(item)}</div>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
        {foot}
      </table>
    </div>
  )
}

export function More({ of }: { of: { more: (() => void) | undefined; busy: boolean } }) {
  if (!of.more) return null
  return (
    <p class="more">
      <button type="button" onClick={of.more}>
        Show more
      </button>
    </p>
  )
}

/** How much of a limit is spent. */
export function Limit({
  name,
  spent,
  limit,
  hint,
}: {
  name: string
  spent: Exact
  limit: Exact | null | undefined
  hint?: string
}) {
  if (limit == null) {
    return (
      <div class="limit">
        <span class="limit-name">{name}</span>
        <span class="limit-text">
          <Money amount={spent} /> <span class="muted">no limit</span>
        </span>
      </div>
    )
  }
  const part = percent(spent, limit)
  return (
    <div class="limit">
      <span class="limit-name">{name}</span>
      <meter
        title={`${part} %`}
        aria-label={`${name}: ${exact(spent)} of ${exact(limit)}`}
        min={0}
        max={100}
        low={80}
        high={99.9}
        optimum={0}
        value={Math.min(part, 100)}
      >
        {part} %
      </meter>
      <span class="limit-text">
        <Money amount={spent} /> of <Money amount={limit} />{' '}
        <span class="muted">
          {Math.floor(part)}
          {'\u00a0'}%{hint ? `, ${hint}` : ''}
        </span>
      </span>
    </div>
  )
}

/** One thing of the page's facts. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

export function Tile({
  name,
  value,
  hint,
  page,
}: {
  name: string
  value: ComponentChildren
  hint?: ComponentChildren
  page?: string
}) {
  const inside = (
    <>
      <span class="tile-name">{name}</span>
      <span class="tile-value">{value}</span>
      {hint != null && <span class="tile-hint">{hint}</span>}
    </>
  )
  return page ? (
    <Link page={page} class="tile">
      {inside}
    </Link>
  ) : (
    <div class="tile">{inside}</div>
  )
}

/** What has just happened, said once. */
export const said = signal('')
let silence = 0
export function say(text: string): void {
  said.value = text
  clearTimeout(silence)
  silence = window.setTimeout(() => (said.value = ''), 6000)
}
export const Said = () => (
  <div class="said" role="status" aria-live="polite">
    {said.value && <span>{said.value}</span>}
  </div>
)

export function Copy({ text, label = 'Copy' }: { text: string; label?: string }) {
  const [done, set] = useState(false)
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text)
      set(true)
      setTimeout(() => set(false), 2000)
    } catch {
      say('This browser does not let pages copy here. Select the text and copy it yourself.')
    }
  }
  return (
    <button type="button" class="quiet" onClick={copy}>
      {done ? '✓ Copied' : label}
    </button>
  )
}

/** A value that is shown this one time. */
export function Secret({ label, value }: { label: string; value: string }) {
  return (
    <div class="secret">
      <span class="secret-label">{label}</span>
      <div class="secret-line">
        <code>{value}</code>
        <Copy text={value} />
      </div>
    </div>
  )
}

/** Code in several languages; one of them is shown. */
export function Snippets({ of }: { of: [string, string][] }) {
  const [shown, set] = useState(0)
  const [name, code] = of[shown] ?? ['', '']
  const keys = (event: JSX.TargetedKeyboardEvent<HTMLDivElement>) => {
    const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0
    if (!step) return
    const next = (shown + step + of.length) % of.length
    set(next)
    ;(event.currentTarget.children[next] as HTMLElement).focus()
  }
  return (
    <div class="snippets">
      <div class="snippet-head">
        <div role="tablist" aria-label="Language" class="tabs" onKeyDown={keys}>
          {of.map(([language], index) => (
            <button
              key={language}
              type="button"
              role="tab"
              aria-selected={index === shown}
              tabIndex={index === shown ? 0 : -1}
              onClick={() => set(index)}
            >
              {language}
            </button>
          ))}
        </div>
        <Copy text={code} />
      </div>
      <pre role="tabpanel" aria-label={name} tabIndex={0}>
        <code>{code}</code>
      </pre>
    </div>
  )
}

/** A choice of few, as buttons in a row. */
export function Segments({
  label,
  value,
  of,
  onChoose,
}: {
  label: string
  value: string
  of: [string, string][]
  onChoose: (value: string) => void
}) {
  return (
    <div class="segments" role="group" aria-label={label}>
      {of.map(([key, name]) => (
        <button key={key} type="button" aria-pressed={key === value} onClick={() => onChoose(key)}>
          {name}
        </button>
      ))}
    </div>
  )
}

export function Select({
  label,
  value,
  of,
  onChoose,
}: {
  label: string
  value: string
  of: [string, string][]
  onChoose: (value: string) => void
}) {
  return (
    <label class="inline-field">
      <span>{label}</span>
      <select value={value} onChange={(event) => onChoose(event.currentTarget.value)}>
        {of.map(([key, name]) => (
          <option key={key} value={key}>
            {name}
          </option>
        ))}
        {value && !of.some(([key]) => key === value) && <option value={value}>{value}</option>}
      </select>
    </label>
  )
}

/** A filter that is typed; it counts when one leaves it or presses Enter. */
export function Typed({
  label,
  value,
  type = 'text',
  placeholder,
  onGive,
}: {
  label: string
  value: string
  type?: string
  placeholder?: string
  onGive: (value: string) => void
}) {
  const give = (given: string) => {
    if (given.trim() !== value) onGive(given.trim())
  }
  return (
    <label class="inline-field">
      <span>{label}</span>
      <input
        type={type}
        value={value}
        placeholder={placeholder ?? ''}
        spellcheck={false}
        onChange={(event) => give(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === 'Enter') give(event.currentTarget.value)
        }}
      />
    </label>
  )
}
