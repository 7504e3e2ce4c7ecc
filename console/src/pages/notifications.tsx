import { query, send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { environment } from '../lib/session'
import { editable } from '../lib/money'
import type { Exact } from '../lib/json'
import { Amount, amount, fault, Form } from '../ui/form'
import { Card, Link, Page, say, Shown } from '../ui/parts'

export default function Notifications() {
  const notices = useData<{ balance_low: Exact }>(query('/api/payments/notices', { environment: environment.value }))
  return (
    <Page
      title="Notifications"
      intro={
        <>
          By mail to your verified address, and to your <Link page="/webhooks">webhooks</Link>.
        </>
      }
    >
      <Card title="When credits run low" class="narrow">
        <Shown of={notices}>
          {(found) => (
            <Form
              submit="Save"
              key={String(found.balance_low)}
              onSend={async (data) => {
                const given = amount(data, 'balance_low')
                if (!given) throw fault('balance_low', 'Write an amount, such as 10.00.')
                await send('PUT', '/api/payments/notices', { balance_low: given, environment: environment.value })
                refresh()
                say('Saved.')
              }}
            >
              <Amount
                label="Tell me when less is left than (USD)"
                name="balance_low"
                value={editable(found.balance_low)}
                required
              />
            </Form>
          )}
        </Shown>
      </Card>
      <Card title="Always told" class="narrow">
        <p>
          New keys and replaced values, new webhook endpoints, keys that end within a week, endpoints that were
          switched off, automatic top-ups that stopped, and changes of password or address.
        </p>
      </Card>
    </Page>
  )
}
