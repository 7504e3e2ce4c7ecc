import { useEffect } from 'preact/hooks'
import { refresh, useData } from '../lib/data'
import { exact } from '../lib/money'
import type { Payment } from '../lib/types'
import { provider, state } from '../lib/words'
import { Badge, Card, Facts, Link, Money, Note, Page, Shown, When } from '../ui/parts'

const OPEN = ['created', 'confirming']

export default function PaymentPage({ params }: { params: { id: string } }) {
  const payment = useData<Payment>(`/api/payments/payments/${params.id}`)
  const isOpen = !!payment.data && OPEN.includes(payment.data.status)
  useEffect(() => {
    if (!isOpen) return
    const timer = setInterval(() => document.visibilityState === 'visible' && refresh(), 3000)
    return () => clearInterval(timer)
  }, [isOpen])
  return (
    <Page title="Payment" back={{ page: '/top-up', name: 'Top up' }}>
      <Shown of={payment} rows={4}>
        {(found) => (
          <>
            <div role="status">
              {found.status === 'created' && (
                <Note
                  tone="accent"
                  title="Waits for you"
                  action={
                    found.checkout_url ? (
                      <a class="button primary" href={found.checkout_url} rel="noreferrer">
                        Pay {exact(found.amount)}
                      </a>
                    ) : undefined
                  }
                >
                  {found.checkout_url
                    ? 'Pay on the page of the provider. This page sees it by itself.'
                    : 'The provider has not answered yet. This page sees it by itself.'}
                </Note>
              )}
              {found.status === 'confirming' && (
                <Note tone="accent" title="Being confirmed">
                  You have agreed; the provider does not have the money yet. This page sees it by itself.
                </Note>
              )}
              {found.status === 'confirmed' && (
                <Note
                  tone="good"
                  title={`${exact(found.amount)} added`}
                  action={
                    <Link page="/" class="button">
                      Overview
                    </Link>
                  }
                >
                  The credits are on the live account.
                </Note>
              )}
              {found.status === 'failed' && (
                <Note
                  tone="bad"
                  title="Not paid"
                  action={
                    <Link page="/top-up" class="button">
                      Try again
                    </Link>
                  }
                >
                  {found.failure ?? 'The provider refused it.'} Nothing was credited.
                </Note>
              )}
              {found.status === 'expired' && (
                <Note
                  tone="warn"
                  title="Not paid in time"
                  action={
                    <Link page="/top-up" class="button">
                      Begin again
                    </Link>
                  }
                >
                  Nothing was credited.
                </Note>
              )}
            </div>
            <Card>
              <Facts
                of={[
                  ['State', <Badge tone={state(found.status)[1]}>{state(found.status)[0]}</Badge>],
                  ['Amount', <Money amount={found.amount} whole />],
                  ['By', `${provider(found.provider)}${found.automatic ? ', automatic' : ''}`],
                  ['Begun', <When time={found.created_at} />],
                  ...(found.confirmed_at
                    ? [['Confirmed', <When time={found.confirmed_at} />] as [string, preact.ComponentChildren]]
                    : []),
                  ...(found.expires_at && isOpen
                    ? [['Ends', <When time={found.expires_at} relative />] as [string, preact.ComponentChildren]]
                    : []),
                  ['Payment', <code>{found.id}</code>],
                ]}
              />
            </Card>
            {found.status === 'confirmed' && (
              <Card title="Receipt">
                <p class="button-row">
                  {['html', 'csv', 'json'].map((format) => (
                    <a
                      key={format}
                      class="button"
                      href={`/api/payments/payments/${found.id}/receipt?format=${format}`}
                      target="_blank"
                      rel="noreferrer"
                    >
                      {format.toUpperCase()}
                    </a>
                  ))}
                </p>
              </Card>
            )}
          </>
        )}
      </Shown>
    </Page>
  )
}
