import { useEffect } from 'preact/hooks'
import { send } from '../lib/api'
import { refresh, useData, usePages } from '../lib/data'
import { milliseconds, number } from '../lib/time'
import { ask } from '../ui/form'
import { Badge, Card, Empty, Facts, Link, More, Page, say, Shown, Table, type Tone, When } from '../ui/parts'

interface Checked {
  accounts: number
  entries: number
  bills: number
  usage_records: number
  findings: number
}
interface Verification {
  running?: { began_at: string; by: string; so_far: Checked; accounts: number } | null
  last?: {
    began_at: string
    ended_at: string
    duration_ms: number
    by: string
    operator_id?: string | null
    result: string
    failure?: string | null
    checked: Checked
    findings: { account?: number | null; what: string }[]
  } | null
  every_hours?: number | null
}
interface Blocked {
  account: number
  user_id?: string | null
  environment?: string | null
  since?: string | null
  reason: string
  is_checked: boolean
  first_wrong_entry?: number | null
  findings: string[]
}

const RESULTS: Record<string, [string, Tone]> = {
  agrees: ['All of it agrees', 'good'],
  disagrees: ['Something is wrong', 'bad'],
  failed: ['Could not run', 'warn'],
}
const BY: Record<string, string> = {
  schedule: 'The server by itself',
  command: 'The command polysystems verify',
  operator: 'An operator',
}

const start = () =>
  ask(
    'Verify every ledger now?',
    <p>Each account is computed again from its first entry. It runs beside the calls, and changes nothing.</p>,
    'Verify',
    async () => {
      await send('POST', '/api/admin/verify')
      say('The verification runs.')
      refresh()
    },
    false,
  )

const release = (one: Blocked) =>
  ask(
    `Release account ${one.account}?`,
    <p>All its entries are checked first. If something is still wrong, it stays blocked and you are told what.</p>,
    'Release',
    async () => {
      await send('POST', `/api/admin/quarantine/${one.account}/release`)
      say(`Account ${one.account} can be used again.`)
      refresh()
    },
    false,
  )

function checkedFacts(of: Checked): [string, string][] {
  return [
    ['Accounts', number(of.accounts)],
    ['Entries', number(of.entries)],
    ['Bills computed again', number(of.bills)],
    ['Usage records', number(of.usage_records)],
  ]
}

/** Whether the ledger is right, and the accounts that are blocked because theirs is not. */
export default function VerificationPage() {
  const seen = useData<Verification>('/api/admin/verify')
  const blocked = usePages<Blocked>('/api/admin/quarantine', 'accounts')
  const runs = !!seen.data?.running
  useEffect(() => {
    if (!runs) return
    const timer = setInterval(() => document.visibilityState === 'visible' && refresh(), 2000)
    return () => clearInterval(timer)
  }, [runs])
  return (
    <Page
      title="Verification"
      intro="Each account is the sum of its ledger. A verification computes all of it again; an account that does not agree is blocked."
      actions={
        <button type="button" class="primary" onClick={start} disabled={runs}>
          {runs ? 'It runs' : 'Verify now'}
        </button>
      }
    >
      <Shown of={seen} rows={6}>
        {({ running, last, every_hours }) => (
          <>
            {running && (
              <Card title="Runs now">
                <label class="limit">
                  <span class="limit-name">Accounts</span>
                  <progress max={Math.max(running.accounts, 1)} value={running.so_far.accounts} />
                  <span class="limit-text">
                    {number(running.so_far.accounts)} of {number(running.accounts)},{' '}
                    {number(running.so_far.findings)} {running.so_far.findings === 1 ? 'finding' : 'findings'}
                  </span>
                </label>
              </Card>
            )}
            <Card title="Last verification">
              {last ? (
                <>
                  <Facts
                    of={[
                      [
                        'Result',
                        <Badge tone={RESULTS[last.result]?.[1] ?? 'plain'}>
                          {RESULTS[last.result]?.[0] ?? last.result}
                        </Badge>,
                      ],
                      ['Ended', <When time={last.ended_at} relative />],
                      ['Took', milliseconds(last.duration_ms)],
                      [
                        'Started by',
                        last.operator_id ? (
                          <Link page={`/operate/users/${last.operator_id}`}>An operator</Link>
                        ) : (
                          (BY[last.by] ?? last.by)
                        ),
                      ],
                      ...checkedFacts(last.checked),
                      ['Runs by itself', every_hours ? `every ${number(every_hours)} hours` : 'never'],
                    ]}
                  />
                  {last.failure && <p class="wrong">{last.failure}</p>}
                </>
              ) : (
                <Empty title="None has ended yet">Start one, or wait for the server to do it by itself.</Empty>
              )}
            </Card>
            {last && last.findings.length > 0 && (
              <Card title={last.checked.findings === 1 ? '1 finding' : `${number(last.checked.findings)} findings`}>
                <Table
                  label="Findings"
                  items={last.findings.map((one, place) => ({ ...one, place }))}
                  id={(one) => String(one.place)}
                  columns={[
                    {
                      name: 'Account',
                      cell: (one) => one.account ?? <span class="muted">prices</span>,
                    },
                    { name: 'What is wrong', wide: true, cell: (one) => <span class="break">{one.what}</span> },
                  ]}
                />
              </Card>
            )}
          </>
        )}
      </Shown>
      <Card title="Blocked accounts">
        <Shown of={{ data: blocked.items, error: blocked.error, busy: blocked.busy }} rows={3}>
          {(items) =>
            items.length === 0 ? (
              <Empty title="No account is blocked">Those that calls have met agree with their ledgers.</Empty>
            ) : (
              <>
                <Table
                  label="Blocked accounts"
                  items={items}
                  id={(one) => String(one.account)}
                  columns={[
                    {
                      name: 'Account',
                      cell: (one) => (
                        <>
                          {one.user_id ? (
                            <Link page={`/operate/users/${one.user_id}`}>{one.account}</Link>
                          ) : (
                            one.account
                          )}
                          {one.environment && <span class="muted small block">{one.environment}</span>}
                        </>
                      ),
                    },
                    { name: 'Since', cell: (one) => <When time={one.since} relative /> },
                    {
                      name: 'First wrong entry',
                      number: true,
                      cell: (one) => one.first_wrong_entry ?? <span class="muted">none</span>,
                    },
                    {
                      name: 'Why',
                      wide: true,
                      cell: (one) => (
                        <span class="break">
                          {!one.is_checked
                            ? `${one.reason} (its entries are still being checked)`
                            : one.findings.length === 0
                              ? 'A check finds nothing wrong any more: it can be released.'
                              : one.findings[0]}
                          {one.findings.length > 1 && (
                            <span class="muted small block">and {number(one.findings.length - 1)} more</span>
                          )}
                        </span>
                      ),
                    },
                    {
                      name: 'Act',
                      cell: (one) => (
                        <button
                          type="button"
                          class="quiet"
                          aria-label={`Release account ${one.account}`}
                          onClick={() => release(one)}
                        >
                          Release
                        </button>
                      ),
                    },
                  ]}
                />
                <More of={blocked} />
              </>
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
