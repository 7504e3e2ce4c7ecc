// Forms and dialogs: native ones. What the server refuses stands beside the field that it is about.
import { signal } from '@preact/signals'
import { type ComponentChildren, createContext, type JSX } from 'preact'
import { useContext, useEffect, useId, useRef, useState } from 'preact/hooks'
import { Refusal, prover, send } from '../lib/api'
import { typed } from '../lib/money'
import type { Digits } from '../lib/json'
import { Failure } from './parts'

type Children = { children?: ComponentChildren }
const Faults = createContext<Record<string, string>>({})

/** A form that says what the server refused. `onSend` throws a `Refusal`, or `Fault` for what a field has wrong. */
export function Form({
  onSend,
  submit,
  danger,
  cancel,
  children,
  class: kind = '',
}: Children & {
  onSend: (data: FormData) => Promise<void> | void
  submit: string
  danger?: boolean
  cancel?: () => void
  class?: string
}) {
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<Refusal>()
  const form = useRef<HTMLFormElement>(null)
  const faults: Record<string, string> = {}
  for (const { field, message } of error?.details ?? []) faults[field] = message
  const onSubmit = async (event: JSX.TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault()
    if (busy) return
    setBusy(true)
    setError(undefined)
    try {
      await onSend(new FormData(event.currentTarget))
    } catch (failure) {
      if (!(failure instanceof Refusal)) throw failure
      setError(failure)
      const named = failure.details
        .map(({ field }) => form.current?.elements.namedItem(field))
        .find((element) => element instanceof HTMLElement)
      if (named instanceof HTMLElement) named.focus()
    } finally {
      setBusy(false)
    }
  }
  const elsewhere = error && !error.details.every(({ field }) => form.current?.elements.namedItem(field))
  return (
    <form ref={form} class={`form ${kind}`} onSubmit={onSubmit} aria-busy={busy}>
      <Faults.Provider value={faults}>{children}</Faults.Provider>
      {error && (error.details.length === 0 || elsewhere) && <Failure error={error} />}
      <div class="form-foot">
        <button type="submit" class={danger ? 'danger' : 'primary'} aria-disabled={busy}>
          {busy ? 'One moment…' : submit}
        </button>
        {cancel && (
          <button type="button" onClick={cancel}>
            Cancel
          </button>
        )}
      </div>
    </form>
  )
}

/** A field that the page itself can say is wrong. */
export const fault = (field: string, message: string): Refusal =>
  new Refusal(0, 'Not sent', message, 'fault', [{ field, message }])

type InputProps = Omit<JSX.InputHTMLAttributes<HTMLInputElement>, 'label' | 'size'>

export function Field({
  label,
  name,
  hint,
  ...rest
}: InputProps & { label: string; name: string; hint?: ComponentChildren }) {
  const id = useId()
  const wrong = useContext(Faults)[name]
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        name={name}
        aria-invalid={wrong ? true : undefined}
        aria-describedby={wrong || hint ? `${id}-hint` : undefined}
        {...rest}
      />
      {(wrong || hint) && (
        <p id={`${id}-hint`} class={wrong ? 'wrong' : 'hint'}>
          {wrong ?? hint}
        </p>
      )}
    </div>
  )
}

export function Choice({
  label,
  name,
  of,
  value,
  hint,
  onChoose,
}: {
  label: string
  name: string
  of: [string, string][]
  value?: string
  hint?: ComponentChildren
  onChoose?: (value: string) => void
}) {
  const id = useId()
  const wrong = useContext(Faults)[name]
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select
        id={id}
        name={name}
        value={value ?? of[0]?.[0] ?? ''}
        aria-describedby={wrong || hint ? `${id}-hint` : undefined}
        onChange={(event) => onChoose?.(event.currentTarget.value)}
      >
        {of.map(([key, text]) => (
          <option key={key} value={key} selected={key === value}>
            {text}
          </option>
        ))}
      </select>
      {(wrong || hint) && (
        <p id={`${id}-hint`} class={wrong ? 'wrong' : 'hint'}>
          {wrong ?? hint}
        </p>
      )}
    </div>
  )
}

export function Check({
  label,
  name,
  value,
  checked,
  hint,
}: {
  label: string
  name: string
  value?: string
  checked?: boolean
  hint?: string
}) {
  const id = useId()
  return (
    <div class="check">
      <input type="checkbox" id={id} name={name} value={value ?? 'on'} defaultChecked={checked ?? false} />
      <label for={id}>
        {label}
        {hint && <span class="hint block">{hint}</span>}
      </label>
    </div>
  )
}

/** An amount of money, as text: what is typed is sent digit by digit. */
export function Amount({
  label,
  name,
  hint,
  value,
  required,
  placeholder,
}: {
  label: string
  name: string
  hint?: ComponentChildren
  value?: string
  required?: boolean
  placeholder?: string
}) {
  return (
    <Field
      label={label}
      name={name}
      hint={hint}
      inputMode="decimal"
      autocomplete="off"
      class="amount"
      defaultValue={value ?? ''}
      required={required ?? false}
      placeholder={placeholder ?? ''}
    />
  )
}

/** The amount of a field, or null if it is empty. */
export function amount(data: FormData, name: string): Digits | null {
  const given = String(data.get(name) ?? '').trim()
  if (!given) return null
  const digits = typed(given)
  if (!digits) throw fault(name, 'Write a plain amount in dollars, such as 25.00.')
  return digits
}

export const field = (data: FormData, name: string): string => String(data.get(name) ?? '').trim()

/** Words between commas, spaces or lines; null if there are none. */
export function words(data: FormData, name: string): string[] | null {
  const found = field(data, name)
    .split(/[\s,]+/)
    .filter(Boolean)
  return found.length ? found : null
}

/** A native dialog. Escape closes it; the focus goes back to what opened it. */
export function Dialog({ title, onClose, children }: Children & { title: string; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const id = useId()
  // Before a field with `autofocus` is there, which takes the focus by itself.
  const [opener] = useState(() => document.activeElement)
  useEffect(() => {
    const element = dialog.current
    element?.showModal()
    return () => {
      // What is outside of a dialog that is open takes no focus.
      element?.close()
      if (opener instanceof HTMLElement && opener.isConnected) opener.focus()
    }
  }, [])
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault()
        onClose()
      }}
    >
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  )
}

/** What a person is asked before something that cannot be undone. */
interface Question {
  title: string
  body: ComponentChildren
  action: string
  danger: boolean
  run: () => Promise<void>
}
const asked = signal<Question | undefined>(undefined)
export function ask(
  title: string,
  body: ComponentChildren,
  action: string,
  run: () => Promise<void>,
  danger = true,
): void {
  asked.value = { title, body, action, danger, run }
}

const proving = signal<((proved: boolean) => void) | undefined>(undefined)
prover.ask = () => new Promise((resolve) => (proving.value = resolve))

/** The dialogs that any page can open. */
export function Dialogs() {
  const question = asked.value
  const prove = proving.value
  const answer = (proved: boolean) => {
    proving.value = undefined
    prove?.(proved)
  }
  return (
    <>
      {question && (
        <Dialog title={question.title} onClose={() => (asked.value = undefined)}>
          <Form
            submit={question.action}
            danger={question.danger}
            cancel={() => (asked.value = undefined)}
            onSend={async () => {
              await question.run()
              asked.value = undefined
            }}
          >
            <div class="prose">{question.body}</div>
          </Form>
        </Dialog>
      )}
      {prove && (
        <Dialog title="Confirm that it is you" onClose={() => answer(false)}>
          <Form
            submit="Confirm"
            cancel={() => answer(false)}
            onSend={async (data) => {
              const password = String(data.get('password') ?? '')
              const code = field(data, 'code')
              await send('POST', '/api/auth/confirm', code ? { code } : { password })
              answer(true)
            }}
          >
            <p>Your password is asked for again before what matters. It then holds for a few minutes.</p>
            <Field label="Password" name="password" type="password" autocomplete="current-password" autofocus />
            <Field
              label="Or a code of your authenticator app"
              name="code"
              inputMode="numeric"
              autocomplete="one-time-code"
            />
          </Form>
        </Dialog>
      )}
    </>
  )
}
