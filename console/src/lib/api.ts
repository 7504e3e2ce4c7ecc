// The one way to the server. The session is a cookie that no script sees.
import { signal } from '@preact/signals'
import { parse, stringify } from './json'

/** What the server says when it refuses. `message` is a sentence for people. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    message: string,
    readonly code: string,
    readonly details: { field: string; message: string }[] = [],
    readonly requestId?: string,
  ) {
    super(message)
  }
}

/** Asks for a fresh proof of who is there; true if it was given. Set by the page that can ask. */
export const prover: { ask: () => Promise<boolean> } = { ask: () => Promise.resolve(false) }

/** Counts how often the server has said that the session is over. */
export const ended = signal(0)

type Body = { error?: unknown; message?: unknown; code?: unknown; details?: unknown; request_id?: unknown }

/** The refusal in an answer. Routes of models have other shapes of it. */
export function refusal(status: number, body: unknown): Refusal {
  const { error, message, code, details, request_id } = (body ?? {}) as Body
  const inner = (typeof error === 'object' && error ? error : {}) as {
    message?: unknown
    code?: unknown
    type?: unknown
  }
  const title = typeof error === 'string' ? error : String(inner.code ?? inner.type ?? `Status ${status}`)
  return new Refusal(
    status,
    title,
    String(message ?? inner.message ?? `The server answered with status ${status} and said no more. Try again.`),
    String(code ?? inner.code ?? title.toLowerCase().replace(/\W+/g, '_')),
    Array.isArray(details) ? details : [],
    typeof request_id === 'string' ? request_id : undefined,
  )
}

export async function read(answer: Response): Promise<unknown> {
  const text = await answer.text()
  try {
    return text ? parse(text) : undefined
  } catch {
    return undefined
  }
}

const MUST_PROVE = new Set(['session_not_confirmed', 'confirmation_required', 'not_confirmed'])

async function call(
  method: string,
  path: string,
  body: unknown,
  headers: HeadersInit,
  proved: boolean,
): Promise<unknown> {
  let answer: Response
  try {
    answer = await fetch(path, {
      method,
      headers:
        method === 'GET' || body instanceof Blob ? headers : { ...headers, 'Content-Type': 'application/json' },
      body: body === undefined ? null : body instanceof Blob ? body : stringify(body),
    })
  } catch {
    throw new Refusal(
      0,
      'No connection',
      'The server could not be reached. Look at your connection, then try again.',
      'no_connection',
    )
  }
  const content = await read(answer)
  if (answer.ok) return content
  const refused = refusal(answer.status, content)
  if (!proved && answer.status === 403 && MUST_PROVE.has(refused.code) && (await prover.ask())) {
    return call(method, path, body, headers, true)
  }
  if (answer.status === 401 && !path.startsWith('/api/auth/login')) ended.value++
  throw refused
}

export const get = <T>(path: string): Promise<T> => call('GET', path, undefined, {}, false) as Promise<T>

export const send = <T>(
  method: 'POST' | 'PUT' | 'PATCH' | 'DELETE',
  path: string,
  body?: unknown,
  headers: HeadersInit = {},
): Promise<T> => call(method, path, body, headers, false) as Promise<T>

/** Sends a file as it is. */
export const upload = <T>(path: string, file: Blob): Promise<T> =>
  call('POST', path, file, { 'Content-Type': 'application/octet-stream' }, false) as Promise<T>

/** A name for a request, so that a repeat of it does nothing twice. */
export function once(): HeadersInit {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return { 'Idempotency-Key': Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('') }
}

/** A path with its query; what is empty is left out. */
export function query(path: string, values: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== '') search.set(name, String(value))
  }
  const text = search.toString()
  return text ? `${path}${path.includes('?') ? '&' : '?'}${text}` : path
}
