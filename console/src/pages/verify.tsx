import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { go } from '../lib/nav'
import { signedOut, user } from '../lib/session'
import { Field, field, Form } from '../ui/form'
import { Front } from '../ui/front'
import { Link } from '../ui/parts'

/** The token of a letter's link. It stands behind `#`, so no server and no proxy logs it. */
export function letterToken(): string {
  return new URLSearchParams(location.hash.slice(1)).get('token') ?? ''
}

export default function Verify() {
  const [token] = useState(letterToken)
  return (
    <Front
      title="Verify your address"
      foot={<Link page={user.value ? '/' : '/sign-in'}>{user.value ? 'Overview' : 'Sign in'}</Link>}
    >
      <Form
        submit="Verify"
        onSend={async (data) => {
          await send('POST', '/api/auth/verify-email', { token: field(data, 'token') })
          signedOut()
          go('/sign-in', { reason: 'verified' })
        }}
      >
        <p>
          This ends all sessions, keys and webhooks from before, so that nobody keeps a way in. Sign in again after
          it.
        </p>
        {token ? (
          <input type="hidden" name="token" value={token} />
        ) : (
          <Field
            label="Token"
            name="token"
            required
            autofocus
            autocomplete="off"
            hint="It is in the letter that we have sent you, and begins with pse_."
          />
        )}
      </Form>
    </Front>
  )
}
