import type { ComponentChildren } from 'preact'
import { send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { provider } from '../lib/words'
import { ask } from '../ui/form'
import { Card, Facts, Link, Money, Note, Page, say, Shown, Table, When } from '../ui/parts'
import { PaymentState, type AnyPayment } from './payments'

interface Whole extends AnyPayment {
  checks: number
  reversals: {
    kind: string
    provider_ref: string
    wanted: Exact
    taken: Exact
    created_at: string
  }[]
}

export default function PaymentOfAny({ params }: { params: { id: string } }) {
  const path = `/api/admin/payments/${params.id}`
  const payment = useData<Whole>(path)
  const found = payment.data
  const recheck = () =>
    ask(
      'Ask the provider now?',
      <p>The server records what the provider says: the payment may be credited, fail, or be taken back.</p>,
      'Ask',
      async () => {
        await send('POST', `${path}/recheck`, {})
        refresh()
        say('The provider was asked.')
      },
      false,
    )
  const time = (name: string, at: string | null | undefined): [string, ComponentChildren][] =>
    at ? [[name, <When time={at} />]] : []
  return (
    <Page
      title="Payment"
      back={{ page: '/operate/payments', name: 'Payments' }}
      actions={
        found &&
        found.provider !== 'sandbox' && (
          <button type="button" onClick={recheck}>
            Ask the provider
          </button>
        )
      }
    >
      <Shown of={payment} rows={6}>
        {(one) => (
          <>
            {one.failure && (
              <Note tone="bad" title="Not paid">
                {one.failure}
              </Note>
            )}
            <Card>
              <Facts
                of={[
                  ['State', <PaymentState of={one.status} />],
                  ['Amount', <Money amount={one.amount} whole />],
                  ['By', `${provider(one.provider)}${one.automatic ? ', automatic' : ''}`],
                  [
                    'User',
                    <Link page={`/operate/users/${one.user_id}`}>
                      <code class="break">{one.user_id}</code>
                    </Link>,
                  ],
                  ...time('Begun', one.created_at),
                  ...time('Payer agreed', one.confirming_at),
                  ...time('Credited', one.confirmed_at),
                  ...time('Ended', one.ended_at),
                  ...(one.status === 'created' ? time('Can be paid until', one.expires_at) : []),
                  ['Payment', <code class="break">{one.id}</code>],
                  ...(one.provider_ref
                    ? [['At the provider', <code class="break">{one.provider_ref}</code>] as [string, ComponentChildren]]
                    : []),
                  ...(one.provider === 'sandbox'
                    ? []
                    : [['Checked of itself', `${one.checks} times`] as [string, ComponentChildren]]),
                ]}
              />
            </Card>
            {one.reversals.length > 0 && (
              <Card title="Taken back by the provider">
                <Table
                  label="Refunds and disputes"
                  items={one.reversals}
                  id={(reversal) => reversal.provider_ref}
                  columns={[
                    { name: 'What', cell: (reversal) => (reversal.kind === 'dispute' ? 'Dispute' : 'Refund') },
                    { name: 'Reported', cell: (reversal) => <When time={reversal.created_at} /> },
                    {
                      name: 'At the provider',
                      wide: true,
                      cell: (reversal) => <code class="clip">{reversal.provider_ref}</code>,
                    },
                    { name: 'Wanted', number: true, cell: (reversal) => <Money amount={reversal.wanted} whole /> },
                    { name: 'Taken', number: true, cell: (reversal) => <Money amount={reversal.taken} whole /> },
                  ]}
                />
              </Card>
            )}
          </>
        )}
      </Shown>
    </Page>
  )
}
