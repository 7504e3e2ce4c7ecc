import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { go } from '../lib/nav'
import { settings, signedOut } from '../lib/session'
import { Field, field, Form } from '../ui/form'
import { Front } from '../ui/front'
import { Link } from '../ui/parts'
import { letterToken } from './verify'

export default function Reset() {
  const [token] = useState(letterToken)
  return (
    <Front title="Set another password" foot={<Link page="/sign-in">Sign in</Link>}>
      <Form
        submit="Set the password"
        onSend={async (data) => {
          await send('POST', '/api/auth/reset-password', {
            token: field(data, 'token'),
            new_password: String(data.get('new_password')),
          })
          signedOut()
          go('/sign-in', { reason: 'reset' })
        }}
      >
        <p>Every session of the account ends.</p>
        {token ? (
          <input type="hidden" name="token" value={token} />
        ) : (
          <Field
            label="Token"
            name="token"
            required
            autocomplete="off"
            hint="It is in the letter that we have sent you."
          />
        )}
        <Field
          label="New password"
          name="new_password"
          type="password"
          autocomplete="new-password"
          required
          autofocus
          minLength={settings.value?.password_length_min ?? 12}
          hint={`At least ${settings.value?.password_length_min ?? 12} characters.`}
        />
      </Form>
    </Front>
  )
}
