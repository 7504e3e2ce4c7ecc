import { useState } from 'preact/hooks'
import { once, query, send } from '../lib/api'
import { refresh, useData, usePages } from '../lib/data'
import { Digits } from '../lib/json'
import { digits } from '../lib/money'
import { useFilters } from '../lib/nav'
import { few, number, rate } from '../lib/time'
import type { Account, Act, AdminUser, Call, Endpoint, Entry, Key, KeyLimits, Payment, Session, Usage, Window } from '../lib/types'
import { agent, kind, provider, state } from '../lib/words'
import { Acts } from '../pages/activity'
import { KeyState } from '../pages/keys'
import { EndpointState } from '../pages/webhooks'
import { Amount, amount, Choice, Dialog, fault, Field, field, Form } from '../ui/form'
import { Badge, Card, Empty, Facts, Money, More, Page, say, Segments, Shown, Table, Tile, When } from '../ui/parts'
import { CallsTable } from '../ui/calls-table'
import { modelName } from '../lib/usage'
import { UsageChart } from '../ui/usage-chart'
import { UserState } from './users'

interface View {
  user: AdminUser
  accounts: Account[]
  keys: Key[]
}

function Credits({ of, onClose }: { of: AdminUser; onClose: () => void }) {
  const [request] = useState(once)
  return (
    <Dialog title={`Credits of ${of.username}`} onClose={onClose}>
      <Form
        submit="Book it"
        cancel={onClose}
        onSend={async (data) => {
          const given = amount(data, 'amount')
          if (!given) throw fault('amount', 'Write an amount, such as 5.00.')
          await send(
            'POST',
            `/api/admin/users/${of.id}/credits`,
            {
              amount: field(data, 'direction') === 'take' ? new Digits(`-${given.text}`) : given,
              environment: field(data, 'environment'),
              reason: field(data, 'reason'),
            },
            request,
          )
          refresh()
          say('Booked. The user sees it in the ledger.')
          onClose()
        }}
      >
        <Choice
          label="What"
          name="direction"
          of={[
            ['give', 'Give'],
            ['take', 'Take'],
          ]}
        />
        <Amount label="Amount (USD)" name="amount" required placeholder="5.00" />
        <Choice
          label="Account"
          name="environment"
          of={[
            ['live', 'Live'],
            ['test', 'Test'],
          ]}
        />
        <Field label="Reason" name="reason" required hint="It stands in the audit log, and the user can read it." />
      </Form>
    </Dialog>
  )
}

/** Something that an operator does to a user, for a reason. */
interface UserAct {
  title: string
  text: string
  submit: string
  danger?: boolean
  path: string
  method?: 'POST' | 'PUT'
  body?: Record<string, string>
  words: string
}

/** What can be done to the security of a user's account. */
function acts(user: AdminUser): (UserAct & { name: string })[] {
  const path = `/api/admin/users/${user.id}`
  const isOperator = user.role === 'admin'
  const all: (UserAct & { name: string; is: boolean })[] = [
    {
      name: 'Send a password letter',
      is: true,
      title: 'Send a letter to set another password?',
      text: `It goes to ${user.email} and is good once. You do not see what is in it.`,
      submit: 'Send it',
      path: `${path}/reset-password`,
      words: 'The letter is on its way.',
    },
    {
      name: 'Mark the address as proved',
      is: !user.is_email_verified,
      title: 'Mark the address as proved?',
      text: `Only if you know that ${user.email} is theirs: anybody can register with an address of somebody else.`,
      submit: 'Mark it',
      path: `${path}/verify-email`,
      words: 'The address counts as proved.',
    },
    {
      name: 'Second factor off',
      is: user.has_two_factor && !isOperator,
      title: 'Switch the second factor off?',
      text: 'The password alone then signs them in. Make sure that it is the user who asks for it.',
      submit: 'Switch it off',
      danger: true,
      path: `${path}/disable-2fa`,
      words: 'The second factor is off. The user is told by a letter.',
    },
    {
      name: 'End sessions',
      is: true,
      title: 'End all sessions?',
      text: 'They have to sign in again everywhere.',
      submit: 'End them',
      danger: true,
      path: `${path}/end-sessions`,
      words: 'The sessions have ended.',
    },
    {
      name: 'Make an operator',
      is: !isOperator,
      title: 'Make this user an operator?',
      text: 'They can then see and change the accounts of all users, once they have a second factor.',
      submit: 'Make an operator',
      danger: true,
      path: `${path}/role`,
      method: 'PUT',
      body: { role: 'admin' },
      words: 'They are an operator now.',
    },
    {
      name: 'Take the role of an operator',
      is: isOperator,
      title: 'Take the role of an operator?',
      text: 'Their own account stays as it is. The last operator who can act keeps the role.',
      submit: 'Take it',
      danger: true,
      path: `${path}/role`,
      method: 'PUT',
      body: { role: 'user' },
      words: 'They are no operator any more.',
    },
  ]
  return all.filter(({ is }) => is)
}

function Reasoned({
  title,
  text,
  submit,
  danger,
  path,
  method = 'POST',
  body = {},
  words,
  onClose,
}: UserAct & { onClose: () => void }) {
  return (
    <Dialog title={title} onClose={onClose}>
      <Form
        submit={submit}
        danger={danger ?? false}
        cancel={onClose}
        onSend={async (data) => {
          await send(method, path, { ...body, reason: field(data, 'reason') })
          refresh()
          say(words)
          onClose()
        }}
      >
        <p>{text}</p>
        <Field label="Reason" name="reason" required autofocus hint="It stands in the audit log, and the user can read it." />
      </Form>
    </Dialog>
  )
}

/** What is spent of a limit. */
function Spent({ of }: { of: Window }) {
  return (
    <>
      <Money amount={of.spent} />
      <span class="muted small block">
        {of.limit == null ? (
          'no limit'
        ) : (
          <>
            of <Money amount={of.limit} />
          </>
        )}
      </span>
    </>
  )
}

const PARTS: [string, string][] = [
  ['ledger', 'Ledger'],
  ['payments', 'Payments'],
  ['calls', 'Calls'],
  ['usage', 'Usage'],
  ['limits', 'Limits'],
  ['sessions', 'Sessions'],
  ['webhooks', 'Webhooks'],
  ['acts', 'Audit log'],
]

function Part({ id, name, environment, keys }: { id: string; name: string; environment: string; keys: Key[] }) {
  const on = (part: string, path: string) => (part === name ? query(path, { limit: 25, environment }) : null)
  const entries = usePages<Entry>(on('ledger', `/api/admin/users/${id}/transactions`), 'transactions')
  const payments = usePages<Payment>(
    name === 'payments' ? `/api/admin/users/${id}/payments?limit=25` : null,
    'payments',
  )
  const calls = usePages<Call>(on('calls', `/api/admin/users/${id}/requests`), 'requests')
  const acts = usePages<Act>(
    name === 'acts' ? query('/api/admin/audit-log', { user_id: id, limit: 25 }) : null,
    'acts',
  )
  const usage = useData<Usage>(
    name === 'usage'
      ? query(`/api/admin/users/${id}/usage`, { environment, interval: 'day', group_by: 'model', fill: 'zero' })
      : null,
  )
  const sessions = useData<{ data: Session[] }>(name === 'sessions' ? `/api/admin/users/${id}/sessions` : null)
  const limits = useData<{ keys: KeyLimits[] }>(
    name === 'limits' ? query(`/api/admin/users/${id}/limits`, { environment }) : null,
  )
  const hooks = useData<{ webhooks: Endpoint[] }>(name === 'webhooks' ? `/api/admin/users/${id}/webhooks` : null)
  if (name === 'limits') {
    return (
      <Shown of={limits}>
        {(found) =>
          found.keys.length === 0 ? (
            <Empty title="No keys">This account has none.</Empty>
          ) : (
            <Table
              label="Limits"
              items={found.keys}
              id={(one) => one.key_id}
              columns={[
                { name: 'Key', wide: true, cell: (one) => <span class="clip">{one.name}</span> },
                { name: 'Today', number: true, cell: (one) => <Spent of={one.daily} /> },
                { name: 'This month', number: true, cell: (one) => <Spent of={one.monthly} /> },
                { name: 'In all', number: true, cell: (one) => <Spent of={one.total} /> },
              ]}
            />
          )
        }
      </Shown>
    )
  }
  if (name === 'webhooks') {
    return (
      <Shown of={hooks}>
        {(found) =>
          found.webhooks.length === 0 ? (
            <Empty title="No webhooks">This user has made none.</Empty>
          ) : (
            <Table
              label="Webhooks"
              items={found.webhooks}
              id={(one) => one.id}
              columns={[
                { name: 'URL', wide: true, cell: (one) => <span class="break">{one.url}</span> },
                { name: 'Account', cell: (one) => (one.environment === 'test' ? 'Test' : 'Live') },
                {
                  name: 'State',
                  cell: (one) => <EndpointState of={one} />,
                },
              ]}
            />
          )
        }
      </Shown>
    )
  }
  if (name === 'usage') {
    return (
      <Shown of={usage} rows={6}>
        {(found) =>
          found.totals.calls === 0 ? (
            <Empty title="No calls in 30 days">This account has made none.</Empty>
          ) : (
            <>
              <div class="tiles small">
                <Tile name="Cost" value={<Money amount={found.totals.cost} />} />
                <Tile name="Calls" value={few(found.totals.calls)} />
                <Tile name="Failed" value={rate(found.totals.error_rate)} />
              </div>
              <UsageChart usage={found} metric="cost" name={modelName} />
            </>
          )
        }
      </Shown>
    )
  }
  if (name === 'sessions') {
    return (
      <Shown of={sessions}>
        {({ data }) =>
          data.length === 0 ? (
            <Empty title="Nobody is signed in">This user has no session.</Empty>
          ) : (
            <Table
              label="Sessions"
              items={data}
              id={(one) => one.id}
              columns={[
                { name: 'On', wide: true, cell: (one) => agent(one.user_agent) },
                { name: 'Kind', cell: (one) => (one.kind === 'token' ? 'API token' : 'Browser') },
                { name: 'Address', cell: (one) => one.address },
                { name: 'Last used', cell: (one) => <When time={one.last_used_at} relative /> },
                { name: 'Begun', cell: (one) => <When time={one.created_at} /> },
              ]}
            />
          )
        }
      </Shown>
    )
  }
  const least = {
    amount: digits((entries.items ?? []).map(({ amount }) => amount)),
    after: digits((entries.items ?? []).map(({ balance_after }) => balance_after)),
  }
  const shown = { ledger: entries, payments, calls, acts }[name]
  if (!shown) return null
  return (
    <Shown of={{ data: shown.items as unknown[] | undefined, error: shown.error, busy: shown.busy }}>
      {(items) =>
        items.length === 0 ? (
          <Empty title="Nothing here">This account has none.</Empty>
        ) : (
          <>
            {name === 'ledger' && (
              <Table
                label="Ledger"
                items={items as Entry[]}
                id={(one) => String(one.sequence)}
                columns={[
                  { name: 'Number', cell: (one) => number(one.sequence) },
                  { name: 'Time', cell: (one) => <When time={one.created_at} /> },
                  { name: 'Kind', cell: (one) => kind(one.kind) },
                  {
                    name: 'Reference',
                    cell: (one) => (
                      <code class="clip" title={one.reference}>
                        {one.reference}
                      </code>
                    ),
                  },
                  {
                    name: 'Amount',
                    number: true,
                    cell: (one) => <Money amount={one.amount} whole sign least={least.amount} />,
                  },
                  {
                    name: 'Balance after',
                    number: true,
                    cell: (one) => <Money amount={one.balance_after} whole least={least.after} />,
                  },
                ]}
              />
            )}
            {name === 'payments' && (
              <Table
                label="Payments"
                items={items as Payment[]}
                id={(one) => one.id}
                columns={[
                  { name: 'Begun', cell: (one) => <When time={one.created_at} /> },
                  { name: 'State', cell: (one) => <Badge tone={state(one.status)[1]}>{state(one.status)[0]}</Badge> },
                  { name: 'By', cell: (one) => provider(one.provider) },
                  {
                    name: 'Payment',
                    cell: (one) => (
                      <code class="clip" title={one.id}>
                        {one.id}
                      </code>
                    ),
                  },
                  { name: 'Amount', number: true, cell: (one) => <Money amount={one.amount} /> },
                ]}
              />
            )}
            {name === 'calls' && <CallsTable calls={items as Call[]} keys={keys} />}
            {name === 'acts' && <Acts items={items as Act[]} />}
            <More of={shown} />
          </>
        )
      }
    </Shown>
  )
}

export default function UserPage({ params }: { params: { id: string } }) {
  const { id } = params
  const view = useData<View>(`/api/admin/users/${id}`)
  const [filter, set] = useFilters()
  const [dialog, setDialog] = useState<'credits' | 'suspend' | 'resume'>()
  const [act, setAct] = useState<UserAct>()
  const part = filter('part') || 'ledger'
  const account = filter('account') || 'live'
  const close = () => setDialog(undefined)
  const isSuspended = view.data?.accounts.some(({ status }) => status === 'suspended')
  return (
    <Page
      title={view.data?.user.username ?? 'User'}
      back={{ page: '/operate/users', name: 'Users' }}
      actions={
        view.data &&
        !view.data.user.is_erased && (
          <>
            <button type="button" class="primary" onClick={() => setDialog('credits')}>
              Credits
            </button>
            {isSuspended ? (
              <button type="button" onClick={() => setDialog('resume')}>
                Resume
              </button>
            ) : (
              <button type="button" class="danger-quiet" onClick={() => setDialog('suspend')}>
                Suspend
              </button>
            )}
          </>
        )
      }
    >
      {act && <Reasoned {...act} onClose={() => setAct(undefined)} />}
      {dialog === 'credits' && view.data && <Credits of={view.data.user} onClose={close} />}
      {dialog === 'suspend' && (
        <Reasoned
          title="Suspend this user?"
          text="The next call is refused, and every session ends. The balance stays."
          submit="Suspend"
          danger
          path={`/api/admin/users/${id}/suspend`}
          words="Suspended. It binds for the very next call."
          onClose={close}
        />
      )}
      {dialog === 'resume' && (
        <Reasoned
          title="Resume this user?"
          text="Calls are served again from the next one on."
          submit="Resume"
          path={`/api/admin/users/${id}/resume`}
          words="Resumed."
          onClose={close}
        />
      )}
      <Shown of={view} rows={5}>
        {(found) => (
          <>
            <Card>
              <Facts
                of={[
                  ['State', isSuspended ? <Badge tone="bad">Suspended</Badge> : <UserState of={found.user} />],
                  [
                    'Email',
                    <>
                      {found.user.email} {found.user.is_email_verified ? '' : <span class="muted">not verified</span>}
                    </>,
                  ],
                  ['Role', found.user.role],
                  ['Tier', found.user.tier ?? 'default'],
                  ['Second factor', found.user.has_two_factor ? 'on' : 'off'],
                  ['Since', <When time={found.user.created_at} />],
                  ['Id', <code class="break">{found.user.id}</code>],
                ]}
              />
            </Card>
            {!found.user.is_erased && (
              <Card title="Access">
                <div class="button-row">
                  {acts(found.user).map((one) => (
                    <button key={one.name} type="button" onClick={() => setAct(one)}>
                      {one.name}
                    </button>
                  ))}
                </div>
              </Card>
            )}
            <Card title="Accounts">
              <Table
                label="Accounts"
                items={found.accounts}
                id={(one) => one.environment}
                columns={[
                  { name: 'Account', cell: (one) => (one.environment === 'test' ? 'Test' : 'Live') },
                  {
                    name: 'State',
                    cell: (one) => (
                      <Badge tone={one.status === 'open' ? 'good' : 'bad'}>
                        {one.status === 'open' ? 'Open' : one.status === 'suspended' ? 'Suspended' : one.status}
                      </Badge>
                    ),
                  },
                  { name: 'Held', number: true, cell: (one) => <Money amount={one.held} whole /> },
                  { name: 'Available', number: true, cell: (one) => <Money amount={one.available} whole /> },
                  { name: 'Balance', number: true, cell: (one) => <Money amount={one.balance} whole /> },
                ]}
              />
            </Card>
            <Card title="Keys">
              {found.keys.length === 0 ? (
                <Empty title="No keys">This user has made none.</Empty>
              ) : (
                <Table
                  label="Keys"
                  items={found.keys}
                  id={(one) => one.id}
                  columns={[
                    {
                      name: 'Name',
                      wide: true,
                      cell: (one) => (
                        <>
                          <span class="clip">{one.name}</span>
                          <code class="muted small block">{one.key_value_preview}</code>
                        </>
                      ),
                    },
                    { name: 'Account', cell: (one) => (one.environment === 'test' ? 'Test' : 'Live') },
                    { name: 'State', cell: (one) => <KeyState of={one} /> },
                    {
                      name: 'Last used',
                      cell: (one) =>
                        one.last_used_at ? (
                          <When time={one.last_used_at} relative />
                        ) : (
                          <span class="muted">never</span>
                        ),
                    },
                    {
                      name: 'Act',
                      cell: (one) =>
                        one.is_active && !found.user.is_erased ? (
                          <button
                            type="button"
                            class="quiet"
                            aria-label={`Revoke the key ${one.name}`}
                            onClick={() =>
                              setAct({
                                title: `Revoke the key ${one.name}?`,
                                text: 'The next call with it is refused. That cannot be undone.',
                                submit: 'Revoke it',
                                danger: true,
                                path: `/api/admin/users/${id}/keys/${one.id}/revoke`,
                                words: 'Revoked. It binds for the very next call.',
                              })
                            }
                          >
                            Revoke
                          </button>
                        ) : (
                          ''
                        ),
                    },
                  ]}
                />
              )}
            </Card>
            <section class="card">
              <header class="card-head">
                <Segments
                  label="What is shown"
                  value={part}
                  of={PARTS}
                  onChoose={(chosen) => set({ part: chosen === 'ledger' ? '' : chosen })}
                />
                {(part === 'ledger' || part === 'calls' || part === 'usage' || part === 'limits') && (
                  <Segments
                    label="Account"
                    value={account}
                    of={[
                      ['live', 'Live'],
                      ['test', 'Test'],
                    ]}
                    onChoose={(chosen) => set({ account: chosen === 'live' ? '' : chosen })}
                  />
                )}
              </header>
              <Part key={part + account} id={id} name={part} environment={account} keys={found.keys} />
            </section>
          </>
        )}
      </Shown>
    </Page>
  )
}
