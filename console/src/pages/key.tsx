import { useState } from 'preact/hooks'
import { query, send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { editable } from '../lib/money'
import { go } from '../lib/nav'
import { environment, freshKey } from '../lib/session'
import { few, rate } from '../lib/time'
import type { Key, KeyLimits, NewKey, Usage } from '../lib/types'
import { ask, Choice, Dialog, Field, field, Form } from '../ui/form'
import { LimitFields, limits, policy, PolicyFields } from '../ui/key-fields'
import { Card, Empty, Facts, Limit, Link, Money, Page, say, Shown, Tile, When } from '../ui/parts'
import { modelName } from '../lib/usage'
import { UsageChart } from '../ui/usage-chart'
import { KeyState } from './keys'
import { KeyValue } from './key-new'

const GRACE: [string, string][] = [
  ['86400', 'A day'],
  ['3600', 'An hour'],
  ['604800', 'A week'],
  ['0', 'Not at all: it ends now'],
]

function Rotate({ of, onClose }: { of: Key; onClose: () => void }) {
  const [made, setMade] = useState<NewKey>()
  return (
    <Dialog title={made ? 'The new value' : `Replace the value of ${of.name}`} onClose={onClose}>
      {made ? (
        <>
          <KeyValue of={made} />
          <div class="form-foot">
            <button type="button" class="primary" onClick={onClose}>
              Done
            </button>
          </div>
        </>
      ) : (
        <Form
          submit="Replace it"
          cancel={onClose}
          onSend={async (data) => {
            const key = await send<NewKey>('POST', `/api/keys/${of.id}/rotate`, {
              grace_seconds: Number(field(data, 'grace')),
            })
            freshKey.value = key
            refresh()
            setMade(key)
          }}
        >
          <p>Limits, counters and history stay.</p>
          <Choice label="The old value works on for" name="grace" of={GRACE} />
        </Form>
      )}
    </Dialog>
  )
}

export default function KeyPage({ params }: { params: { id: string } }) {
  const { id } = params
  const key = useData<Key>(`/api/keys/${id}`)
  const of = key.data?.environment ?? environment.value
  const all = useData<{ keys: KeyLimits[] }>(query('/api/monitoring/limits', { environment: of }))
  const usage = useData<Usage>(
    query('/api/monitoring/usage', { key_id: id, interval: 'day', environment: of, group_by: 'model', fill: 'zero' }),
  )
  const [rotating, setRotating] = useState(false)
  const spent = all.data?.keys.find(({ key_id }) => key_id === id)
  const text = (value: Exact | null | undefined) => (value == null ? '' : editable(value))
  return (
    <Page
      title={key.data?.name ?? 'Key'}
      back={{ page: '/keys', name: 'Keys' }}
      actions={
        key.data?.is_active && (
          <>
            <button type="button" onClick={() => setRotating(true)}>
              Replace the value
            </button>
            <button
              type="button"
              class="danger-quiet"
              onClick={() =>
                ask(
                  `Revoke ${key.data?.name}?`,
                  <p>Calls with it are refused from the next one on. It cannot be used again.</p>,
                  'Revoke',
                  async () => {
                    await send('POST', `/api/keys/${id}/revoke`)
                    refresh()
                    say('The key is revoked.')
                  },
                )
              }
            >
              Revoke
            </button>
          </>
        )
      }
    >
      {rotating && key.data && <Rotate of={key.data} onClose={() => setRotating(false)} />}
      <Shown of={key} rows={4}>
        {(found) => (
          <>
            <Card>
              <Facts
                of={[
                  ['State', <KeyState of={found} />],
                  ['Begins and ends with', <code>{found.key_value_preview}</code>],
                  ['Account', found.environment === 'test' ? 'Test' : 'Live'],
                  ['Last used', found.last_used_at ? <When time={found.last_used_at} /> : 'never'],
                  ['Made', <When time={found.created_at} />],
                  ['Ends', found.expires_at ? <When time={found.expires_at} /> : 'never'],
                  ...(found.former_value_valid_until
                    ? [
                        ['Old value works until', <When time={found.former_value_valid_until} />] as [
                          string,
                          preact.ComponentChildren,
                        ],
                      ]
                    : []),
                  ['Id', <code>{found.id}</code>],
                ]}
              />
            </Card>
            <div class="columns">
              <Card title="What it has spent">
                {spent ? (
                  <>
                    <Limit name="Today" spent={spent.daily.spent} limit={spent.daily.limit} />
                    <Limit name="This month" spent={spent.monthly.spent} limit={spent.monthly.limit} />
                    <Limit name="In all" spent={spent.total.spent} limit={spent.total.limit} />
                    <p class="hint">
                      {spent.per_request_limit == null ? (
                        'One call may cost any amount.'
                      ) : (
                        <>
                          One call may cost at most <Money amount={spent.per_request_limit} whole />.
                        </>
                      )}{' '}
                      Days and months are of UTC.
                    </p>
                  </>
                ) : (
                  <p class="muted">Nothing yet.</p>
                )}
              </Card>
              <Card title="What it may spend">
                {spent && (
                  <Form
                    submit="Set the limits"
                    key={`${id}${text(spent.daily.limit)}${text(spent.monthly.limit)}${text(spent.total.limit)}`}
                    onSend={async (data) => {
                      await send('PUT', `/api/keys/${id}/limits`, limits(data))
                      refresh()
                      say('The limits hold from the next call on.')
                    }}
                  >
                    <LimitFields
                      values={{
                        per_request_limit: text(spent.per_request_limit),
                        daily_limit: text(spent.daily.limit),
                        monthly_limit: text(spent.monthly.limit),
                        total_limit: text(spent.total.limit),
                      }}
                    />
                  </Form>
                )}
              </Card>
            </div>
            <Card
              title="Use in 30 days"
              actions={
                <>
                  <Link page="/calls" query={{ key_id: id }}>
                    Calls
                  </Link>
                  <Link page="/usage" query={{ key_id: id }}>
                    Explore
                  </Link>
                </>
              }
            >
              <Shown of={usage} rows={6}>
                {(use) =>
                  use.totals.calls === 0 ? (
                    <Empty title="Not used in 30 days">Its calls will show here.</Empty>
                  ) : (
                    <>
                      <div class="tiles small">
                        <Tile name="Cost" value={<Money amount={use.totals.cost} />} />
                        <Tile name="Calls" value={few(use.totals.calls)} />
                        <Tile name="Failed" value={rate(use.totals.error_rate)} />
                      </div>
                      <UsageChart
                        usage={use}
                        metric="cost"
                        name={modelName}
                        onPick={(from, until) => go('/calls', { from, until, key_id: id })}
                      />
                    </>
                  )
                }
              </Shown>
            </Card>
            <Card title="Name and uses">
              <Form
                submit="Save"
                class="narrow"
                onSend={async (data) => {
                  const { scopes, ...rest } = policy(data)
                  await send('PATCH', `/api/keys/${id}`, { name: field(data, 'name'), scopes, ...rest })
                  refresh()
                  say('Saved. It holds from the next call on.')
                }}
              >
                <Field label="Name" name="name" required maxLength={100} defaultValue={found.name} />
                <details
                  class="fold"
                  open={!!(found.scopes ?? found.allowed_models ?? found.allowed_ips ?? found.calls_per_minute)}
                >
                  <summary>What it may be used for</summary>
                  <PolicyFields of={found} />
                </details>
              </Form>
            </Card>
            <Card title="Delete the key">
              <p>Its transactions and its usage stay; the key leaves the list.</p>
              <p>
                <button
                  type="button"
                  class="danger-quiet"
                  onClick={() =>
                    ask(
                      `Delete ${found.name}?`,
                      <p>It ends at once and leaves the list. This cannot be undone.</p>,
                      'Delete',
                      async () => {
                        await send('DELETE', `/api/keys/${id}`)
                        refresh()
                        go('/keys')
                        say('The key is deleted.')
                      },
                    )
                  }
                >
                  Delete
                </button>
              </p>
            </Card>
          </>
        )}
      </Shown>
    </Page>
  )
}
