// Who is signed in, which account is shown, and what the server lets people do.
import { computed, signal } from '@preact/signals'
import { get, send, type Refusal } from './api'
import { forget } from './data'
import type { NewKey, Settings, User } from './types'

export const user = signal<User | null | undefined>(undefined)
export const settings = signal<Settings | undefined>(undefined)
/** The server could not be asked who is there. */
export const unreachable = signal<Refusal | undefined>(undefined)

export type Environment = 'live' | 'test'
export const environment = signal<Environment>(
  new URLSearchParams(location.search).get('environment') === 'test' ? 'test' : 'live',
)
export const isOperator = computed(() => !!user.value && user.value.role !== 'user')

/** The value of a key that was made in this tab: in memory alone, gone with the tab. */
export const freshKey = signal<NewKey | undefined>(undefined)

/** Whether this browser has had a session: no secret, it only spares a question whose answer is no. */
const TRACE = 'polysystems-session'
export const wasHere = (): boolean => trace()
function trace(is?: boolean): boolean {
  try {
    if (is === true) localStorage.setItem(TRACE, 'yes')
    if (is === false) localStorage.removeItem(TRACE)
    return localStorage.getItem(TRACE) !== null
  } catch {
    return true
  }
}

export async function load(): Promise<void> {
  unreachable.value = undefined
  // Nobody was here: the sign-in needs no answer to be shown.
  if (!trace()) user.value = null
  try {
    const [rules, who] = await Promise.all([
      get<Settings>('/api/console/settings'),
      trace()
        ? get<User>('/api/auth/me').catch((error: Refusal) => (error.status === 401 ? null : Promise.reject(error)))
        : null,
    ])
    settings.value = rules
    user.value = who
    if (!who) trace(false)
  } catch (error) {
    unreachable.value = error as Refusal
  }
}

/** After an answer that has begun a session. */
export async function signedIn(): Promise<void> {
  forget()
  trace(true)
  user.value = await get<User>('/api/auth/me')
}

export function signedOut(): void {
  forget()
  trace(false)
  freshKey.value = undefined
  user.value = null
}

export async function signOut(): Promise<void> {
  await send('POST', '/api/auth/logout')
  signedOut()
}

/** The address of the API, for snippets. */
export const base = computed(() => settings.value?.public_url?.replace(/\/$/, '') ?? location.origin)
