import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { go } from '../lib/nav'
import { signedIn } from '../lib/session'
import { Field, field, Form } from '../ui/form'
import { Card, Page, say } from '../ui/parts'
import { letterToken } from './verify'

export default function ChangeEmail() {
  const [token] = useState(letterToken)
  return (
    <Page title="Change the email address" back={{ page: '/account', name: 'Account' }}>
      <Card class="narrow">
        <Form
          submit="Change it"
          onSend={async (data) => {
            await send('POST', '/api/auth/email/confirm', { token: field(data, 'token') })
            await signedIn()
            go('/account')
            say('The address is changed. All other sessions have ended.')
          }}
        >
          <p>From now on you sign in with the new address.</p>
          {token ? (
            <input type="hidden" name="token" value={token} />
          ) : (
            <Field
              label="Token"
              name="token"
              required
              autocomplete="off"
              hint="It is in the letter that we have sent to the new address."
            />
          )}
        </Form>
      </Card>
    </Page>
  )
}
