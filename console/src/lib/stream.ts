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

/** Reads a stream piece by piece. */
export async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<Piece> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true })
      const lines = rest.split(/\r?\n/)
      rest = done ? '' : (lines.pop() ?? '')
      for (const line of lines) {
        const found = piece(line)
        if (found) yield found
      }
      if (done) return
    }
  } finally {
    reader.releaseLock()
  }
}
