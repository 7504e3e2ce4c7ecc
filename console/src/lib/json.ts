// JSON without a lost digit. `JSON.parse` makes doubles of numbers; an amount of money must not become one.

/** A number of a document as its text: `"24.9953199"`. Whole numbers of up to 15 digits stay numbers. */
export type Exact = string | number

const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g
const WHOLE = /^-?\d{1,15}$/

/** Parses JSON. Numbers with a fraction, an exponent or more than 15 digits come as strings of their own digits. */
export function parse(text: string): unknown {
  return JSON.parse(text.replace(TOKENS, (token) => (token[0] === '"' || WHOLE.test(token) ? token : `"${token}"`)))
}

/** A number that is written into a document digit by digit. */
export class Digits {
  constructor(readonly text: string) {
    if (!/^-?\d+(\.\d+)?$/.test(text)) throw new Error(`not a plain decimal number: ${text}`)
  }
}

/** Writes JSON; `Digits` stand in it as numbers, exact. */
export function stringify(value: unknown): string {
  const marked = JSON.stringify(value, (_, part: unknown) =>
    part instanceof Digits ? `\u0001${part.text}\u0001` : part,
  )
  return marked.replace(/"\\u0001([-\d.]+)\\u0001"/g, '$1')
}
