import { useState } from 'preact/hooks'
import { Refusal, send } from '../lib/api'
import { go } from '../lib/nav'
import { settings, signedIn } from '../lib/session'
import { Field, field, Form } from '../ui/form'
import { Front } from '../ui/front'
import { Link, Note } from '../ui/parts'

export default function SignUp() {
  const [waits, setWaits] = useState<string>()
  const rules = settings.value
  if (rules?.registration === 'closed') {
    return (
      <Front title="Make an account" foot={<Link page="/sign-in">Sign in</Link>}>
        <Note title="Registration is closed">Ask the operator of this server for an account.</Note>
      </Front>
    )
  }
  if (waits) {
    return (
      <Front title="Check your mail" foot={<Link page="/sign-in">Sign in</Link>}>
        <p>
          We have sent a link to <strong>{waits}</strong>. Open it to verify your address, then sign in.
        </p>
      </Front>
    )
  }
  return (
    <Front
      title="Make an account"
      foot={
        <>
          You have one? <Link page="/sign-in">Sign in</Link>
        </>
      }
    >
      <Form
        submit="Make the account"
        onSend={async (data) => {
          const email = field(data, 'email')
          const password = String(data.get('password'))
          await send('POST', '/api/auth/register', { email, password, username: field(data, 'username') })
          try {
            await send('POST', '/api/auth/login', { email, password, session: 'cookie' })
          } catch (error) {
            if (!(error instanceof Refusal) || error.status !== 403) throw error
            setWaits(email)
            return
          }
          await signedIn()
          go('/')
        }}
      >
        <Field
          label="Name"
          name="username"
          autocomplete="nickname"
          required
          autofocus
          pattern="[\p{L}\p{N}._\-]+"
          hint="Letters, digits, dots, hyphens and underscores."
        />
        <Field label="Email" name="email" type="email" autocomplete="username" required />
        <Field
          label="Password"
          name="password"
          type="password"
          autocomplete="new-password"
          required
          minLength={rules?.password_length_min ?? 12}
          maxLength={rules?.password_length_max ?? 128}
          hint={`At least ${rules?.password_length_min ?? 12} characters. Several words make a good password.`}
        />
      </Form>
    </Front>
  )
}
