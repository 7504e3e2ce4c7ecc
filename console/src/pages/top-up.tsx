import { useState } from 'preact/hooks'
import { once, query, send } from '../lib/api'
import { refresh, useData, usePages } from '../lib/data'
import { exact } from '../lib/money'
import { go, useFilters } from '../lib/nav'
import type { Balance, Method, Payment, Provider } from '../lib/types'
import { provider, STATE_NAMES, state } from '../lib/words'
import { Amount, amount, Choice, fault, field, Form } from '../ui/form'
import { Badge, Card, Empty, Link, Money, More, Note, Page, Select, Shown, Table, Tile, When } from '../ui/parts'

const PRESETS = ['10', '25', '100', '500']

function Pay({ providers, preferred }: { providers: Provider[]; preferred: string }) {
  const offered = providers.filter(({ is_enabled }) => is_enabled)
  const [chosen, choose] = useState(offered.find(({ name }) => name === preferred)?.name ?? offered[0]?.name ?? '')
  const [sum, setSum] = useState('25.00')
  const [request, renew] = useState(once)
  const methods = useData<{ payment_methods: Method[] }>(chosen === 'stripe' ? '/api/payments/methods' : null)
  const one = offered.find(({ name }) => name === chosen)
  if (!one)
    return (
      <Empty title="Nothing is offered here">
        The operator of this server gives credits by hand, or has not set up payments yet. Ask them.
      </Empty>
    )
  return (
    <Form
      submit={one.name === 'stripe' ? 'Go on to pay' : 'Add credits'}
      onSend={async (data) => {
        const given = amount(data, 'amount')
        if (!given) throw fault('amount', 'Write how much to add, such as 25.00.')
        const made = await send<Payment>(
          'POST',
          '/api/payments/payments',
          {
            amount: given,
            provider: one.name,
            payment_method: field(data, 'payment_method') || undefined,
          },
          request,
        )
        renew(once)
        refresh()
        go(`/payments/${made.id}`)
      }}
    >
      <div class="field">
        <div class="presets" role="group" aria-label="Often chosen">
          {PRESETS.map((preset) => (
            <button
              key={preset}
              type="button"
              aria-pressed={sum === `${preset}.00`}
              onClick={() => setSum(`${preset}.00`)}
            >
              ${preset}
            </button>
          ))}
        </div>
      </div>
      <Amount
        key={sum}
        label="Amount (USD)"
        name="amount"
        value={sum}
        required
        hint={
          one.amount_min == null
            ? `At most ${exact(one.amount_max)}`
            : `${exact(one.amount_min)} to ${exact(one.amount_max)}`
        }
      />
      {offered.length > 1 ? (
        <Choice
          label="Pay with"
          name="provider"
          value={chosen}
          of={offered.map(({ name }) => [name, provider(name)])}
          onChoose={choose}
        />
      ) : (
        !one.is_test && <p class="muted">{provider(one.name)}</p>
      )}
      {one.is_test && (
        <Note tone="warn" title="A sandbox">
          It takes no money and gives credits at once. It is for trying this server out.
        </Note>
      )}
      {one.name === 'x402' && (
        <p class="hint">
          A wallet pays by a signed header: programs do this by themselves when a call is answered 402.{' '}
          <a href="/docs/">The API</a> says how.
        </p>
      )}
      {methods.data && methods.data.payment_methods.length > 0 && (
        <Choice
          label="Card"
          name="payment_method"
          of={[
            ['', 'Another one, on the page of Stripe'],
            ...methods.data.payment_methods.map((method): [string, string] => [
              method.id,
              `${method.brand ?? method.type} ending in ${method.last4 ?? '…'}`,
            ]),
          ]}
        />
      )}
    </Form>
  )
}

export default function TopUp() {
  const [filter, set] = useFilters()
  const balance = useData<Balance>('/api/payments/credits/balance')
  const providers = useData<{ providers: Provider[]; default_provider: string | null }>('/api/payments/providers')
  const payments = usePages<Payment>(
    query('/api/payments/payments', { status: filter('status'), limit: 25 }),
    'payments',
  )
  return (
    <Page title="Top up" intro="Credits are for the live account. The test account has credits of its own.">
      <div class="columns">
        <Card title="Add credits">
          <Shown of={providers}>
            {(found) => <Pay providers={found.providers} preferred={found.default_provider ?? ''} />}
          </Shown>
        </Card>
        <div>
          <Shown of={balance} rows={2}>
            {(money) => (
              <Tile
                name="Available now"
                value={<Money amount={money.available} />}
                hint={exact(money.available)}
                page="/ledger"
              />
            )}
          </Shown>
          <Card title="Never run out">
            <p>
              A saved card can be charged by itself when the balance falls. You set when, how much, and at most how
              much a month.
            </p>
            <p>
              <Link page="/methods" class="button">
                Automatic top-up
              </Link>
            </p>
          </Card>
        </div>
      </div>
      <Card
        title="Payments"
        actions={
          <Select
            label="State"
            value={filter('status')}
            of={[['', 'All'], ...STATE_NAMES]}
            onChoose={(status) => set({ status })}
          />
        }
      >
        <Shown of={{ data: payments.items, error: payments.error, busy: payments.busy }}>
          {(items) =>
            items.length === 0 ? (
              <Empty title={filter('status') ? 'No payment is in this state' : 'No payment yet'}>
                {filter('status')
                  ? 'Choose another state.'
                  : 'Add credits above; each payment then has a receipt here.'}
              </Empty>
            ) : (
              <>
                <Table
                  label="Payments"
                  items={items}
                  id={(payment) => payment.id}
                  columns={[
                    {
                      name: 'Begun',
                      cell: (payment) => (
                        <Link page={`/payments/${payment.id}`}>
                          <When time={payment.created_at} />
                        </Link>
                      ),
                    },
                    {
                      name: 'State',
                      cell: (payment) => <Badge tone={state(payment.status)[1]}>{state(payment.status)[0]}</Badge>,
                    },
                    {
                      name: 'By',
                      cell: (payment) => (
                        <>
                          {provider(payment.provider)}
                          {payment.automatic && <span class="muted"> automatic</span>}
                        </>
                      ),
                    },
                    {
                      name: 'Receipt',
                      cell: (payment) =>
                        payment.status === 'confirmed' ? (
                          <a
                            href={`/api/payments/payments/${payment.id}/receipt?format=html`}
                            target="_blank"
                            rel="noreferrer"
                          >
                            Open
                          </a>
                        ) : (
                          <span class="muted">–</span>
                        ),
                    },
                    { name: 'Amount', number: true, cell: (payment) => <Money amount={payment.amount} /> },
                  ]}
                />
                <More of={payments} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
