// The rules of numbers: no digit is lost between the server and the eye.
import { before, test } from 'node:test'
import assert from 'node:assert/strict'
import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'

let lib
before(async () => {
  const made = await build({
    stdin: {
      contents:
        "export * as json from './json'; export * as money from './money'; export * as usage from './usage'; " +
        "export { pieces } from './stream'",
      resolveDir: fileURLToPath(new URL('../src/lib', import.meta.url)),
      loader: 'ts',
    },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'neutral',
  })
  lib = await import(`data:text/javascript;base64,${Buffer.from(made.outputFiles[0].text).toString('base64')}`)
})

test('numbers keep their digits', () => {
  const { parse, stringify, Digits } = lib.json
  const text =
    '{"a":24.9953199,"b":0.000000001,"c":12345678901234567890,"d":25,' +
    '"e":-0.10,"f":"1.50 and \\"2.5\\"","g":[1.5e3,true,null]}'
  assert.deepEqual(parse(text), {
    a: '24.9953199',
    b: '0.000000001',
    c: '12345678901234567890',
    d: 25,
    e: '-0.10',
    f: '1.50 and "2.5"',
    g: ['1.5e3', true, null],
  })
  assert.equal(
    stringify({ amount: new Digits('90071992547409.931'), note: '1.5', none: null }),
    '{"amount":90071992547409.931,"note":"1.5","none":null}',
  )
  assert.throws(() => new Digits('1e9'))
})

test('amounts are shown exactly, and never as more than there is', () => {
  const { exact, short, nano, text, sum, typed, percent, editable, digits } = lib.money
  assert.equal(exact('24.9953199'), '$24.9953199')
  assert.equal(exact('25.0000'), '$25.00')
  assert.equal(exact('-0.00224'), '\u2212$0.00224')
  assert.equal(exact('9007199254740993.000000001'), '$9,007,199,254,740,993.000000001')
  assert.equal(short('24.9999'), '$24.99')
  assert.equal(short('0.00224'), '$0.00224')
  assert.equal(short('-1.999'), '\u2212$1.99')
  assert.equal(text(nano('1234567890.000000010')), '1234567890.00000001')
  assert.equal(text(nano(-25)), '-25')
  assert.equal(sum(['0.1', '0.2', '0.000000001']), '0.300000001')
  assert.equal(typed('$1,000.50').text, '1000.50')
  for (const wrong of ['', '1.2.3', '-1', '1e3', 'ten', '1.0000000001']) assert.equal(typed(wrong), undefined)
  assert.equal(percent('0.0333', '0.05'), 66.6)
  assert.equal(percent('1', '0'), 100)
  assert.equal(editable('10.0000'), '10.00')
  assert.equal(digits(['1', '0.00342', '0.0033']), 5)
  // A part of a bill, before the sum is rounded.
  assert.equal(exact('0.000000112500'), '$0.0000001125')
  assert.equal(digits(['0.000000112500']), 10)
})

test('a chart has every period, and others as one', () => {
  const { periods, series, csv } = lib.usage
  const use = (cost) => ({
    calls: 1,
    errors: 0,
    error_rate: '0',
    cost,
    prompt_tokens: 0,
    completion_tokens: 0,
    latency_ms: {},
  })
  const usage = {
    from: '2026-02-26T00:00:00Z',
    until: '2026-03-02T00:00:00Z',
    interval: 'day',
    totals: use('9'),
    groups: Array.from({ length: 9 }, (_, index) => ({ group: `m${index}`, ...use(String(9 - index)) })),
    series: Array.from({ length: 9 }, (_, index) => ({
      group: `m${index}`,
      period: '2026-02-28T00:00:00Z',
      ...use(String(9 - index)),
    })),
  }
  const times = periods(usage)
  assert.equal(times.length, 4)
  const lines = series(usage, 'cost', times, (group) => group)
  assert.deepEqual(lines.at(-1), { name: 'Others', values: [0, 0, 3, 0], amounts: ['0', '0', '3', '0'] })
  assert.equal(lines.length, 8)
  assert.equal(csv([['=1+1', '-5', 'a,b', '-x']]), '\'=1+1,-5,"a,b",\'-x\r\n')
})

test('a stream is read whatever its pieces', async () => {
  const text =
    'data: {"choices":[{"delta":{"content":"Gr\u00fc\u00dfe"}}]}\r\n\r\n' +
    'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n' +
    ': polysystems {"cost":0.00226,"balance":9.99774}\n\ndata: [DONE]\n\n'
  const bytes = new TextEncoder().encode(text)
  for (const size of [1, 2, 7, 1000]) {
    const body = new ReadableStream({
      start(control) {
        for (let place = 0; place < bytes.length; place += size) control.enqueue(bytes.slice(place, place + size))
        control.close()
      },
    })
    const found = []
    for await (const piece of lib.pieces(body)) found.push(piece)
    assert.deepEqual(found, [
      { text: 'Gr\u00fc\u00dfe' },
      { finish: 'stop' },
      { bill: { cost: '0.00226', balance: '9.99774' } },
    ])
  }
})
