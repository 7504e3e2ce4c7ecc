import { send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { editable, exact } from '../lib/money'
import type { Method, Provider, TopUpRule } from '../lib/types'
import { Amount, amount, ask, Check, Choice, fault, field, Form } from '../ui/form'
import { Card, Empty, Note, Page, say, Shown, Table } from '../ui/parts'

const name = (method: Method) => `${method.brand ?? method.type}${method.last4 ? ` ending in ${method.last4}` : ''}`

function Rule({ of, methods }: { of: TopUpRule; methods: Method[] }) {
  const shown = (sum: Exact) => (/^0*(\.0*)?$/.test(String(sum)) ? '' : editable(sum))
  const needed = (data: FormData, field: string) => {
    const given = amount(data, field)
    if (!given) throw fault(field, 'Write an amount, such as 25.00.')
    return given
  }
  return (
    <Form
      submit="Set the rule"
      class="narrow"
      key={JSON.stringify(of)}
      onSend={async (data) => {
        await send('PUT', '/api/payments/auto-top-up', {
          enabled: data.has('enabled'),
          threshold: needed(data, 'threshold'),
          amount: needed(data, 'amount'),
          monthly_cap: needed(data, 'monthly_cap'),
          payment_method: field(data, 'payment_method'),
        })
        refresh()
        say('The rule is set.')
      }}
    >
      {of.failures > 0 && (
        <Note tone={of.failures >= 3 ? 'bad' : 'warn'} title={`Failed ${of.failures} times in a row`}>
          {of.failures >= 3
            ? 'It has stopped. Set the rule again to go on.'
            : 'After three failures in a row it stops.'}
        </Note>
      )}
      <Check label="Charge the card by itself" name="enabled" checked={of.enabled} />
      <div class="field-row">
        <Amount
          label="When less is left than"
          name="threshold"
          value={shown(of.threshold)}
          required
          placeholder="10.00"
        />
        <Amount label="Add" name="amount" value={shown(of.amount)} required placeholder="25.00" />
        <Amount
          label="A month at most"
          name="monthly_cap"
          value={shown(of.monthly_cap)}
          required
          placeholder="100.00"
        />
      </div>
      <Choice
        label="Card"
        name="payment_method"
        value={of.payment_method ?? ''}
        of={methods.map((method) => [method.id, name(method)])}
      />
    </Form>
  )
}

export default function Methods() {
  const providers = useData<{ providers: Provider[] }>('/api/payments/providers')
  const isOff = providers.data?.providers.some(({ name, is_enabled }) => name === 'stripe' && is_enabled) === false
  const methods = useData<{ payment_methods: Method[] }>(providers.data && !isOff ? '/api/payments/methods' : null)
  const rule = useData<TopUpRule>('/api/payments/auto-top-up')
  const add = async () => {
    const { checkout_url } = await send<{ checkout_url: string }>('POST', '/api/payments/methods')
    location.assign(checkout_url)
  }
  return (
    <Page title="Payment methods" intro="Cards are saved at Stripe, not on this server.">
      <Card
        title="Saved cards"
        actions={
          !isOff &&
          methods.data && (
            <button type="button" onClick={() => void add().catch((error) => say(error.message))}>
              Save a card
            </button>
          )
        }
      >
        {isOff ? (
          <Empty title="Cards are not offered here">The operator of this server has not set up Stripe.</Empty>
        ) : (
          <Shown of={methods}>
            {({ payment_methods }) =>
              payment_methods.length === 0 ? (
                <Empty
                  title="No card is saved"
                  action={
                    <button
                      type="button"
                      class="primary"
                      onClick={() => void add().catch((error) => say(error.message))}
                    >
                      Save a card
                    </button>
                  }
                >
                  With a saved card you can top up in one step, or automatically.
                </Empty>
              ) : (
                <Table
                  label="Saved cards"
                  items={payment_methods}
                  id={(method) => method.id}
                  columns={[
                    { name: 'Card', cell: name },
                    {
                      name: 'Good until',
                      cell: (method) => (method.exp_month ? `${method.exp_month}/${method.exp_year}` : '–'),
                    },
                    {
                      name: 'Remove',
                      cell: (method) => (
                        <button
                          type="button"
                          class="quiet"
                          aria-label={`Remove ${name(method)}`}
                          onClick={() =>
                            ask(
                              `Remove ${name(method)}?`,
                              <p>Automatic top-ups with it stop.</p>,
                              'Remove',
                              async () => {
                                await send('DELETE', `/api/payments/methods/${method.id}`)
                                refresh()
                              },
                            )
                          }
                        >
                          Remove
                        </button>
                      ),
                    },
                  ]}
                />
              )
            }
          </Shown>
        )}
      </Card>
      <Card title="Automatic top-up">
        <Shown of={rule}>
          {(found) =>
            methods.data && methods.data.payment_methods.length > 0 ? (
              <Rule of={found} methods={methods.data.payment_methods} />
            ) : (
              <Empty
                title={
                  found.enabled
                    ? `On: ${exact(found.amount)} when less than ${exact(found.threshold)} is left`
                    : 'Off'
                }
              >
                {isOff ? 'It needs a saved card.' : 'Save a card first.'}
              </Empty>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
