// What pages show. What was read once is shown at once, and read again behind it: nobody waits twice.
import { signal } from '@preact/signals'
import { useEffect, useRef, useState } from 'preact/hooks'
import { get, Refusal } from './api'

const known = new Map<string, unknown>()
const changed = signal(0)

/** Something has changed on the server: what is shown is read again. */
export function refresh(): void {
  changed.value++
}

/** Another account, or none: nothing of the one before stays. */
export function forget(): void {
  known.clear()
}

export interface Loaded<T> {
  data: T | undefined
  error: Refusal | undefined
  /** It is being read; `data` may be of before. */
  busy: boolean
}

/** The answer to a GET. With `null` nothing is read. */
export function useData<T>(path: string | null): Loaded<T> {
  const [state, set] = useState<{ path: string | null; data?: T; error?: Refusal; busy: boolean }>({
    path: null,
    busy: true,
  })
  const version = changed.value
  useEffect(() => {
    if (path === null) return
    let current = true
    get<T>(path).then(
      (data) => {
        known.set(path, data)
        if (current) set({ path, data, busy: false })
      },
      (error: Refusal) => {
        known.delete(path)
        // What is shown stays, beside what went wrong.
        if (current)
          set((before) => ({
            path,
            error,
            busy: false,
            ...(before.path === path && before.data !== undefined ? { data: before.data } : {}),
          }))
      },
    )
    return () => {
      current = false
    }
  }, [path, version])
  if (path === null) return { data: undefined, error: undefined, busy: false }
  if (state.path === path) return { data: state.data, error: state.error, busy: state.busy }
  // Of another path: the answer of before if there is one, else what the page showed until now.
  return {
    data: (known.get(path) as T | undefined) ?? (state.path && sameKind(state.path, path) ? state.data : undefined),
    error: undefined,
    busy: true,
  }
}

const sameKind = (a: string, b: string): boolean => a.split('?')[0] === b.split('?')[0]

export interface Pages<T> {
  items: T[] | undefined
  error: Refusal | undefined
  busy: boolean
  more: (() => void) | undefined
}

/** A list that comes page by page. `field` is where its items are. */
export function usePages<T>(path: string | null, field: string): Pages<T> {
  const first = useData<Record<string, unknown>>(path)
  const [rest, setRest] = useState<{ of: unknown; items: T[]; cursor: string | null } | null>(null)
  const [loading, setLoading] = useState(false)
  const [failed, setFailed] = useState<Refusal>()
  const latest = useRef(first.data)
  latest.current = first.data
  const page = first.data
  const head = page?.[field] as T[] | undefined
  const follows = rest && rest.of === page ? rest : null
  const cursor = follows ? follows.cursor : ((page?.next_cursor as string | null | undefined) ?? null)
  const more =
    path !== null && cursor && !loading
      ? () => {
          setLoading(true)
          setFailed(undefined)
          get<Record<string, unknown>>(`${path}${path.includes('?') ? '&' : '?'}cursor=${encodeURIComponent(cursor)}`)
            .then(
              (next) => {
                if (latest.current !== page) return
                setRest({
                  of: page,
                  items: [...(follows?.items ?? []), ...(next[field] as T[])],
                  cursor: (next.next_cursor as string | null | undefined) ?? null,
                })
              },
              (error: Refusal) => setFailed(error),
            )
            .finally(() => setLoading(false))
        }
      : undefined
  return {
    items: head && [...head, ...(follows?.items ?? [])],
    error: first.error ?? failed,
    busy: first.busy || loading,
    more,
  }
}
