import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { environment } from '../lib/session'
import type { Endpoint } from '../lib/types'
import { Check, Dialog, Field, field, Form } from '../ui/form'
import { Badge, Card, Empty, Link, Note, Page, Secret, Shown, Table, When } from '../ui/parts'

export interface EventType {
  type: string
  description: string
  sample: unknown
}

/** Which events an endpoint wants; none chosen means all. */
export function Events({ types, chosen }: { types: EventType[]; chosen?: string[] | null | undefined }) {
  const wants = (type: string) =>
    chosen?.some((one) => one === type || (one.endsWith('.*') && type.startsWith(one.slice(0, -1)))) ?? false
  return (
    <fieldset>
      <legend>Events</legend>
      <p class="hint">If you choose none, it gets all.</p>
      <div class="checks">
        {types.map(({ type, description }) => (
          <Check key={type} name="events" value={type} label={type} hint={description} checked={wants(type)} />
        ))}
      </div>
    </fieldset>
  )
}

export function events(data: FormData): string[] | null {
  const chosen = data.getAll('events').map(String)
  return chosen.length ? chosen : null
}

export function EndpointState({ of }: { of: Endpoint }) {
  if (!of.enabled) return <Badge tone="bad">Off</Badge>
  if (of.failing_since) return <Badge tone="warn">Failing</Badge>
  return <Badge tone="good">On</Badge>
}

function NewEndpoint({ onClose }: { onClose: () => void }) {
  const types = useData<{ data: EventType[] }>('/api/webhooks/event-types')
  const [made, setMade] = useState<Endpoint>()
  return (
    <Dialog title={made ? 'The endpoint is made' : 'Add an endpoint'} onClose={onClose}>
      {made ? (
        <>
          <Note tone="warn" title="Save the secret now">
            It is shown this one time. You need it to check signatures.
          </Note>
          <Secret label="Secret" value={made.secret ?? ''} />
          <div class="form-foot">
            <button type="button" class="primary" onClick={onClose}>
              Done
            </button>
          </div>
        </>
      ) : (
        <Form
          submit="Add it"
          cancel={onClose}
          onSend={async (data) => {
            const chosen = events(data)
            const endpoint = await send<Endpoint>('POST', '/api/webhooks', {
              url: field(data, 'url'),
              description: field(data, 'description'),
              environment: environment.value,
              ...(chosen ? { events: chosen } : {}),
            })
            refresh()
            setMade(endpoint)
          }}
        >
          <Field label="URL" name="url" type="url" required autofocus placeholder="https://example.com/hooks" />
          <Field label="Note" name="description" placeholder="for yourself" />
          <details class="fold">
            <summary>Choose events</summary>
            <Shown of={types}>{({ data }) => <Events types={data} />}</Shown>
          </details>
        </Form>
      )}
    </Dialog>
  )
}

export default function Webhooks() {
  const endpoints = useData<{ webhooks: Endpoint[] }>('/api/webhooks')
  const [adding, setAdding] = useState(false)
  const add = (
    <button type="button" class="primary" onClick={() => setAdding(true)}>
      Add an endpoint
    </button>
  )
  return (
    <Page
      title="Webhooks"
      intro="This server tells yours what happens: payments, balance, limits, keys."
      actions={endpoints.data && add}
    >
      {adding && <NewEndpoint onClose={() => setAdding(false)} />}
      <Card>
        <Shown of={endpoints}>
          {({ webhooks }) => {
            const here = webhooks.filter((one) => one.environment === environment.value)
            return here.length === 0 ? (
              <Empty title="No endpoint yet" action={add}>
                Add the https address of a program that should be told.
              </Empty>
            ) : (
              <Table
                label="Endpoints"
                items={here}
                id={(one) => one.id}
                columns={[
                  {
                    name: 'URL',
                    wide: true,
                    cell: (one) => (
                      <>
                        <Link page={`/webhooks/${one.id}`}>
                          <span class="clip long">{one.url}</span>
                        </Link>
                        {one.description && <span class="muted small block">{one.description}</span>}
                      </>
                    ),
                  },
                  { name: 'State', cell: (one) => <EndpointState of={one} /> },
                  {
                    name: 'Events',
                    cell: (one) =>
                      one.events ? (
                        <span class="clip" title={one.events.join(', ')}>
                          {one.events.join(', ')}
                        </span>
                      ) : (
                        'all'
                      ),
                  },
                  { name: 'Added', cell: (one) => <When time={one.created_at} /> },
                ]}
              />
            )
          }}
        </Shown>
      </Card>
    </Page>
  )
}
