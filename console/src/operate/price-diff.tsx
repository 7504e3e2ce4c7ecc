import { number } from '../lib/time'
import { Badge, Empty, Table } from '../ui/parts'

export interface Difference {
  model: string
  dimension: string
  service: string
  over: number
  old?: string | null
  new?: string | null
  percent?: string | null
}

/** The kind of a change in a word. */
function Kind({ of }: { of: Difference }) {
  if (of.old == null) return <Badge tone="good">New</Badge>
  if (of.new == null) return <Badge tone="bad">Gone</Badge>
  const isMore = (of.percent ?? '').startsWith('+')
  return <Badge tone={isMore ? 'warn' : 'accent'}>{isMore ? 'Dearer' : 'Cheaper'}</Badge>
}

/** The prices that differ, each with its change in percent. */
export function Differences({ of, against }: { of: Difference[]; against?: string | undefined }) {
  if (of.length === 0) {
    return <Empty title="Nothing differs">{against ? `It costs what ${against} costs.` : 'Both cost the same.'}</Empty>
  }
  const where = (one: Difference) =>
    [one.service !== 'standard' && one.service, one.over > 0 && `over ${number(one.over)} tokens`]
      .filter(Boolean)
      .join(', ')
  return (
    <>
      {against && <p class="muted">Against {against}. Dollars for a million tokens, an hour or a piece.</p>}
      <Table
        label="Differences"
        items={of}
        id={(one) => `${one.model} ${one.dimension} ${one.service} ${one.over}`}
        columns={[
          {
            name: 'Model',
            wide: true,
            cell: (one) => (
              <>
                <span class="break">{one.model}</span>
                {where(one) && <span class="muted small block">{where(one)}</span>}
              </>
            ),
          },
          { name: 'What', cell: (one) => one.dimension.replace(/_/g, ' ') },
          { name: 'Kind', cell: (one) => <Kind of={one} /> },
          { name: 'Old', number: true, cell: (one) => one.old ?? '–' },
          { name: 'New', number: true, cell: (one) => one.new ?? '–' },
          { name: 'Change', number: true, cell: (one) => (one.percent ? `${one.percent} %` : '–') },
        ]}
      />
    </>
  )
}
