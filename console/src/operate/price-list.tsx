import { useState } from 'preact/hooks'
import { useData } from '../lib/data'
import { number } from '../lib/time'
import { Badge, Card, Empty, Page, Select, Shown, Table, When } from '../ui/parts'
import type { PriceVersion } from './prices'

interface Draft {
  id: string
  created_at: string
  author: string
  multiplier?: string | null
  parent?: string | null
}
interface Difference {
  model: string
  dimension: string
  service: string
  over: number
  old?: string | null
  new?: string | null
  percent?: string | null
}

export default function PriceListPage({ params }: { params: { list: string } }) {
  const list = encodeURIComponent(decodeURIComponent(params.list))
  const versions = useData<{ versions: PriceVersion[]; drafts: Draft[] }>(`/api/admin/price-lists/${list}/versions`)
  const [from, setFrom] = useState('')
  const [to, setTo] = useState('')
  const names: [string, string][] = [
    ...(versions.data?.drafts ?? []).map((draft): [string, string] => [draft.id, `draft ${draft.id}`]),
    ...(versions.data?.versions ?? []).map((version): [string, string] => [
      String(version.id),
      `version ${version.id}`,
    ]),
  ]
  const diff = useData<{ differences: Difference[] }>(
    from && to && from !== to ? `/api/admin/price-lists/${list}/versions/${from}/diff?to=${to}` : null,
  )
  return (
    <Page title={decodeURIComponent(params.list)} back={{ page: '/operate/prices', name: 'Price lists' }}>
      <Card title="Versions">
        <Shown of={versions}>
          {(found) =>
            found.versions.length + found.drafts.length === 0 ? (
              <Empty title="No version yet">Nothing is sold by this list.</Empty>
            ) : (
              <>
                {found.drafts.length > 0 && (
                  <Table
                    label="Drafts"
                    items={found.drafts}
                    id={(one) => one.id}
                    columns={[
                      { name: 'Draft', wide: true, cell: (one) => <code>{one.id}</code> },
                      { name: 'Made', cell: (one) => <When time={one.created_at} /> },
                    ]}
                  />
                )}
                <Table
                  label="Versions"
                  items={found.versions}
                  id={(one) => String(one.id)}
                  columns={[
                    { name: 'Version', cell: (one) => number(one.id) },
                    {
                      name: 'State',
                      cell: (one) => (
                        <Badge tone={one.state === 'in_force' || one.state === 'current' ? 'good' : 'plain'}>
                          {one.state.replace(/_/g, ' ')}
                        </Badge>
                      ),
                    },
                    { name: 'From', cell: (one) => <When time={one.effective_from} /> },
                    { name: 'Until', cell: (one) => <When time={one.until} /> },
                    { name: 'Times', number: true, cell: (one) => one.multiplier },
                    { name: 'Cards of its own', number: true, cell: (one) => number(one.own_cards) },
                  ]}
                />
              </>
            )
          }
        </Shown>
      </Card>
      {names.length > 1 && (
        <Card
          title="What differs"
          actions={
            <>
              <Select label="From" value={from} of={[['', 'choose'], ...names]} onChoose={setFrom} />
              <Select label="To" value={to} of={[['', 'choose'], ...names]} onChoose={setTo} />
            </>
          }
        >
          {from && to && from !== to ? (
            <Shown of={diff}>
              {({ differences }) =>
                differences.length === 0 ? (
                  <Empty title="Nothing differs">Both cost the same.</Empty>
                ) : (
                  <Table
                    label="Differences"
                    items={differences}
                    id={(one) => `${one.model}${one.dimension}${one.service}${one.over}`}
                    columns={[
                      { name: 'Model', wide: true, cell: (one) => one.model },
                      { name: 'What', cell: (one) => one.dimension },
                      { name: 'Old', number: true, cell: (one) => one.old ?? '–' },
                      { name: 'New', number: true, cell: (one) => one.new ?? '–' },
                      { name: 'Change', number: true, cell: (one) => (one.percent ? `${one.percent} %` : '–') },
                    ]}
                  />
                )
              }
            </Shown>
          ) : (
            <p class="muted">Choose two versions.</p>
          )}
        </Card>
      )}
    </Page>
  )
}
