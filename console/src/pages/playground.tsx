// Calls a model as a program would: with a key, and a price before. The cookie of the session opens no paid route.
import { useEffect, useRef, useState } from 'preact/hooks'
import { get, once, query, read, Refusal, refusal, send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { Digits, type Exact, stringify } from '../lib/json'
import { exact } from '../lib/money'
import { useFilters } from '../lib/nav'
import { base, environment, freshKey } from '../lib/session'
import { type Kind, PATHS, snippets } from '../lib/snippets'
import { pieces } from '../lib/stream'
import { number } from '../lib/time'
import type { Call, Model, NewKey, Quote } from '../lib/types'
import { Card, Facts, Failure, Link, Note, Page, Segments, Snippets } from '../ui/parts'

const KINDS: [Kind, string][] = [
  ['chat', 'Chat'],
  ['completion', 'Completion'],
  ['embedding', 'Embedding'],
]
const HOUR = 3_600_000

interface Turn {
  role: 'user' | 'assistant'
  content: string
}
interface Result {
  request?: string | undefined
  cost?: Exact | undefined
  balance?: Exact | undefined
  finish?: string
  tokens?: string
  stopped?: boolean
}

/** The request of a call. */
function requestBody(
  kind: string,
  {
    model,
    system,
    turns,
    prompt,
    most,
    stream,
  }: { model: string; system: string; turns: Turn[]; prompt: string; most: string; stream: boolean },
): Record<string, unknown> {
  const named = model ? { model } : {}
  const limit = /^\d+$/.test(most) ? { max_tokens: Number(most) } : {}
  if (kind === 'embedding') return { ...named, input: prompt }
  if (kind === 'completion') return { ...named, prompt, ...limit, ...(stream ? { stream } : {}) }
  const messages = [
    ...(system ? [{ role: 'system', content: system }] : []),
    ...turns,
    { role: 'user', content: prompt },
  ]
  return { ...named, messages, ...limit, ...(stream ? { stream } : {}) }
}

/** A paid route, with the key and without the cookie. */
const paid = (
  path: string,
  key: string,
  body: string,
  headers: Record<string, string> = {},
  signal: AbortSignal | null = null,
) =>
  fetch(path, {
    method: 'POST',
    credentials: 'omit',
    signal,
    body,
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${key}`, ...headers },
  })

const tokens = (usage: { prompt_tokens?: number; completion_tokens?: number }): string =>
  `${number(usage.prompt_tokens ?? 0)} in, ${number(usage.completion_tokens ?? 0)} out`

/** The key that calls: made in this tab, kept in its memory alone. */
function KeyChoice() {
  const [error, setError] = useState<Refusal>()
  const [busy, setBusy] = useState(false)
  const make = async () => {
    setBusy(true)
    setError(undefined)
    try {
      freshKey.value = await send<NewKey>(
        'POST',
        '/api/keys',
        {
          name: 'Playground',
          environment: environment.value,
          expires_at: new Date(Date.now() + HOUR).toISOString().replace(/\.\d+/, ''),
          limits: { total_limit: new Digits('1.00') },
        },
        once(),
      )
      refresh()
    } catch (refused) {
      setError(refused as Refusal)
    } finally {
      setBusy(false)
    }
  }
  return (
    <Card title="A key to call with">
      <p>
        Calls are paid by a key, here as everywhere. This page can make one that ends in an hour and spends at most
        $1.00. It is kept in this tab alone.
      </p>
      <Failure error={error} />
      <p class="button-row">
        <button type="button" class="primary" aria-disabled={busy} onClick={() => void make()}>
          Make a key for this page
        </button>
        <Link page="/keys/new" class="button">
          Make one to keep
        </Link>
      </p>
    </Card>
  )
}

export default function Playground() {
  const [filter, set] = useFilters()
  const kind = KINDS.find(([name]) => name === filter('kind'))?.[0] ?? 'chat'
  const models = useData<{ models: Model[] }>('/api/models')
  const [model, setModel] = useState('')
  const [system, setSystem] = useState('')
  const [prompt, setPrompt] = useState('Hello!')
  const [most, setMost] = useState('')
  const [stream, setStream] = useState(true)
  const [turns, setTurns] = useState<Turn[]>([])
  const [answer, setAnswer] = useState('')
  const [result, setResult] = useState<Result>()
  const [error, setError] = useState<Refusal>()
  const [quote, setQuote] = useState<Quote>()
  const [quoteError, setQuoteError] = useState<Refusal>()
  const [running, setRunning] = useState<AbortController>()
  const box = useRef<HTMLTextAreaElement>(null)
  const key = freshKey.value?.environment === environment.value ? freshKey.value : undefined
  const path = PATHS[kind]
  const asked = requestBody(kind, { model, system, turns, prompt, most, stream: stream && kind !== 'embedding' })
  const body = stringify(asked)
  const first = models.data?.models[0]?.name
  useEffect(() => {
    if (first && !model) setModel(first)
  }, [first])

  // The price before: asked for when one has stopped typing.
  useEffect(() => {
    if (!key || running) return
    if (!prompt) {
      setQuote(undefined)
      return
    }
    const gone = new AbortController()
    const timer = setTimeout(async () => {
      try {
        const response = await paid(path, key.key_value, body, { 'X-Dry-Run': 'true' }, gone.signal)
        const content = await read(response)
        if (gone.signal.aborted) return
        setQuote(response.ok ? (content as Quote) : undefined)
        setQuoteError(response.ok ? undefined : refusal(response.status, content))
      } catch {
        // Typing has gone on, or the page has been left.
      }
    }, 400)
    return () => {
      clearTimeout(timer)
      gone.abort()
    }
  }, [key?.key_value, path, body, running])

  const finish = async (request: string | undefined, given: Result) => {
    if (request && given.cost === undefined) {
      // Nobody told the cost: the call was stopped. The server knows when it has ended.
      for (let tries = 0; tries < 10 && given.cost === undefined; tries++) {
        const call = await get<Call>(
          query(`/api/monitoring/requests/${request}`, { environment: environment.value }),
        ).catch(() => undefined)
        if (call) given.cost = call.cost
        else await new Promise((resolve) => setTimeout(resolve, 300))
      }
    }
    setResult({ request, ...given })
    refresh()
  }

  const run = async () => {
    if (!key || running || !prompt) return
    const control = new AbortController()
    setRunning(control)
    setError(undefined)
    setResult(undefined)
    setAnswer('')
    let text = ''
    let request: string | undefined
    const given: Result = {}
    try {
      const response = await paid(path, key.key_value, body, {}, control.signal)
      request = response.headers.get('X-Polysystems-Charge') ?? response.headers.get('X-Request-Id') ?? undefined
      if (!response.ok) {
        setError(refusal(response.status, await read(response)))
        return
      }
      if (response.body && response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
        for await (const piece of pieces(response.body)) {
          if (piece.text) setAnswer((text += piece.text))
          if (piece.finish) given.finish = piece.finish
          if (piece.usage) given.tokens = tokens(piece.usage)
          if (piece.error) setError(new Refusal(0, 'The stream broke off', piece.error, 'stream'))
          if (piece.bill) {
            given.cost = piece.bill.cost
            given.balance = piece.bill.balance
          }
        }
      } else {
        const content = (await read(response)) as {
          choices?: { message?: { content?: string }; text?: string; finish_reason?: string }[]
          data?: { embedding?: Exact[] }[]
          usage?: { prompt_tokens?: number; completion_tokens?: number }
        }
        const choice = content.choices?.[0]
        const vector = content.data?.[0]?.embedding
        text =
          choice?.message?.content ??
          choice?.text ??
          (vector ? `${number(vector.length)} numbers: ${vector.slice(0, 8).map(String).join(', ')}, …` : '')
        setAnswer(text)
        if (choice?.finish_reason) given.finish = choice.finish_reason
        if (content.usage) given.tokens = tokens(content.usage)
        given.cost = response.headers.get('X-Polysystems-Cost') ?? undefined
        given.balance = response.headers.get('X-Polysystems-Balance') ?? undefined
      }
    } catch (failure) {
      if (control.signal.aborted) given.stopped = true
      else
        setError(
          new Refusal(
            0,
            'The connection broke',
            'The answer did not come to its end. Look at the last calls to see what it cost.',
            'broken',
          ),
        )
    } finally {
      if (kind === 'chat' && text) {
        setTurns([...turns, { role: 'user', content: prompt }, { role: 'assistant', content: text }])
        setAnswer('')
        setPrompt('')
      }
      if (request) await finish(request, given)
      else if (given.stopped) setResult(given)
      setRunning(undefined)
      box.current?.focus()
    }
  }

  return (
    <Page
      title="Playground"
      actions={
        key &&
        turns.length > 0 && (
          <button
            type="button"
            onClick={() => {
              setTurns([])
              setResult(undefined)
              setPrompt('Hello!')
            }}
          >
            New conversation
          </button>
        )
      }
    >
      {!key ? (
        <KeyChoice />
      ) : (
        <div class="play">
          <section class="card play-main" aria-label="Conversation">
            <div class="turns" aria-live="polite" aria-busy={!!running}>
              {turns.map((turn, index) => (
                <div key={index} class={`turn ${turn.role}`}>
                  <span class="turn-name">{turn.role === 'user' ? 'You' : 'Model'}</span>
                  <p>{turn.content}</p>
                </div>
              ))}
              {running && kind === 'chat' && (
                <div class="turn user">
                  <span class="turn-name">You</span>
                  <p>{prompt}</p>
                </div>
              )}
              {(answer || running) && (
                <div class="turn assistant">
                  <span class="turn-name">{kind === 'embedding' ? 'Vector' : 'Model'}</span>
                  <p>{answer || '…'}</p>
                </div>
              )}
              {turns.length === 0 && !answer && !running && (
                <p class="muted">The answer comes here. Its price stands beside it before you run it.</p>
              )}
            </div>
            <Failure error={error} />
            {result && (
              <Note
                tone={result.stopped ? 'warn' : 'good'}
                title={result.stopped ? 'Stopped' : 'Done'}
                action={
                  result.request ? (
                    <Link page={`/calls/${result.request}`} class="button">
                      The bill
                    </Link>
                  ) : undefined
                }
              >
                {result.cost !== undefined ? (
                  <>
                    It cost <strong class="cost-after">{exact(result.cost)}</strong>.
                  </>
                ) : (
                  'If it had begun, its cost is in the list of calls.'
                )}
                {result.balance !== undefined && <> The balance is {exact(result.balance)}.</>}
                {result.tokens && <> Tokens: {result.tokens}.</>}
                {result.finish === 'length' && <> It reached its token limit.</>}
              </Note>
            )}
            <form
              class="ask"
              onSubmit={(event) => {
                event.preventDefault()
                void run()
              }}
            >
              <label class="field">
                <span class="label">{kind === 'chat' ? 'Message' : kind === 'embedding' ? 'Text' : 'Prompt'}</span>
                <textarea
                  ref={box}
                  rows={3}
                  value={prompt}
                  required
                  onInput={(event) => setPrompt(event.currentTarget.value)}
                  onKeyDown={(event) => {
                    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
                      event.preventDefault()
                      void run()
                    }
                  }}
                />
              </label>
              <div class="price" role="status">
                <span class="label">Price before</span>
                {quoteError ? (
                  <Failure error={quoteError} />
                ) : quote ? (
                  <>
                    <strong class="price-before">
                      {quote.cost.least === quote.cost.most ? (
                        exact(quote.cost.most)
                      ) : (
                        <>
                          {exact(quote.cost.least)} – {exact(quote.cost.most)}
                        </>
                      )}
                    </strong>
                    <span class="hint">
                      {quote.hold != null ? `${exact(quote.hold)} is held while it runs.` : ''}{' '}
                      {quote.prompt_tokens != null ? `The prompt has ${number(quote.prompt_tokens)} tokens.` : ''}
                    </span>
                    {!quote.admitted && (
                      <Note tone="bad" title="It would be refused">
                        {quote.reason?.message}
                      </Note>
                    )}
                  </>
                ) : (
                  <span class="muted">{prompt ? '…' : 'Write something to see it.'}</span>
                )}
              </div>
              <div class="form-foot">
                {running ? (
                  <button type="button" class="danger" onClick={() => running.abort()}>
                    Stop
                  </button>
                ) : (
                  <button type="submit" class="primary">
                    Run
                  </button>
                )}
                <span class="hint">or Ctrl and Enter</span>
              </div>
            </form>
          </section>
          <aside class="play-side" aria-label="Settings of the call">
            <Card title="The call">
              <div class="form">
                <Segments
                  label="Kind of call"
                  value={kind}
                  of={KINDS}
                  onChoose={(chosen) => {
                    set({ kind: chosen === 'chat' ? '' : chosen })
                    setAnswer('')
                    setResult(undefined)
                    if (!prompt) setPrompt('Hello!')
                  }}
                />
                <label class="field">
                  <span class="label">Model</span>
                  <input
                    list="models"
                    value={model}
                    placeholder="none named"
                    spellcheck={false}
                    onInput={(event) => setModel(event.currentTarget.value.trim())}
                  />
                  <datalist id="models">
                    {models.data?.models.map(({ name }) => (
                      <option key={name} value={name} />
                    ))}
                  </datalist>
                </label>
                {kind === 'chat' && (
                  <label class="field">
                    <span class="label">Instructions</span>
                    <textarea
                      rows={2}
                      value={system}
                      placeholder="none"
                      onInput={(event) => setSystem(event.currentTarget.value)}
                    />
                  </label>
                )}
                {kind !== 'embedding' && (
                  <>
                    <label class="field">
                      <span class="label">Tokens at most</span>
                      <input
                        inputMode="numeric"
                        value={most}
                        placeholder="as the server sets"
                        onInput={(event) => setMost(event.currentTarget.value.trim())}
                      />
                    </label>
                    <label class="check">
                      <input
                        type="checkbox"
                        checked={stream}
                        onChange={(event) => setStream(event.currentTarget.checked)}
                      />{' '}
                      Show it while it is written
                    </label>
                  </>
                )}
              </div>
            </Card>
            <Card title="The key">
              <Facts
                of={[
                  ['Name', <Link page={`/keys/${key.id}`}>{key.name}</Link>],
                  ['Value', <code>{key.key_value_preview}</code>],
                ]}
              />
              <p>
                <button type="button" class="quiet" onClick={() => (freshKey.value = undefined)}>
                  Forget it here
                </button>
              </p>
            </Card>
          </aside>
          <div class="play-code">
            <Card title="The same from a program">
              <Snippets of={snippets(base.value, undefined, kind, asked)} />
            </Card>
          </div>
        </div>
      )}
    </Page>
  )
}
