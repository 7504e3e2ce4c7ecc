import { useEffect } from 'preact/hooks'
import { refresh, useData } from '../lib/data'
import { number } from '../lib/time'
import { Badge, Card, Facts, Link, Note, Page, Shown, Tile, type Tone, When } from '../ui/parts'

interface HealthAnswer {
  version: string
  is_ready: boolean
  database_answers: boolean
  database: string
  ledger: { state: string; queued: number; oldest_ms: number; unmerged: number; batches: number }
  load: {
    calls: number
    test_calls: number
    requests: number
    strangers: number
    open_charges: number
    accounts_resident: number
  }
  accounts_quarantined: number
  verification: { ended_at?: string | null; findings?: number | null; failures: number }
  webhooks: { delivered: number; failed: number }
  fsync_micros?: number | null
  panics: number
}

const LEDGER: Record<string, [string, Tone]> = {
  serving: ['Serving', 'good'],
  overloaded: ['Overloaded', 'warn'],
  unavailable: ['Database does not answer', 'bad'],
  fenced: ['Another process has the accounts', 'bad'],
}
const DATABASES: Record<string, string> = { sqlite: 'SQLite', postgresql: 'PostgreSQL' }
const check = (is: boolean, good: string, bad: string) => <Badge tone={is ? 'good' : 'bad'}>{is ? good : bad}</Badge>

/** How the server is, read again every five seconds. */
export default function Health() {
  const health = useData<HealthAnswer>('/api/admin/health')
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === 'visible' && refresh(), 5000)
    return () => clearInterval(timer)
  }, [])
  return (
    <Page title="Health">
      <Shown of={health} rows={8}>
        {(found) => {
          const { ledger, load, verification, webhooks } = found
          const [state, tone] = LEDGER[ledger.state] ?? [ledger.state, 'plain']
          return (
            <>
              {found.accounts_quarantined > 0 && (
                <Note tone="bad" title={`${number(found.accounts_quarantined)} accounts are blocked`}>
                  Their records are inconsistent. <Link page="/operate/verification">Verification</Link> says how.
                </Note>
              )}
              {(verification.findings ?? 0) > 0 && (
                <Note tone="bad" title={`The last verification found ${number(verification.findings ?? 0)} faults`}>
                  <Link page="/operate/verification">Verification</Link> lists them.
                </Note>
              )}
              <div class="tiles">
                <Tile
                  name="Live calls now"
                  value={number(load.calls)}
                  hint={`${number(load.test_calls)} test calls`}
                />
                <Tile
                  name="Open charges"
                  value={number(load.open_charges)}
                  hint={`${number(load.accounts_resident)} accounts in memory`}
                />
                <Tile
                  name="Writes that wait"
                  value={number(ledger.queued)}
                  hint={`the oldest for ${number(ledger.oldest_ms)} ms`}
                />
                <Tile
                  name="Requests now"
                  value={number(load.requests)}
                  hint={`${number(load.strangers)} without a credential`}
                />
              </div>
              <div class="columns">
                <Card title="The server">
                  <Facts
                    of={[
                      ['Paid calls', check(found.is_ready, 'Served', 'Not served')],
                      ['Version', found.version],
                      ['Panics', number(found.panics)],
                      [
                        'Synced write',
                        found.fsync_micros == null ? '–' : `${number((found.fsync_micros / 1000).toFixed(1))} ms`,
                      ],
                    ]}
                  />
                </Card>
                <Card title="Ledger and database">
                  <Facts
                    of={[
                      ['Ledger', <Badge tone={tone}>{state}</Badge>],
                      [
                        'Database',
                        <>
                          {DATABASES[found.database] ?? found.database}{' '}
                          {check(found.database_answers, 'Answers', 'Does not answer')}
                        </>,
                      ],
                      ['Commits', number(ledger.batches)],
                      ['In the journal', `${number(ledger.unmerged)} writes`],
                    ]}
                  />
                </Card>
                <Card title="Verification">
                  <Facts
                    of={[
                      [
                        'Last',
                        verification.ended_at ? (
                          <When time={verification.ended_at} relative />
                        ) : (
                          'none since the start'
                        ),
                      ],
                      ['Findings', verification.findings == null ? '–' : number(verification.findings)],
                      ['Could not run', number(verification.failures)],
                      ['Blocked', `${number(found.accounts_quarantined)} accounts`],
                    ]}
                  />
                </Card>
                <Card title="Webhooks since the start">
                  <Facts
                    of={[
                      ['Accepted', number(webhooks.delivered)],
                      ['Failed', number(webhooks.failed)],
                    ]}
                  />
                </Card>
              </div>
            </>
          )
        }}
      </Shown>
    </Page>
  )
}
