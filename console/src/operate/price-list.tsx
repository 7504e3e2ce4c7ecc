import { useState } from 'preact/hooks'
import { query, send, upload } from '../lib/api'
import { refresh, useData } from '../lib/data'
import { number } from '../lib/time'
import { ask, Check, Dialog, Field, Form, fault, field } from '../ui/form'
import { Badge, Card, Empty, Facts, Link, Note, Page, Select, Shown, say, Table, When } from '../ui/parts'
import { type Difference, Differences } from './price-diff'
import type { Draft } from './price-draft'
import type { PriceVersion } from './prices'


interface Imported {
  format: string
  taken: number
  added: string[]
  unchanged: number
  kept: number
  changes: Difference[]
  refused: { name: string; provider: string; reason: string }[]
  draft?: string | null
}

/** Reads a public price file into a draft. */
function Import({ list, onClose }: { list: string; onClose: () => void }) {
  const [done, setDone] = useState<Imported>()
  if (done) {
    return (
      <Dialog title="A draft was made" onClose={onClose}>
        <Facts
          of={[
            ['Form of the file', done.format],
            ['Models taken', number(done.taken)],
            ['New', number(done.added.length)],
            ['Prices that change', number(done.changes.length)],
            ['As before', number(done.unchanged)],
            ['Not taken', number(done.refused.length)],
          ]}
        />
        {done.refused.length > 0 && (
          <Note tone="warn" title="Not taken">
            {done.refused
              .slice(0, 5)
              .map(({ name, reason }) => `${name}: ${reason}`)
              .join('; ')}
            .
          </Note>
        )}
        <div class="form-foot">
          {done.draft && (
            <Link class="button primary" page={`/operate/prices/${list}/${done.draft}`}>
              Open the draft
            </Link>
          )}
          <button type="button" onClick={onClose}>
            Close
          </button>
        </div>
      </Dialog>
    )
  }
  return (
    <Dialog title="Import a price file" onClose={onClose}>
      <Form
        submit="Make a draft"
        cancel={onClose}
        onSend={async (data) => {
          const file = data.get('file')
          if (!(file instanceof File) || file.size === 0) throw fault('file', 'Choose a file.')
          const path = query('/api/admin/prices/import', {
            list: decodeURIComponent(list),
            only: field(data, 'only'),
            models: field(data, 'models'),
            markup: field(data, 'markup'),
            force: data.get('force') ? 'true' : '',
          })
          const found = await upload<Imported>(path, file)
          refresh()
          setDone(found)
        }}
      >
        <p>The public price list of LiteLLM, genai-prices or models.dev. It becomes a draft, which you look through.</p>
        <Field label="File" name="file" type="file" required />
        <Field label="Providers" name="only" placeholder="openai,anthropic" hint="Left out: all of them." />
        <Field label="Models" name="models" placeholder="gpt-*,claude-*" hint="Left out: all of them." />
        <Field label="Markup" name="markup" placeholder="15%" hint="What is added to each price." />
        <Check label="Take changes of more than 30 % too" name="force" />
      </Form>
    </Dialog>
  )
}

export default function PriceListPage({ params }: { params: { list: string } }) {
  const list = encodeURIComponent(decodeURIComponent(params.list))
  const versions = useData<{ versions: PriceVersion[]; drafts: Draft[] }>(`/api/admin/price-lists/${list}/versions`)
  const [from, setFrom] = useState('')
  const [to, setTo] = useState('')
  const [imports, setImports] = useState(false)
  const isOfSettings = list === 'routes'
  const names = (versions.data?.versions ?? []).map((version): [string, string] => [
    String(version.id),
    `version ${version.id}`,
  ])
  const diff = useData<{ differences: Difference[] }>(
    from && to && from !== to ? `/api/admin/price-lists/${list}/versions/${from}/diff?to=${to}` : null,
  )
  const withdraw = (one: PriceVersion) =>
    ask(
      `Withdraw version ${one.id}?`,
      <p>It is then never in force. Its number stays used. The version before it goes on.</p>,
      'Withdraw it',
      async () => {
        await send('POST', `/api/admin/price-lists/${list}/versions/${one.id}/withdraw`)
        refresh()
        say('Withdrawn. It is never in force.')
      },
    )
  return (
    <Page
      title={decodeURIComponent(params.list)}
      back={{ page: '/operate/prices', name: 'Price lists' }}
      intro={isOfSettings ? 'The prices of routes. They are set by [[prices]] in the settings.' : ''}
      actions={
        !isOfSettings && (
          <>
            <Link class="button primary" page={`/operate/prices/${list}/new`}>
              New draft
            </Link>
            <button type="button" onClick={() => setImports(true)}>
              Import a file
            </button>
          </>
        )
      }
    >
      {imports && <Import list={list} onClose={() => setImports(false)} />}
      {(versions.data?.drafts.length ?? 0) > 0 && (
        <Card title="Drafts">
          <Table
            label="Drafts"
            items={versions.data?.drafts ?? []}
            id={(one) => one.id}
            columns={[
              {
                name: 'Draft',
                wide: true,
                cell: (one) => <Link page={`/operate/prices/${list}/${one.id}`}>{one.id.replace('-', ' ')}</Link>,
              },
              { name: 'Cards', number: true, cell: (one) => number(one.content.cards?.length ?? 0) },
              { name: 'Made', cell: (one) => <When time={one.created_at} /> },
            ]}
          />
        </Card>
      )}
      <Card title="Versions">
        <Shown of={versions}>
          {(found) =>
            found.versions.length === 0 ? (
              <Empty title="No version yet">Nothing is sold by this list.</Empty>
            ) : (
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
                  { name: 'Times the parent', number: true, cell: (one) => (one.parent ? one.multiplier : '–') },
                  { name: 'Cards of its own', number: true, cell: (one) => number(one.own_cards) },
                  ...(found.versions.some(({ state }) => state === 'published')
                    ? [
                        {
                          name: 'Act',
                          cell: (one: PriceVersion) =>
                            one.state === 'published' ? (
                              <button type="button" class="quiet" onClick={() => withdraw(one)}>
                                Withdraw
                              </button>
                            ) : (
                              ''
                            ),
                        },
                      ]
                    : []),
                ]}
              />
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
            <Shown of={diff}>{({ differences }) => <Differences of={differences} />}</Shown>
          ) : (
            <p class="muted">Choose two versions.</p>
          )}
        </Card>
      )}
    </Page>
  )
}
