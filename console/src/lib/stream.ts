// Server-sent events of a model's answer, and the comment at their end that has the bill.
import { parse } from './json'
import type { Exact } from './json'

export interface StreamBill {
  cost?: Exact
  balance?: Exact
  request_id?: string
  ended_by?: string
}
export interface Piece {
  text?: string
  finish?: string
  error?: string
  bill?: StreamBill
  usage?: { prompt_tokens?: number; completion_tokens?: number }
}

type Chunk = {
  choices?: { delta?: { content?: string | null }; text?: string; finish_reason?: string | null }[]
  usage?: Piece['usage'] | null
  error?: { message?: string } | string
}

function piece(line: string): Piece | undefined {
  if (line.startsWith(': polysystems ')) return { bill: parse(line.slice(': polysystems '.length)) as StreamBill }
  if (!line.startsWith('data:')) return undefined
  const data = line.slice(5).trim()
  if (!data || data === '[DONE]') return undefined
  const chunk = parse(data) as Chunk
  const first = chunk.choices?.[0]
  const found: Piece = {}
  const text = first?.delta?.content ?? first?.text
  if (text) found.text = text
  if (first?.finish_reason) found.finish = first.finish_reason
  if (chunk.usage) found.usage = chunk.usage
  if (chunk.error)
    found.error = typeof chunk.error === 'string' ? chunk.error : (chunk.error.message ?? 'The stream broke off.')
  return found
}

/** Reads a stream line by line. */
async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true })
      const whole = rest.split(/\r?\n/)
      rest = done ? '' : (whole.pop() ?? '')
      yield* whole
      if (done) return
    }
  } finally {
    reader.releaseLock()
  }
}

/** Reads a stream piece by piece. */
export async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<Piece> {
  for await (const line of lines(body)) {
    const found = piece(line)
    if (found) yield found
  }
}

/** Reads a stream event by event; each has one line of data. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<{ name: string; data: unknown }> {
  let name = ''
  for await (const line of lines(body)) {
    if (line.startsWith('event: ')) name = line.slice('event: '.length)
    else if (line.startsWith('data: ')) yield { name, data: parse(line.slice('data: '.length)) }
  }
}
