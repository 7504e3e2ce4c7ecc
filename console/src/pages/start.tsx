import { useEffect } from 'preact/hooks'
import { query } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { base, environment, freshKey } from '../lib/session'
import { hello } from '../lib/snippets'
import type { Call, Model } from '../lib/types'
import { Card, Copy, Facts, Link, Money, Note, Page, Snippets, When } from '../ui/parts'

export default function Start() {
  const calls = useData<{ requests: Call[] }>(
    query('/api/monitoring/requests', { environment: environment.value, limit: 1 }),
  )
  const models = useData<{ models: Model[] }>('/api/models')
  const first = calls.data?.requests[0]
  const waits = calls.data !== undefined && !first
  useEffect(() => {
    if (!waits) return
    const timer = setInterval(() => document.visibilityState === 'visible' && refresh(), 3000)
    return () => clearInterval(timer)
  }, [waits])
  const key = freshKey.value?.environment === environment.value ? freshKey.value.key_value : undefined
  const model = models.data?.models[0]?.name ?? 'gpt-4o'
  return (
    <Page title="Quick start" intro="Clients of OpenAI, Anthropic and Gemini need only another base URL and key.">
      <Card title="1. What a client needs">
        <Facts
          of={[
            [
              'Base URL',
              <>
                <code>{base.value}/v1</code> <Copy text={`${base.value}/v1`} />
              </>,
            ],
            [
              'Key',
              key ? (
                <>
                  <code>{key}</code> <Copy text={key} />
                </>
              ) : (
                <>
                  <code>$POLYSYSTEMS_API_KEY</code> <Link page="/keys/new">Make a key</Link>
                </>
              ),
            ],
          ]}
        />
        {key && <p class="hint">You have just made this key. It is here until you close this tab.</p>}
      </Card>
      <Card title="2. The first call">
        <Snippets of={hello(base.value, key, model)} />
      </Card>
      <Card title="3. See it arrive">
        <div role="status">
          {first ? (
            <Note
              tone="good"
              title="It has arrived"
              action={
                <Link page={`/calls/${first.request_id}`} class="button">
                  Look at it
                </Link>
              }
            >
              The last call came <When time={first.started_at} relative /> and cost{' '}
              <Money amount={first.cost} whole />.
            </Note>
          ) : (
            <Note title="Waiting for the first call">
              This page sees it by itself. You can also try the <Link page="/playground">playground</Link>.
            </Note>
          )}
        </div>
      </Card>
    </Page>
  )
}
