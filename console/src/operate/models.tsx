import { send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { number, milliseconds } from '../lib/time'
import { ask } from '../ui/form'
import { Badge, Card, Empty, Page, say, Shown, Table, type Tone, When } from '../ui/parts'

interface Target {
  credential?: string | null
  deployment?: string | null
  priority?: number
  weight?: number
}
interface ModelForm {
  name: string
  aliases?: string[]
  max_input: number
  max_output: number
  targets: Target[]
  retires?: { at: string; successor?: string | null } | null
}
interface Deployment {
  deployment: string
  provider: string
  credential: string
  breaker: string
  is_off: boolean
  is_credential_off: boolean
  in_flight: number
  first_byte_ms?: number | null
  calls_left?: number | null
  tokens_left?: number | null
  cooling_until?: string | null
  open_until?: string | null
}

function condition(of: Deployment): [string, Tone] {
  if (of.is_off) return ['Off', 'bad']
  if (of.is_credential_off) return ['Credential off', 'bad']
  if (of.breaker !== 'closed') return [of.breaker === 'open' ? 'Failing' : 'Tried again', 'bad']
  if (of.cooling_until) return ['Cooling', 'warn']
  return ['Works', 'good']
}

export default function Models() {
  const models = useData<{ models: ModelForm[]; revision: number }>('/api/admin/models')
  const health = useData<{ deployments: Deployment[] }>('/api/admin/deployments/health')
  return (
    <Page title="Models and deployments" intro="Changed by the command line or the API: this page reads.">
      <Card
        title="Deployments"
        actions={
          <button type="button" onClick={refresh}>
            Read again
          </button>
        }
      >
        <Shown of={health}>
          {({ deployments }) =>
            deployments.length === 0 ? (
              <Empty title="No deployment">
                Add providers, credentials and models to the catalogue: <code>polysystems catalogue --help</code>.
              </Empty>
            ) : (
              <Table
                label="Deployments"
                items={deployments}
                id={(one) => one.deployment}
                columns={[
                  {
                    name: 'Deployment',
                    wide: true,
                    cell: (one) => (
                      <>
                        <span class="clip">{one.deployment}</span>
                        <span class="muted small block">
                          {one.provider}, {one.credential}
                        </span>
                      </>
                    ),
                  },
                  {
                    name: 'State',
                    cell: (one) => (
                      <>
                        <Badge tone={condition(one)[1]}>{condition(one)[0]}</Badge>
                        {(one.open_until ?? one.cooling_until) && (
                          <span class="muted small block">
                            until <When time={one.open_until ?? one.cooling_until} />
                          </span>
                        )}
                      </>
                    ),
                  },
                  { name: 'Running', number: true, cell: (one) => number(one.in_flight) },
                  { name: 'First byte', number: true, cell: (one) => milliseconds(one.first_byte_ms) },
                  {
                    name: 'Calls left',
                    number: true,
                    cell: (one) => (one.calls_left == null ? '–' : number(one.calls_left)),
                  },
                  {
                    name: 'Tokens left',
                    number: true,
                    cell: (one) => (one.tokens_left == null ? '–' : number(one.tokens_left)),
                  },
                  {
                    name: 'Ask',
                    cell: (one) => (
                      <button
                        type="button"
                        class="quiet"
                        aria-label={`Test ${one.deployment}`}
                        onClick={() =>
                          ask(
                            `Test ${one.deployment}?`,
                            <p>One real call of one token. The provider bills it.</p>,
                            'Test',
                            async () => {
                              const answer = await send<{ outcome: string; latency_ms: number }>(
                                'POST',
                                `/api/admin/deployments/${encodeURIComponent(one.deployment)}/test`,
                              )
                              refresh()
                              say(`${one.deployment}: ${answer.outcome}, ${milliseconds(answer.latency_ms)}`)
                            },
                            false,
                          )
                        }
                      >
                        Test
                      </button>
                    ),
                  },
                ]}
              />
            )
          }
        </Shown>
      </Card>
      <Card title="Models">
        <Shown of={models}>
          {(found) =>
            found.models.length === 0 ? (
              <Empty title="No model is sold by its name">Calls go by the routes of the settings.</Empty>
            ) : (
              <Table
                label="Models"
                items={found.models}
                id={(one) => one.name}
                columns={[
                  {
                    name: 'Model',
                    wide: true,
                    cell: (one) => (
                      <>
                        <span class="clip">{one.name}</span>
                        {one.aliases && one.aliases.length > 0 && (
                          <span class="muted small block">{one.aliases.join(', ')}</span>
                        )}
                      </>
                    ),
                  },
                  {
                    name: 'Answered by',
                    wide: true,
                    cell: (one) => one.targets.map((target) => target.deployment ?? target.credential).join(', '),
                  },
                  { name: 'Input at most', number: true, cell: (one) => number(one.max_input) },
                  { name: 'Output at most', number: true, cell: (one) => number(one.max_output) },
                  {
                    name: 'Retires',
                    cell: (one) => (one.retires ? <When time={one.retires.at} /> : <span class="muted">–</span>),
                  },
                ]}
              />
            )
          }
        </Shown>
      </Card>
    </Page>
  )
}
