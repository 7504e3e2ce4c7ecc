import { useEffect, useState } from 'preact/hooks'
import { ended, read, type Refusal, refusal } from '../lib/api'
import type { Exact } from '../lib/json'
import { digits } from '../lib/money'
import { events } from '../lib/stream'
import { milliseconds, number } from '../lib/time'
import { statusTone } from '../lib/words'
import { Badge, Card, Empty, Failure, Link, Money, Note, Page, Table, Tile, Waiting, When } from '../ui/parts'

interface LiveCall {
  request_id: string
  started_at: string
  user_id: string
  environment: string
  endpoint: string
  model?: string | null
  upstream: string
  status: number
  cost: Exact
  duration_ms: number
}
interface Slowest {
  name: string
  first_byte_ms: number
}
interface Second {
  at: string
  calls: number
  errors: number
  refusals: Record<string, number>
  spent_in_minute: Exact
  test_spent_in_minute: Exact
  seconds: number
  running: number
  test_running: number
  slowest_deployment?: Slowest | null
  slowest_upstream?: Slowest | null
  latest: LiveCall[]
}
type Past = Pick<Second, 'at' | 'calls' | 'errors' | 'refusals'>

const MINUTE = 60
const CALLS = 50
const AGAIN_MS = 2000

const REASONS: Record<string, string> = {
  session_ended: 'Your session has ended. Sign in again.',
  not_operator: 'You are no operator any more.',
  server_stops: 'The server stops. This page asks again by itself.',
  broken: 'The connection broke off. This page asks again by itself.',
  not_known: 'The database does not answer. This page asks again by itself.',
}

/** How often each reason was in the last minute, the most frequent first. */
function summed(past: Past[]): [string, number][] {
  const sums = new Map<string, number>()
  for (const { refusals } of past) {
    for (const [reason, count] of Object.entries(refusals)) sums.set(reason, (sums.get(reason) ?? 0) + count)
  }
  return [...sums].sort((a, b) => b[1] - a[1])
}

/** The calls of each second of the last minute, as bars. */
function Bars({ past }: { past: Past[] }) {
  const most = Math.max(1, ...past.map(({ calls }) => calls))
  return (
    <figure class="bars">
      <svg viewBox={`0 0 ${MINUTE * 10} 80`} preserveAspectRatio="none" role="img" aria-label="Calls of each second">
        <line x1="0" x2={MINUTE * 10} y1="79.5" y2="79.5" class="bars-line" />
        {past.map(({ at, calls }, place) => {
          const height = (calls / most) * 76
          const x = (MINUTE - past.length + place) * 10
          return calls > 0 && <rect key={at} x={x + 1} width="8" y={79 - height} height={height} class="bars-bar" />
        })}
      </svg>
      <figcaption class="muted small">
        The last minute, now at the right. The highest bar is {number(most)} {most === 1 ? 'call' : 'calls'}.
      </figcaption>
    </figure>
  )
}

const slowest = (of: Slowest | null | undefined) => (of ? milliseconds(of.first_byte_ms) : '–')

/** What happens now. It is read as long as the page is seen and nobody has paused it. */
export default function Live() {
  const [paused, pause] = useState(false)
  const [seen, setSeen] = useState(document.visibilityState === 'visible')
  const [past, setPast] = useState<Past[]>([])
  const [last, setLast] = useState<Second>()
  const [calls, setCalls] = useState<LiveCall[]>([])
  const [over, setOver] = useState('')
  const [error, setError] = useState<Refusal>()
  const [round, again] = useState(0)
  useEffect(() => {
    const look = () => setSeen(document.visibilityState === 'visible')
    document.addEventListener('visibilitychange', look)
    return () => document.removeEventListener('visibilitychange', look)
  }, [])
  useEffect(() => {
    if (paused || !seen) return
    const stop = new AbortController()
    let timer = 0
    const retry = () => {
      if (!stop.signal.aborted) timer = window.setTimeout(() => again((count) => count + 1), AGAIN_MS)
    }
    const watch = async () => {
      const answer = await fetch('/api/admin/events', { signal: stop.signal })
      if (!answer.ok || !answer.body) {
        if (answer.status === 401) ended.value++
        setError(refusal(answer.status, await read(answer)))
        return
      }
      setError(undefined)
      setOver('')
      let reason = 'broken'
      for await (const { name, data } of events(answer.body)) {
        if (name === 'end') {
          reason = (data as { reason: string }).reason
          break
        }
        const second = data as Second
        setLast(second)
        setPast((before) => [...before, second].slice(-MINUTE))
        setCalls((before) => [...second.latest, ...before].slice(0, CALLS))
      }
      if (reason === 'session_ended') ended.value++
      if (reason !== 'time_over') setOver(reason)
      if (reason !== 'session_ended' && reason !== 'not_operator') retry()
    }
    watch().catch(() => {
      if (stop.signal.aborted) return
      setOver('broken')
      retry()
    })
    return () => {
      stop.abort()
      clearTimeout(timer)
    }
  }, [paused, seen, round])
  const least = digits(calls.map(({ cost }) => cost))
  const refusals = summed(past)
  const errors = past.reduce((sum, one) => sum + one.errors, 0)
  return (
    <Page
      title="Live"
      intro="What happens now, once a second. Nothing of it is kept."
      actions={
        <button type="button" onClick={() => pause(!paused)} aria-pressed={paused}>
          {paused ? 'Go on' : 'Pause'}
        </button>
      }
    >
      <Failure
        error={error}
        again={() => {
          setError(undefined)
          again((count) => count + 1)
        }}
      />
      {over && (
        <Note tone="warn" title="Nothing comes now">
          {REASONS[over] ?? over}
        </Note>
      )}
      {!last ? (
        !error && <Waiting rows={8} />
      ) : (
        <>
          <div class="tiles">
            <Tile
              name="Calls a second"
              value={number(last.calls)}
              hint={`${number(last.running)} run, ${number(last.test_running)} test calls`}
            />
            <Tile
              name="Money in a minute"
              value={<Money amount={last.spent_in_minute} />}
              hint={last.seconds < MINUTE ? `of ${number(last.seconds)} seconds so far` : 'of live accounts'}
            />
            <Tile
              name="Errors in a minute"
              value={number(errors)}
              hint={errors > 0 ? 'answered with 500 or above' : 'none with 500 or above'}
            />
            <Tile
              name="Slowest deployment"
              value={slowest(last.slowest_deployment)}
              hint={last.slowest_deployment?.name ?? 'none was asked yet'}
            />
            <Tile
              name="Slowest upstream"
              value={slowest(last.slowest_upstream)}
              hint={last.slowest_upstream?.name ?? 'none was asked in this minute'}
            />
          </div>
          <div class="columns">
            <Card title="Calls">
              <Bars past={past} />
            </Card>
            <Card title="Refused in a minute">
              {refusals.length === 0 ? (
                <Empty title="No call was refused">Reasons stand here as soon as there are some.</Empty>
              ) : (
                <Table
                  label="Refusals"
                  items={refusals}
                  id={([reason]) => reason}
                  columns={[
                    { name: 'Reason', wide: true, cell: ([reason]) => reason.replace(/_/g, ' ') },
                    { name: 'Calls', number: true, cell: ([, count]) => number(count) },
                  ]}
                />
              )}
            </Card>
          </div>
          <Card title="Last calls">
            {calls.length === 0 ? (
              <Empty title="No call has ended yet">Calls stand here from the moment on that this page is open.</Empty>
            ) : (
              <Table
                label="Last calls"
                items={calls}
                id={(call) => call.request_id}
                columns={[
                  { name: 'Time', cell: (call) => <When time={call.started_at} relative /> },
                  {
                    name: 'User',
                    wide: true,
                    cell: (call) => (
                      <Link page={`/operate/users/${call.user_id}`}>
                        <span class="clip">{call.user_id}</span>
                      </Link>
                    ),
                  },
                  {
                    name: 'Model',
                    cell: (call) => (
                      <>
                        <span class="clip" title={call.model ?? call.endpoint}>
                          {call.model ?? call.endpoint}
                        </span>
                        <span class="muted small block clip">{call.upstream}</span>
                      </>
                    ),
                  },
                  {
                    name: 'Result',
                    cell: (call) => (
                      <>
                        <Badge tone={statusTone(call.status)}>{call.status}</Badge>
                        {call.environment === 'test' && <span class="muted small block">test</span>}
                      </>
                    ),
                  },
                  { name: 'Time taken', number: true, cell: (call) => milliseconds(call.duration_ms) },
                  { name: 'Cost', number: true, cell: (call) => <Money amount={call.cost} whole least={least} /> },
                ]}
              />
            )}
          </Card>
        </>
      )}
    </Page>
  )
}
