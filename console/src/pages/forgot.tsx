import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { Field, field, Form } from '../ui/form'
import { Front } from '../ui/front'
import { Link } from '../ui/parts'

export default function Forgot() {
  const [sent, setSent] = useState<string>()
  return (
    <Front title="Forgotten password" foot={<Link page="/sign-in">Sign in</Link>}>
      {sent ? (
        <p role="status">
          If <strong>{sent}</strong> is the address of an account, a letter with a link is on its way to it. Open the
          link to set another password.
        </p>
      ) : (
        <Form
          submit="Send me a link"
          onSend={async (data) => {
            const email = field(data, 'email')
            await send('POST', '/api/auth/forgot-password', { email })
            setSent(email)
          }}
        >
          <Field label="Email" name="email" type="email" autocomplete="username" required autofocus />
        </Form>
      )}
    </Front>
  )
}
