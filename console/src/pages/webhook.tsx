import { useState } from 'preact/hooks'
import { query, send } from '../lib/api'
import { refresh, useData, usePages } from '../lib/data'
import { go, useFilters } from '../lib/nav'
import { milliseconds } from '../lib/time'
import type { Delivery, Endpoint } from '../lib/types'
import { ask, Dialog, Field, field, Form } from '../ui/form'
import {
  Badge,
  Card,
  Empty,
  Facts,
  More,
  Note,
  Page,
  say,
  Secret,
  Select,
  Shown,
  Table,
  type Tone,
  When,
} from '../ui/parts'
import { EndpointState, Events, events, type EventType } from './webhooks'

const TONES: Record<string, Tone> = { delivered: 'good', succeeded: 'good', failed: 'bad', pending: 'accent' }

/** The body as it was sent, with line breaks between its fields; the digits of its numbers stay. */
const pretty = (payload: string): string =>
  payload
    .replace(/("(?:[^"\\]|\\.)*")|([{,])/g, (_, text?: string, mark?: string) => text ?? `${mark}\n  `)
    .replace(/}/g, '\n}')

function One({ endpoint, of, onClose }: { endpoint: string; of: Delivery; onClose: () => void }) {
  const whole = useData<Delivery>(`/api/webhooks/${endpoint}/deliveries/${of.id}`)
  const found = whole.data ?? of
  return (
    <Dialog title={of.type} onClose={onClose}>
      <Facts
        of={[
          ['State', <Badge tone={TONES[found.status] ?? 'plain'}>{found.status}</Badge>],
          ['Event', <code>{found.event_id}</code>],
          ['Made', <When time={found.created_at} />],
          ...(found.next_at
            ? [['Next try', <When time={found.next_at} relative />] as [string, preact.ComponentChildren]]
            : []),
        ]}
      />
      {found.attempts.length === 0 ? (
        <p class="muted">Not tried yet.</p>
      ) : (
        <Table
          label="Tries"
          items={found.attempts}
          id={(attempt) => attempt.at}
          columns={[
            { name: 'Try', cell: (attempt) => <When time={attempt.at} /> },
            {
              name: 'Answer',
              wide: true,
              cell: (attempt) =>
                attempt.error ?? (
                  <>
                    {attempt.status} {attempt.answer && <code class="block small">{attempt.answer}</code>}
                  </>
                ),
            },
            { name: 'Took', number: true, cell: (attempt) => milliseconds(attempt.latency_ms) },
          ]}
        />
      )}
      {whole.data?.payload !== undefined && (
        <details class="fold">
          <summary>What was sent</summary>
          <pre tabIndex={0}>
            <code>{pretty(whole.data.payload)}</code>
          </pre>
        </details>
      )}
      {whole.data?.headers !== undefined && (
        <details class="fold">
          <summary>Its headers</summary>
          <pre tabIndex={0}>
            <code>
              {Object.entries(whole.data.headers)
                .map(([name, value]) => `${name}: ${value ?? ''}`)
                .join('\n')}
            </code>
          </pre>
        </details>
      )}
      <div class="form-foot">
        <button
          type="button"
          onClick={() =>
            void send('POST', `/api/webhooks/${endpoint}/deliveries/${of.id}/redeliver`).then(
              () => {
                refresh()
                say('It is sent again.')
                onClose()
              },
              (error) => say(error.message),
            )
          }
        >
          Send it again
        </button>
        <button type="button" class="primary" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  )
}

export default function WebhookPage({ params }: { params: { id: string } }) {
  const { id } = params
  const [filter, set] = useFilters()
  const endpoint = useData<Endpoint>(`/api/webhooks/${id}`)
  const types = useData<{ data: EventType[] }>('/api/webhooks/event-types')
  const deliveries = usePages<Delivery>(
    query(`/api/webhooks/${id}/deliveries`, { status: filter('status'), type: filter('type'), limit: 25 }),
    'deliveries',
  )
  const [secret, setSecret] = useState<string>()
  const [open, setOpen] = useState<Delivery>()
  const change = (body: unknown, words: string) =>
    send('PATCH', `/api/webhooks/${id}`, body).then(() => {
      refresh()
      say(words)
    })
  return (
    <Page
      title="Endpoint"
      back={{ page: '/webhooks', name: 'Webhooks' }}
      actions={
        endpoint.data && (
          <>
            <button
              type="button"
              onClick={() =>
                void send('POST', `/api/webhooks/${id}/test`).then(
                  () => {
                    refresh()
                    say('A test event is on its way.')
                  },
                  (error) => say(error.message),
                )
              }
            >
              Send a test
            </button>
            <button
              type="button"
              onClick={() =>
                void change(
                  { enabled: !endpoint.data?.enabled },
                  endpoint.data?.enabled ? 'Switched off.' : 'Switched on.',
                ).catch((error) => say(error.message))
              }
            >
              {endpoint.data.enabled ? 'Switch off' : 'Switch on'}
            </button>
          </>
        )
      }
    >
      {secret && (
        <Dialog title="The new secret" onClose={() => setSecret(undefined)}>
          <Note tone="warn" title="Save it now">
            It is shown this one time. For a day deliveries are signed with both secrets.
          </Note>
          <Secret label="Secret" value={secret} />
          <div class="form-foot">
            <button type="button" class="primary" onClick={() => setSecret(undefined)}>
              Done
            </button>
          </div>
        </Dialog>
      )}
      {open && <One endpoint={id} of={open} onClose={() => setOpen(undefined)} />}
      <Shown of={endpoint} rows={4}>
        {(found) => (
          <>
            {found.switched_off_at && !found.enabled && (
              <Note tone="bad" title="Switched off">
                It accepted nothing for too long. Mend the receiver, then switch it on again.
              </Note>
            )}
            <Card>
              <Facts
                of={[
                  ['URL', <span class="break">{found.url}</span>],
                  ['State', <EndpointState of={found} />],
                  ['Account', found.environment === 'test' ? 'Test' : 'Live'],
                  ['Added', <When time={found.created_at} />],
                  ...(found.former_secret_until
                    ? [
                        ['Old secret signs until', <When time={found.former_secret_until} />] as [
                          string,
                          preact.ComponentChildren,
                        ],
                      ]
                    : []),
                ]}
              />
            </Card>
            <Card
              title="Deliveries"
              actions={
                <>
                  <Select
                    label="State"
                    value={filter('status')}
                    of={[
                      ['', 'All'],
                      ['pending', 'Pending'],
                      ['delivered', 'Delivered'],
                      ['failed', 'Failed'],
                    ]}
                    onChoose={(status) => set({ status })}
                  />
                  <Select
                    label="Event"
                    value={filter('type')}
                    of={[['', 'All'], ...(types.data?.data ?? []).map(({ type }): [string, string] => [type, type])]}
                    onChoose={(type) => set({ type })}
                  />
                </>
              }
            >
              <Shown of={{ data: deliveries.items, error: deliveries.error, busy: deliveries.busy }}>
                {(items) =>
                  items.length === 0 ? (
                    <Empty title="Nothing was sent yet">Send a test, or wait for an event.</Empty>
                  ) : (
                    <>
                      <Table
                        label="Deliveries"
                        items={items}
                        id={(one) => one.id}
                        columns={[
                          {
                            name: 'Event',
                            cell: (one) => (
                              <button type="button" class="link" onClick={() => setOpen(one)}>
                                {one.type}
                              </button>
                            ),
                          },
                          {
                            name: 'State',
                            cell: (one) => <Badge tone={TONES[one.status] ?? 'plain'}>{one.status}</Badge>,
                          },
                          { name: 'Made', cell: (one) => <When time={one.created_at} /> },
                          { name: 'Tries', number: true, cell: (one) => one.attempts.length },
                          {
                            name: 'Last answer',
                            wide: true,
                            cell: (one) => {
                              const last = one.attempts.at(-1)
                              return last ? (last.error ?? last.status) : <span class="muted">–</span>
                            },
                          },
                        ]}
                      />
                      <More of={deliveries} />
                    </>
                  )
                }
              </Shown>
            </Card>
            <Card title="Settings">
              <Form
                submit="Save"
                onSend={async (data) => {
                  await change(
                    { url: field(data, 'url'), description: field(data, 'description'), events: events(data) },
                    'Saved.',
                  )
                }}
              >
                <Field label="URL" name="url" type="url" required defaultValue={found.url} />
                <Field label="Note" name="description" defaultValue={found.description} />
                <details class="fold">
                  <summary>Events: {found.events ? found.events.length : 'all'}</summary>
                  <Shown of={types}>{({ data }) => <Events types={data} chosen={found.events} />}</Shown>
                </details>
              </Form>
            </Card>
            <Card title="Secret and deletion">
              <p class="button-row">
                <button
                  type="button"
                  onClick={() =>
                    ask(
                      'Replace the secret?',
                      <p>For a day deliveries are signed with both. Change your receiver in that time.</p>,
                      'Replace it',
                      async () => {
                        const made = await send<Endpoint>('POST', `/api/webhooks/${id}/rotate-secret`)
                        refresh()
                        setSecret(made.secret)
                      },
                      false,
                    )
                  }
                >
                  Replace the secret
                </button>
                <button
                  type="button"
                  class="danger-quiet"
                  onClick={() =>
                    ask('Delete this endpoint?', <p>Its waiting deliveries go with it.</p>, 'Delete', async () => {
                      await send('DELETE', `/api/webhooks/${id}`)
                      refresh()
                      go('/webhooks')
                      say('The endpoint is deleted.')
                    })
                  }
                >
                  Delete
                </button>
              </p>
            </Card>
          </>
        )}
      </Shown>
    </Page>
  )
}
