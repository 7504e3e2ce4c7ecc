import { useState } from 'preact/hooks'
import { once, send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { go } from '../lib/nav'
import { base, environment, freshKey, user } from '../lib/session'
import { hello } from '../lib/snippets'
import type { Model, NewKey } from '../lib/types'
import { Choice, Field, field, Form } from '../ui/form'
import { LimitFields, limits, policy, PolicyFields } from '../ui/key-fields'
import { Card, Link, Note, Page, Secret, Snippets } from '../ui/parts'

const DAYS: [string, string][] = [
  ['', 'Never'],
  ['7', 'In 7 days'],
  ['30', 'In 30 days'],
  ['90', 'In 90 days'],
  ['365', 'In a year'],
]

/** The value of a key, this one time, and how to use it. */
export function KeyValue({ of }: { of: NewKey }) {
  const models = useData<{ models: Model[] }>('/api/models')
  return (
    <>
      <Note tone="warn" title="Save it now">
        It is shown this one time. The server keeps only a digest of it.
      </Note>
      <Secret label={of.name} value={of.key_value} />
      <Snippets of={hello(base.value, of.key_value, models.data?.models[0]?.name ?? 'gpt-4o')} />
    </>
  )
}

export default function KeyNew() {
  const [made, setMade] = useState<NewKey>()
  const [request] = useState(once)
  if (made) {
    return (
      <Page title="The key is made" back={{ page: '/keys', name: 'Keys' }}>
        <Card>
          <KeyValue of={made} />
          <p class="button-row">
            <Link page="/playground" class="button primary">
              Try it in the playground
            </Link>
            <Link page={`/keys/${made.id}`} class="button">
              The key
            </Link>
          </p>
        </Card>
      </Page>
    )
  }
  return (
    <Page title="Make a key" back={{ page: '/keys', name: 'Keys' }}>
      {user.value?.is_email_verified === false && (
        <Note tone="warn" title="Verify your address first">
          Verifying ends all keys from before.
        </Note>
      )}
      <Card class="narrow">
        <Form
          submit="Make the key"
          onSend={async (data) => {
            const days = field(data, 'days')
            const key = await send<NewKey>(
              'POST',
              '/api/keys',
              {
                name: field(data, 'name'),
                environment: environment.value,
                expires_at: days
                  ? new Date(Date.now() + Number(days) * 86_400_000).toISOString().replace(/\.\d+/, '')
                  : null,
                limits: limits(data),
                ...policy(data),
              },
              request,
            )
            freshKey.value = key
            refresh()
            setMade(key)
            go('/keys/new')
          }}
        >
          <Field
            label="Name"
            name="name"
            required
            maxLength={100}
            autofocus
            hint={
              environment.value === 'test'
                ? 'A test key: it spends test credits.'
                : 'What uses it, such as “Chat bot”.'
            }
          />
          <fieldset>
            <legend>It may spend at most (USD)</legend>
            <LimitFields />
          </fieldset>
          <Choice label="It ends" name="days" of={DAYS} />
          <details class="fold">
            <summary>Restrict what it may be used for</summary>
            <PolicyFields />
          </details>
        </Form>
      </Card>
    </Page>
  )
}
