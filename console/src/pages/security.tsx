import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { forget, refresh, useData } from '../lib/data'
import { isOperator, settings, signedOut } from '../lib/session'
import type { Session } from '../lib/types'
import { agent } from '../lib/words'
import { ask, Dialog, Field, field, Form } from '../ui/form'
import { Badge, Card, Copy, Note, Page, say, Secret, Shown, Table, When } from '../ui/parts'

interface Factor {
  is_enabled: boolean
  recovery_codes_left: number
}
interface Enrolment {
  otpauth_url: string
  qr_code_svg: string
  secret: string
}

function Codes({ of, onClose }: { of: string[]; onClose: () => void }) {
  return (
    <>
      <Note tone="warn" title="Save these codes now">
        Each works once if you lose your phone. They are shown this one time.
      </Note>
      <ul class="codes">
        {of.map((code) => (
          <li key={code}>
            <code>{code}</code>
          </li>
        ))}
      </ul>
      <div class="form-foot">
        <Copy text={of.join('\n')} label="Copy all" />
        <button type="button" class="primary" onClick={onClose}>
          I have saved them
        </button>
      </div>
    </>
  )
}

function Enrol({ onClose }: { onClose: () => void }) {
  const [enrolment, setEnrolment] = useState<Enrolment>()
  const [codes, setCodes] = useState<string[]>()
  const done = () => {
    refresh()
    onClose()
  }
  return (
    <Dialog title={codes ? 'Recovery codes' : 'Set up a second factor'} onClose={codes ? done : onClose}>
      {codes ? (
        <Codes of={codes} onClose={done} />
      ) : enrolment ? (
        <Form
          key="code"
          submit="Switch it on"
          cancel={onClose}
          onSend={async (data) => {
            const token = field(data, 'token')
            const answer = await send<{ recovery_codes: string[] }>('POST', '/api/auth/2fa/confirm', {
              code: field(data, 'code'),
              ...(token ? { token } : {}),
            })
            setCodes(answer.recovery_codes)
          }}
        >
          <p>Scan this with an authenticator app, then write the code that it shows.</p>
          <img
            class="qr"
            alt="The secret as a QR code"
            width="200"
            height="200"
            src={`data:image/svg+xml;charset=utf-8,${encodeURIComponent(enrolment.qr_code_svg)}`}
          />
          <details class="fold">
            <summary>I cannot scan it</summary>
            <Secret label="Secret" value={enrolment.secret} />
          </details>
          {isOperator.value && (
            <Field
              label="Token of your account"
              name="token"
              autocomplete="off"
              hint="The command that made this operator printed it."
            />
          )}
          <Field label="Code" name="code" inputMode="numeric" autocomplete="one-time-code" required autofocus />
        </Form>
      ) : (
        <Form
          key="password"
          submit="Go on"
          cancel={onClose}
          onSend={async (data) =>
            setEnrolment(
              await send<Enrolment>('POST', '/api/auth/2fa/enroll', { password: String(data.get('password')) }),
            )
          }
        >
          <p>A second factor is a code of an app on your phone. Who has only your password cannot sign in.</p>
          <Field
            label="Password"
            name="password"
            type="password"
            autocomplete="current-password"
            required
            autofocus
          />
        </Form>
      )}
    </Dialog>
  )
}

/** Password and code, for what weakens the account. */
function WithCode({
  title,
  submit,
  danger,
  text,
  onSend,
  onClose,
}: {
  title: string
  submit: string
  danger?: boolean
  text: string
  onSend: (body: { password: string; code: string }) => Promise<string[] | undefined>
  onClose: () => void
}) {
  const [codes, setCodes] = useState<string[]>()
  const done = () => {
    refresh()
    onClose()
  }
  return (
    <Dialog title={codes ? 'Recovery codes' : title} onClose={codes ? done : onClose}>
      {codes ? (
        <Codes of={codes} onClose={done} />
      ) : (
        <Form
          submit={submit}
          danger={danger ?? false}
          cancel={onClose}
          onSend={async (data) => {
            const made = await onSend({ password: String(data.get('password')), code: field(data, 'code') })
            if (made) setCodes(made)
            else done()
          }}
        >
          <p>{text}</p>
          <Field
            label="Password"
            name="password"
            type="password"
            autocomplete="current-password"
            required
            autofocus
          />
          <Field
            label="Code"
            name="code"
            autocomplete="one-time-code"
            required
            hint="Of the app, or a recovery code."
          />
        </Form>
      )}
    </Dialog>
  )
}

export default function Security() {
  const factor = useData<Factor>('/api/auth/2fa')
  const sessions = useData<Session[]>('/api/auth/sessions')
  const [dialog, setDialog] = useState<'enrol' | 'off' | 'codes'>()
  const close = () => setDialog(undefined)
  return (
    <Page title="Security">
      {dialog === 'enrol' && <Enrol onClose={close} />}
      {dialog === 'off' && (
        <WithCode
          title="Switch the second factor off"
          submit="Switch it off"
          danger
          text="Your password alone is then enough to sign in."
          onClose={close}
          onSend={async (body) => {
            await send('POST', '/api/auth/2fa/disable', body)
            return undefined
          }}
        />
      )}
      {dialog === 'codes' && (
        <WithCode
          title="New recovery codes"
          submit="Make new codes"
          text="The codes from before are void then."
          onClose={close}
          onSend={async (body) =>
            (await send<{ recovery_codes: string[] }>('POST', '/api/auth/2fa/recovery-codes', body)).recovery_codes
          }
        />
      )}
      <div class="columns">
        <Card title="Second factor">
          <Shown of={factor}>
            {(found) =>
              found.is_enabled ? (
                <>
                  <p>
                    <Badge tone="good">On</Badge> {found.recovery_codes_left} recovery codes are left.
                  </p>
                  <p class="button-row">
                    <button type="button" onClick={() => setDialog('codes')}>
                      New recovery codes
                    </button>
                    <button type="button" class="danger-quiet" onClick={() => setDialog('off')}>
                      Switch it off
                    </button>
                  </p>
                </>
              ) : (
                <>
                  <p>
                    <Badge tone="warn">Off</Badge>{' '}
                    {isOperator.value && settings.value?.operators_need_second_factor
                      ? 'Operators need one.'
                      : 'Your password alone is enough to sign in.'}
                  </p>
                  <p>
                    <button type="button" class="primary" onClick={() => setDialog('enrol')}>
                      Set it up
                    </button>
                  </p>
                </>
              )
            }
          </Shown>
        </Card>
        <Card title="Password">
          <Form
            submit="Change the password"
            onSend={async (data) => {
              await send('POST', '/api/auth/change-password', {
                current_password: String(data.get('current_password')),
                new_password: String(data.get('new_password')),
              })
              refresh()
              say('The password is changed. All other sessions have ended.')
            }}
          >
            <Field
              label="Current password"
              name="current_password"
              type="password"
              autocomplete="current-password"
              required
            />
            <Field
              label="New password"
              name="new_password"
              type="password"
              autocomplete="new-password"
              required
              minLength={settings.value?.password_length_min ?? 12}
              hint={`At least ${settings.value?.password_length_min ?? 12} characters.`}
            />
          </Form>
        </Card>
      </div>
      <Card
        title="Sessions"
        actions={
          sessions.data &&
          sessions.data.length > 1 && (
            <button
              type="button"
              onClick={() =>
                ask('End all sessions?', <p>You are signed out everywhere, here too.</p>, 'End all', async () => {
                  await send('POST', '/api/auth/logout-all')
                  forget()
                  signedOut()
                })
              }
            >
              End all
            </button>
          )
        }
      >
        <Shown of={sessions}>
          {(items) => (
            <Table
              label="Sessions"
              items={items}
              id={(session) => session.id}
              columns={[
                {
                  name: 'On',
                  wide: true,
                  cell: (session) => (
                    <>
                      {agent(session.user_agent)} {session.is_current && <Badge tone="accent">This one</Badge>}
                    </>
                  ),
                },
                { name: 'Kind', cell: (session) => (session.kind === 'token' ? 'API token' : 'Browser') },
                { name: 'Address', cell: (session) => session.address },
                { name: 'Last used', cell: (session) => <When time={session.last_used_at} relative /> },
                { name: 'Begun', cell: (session) => <When time={session.created_at} /> },
                {
                  name: 'End',
                  cell: (session) =>
                    session.is_current ? (
                      <span class="muted">–</span>
                    ) : (
                      <button
                        type="button"
                        class="quiet"
                        aria-label={`End the session on ${agent(session.user_agent)} from ${session.address}`}
                        onClick={() =>
                          void send('DELETE', `/api/auth/sessions/${session.id}`).then(
                            () => {
                              refresh()
                              say('The session has ended.')
                            },
                            (error) => say(error.message),
                          )
                        }
                      >
                        End
                      </button>
                    ),
                },
              ]}
            />
          )}
        </Shown>
      </Card>
    </Page>
  )
}
