import { query } from '../lib/api'
import { useData } from '../lib/data'
import { digits, exact, nano } from '../lib/money'
import { environment } from '../lib/session'
import { milliseconds, number } from '../lib/time'
import type { Bill, Call, Key } from '../lib/types'
import { ending, kind, statusTone } from '../lib/words'
import { Badge, Card, Copy, Facts, Failure, Link, Money, Page, Shown, Table, When } from '../ui/parts'

const DIMENSIONS: Record<string, string> = { request: 'Call', input: 'Prompt tokens', output: 'Completion tokens' }
const dimension = (name: string) => DIMENSIONS[name] ?? name.replace(/[_.]/g, ' ')

/** Who counted the tokens that a call is charged for. */
const TALLIES: Record<string, string> = {
  reported: 'by the upstream',
  counted: 'by this server',
  absurd: 'by this server: the report could not be right',
  clamped: 'by the upstream, up to the hold',
  held: 'not at all: the hold was charged',
}

/** A bill, so that anybody can compute it again. */
export function Arithmetic({ of }: { of: Bill }) {
  const least = digits([...of.parts.map(({ amount }) => amount), of.sum, of.cost])
  return (
    <>
      <Table
        label="Arithmetic of the bill"
        items={of.parts}
        id={(part) => part.dimension}
        columns={[
          { name: 'What', wide: true, cell: (part) => dimension(part.dimension) },
          { name: 'Quantity', number: true, cell: (part) => number(part.quantity) },
          {
            name: 'Price',
            number: true,
            cell: (part) => (
              <span>
                {exact(part.price)}
                {part.per === 1 ? '' : <span class="muted"> a {number(part.per)}</span>}
              </span>
            ),
          },
          { name: 'Amount', number: true, cell: (part) => <span class="money">{exact(part.amount, least)}</span> },
        ]}
        foot={
          <tfoot>
            <tr>
              <th scope="row" colSpan={3}>
                Sum
              </th>
              <td class="number">{exact(of.sum, least)}</td>
            </tr>
            {nano(of.rounding) !== 0n || /[1-9]/.test(String(of.rounding)) ? (
              <tr>
                <th scope="row" colSpan={3}>
                  Rounding
                </th>
                <td class="number">{String(of.rounding)}</td>
              </tr>
            ) : null}
            <tr class="total">
              <th scope="row" colSpan={3}>
                Cost
              </th>
              <td class="number">{exact(of.cost, least)}</td>
            </tr>
          </tfoot>
        }
      />
      <p class="hint">
        {of.formula}. Price list version {of.price_version}, card {of.card}, in force from{' '}
        <When time={of.effective_from} />.
      </p>
      {of.notes.length > 0 && (
        <ul class="hint">
          {of.notes.map((note) => (
            <li key={note}>{note}</li>
          ))}
        </ul>
      )}
      {of.later.map((entry) => (
        <p key={entry.sequence}>
          Later: {kind(entry.kind)} of <Money amount={entry.amount} whole sign />, <When time={entry.created_at} />.
        </p>
      ))}
    </>
  )
}

export default function CallPage({ params }: { params: { id: string } }) {
  const { id } = params
  const call = useData<Call>(query(`/api/monitoring/requests/${id}`, { environment: environment.value }))
  const bill = useData<Bill>(call.data?.has_bill ? `/api/payments/transactions/${id}/bill` : null)
  const keys = useData<Key[]>('/api/keys')
  return (
    <Page title="One call" back={{ page: '/calls', name: 'Calls' }}>
      <Shown of={call} rows={6}>
        {(found) => (
          <>
            <Card>
              <Facts
                of={[
                  [
                    'Result',
                    <>
                      <Badge tone={statusTone(found.status)}>{found.status}</Badge> {ending(found.ending)[0]}
                    </>,
                  ],
                  ['Cost', <Money amount={found.cost} whole />],
                  [
                    'Route',
                    <code>
                      {found.method} {found.endpoint}
                    </code>,
                  ],
                  ['Model', found.model ?? <span class="muted">none named</span>],
                  [
                    'Key',
                    <Link page={`/keys/${found.key_id}`}>
                      {keys.data?.find((key) => key.id === found.key_id)?.name ?? 'deleted key'}
                    </Link>,
                  ],
                  ['Began', <When time={found.started_at} />],
                  ['Time taken', milliseconds(found.latency_ms)],
                  ['Tokens', `${number(found.prompt_tokens)} in, ${number(found.completion_tokens)} out`],
                  ...(found.tally ? [['Counted', TALLIES[found.tally] ?? found.tally] as [string, string]] : []),
                  ['Answered by', found.upstream],
                  [
                    'Request',
                    <>
                      <code>{found.request_id}</code> <Copy text={found.request_id} />
                    </>,
                  ],
                ]}
              />
            </Card>
            <Card title="The bill">
              {!found.has_bill ? (
                <p class="muted">
                  {nano(found.cost) === 0n ? 'This call cost nothing, so it has no bill.' : 'This call has no bill.'}
                </p>
              ) : bill.error ? (
                <Failure error={bill.error} />
              ) : (
                <Shown of={bill}>{(one) => <Arithmetic of={one} />}</Shown>
              )}
            </Card>
            {found.entries && found.entries.length > 0 && (
              <Card title="In the ledger">
                <Table
                  label="Entries of the ledger"
                  items={found.entries}
                  id={(entry) => String(entry.sequence)}
                  columns={[
                    { name: 'Number', cell: (entry) => number(entry.sequence) },
                    { name: 'Kind', cell: (entry) => kind(entry.kind) },
                    { name: 'Time', cell: (entry) => <When time={entry.created_at} /> },
                    { name: 'Amount', number: true, cell: (entry) => <Money amount={entry.amount} whole sign /> },
                    {
                      name: 'Balance after',
                      number: true,
                      cell: (entry) => <Money amount={entry.balance_after} whole />,
                    },
                  ]}
                />
              </Card>
            )}
          </>
        )}
      </Shown>
    </Page>
  )
}
