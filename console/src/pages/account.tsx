import { useState } from 'preact/hooks'
import { send } from '../lib/api'
import { useData } from '../lib/data'
import { nano } from '../lib/money'
import { signedOut, user } from '../lib/session'
import type { Balance } from '../lib/types'
import { Check, Dialog, Field, field, Form } from '../ui/form'
import { Badge, Card, Facts, Money, Page, say, When } from '../ui/parts'

function Erase({ onClose }: { onClose: () => void }) {
  const balance = useData<Balance>('/api/payments/credits/balance')
  const hasCredits = balance.data && nano(balance.data.balance) > 0n
  return (
    <Dialog title="Erase the account" onClose={onClose}>
      <Form
        submit="Erase it for good"
        danger
        cancel={onClose}
        onSend={async (data) => {
          const code = field(data, 'code')
          await send('DELETE', '/api/auth/me', {
            password: String(data.get('password')),
            ...(code ? { code } : {}),
            give_up_balance: data.has('give_up_balance'),
          })
          signedOut()
        }}
      >
        <p>
          Sessions, keys, webhooks and saved cards end. Name and address are replaced. The ledger stays, as the law
          asks. Nobody can undo this.
        </p>
        {hasCredits && <Check label="I give up the balance" name="give_up_balance" hint="It is not paid out." />}
        {hasCredits && (
          <p>
            The balance is <Money amount={balance.data?.balance ?? 0} whole />.
          </p>
        )}
        <Field label="Password" name="password" type="password" autocomplete="current-password" required />
        <Field label="Code" name="code" autocomplete="one-time-code" hint="If you have a second factor." />
      </Form>
    </Dialog>
  )
}

export default function AccountPage() {
  const [erasing, setErasing] = useState(false)
  const [asked, setAsked] = useState<string>()
  const who = user.value
  if (!who) return null
  return (
    <Page title="Account">
      {erasing && <Erase onClose={() => setErasing(false)} />}
      <Card>
        <Facts
          of={[
            ['Name', who.username],
            [
              'Email',
              <>
                {who.email}{' '}
                {who.is_email_verified ? (
                  <Badge tone="good">Verified</Badge>
                ) : (
                  <Badge tone="warn">Not verified</Badge>
                )}
              </>,
            ],
            ['Since', <When time={who.created_at} />],
            ['Id', <code>{who.id}</code>],
          ]}
        />
      </Card>
      <div class="columns">
        <Card title="Another email address">
          {asked ? (
            <p role="status">
              A letter is on its way to <strong>{asked}</strong>. Open its link in this browser to make the change.
            </p>
          ) : (
            <Form
              submit="Send the letter"
              onSend={async (data) => {
                const email = field(data, 'email')
                await send('POST', '/api/auth/email', { email })
                setAsked(email)
              }}
            >
              <Field
                label="New address"
                name="email"
                type="email"
                autocomplete="email"
                required
                hint="We send a link to it. The address changes when you open it."
              />
            </Form>
          )}
        </Card>
        <Card title="Your data">
          <p>
            Everything that this server has of you, as one file: no secrets, and no bodies of calls, which are not
            stored.
          </p>
          <p>
            <a
              class="button"
              href="/api/auth/export"
              download="polysystems-export.json"
              onClick={() => say('The file is on its way.')}
            >
              Save everything
            </a>
          </p>
        </Card>
      </div>
      <Card title="Erase the account">
        <p>All that names you is removed, for good.</p>
        <p>
          <button type="button" class="danger-quiet" onClick={() => setErasing(true)}>
            Erase…
          </button>
        </p>
      </Card>
    </Page>
  )
}
