import { digits } from '../lib/money'
import type { Call, Key } from '../lib/types'
import { few, milliseconds } from '../lib/time'
import { ending, statusTone } from '../lib/words'
import { Badge, Link, Money, Table, When, type Column } from './parts'

/** Calls, the latest first. */
export function CallsTable({ calls, keys, brief }: { calls: Call[]; keys?: Key[] | undefined; brief?: boolean }) {
  const least = digits(calls.map(({ cost }) => cost))
  const columns: Column<Call>[] = [
    {
      name: 'Time',
      cell: (call) => (
        <Link page={`/calls/${call.request_id}`}>
          <When time={call.started_at} relative={brief ?? false} />
        </Link>
      ),
    },
    {
      name: 'Route',
      minor: true,
      cell: (call) => (
        <span class="clip" title={`${call.method} ${call.endpoint}`}>
          {call.endpoint}
        </span>
      ),
    },
    {
      name: 'Model',
      cell: (call) =>
        call.model ? (
          <span class="clip" title={call.model}>
            {call.model}
          </span>
        ) : (
          <span class="muted">none named</span>
        ),
    },
    ...(brief
      ? []
      : [
          {
            name: 'Key',
            cell: (call: Call) => (
              <Link page={`/keys/${call.key_id}`}>
                <span class="clip">{keys?.find(({ id }) => id === call.key_id)?.name ?? 'deleted key'}</span>
              </Link>
            ),
          },
        ]),
    {
      name: 'Result',
      cell: (call) => (
        <Badge tone={call.ending === 'completed' ? statusTone(call.status) : ending(call.ending)[1]}>
          {call.status}
          {call.ending === 'completed' ? '' : ` ${ending(call.ending)[0]}`}
        </Badge>
      ),
    },
    { name: 'Tokens', number: true, minor: true, cell: (call) => few(call.prompt_tokens + call.completion_tokens) },
    { name: 'Time taken', number: true, minor: true, cell: (call) => milliseconds(call.latency_ms) },
    { name: 'Cost', number: true, cell: (call) => <Money amount={call.cost} whole least={least} /> },
  ]
  return <Table label="Calls" columns={columns} items={calls} id={(call) => call.request_id} />
}
