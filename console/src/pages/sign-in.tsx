import { useEffect, useState } from 'preact/hooks'
import { navigate } from 'wouter-preact/use-browser-location'
import { send } from '../lib/api'
import { ROOT, to } from '../lib/nav'
import { settings, signedIn, user } from '../lib/session'
import { Field, field, Form } from '../ui/form'
import { Front } from '../ui/front'
import { Link, Note } from '../ui/parts'

type Outcome = { two_factor_required?: boolean; challenge?: string }

/** Where one wanted to go: only a page of this console. */
function wanted(): string {
  const next = new URLSearchParams(location.search).get('next') ?? ''
  return /^\/[a-z]/.test(next) ? ROOT + next : to('/')
}

export function SignIn() {
  const [challenge, setChallenge] = useState<string>()
  const reason = new URLSearchParams(location.search).get('reason')
  useEffect(() => {
    if (user.value) navigate(wanted() + location.hash, { replace: true })
  }, [user.value])
  if (challenge) {
    return (
      <Front title="Second factor">
        <Form
          key="code"
          submit="Sign in"
          cancel={() => setChallenge(undefined)}
          onSend={async (data) => {
            await send('POST', '/api/auth/login/2fa', { challenge, code: field(data, 'code'), session: 'cookie' })
            await signedIn()
          }}
        >
          <Field
            label="Code"
            name="code"
            autocomplete="one-time-code"
            required
            autofocus
            hint="The six digits of your authenticator app, or one of your recovery codes."
          />
        </Form>
      </Front>
    )
  }
  return (
    <Front
      title="Sign in"
      foot={
        settings.value?.registration === 'open' ? (
          <>
            New here? <Link page="/sign-up">Make an account</Link>
          </>
        ) : undefined
      }
    >
      {settings.value?.is_demo && (
        <Note title="This is a demo">Its users and their passwords are in the terminal where the server was started.</Note>
      )}
      {reason === 'verified' && (
        <Note tone="good" title="Your address is verified">
          Sign in to go on.
        </Note>
      )}
      {reason === 'reset' && (
        <Note tone="good" title="Your password is changed">
          Sign in with the new one.
        </Note>
      )}
      <Form
        key="password"
        submit="Sign in"
        onSend={async (data) => {
          const answer = await send<Outcome>('POST', '/api/auth/login', {
            email: field(data, 'email'),
            password: String(data.get('password')),
            session: 'cookie',
          })
          if (answer.two_factor_required) setChallenge(answer.challenge)
          else await signedIn()
        }}
      >
        <Field label="Email" name="email" type="email" autocomplete="username" required autofocus />
        <Field label="Password" name="password" type="password" autocomplete="current-password" required />
        <p class="small">
          <Link page="/forgot">Forgotten the password?</Link>
        </p>
      </Form>
    </Front>
  )
}
