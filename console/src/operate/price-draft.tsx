import { useEffect, useState } from 'preact/hooks'
import { type Refusal, send } from '../lib/api'
import { refresh, useData } from '../lib/data'
import type { Exact } from '../lib/json'
import { digits } from '../lib/money'
import { go } from '../lib/nav'
import { number } from '../lib/time'
import { ask, Check, Dialog, Field, field, Form, fault } from '../ui/form'
import { Card, Empty, Money, Note, Page, say, Shown, Table, Tile } from '../ui/parts'
import { CardEditor, type PriceCard } from './price-cards'
import { Differences, type Difference } from './price-diff'
import type { PriceVersion } from './prices'

export interface Draft {
  id: string
  created_at: string
  author: string
  multiplier?: string | null
  parent?: string | null
  merge: boolean
  content: { cards?: PriceCard[]; overrides?: unknown[] }
}
interface Sum {
  calls: number
  not_sold: number
  cost: Exact
  preview: Exact
  change?: Exact | null
  percent?: string | null
}
interface Preview {
  before?: PriceVersion | null
  differences: Difference[]
  below_cost: { list: string; model: string; deployment: string; dimension: string; price: string; cost: string }[]
  total: Sum
  models: (Sum & { model: string })[]
  looked_through: number
  complete: boolean
}

const change = (percent?: string | null) => (percent ? `${percent} %` : '–')

function Calls({ of }: { of: Preview }) {
  const { total, models } = of
  if (total.calls === 0) {
    return <Empty title="No call to compare">None of the last calls was priced by this list.</Empty>
  }
  const least = digits(models.flatMap(({ cost, preview }) => [cost, preview]))
  return (
    <>
      <div class="tiles small">
        <Tile name="Calls" value={number(total.calls)} hint={of.complete ? 'all on record' : 'the last ones'} />
        <Tile name="They cost" value={<Money amount={total.cost} />} />
        <Tile name="By this draft" value={<Money amount={total.preview} />} hint={change(total.percent)} />
      </div>
      {total.not_sold > 0 && (
        <Note tone="warn" title={`${number(total.not_sold)} calls would be refused`}>
          This draft has no price for what they used. They are in no sum.
        </Note>
      )}
      <Table
        label="The last calls by model"
        items={models}
        id={(one) => one.model}
        columns={[
          { name: 'Model', wide: true, cell: (one) => <span class="break">{one.model}</span> },
          { name: 'Calls', number: true, cell: (one) => number(one.calls) },
          { name: 'Refused', number: true, cell: (one) => number(one.not_sold) },
          { name: 'Cost', number: true, cell: (one) => <Money amount={one.cost} whole least={least} /> },
          { name: 'By this draft', number: true, cell: (one) => <Money amount={one.preview} whole least={least} /> },
          { name: 'Change', number: true, cell: (one) => change(one.percent) },
        ]}
      />
    </>
  )
}

function Publish({
  path,
  preview,
  onClose,
  onDone,
}: {
  path: string
  preview: Preview | undefined
  onClose: () => void
  onDone: () => void
}) {
  const loss = [...new Set((preview?.below_cost ?? []).map(({ model }) => model))]
  return (
    <Dialog title="Publish this draft?" onClose={onClose}>
      <Form
        submit="Publish"
        cancel={onClose}
        onSend={async (data) => {
          const text = field(data, 'effective_from')
          const at = text ? new Date(`${text}Z`) : undefined
          if (at && Number.isNaN(at.getTime())) throw fault('effective_from', 'Choose a day and a time.')
          await send('POST', `${path}/publish`, {
            ...(at ? { effective_from: at.toISOString() } : {}),
            ...(data.get('loss') ? { allow_loss: loss } : {}),
          })
          say('Published. It counts for each call from its instant on.')
          onDone()
        }}
      >
        <p>A published version never changes. Until it is in force you can withdraw it.</p>
        <Field
          label="In force from (UTC)"
          name="effective_from"
          type="datetime-local"
          step="1"
          hint="Left out: as soon as it can, which is some seconds from now."
        />
        {loss.length > 0 && (
          <Check
            label={`Sell ${loss.length === 1 ? loss[0] : `${loss.length} models`} below cost`}
            name="loss"
            hint={loss.slice(0, 8).join(', ')}
          />
        )}
      </Form>
    </Dialog>
  )
}

/** The cards and what the draft says beside them. */
function Editor({
  base,
  draft,
  start,
  isChanged,
  setChanged,
  onSaved,
}: {
  base: string
  draft: Draft | undefined
  isChanged: boolean
  setChanged: (isChanged: boolean) => void
  onSaved: (id: string) => void
  start: { cards: PriceCard[]; multiplier: string; parent: string | null }
}) {
  const [cards, setCards] = useState(start.cards)
  return (
    <Form
      submit={draft ? 'Save' : 'Save as a draft'}
      onSend={async (data) => {
        const multiplier = field(data, 'multiplier')
        const { draft: made } = await send<{ draft: Draft }>('POST', `/api/admin/price-lists/${base}/versions`, {
          cards,
          merge: draft?.merge ?? false,
          ...(draft?.content.overrides ? { overrides: draft.content.overrides } : {}),
          ...(start.parent ? { parent: start.parent } : {}),
          ...(multiplier ? { multiplier } : {}),
        })
        if (draft) await send('DELETE', `/api/admin/price-lists/${base}/versions/${draft.id}`)
        setChanged(false)
        onSaved(made.id)
        refresh()
        say('The draft is saved. Nothing is sold by it yet.')
        go(`/operate/prices/${base}/${made.id}`)
      }}
    >
      {start.parent && (
        <Field
          label={`Multiplier of ${start.parent}`}
          name="multiplier"
          inputMode="decimal"
          class="amount"
          defaultValue={start.multiplier}
          hint="What the prices of that list are multiplied by, such as 0.90. A card below is not multiplied."
        />
      )}
      {draft?.merge && <p class="muted">What is in force stays, unless it is named here.</p>}
      <CardEditor
        cards={cards}
        onChange={(changed) => {
          setCards(changed)
          setChanged(true)
        }}
      />
      {isChanged && (
        <p class="muted" role="status">
          Not saved yet.{draft && ' What changes is shown below for what is saved.'}
        </p>
      )}
    </Form>
  )
}

export default function PriceDraftPage({ params }: { params: { list: string; draft: string } }) {
  const name = decodeURIComponent(params.list)
  const base = encodeURIComponent(name)
  const isNew = params.draft === 'new'
  const path = `/api/admin/price-lists/${base}/versions`
  const versions = useData<{ versions: PriceVersion[]; drafts: Draft[] }>(path)
  const inForce = versions.data?.versions.find(({ state }) => state === 'in_force')
  const current = useData<{ version: PriceVersion; cards: PriceCard[] }>(
    isNew && inForce ? `${path}/${inForce.id}` : null,
  )
  const draft = versions.data?.drafts.find(({ id }) => id === params.draft)
  const [preview, setPreview] = useState<{ data: Preview | undefined; error: Refusal | undefined; busy: boolean }>({
    data: undefined,
    error: undefined,
    busy: true,
  })
  const [publishes, setPublishes] = useState(false)
  const [isChanged, setChanged] = useState(false)
  // Just saved: the list that is shown does not have it yet.
  const [saved, setSaved] = useState('')
  useEffect(() => {
    if (!draft) return
    let isHere = true
    setPreview((before) => ({ ...before, busy: true }))
    send<Preview>('POST', `/api/admin/price-lists/${base}/preview`, { draft: draft.id }).then(
      (data) => isHere && setPreview({ data, error: undefined, busy: false }),
      (error: Refusal) => isHere && setPreview({ data: undefined, error, busy: false }),
    )
    return () => {
      isHere = false
    }
  }, [draft?.id])
  const back = { page: `/operate/prices/${base}`, name }
  if (!isNew && versions.data && !draft && params.draft !== saved) {
    return (
      <Page title="No such draft" back={back}>
        <Empty title="It is gone">It was published, saved anew or deleted.</Empty>
      </Page>
    )
  }
  const isReady = versions.data && (isNew ? !inForce || current.data : draft)
  const start = draft
    ? { cards: draft.content.cards ?? [], multiplier: draft.multiplier ?? '', parent: draft.parent ?? null }
    : {
        cards: current.data?.cards ?? [],
        multiplier: inForce?.parent ? inForce.multiplier : '',
        parent: inForce?.parent ?? null,
      }
  return (
    <Page
      title={isNew ? `New draft of ${name}` : `Draft ${params.draft.replace('draft-', '')} of ${name}`}
      back={back}
      intro={
        isNew
          ? 'It begins with what is in force. Nothing is sold by a draft until you publish it.'
          : 'Nothing is sold by a draft until you publish it.'
      }
      actions={
        draft && (
          <>
            <button
              type="button"
              class="primary"
              aria-disabled={isChanged}
              onClick={() => (isChanged ? say('Save the draft first: what is saved is published.') : setPublishes(true))}
            >
              Publish
            </button>
            <button
              type="button"
              class="danger-quiet"
              onClick={() =>
                ask('Delete this draft?', <p>What is in force stays.</p>, 'Delete it', async () => {
                  await send('DELETE', `${path}/${draft.id}`)
                  say('The draft is deleted.')
                  refresh()
                  go(back.page)
                })
              }
            >
              Delete
            </button>
          </>
        )
      }
    >
      {publishes && draft && (
        <Publish
          path={`${path}/${draft.id}`}
          preview={preview.data}
          onClose={() => setPublishes(false)}
          onDone={() => {
            refresh()
            go(back.page)
          }}
        />
      )}
      <Card title="Cards">
        <Shown of={{ ...versions, ...(current.error ? { error: current.error } : {}), data: isReady || undefined }} rows={6}>
          {() => (
            <Editor
              key={draft?.id ?? 'new'}
              base={base}
              draft={draft}
              start={start}
              isChanged={isChanged}
              setChanged={setChanged}
              onSaved={setSaved}
            />
          )}
        </Shown>
      </Card>
      {draft && (
        <>
          <Card title="What changes">
            <Shown of={preview} rows={4}>
              {(found) => (
                <>
                  {found.below_cost.length > 0 && (
                    <Note tone="warn" title="Some of it is below cost">
                      {found.below_cost
                        .slice(0, 5)
                        .map(({ model, dimension, price, cost }) => `${model}, ${dimension}: ${price}, we pay ${cost}`)
                        .join('; ')}
                      {found.below_cost.length > 5 && ` and ${number(found.below_cost.length - 5)} more`}.
                    </Note>
                  )}
                  <Differences
                    of={found.differences}
                    against={found.before ? `version ${number(found.before.id)}` : undefined}
                  />
                </>
              )}
            </Shown>
          </Card>
          {preview.data && (
            <Card title="What the last calls would have cost">
              <Calls of={preview.data} />
            </Card>
          )}
        </>
      )}
    </Page>
  )
}
