import { useState } from 'preact/hooks'
import { number } from '../lib/time'
import { Field } from '../ui/form'
import { Empty, Select, Typed } from '../ui/parts'

/** Prices by dimension; in a card with rows also the service tier and the length of the prompt. */
type Prices = Record<string, unknown>
/** A card as the server writes it. Prices are decimal texts: no digit is lost. */
export type PriceCard = Prices & { model: string; rows?: Prices[] }

const USUAL = ['input', 'output', 'cache_read', 'reasoning', 'request']
const OTHERS = (
  'cache_write cache_write_1h cache_write_12h input_audio cache_read_audio input_image cache_read_image input_video ' +
  'output_audio output_image character audio_in audio_out video image web_search rerank_unit page tool_session'
).split(' ')
const NAMES: Record<string, string> = {
  input: 'Input',
  output: 'Output',
  cache_read: 'Cached input',
  reasoning: 'Reasoning',
  request: 'Request',
}
const nameOf = (dimension: string) => NAMES[dimension] ?? dimension.replace(/_/g, ' ')
/** Cards whose fields are shown at once: an import may have thousands. */
const SHOWN = 20
const NO_PRICE = new Set(['model', 'rows', 'service', 'over'])

function PriceFields({ at, of, onChange }: { at: string; of: Prices; onChange: (prices: Prices) => void }) {
  const [added, setAdded] = useState<string[]>([])
  const rest = [...OTHERS.filter((name) => name in of || added.includes(name))]
  const unknown = Object.keys(of).filter((name) => !NO_PRICE.has(name) && !USUAL.includes(name) && !rest.includes(name))
  const set = (name: string, text: string) => {
    const { [name]: _, ...others } = of
    onChange(text.trim() === '' ? others : { ...of, [name]: text.trim() })
  }
  return (
    <div class="field-row">
      {[...USUAL, ...rest, ...unknown].map((name) => (
        <Field
          key={name}
          label={nameOf(name)}
          name={`${at}.${name}`}
          class="amount"
          inputMode="decimal"
          autocomplete="off"
          value={String(of[name] ?? '')}
          onInput={(event) => set(name, event.currentTarget.value)}
        />
      ))}
      <Select
        label="More"
        value=""
        of={[['', 'Add a price'], ...OTHERS.filter((name) => !rest.includes(name)).map((name): [string, string] => [name, nameOf(name)])]}
        onChoose={(name) => name && setAdded([...added, name])}
      />
    </div>
  )
}

export function CardEditor({ cards, onChange }: { cards: PriceCard[]; onChange: (cards: PriceCard[]) => void }) {
  const [search, setSearch] = useState('')
  const [most, setMost] = useState(SHOWN)
  const set = (place: number, card: PriceCard) => onChange(cards.map((one, other) => (other === place ? card : one)))
  const fits = cards
    .map((card, place): [PriceCard, number] => [card, place])
    .filter(([card]) => String(card.model).includes(search.trim().toLowerCase()))
  return (
    <>
      <p class="muted">
        Dollars, as decimal numbers: for a million tokens, an hour of audio or video, or one piece. Without a price of
        its own, cached input costs what input costs, and reasoning what output costs. A request is then free.
      </p>
      <div class="filters">
        {cards.length > 5 && (
          <Typed
            label="Find a card"
            type="search"
            value={search}
            placeholder="Part of a model's name"
            onGive={setSearch}
          />
        )}
        <button
          type="button"
          onClick={() => {
            setSearch('')
            onChange([{ model: '' }, ...cards])
          }}
        >
          Add a card
        </button>
      </div>
      {fits.length === 0 && <Empty title="No card">{search ? 'Search for another one.' : 'Nothing is sold so.'}</Empty>}
      {fits.slice(0, most).map(([card, place]) => (
        <fieldset key={place} class="price-card" aria-label={card.model || 'A new card'}>
          <div class="price-card-head">
            <Field
              label="Model"
              name={`cards[${place}].model`}
              required
              value={card.model}
              placeholder="gpt-6, or open/*"
              autocomplete="off"
              spellcheck={false}
              onInput={(event) => set(place, { ...card, model: event.currentTarget.value.trim() })}
            />
            <button
              type="button"
              class="danger-quiet"
              aria-label={`Remove the card ${card.model}`}
              onClick={() => onChange(cards.filter((_, other) => other !== place))}
            >
              Remove
            </button>
          </div>
          {card.rows ? (
            card.rows.map((row, index) => (
              <div key={index} class="price-row">
                <p class="muted small">
                  {[
                    `Tier ${String(row['service'] ?? 'standard')}`,
                    Number(row['over'] ?? 0) > 0 && `prompts over ${number(String(row['over']))} tokens`,
                  ]
                    .filter(Boolean)
                    .join(', ')}
                </p>
                <PriceFields
                  at={`cards[${place}].rows[${index}]`}
                  of={row}
                  onChange={(changed) =>
                    set(place, { ...card, rows: card.rows?.map((one, other) => (other === index ? changed : one)) ?? [] })
                  }
                />
              </div>
            ))
          ) : (
            <PriceFields
              at={`cards[${place}]`}
              of={card}
              onChange={(changed) => set(place, { ...changed, model: card.model })}
            />
          )}
        </fieldset>
      ))}
      {fits.length > most && (
        <p class="more">
          <button type="button" onClick={() => setMost(most + SHOWN)}>
            Show more of {number(fits.length)} cards
          </button>
        </p>
      )}
    </>
  )
}
