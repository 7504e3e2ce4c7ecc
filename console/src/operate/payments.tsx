import { query } from '../lib/api'
import { usePages } from '../lib/data'
import { digits } from '../lib/money'
import { useFilters } from '../lib/nav'
import type { Payment } from '../lib/types'
import { provider, state } from '../lib/words'
import { Badge, Card, Empty, Link, Money, More, Page, Select, Shown, Table, Typed, When } from '../ui/parts'

export interface AnyPayment extends Payment {
  user_id: string
  provider_ref?: string | null
}

const STATES: [string, string][] = ['created', 'confirming', 'confirmed', 'failed', 'expired'].map((name) => [
  name,
  stateOf(name),
])

function stateOf(name: string): string {
  return name === 'created' ? 'Waits for the payer' : state(name)[0]
}

export function PaymentState({ of }: { of: string }) {
  return <Badge tone={state(of)[1]}>{stateOf(of)}</Badge>
}

export default function Payments() {
  const [filter, set] = useFilters()
  const days = filter('days')
  const from = days ? new Date(Math.floor(Date.now() / 86_400_000 - Number(days) + 1) * 86_400_000) : undefined
  const payments = usePages<AnyPayment>(
    query('/api/admin/payments', {
      status: filter('status'),
      provider: filter('provider'),
      user_id: filter('user_id'),
      from: from?.toISOString().replace(/\.\d+/, ''),
      limit: 50,
    }),
    'data',
  )
  return (
    <Page title="Payments" intro="The audit log says whose payments you have looked at.">
      <div class="filters">
        <Select
          label="State"
          value={filter('status')}
          of={[['', 'All'], ...STATES]}
          onChoose={(status) => set({ status })}
        />
        <Select
          label="Provider"
          value={filter('provider')}
          of={[
            ['', 'All'],
            ...['stripe', 'x402', 'sandbox'].map((name): [string, string] => [name, provider(name)]),
          ]}
          onChoose={(chosen) => set({ provider: chosen })}
        />
        <Select
          label="Begun"
          value={days}
          of={[
            ['', 'Ever'],
            ['1', 'Today'],
            ['7', 'In 7 days'],
            ['30', 'In 30 days'],
          ]}
          onChoose={(chosen) => set({ days: chosen })}
        />
        <Typed label="User" value={filter('user_id')} placeholder="user-…" onGive={(user_id) => set({ user_id })} />
      </div>
      <Card>
        <Shown of={{ data: payments.items, error: payments.error, busy: payments.busy }} rows={8}>
          {(items) =>
            items.length === 0 ? (
              <Empty title="No payment is like this">Take a filter away.</Empty>
            ) : (
              <>
                <Table
                  label="Payments"
                  items={items}
                  id={(one) => one.id}
                  columns={[
                    {
                      name: 'Begun',
                      cell: (one) => (
                        <Link page={`/operate/payments/${one.id}`}>
                          <When time={one.created_at} />
                        </Link>
                      ),
                    },
                    { name: 'State', cell: (one) => <PaymentState of={one.status} /> },
                    { name: 'By', cell: (one) => `${provider(one.provider)}${one.automatic ? ', automatic' : ''}` },
                    {
                      name: 'User',
                      wide: true,
                      cell: (one) => (
                        <Link page={`/operate/users/${one.user_id}`}>
                          <span class="clip">{one.user_id}</span>
                        </Link>
                      ),
                    },
                    {
                      name: 'Amount',
                      number: true,
                      cell: (one) => (
                        <Money amount={one.amount} whole least={digits(items.map(({ amount }) => amount))} />
                      ),
                    },
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
