import type { ComponentChildren } from 'preact'
import { query, send } from '../lib/api'
import { type Loaded, useData } from '../lib/data'
import { nano } from '../lib/money'
import { go } from '../lib/nav'
import { environment, user } from '../lib/session'
import { few, milliseconds, number, rate } from '../lib/time'
import type { Balance, Call, Forecast, Key, KeyLimits, TopUpRule, Usage } from '../lib/types'
import { modelName } from '../lib/usage'
import { CallsTable } from '../ui/calls-table'
import { Card, Empty, Failure, Limit, Link, Money, Note, Page, say, Shown, Tile } from '../ui/parts'
import { UsageChart } from '../ui/usage-chart'

/** What a tile says: nothing before it is known, and a dash if it cannot be. */
function tile<T>(
  of: Loaded<T>,
  words: (data: T) => [ComponentChildren, ComponentChildren],
): { value: ComponentChildren; hint: ComponentChildren } {
  if (of.data === undefined) return { value: of.error ? '–' : '…', hint: '\u00a0' }
  const [value, hint] = words(of.data)
  return { value, hint }
}

export default function Overview() {
  const of = (path: string, values: Record<string, string> = {}) =>
    query(path, { ...values, environment: environment.value })
  const isLive = environment.value === 'live'
  const balance = useData<Balance>(of('/api/payments/credits/balance'))
  const usage = useData<Usage>(of('/api/monitoring/usage', { interval: 'day', group_by: 'model', fill: 'zero' }))
  const forecast = useData<Forecast>(of('/api/monitoring/forecast'))
  const limits = useData<{ keys: KeyLimits[] }>(of('/api/monitoring/limits'))
  const calls = useData<{ requests: Call[] }>(of('/api/monitoring/requests', { limit: '5' }))
  const keys = useData<Key[]>('/api/keys')
  const rule = useData<TopUpRule>('/api/payments/auto-top-up')
  const here = keys.data?.filter((key) => key.environment === environment.value)
  const near =
    limits.data?.keys.filter(
      (key) => key.is_active && [key.daily, key.monthly, key.total].some(({ percent }) => (percent ?? 0) >= 80),
    ) ?? []
  const who = user.value
  const isPoor = balance.data && nano(balance.data.available) <= 0n
  return (
    <Page
      title="Overview"
      actions={
        isLive && (
          <Link page="/top-up" class="button primary">
            Top up
          </Link>
        )
      }
    >
      {who && who.is_email_verified === false && (
        <Note
          tone="warn"
          title="Verify your address"
          action={
            <button
              type="button"
              onClick={() =>
                void send('POST', '/api/auth/resend-verification', { email: who.email }).then(
                  () => say('The letter is on its way.'),
                  (error) => say(error.message),
                )
              }
            >
              Send the letter again
            </button>
          }
        >
          We have sent a link to {who.email}. Open it before you make keys: verifying ends all keys from before.
        </Note>
      )}
      {rule.data && rule.data.failures >= 3 && (
        <Note
          tone="bad"
          title="Automatic top-ups have stopped"
          action={
            <Link page="/methods" class="button">
              Set the rule again
            </Link>
          }
        >
          They failed {rule.data.failures} times in a row.
        </Note>
      )}
      <Failure error={balance.error} />
      <div class="tiles">
        <Tile
          name="Available"
          page="/ledger"
          {...tile(balance, (money) => [
            <Money amount={money.available} />,
            nano(money.held) > 0n ? (
              <>
                <Money amount={money.held} whole /> held by running calls
              </>
            ) : (
              'Nothing is held'
            ),
          ])}
        />
        <Tile
          name="Spent in 30 days"
          page="/usage"
          {...tile(usage, ({ totals }) => [
            <Money amount={totals.cost} />,
            forecast.data ? (
              <>
                <Money amount={forecast.data.spent_per_day} /> a day of late
              </>
            ) : (
              '\u00a0'
            ),
          ])}
        />
        <Tile
          name="Calls in 30 days"
          page="/calls"
          {...tile(usage, ({ totals }) => [
            few(totals.calls),
            totals.calls
              ? `${rate(totals.error_rate)} failed, p95 ${milliseconds(totals.latency_ms.p95)}`
              : 'None yet',
          ])}
        />
        <Tile
          name="Lasts for"
          {...tile(forecast, ({ days_left, spent_per_day }) =>
            days_left == null
              ? nano(spent_per_day) > 0n
                ? ['> 10 years', 'If spending goes on so']
                : ['–', 'Nothing spent in 7 days']
              : [`${number(days_left)} days`, 'If spending goes on so'],
          )}
        />
      </div>
      {here && here.length === 0 ? (
        <Card title="Begin">
          <ol class="steps">
            <li class={who?.is_email_verified ? 'done' : ''}>Verify your address by the link in your mail</li>
            <li class={isPoor ? '' : 'done'}>
              {isLive ? <Link page="/top-up">Add credits</Link> : 'Test credits are there already'}
            </li>
            <li>
              <span>
                <Link page="/keys/new">Make a key</Link> with a limit
              </span>
            </li>
            <li>
              <Link page="/start">Make the first call</Link>
            </li>
          </ol>
        </Card>
      ) : (
        <Card title="Spend by day" actions={<Link page="/usage">Explore</Link>}>
          <Shown of={here ? usage : { ...usage, data: undefined }} rows={10}>
            {(found) =>
              found.totals.calls === 0 ? (
                <Empty
                  title="No calls in 30 days"
                  action={
                    <Link page="/start" class="button">
                      Make a call
                    </Link>
                  }
                >
                  The chart shows what each model cost, day by day.
                </Empty>
              ) : (
                <UsageChart
                  usage={found}
                  metric="cost"
                  name={modelName}
                  onPick={(from, until) => go('/calls', { from, until })}
                />
              )
            }
          </Shown>
        </Card>
      )}
      {near.length > 0 && (
        <Card title="Keys near their limit">
          {near.map((key) => (
            <div key={key.key_id} class="near">
              <Link page={`/keys/${key.key_id}`}>{key.name}</Link>
              {(
                [
                  ['Day', key.daily],
                  ['Month', key.monthly],
                  ['In all', key.total],
                ] as const
              )
                .filter(([, { percent }]) => (percent ?? 0) >= 80)
                .map(([name, window]) => (
                  <Limit key={name} name={name} spent={window.spent} limit={window.limit} />
                ))}
            </div>
          ))}
        </Card>
      )}
      <Card title="Last calls" actions={<Link page="/calls">All calls</Link>}>
        <Shown of={calls} rows={7}>
          {({ requests }) =>
            requests.length === 0 ? (
              <Empty
                title="No call yet"
                action={
                  <Link page="/start" class="button">
                    Quick start
                  </Link>
                }
              >
                Calls appear here as they end.
              </Empty>
            ) : (
              <CallsTable calls={requests} brief />
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
