// Each page in two themes and two widths: nothing for the accessibility checker, nothing wider than the screen, nothing
// in the console of the browser. With CONSOLE_PICTURES=FOLDER, a picture of each in three widths.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { mkdir } from 'node:fs/promises'
import { close, code, findings, OPERATOR, PASSWORD, settled, signIn, start, until, visit } from './harness.mjs'

const PICTURES = process.env.CONSOLE_PICTURES
const WIDTHS = PICTURES ? [390, 820, 1280] : [390, 1280]

let server
const ids = {}
before(async () => {
  server = await start()
  const post = async (path, body, headers = {}) => {
    const answer = await fetch(server.url + path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'Content-Type': 'application/json', ...headers },
    })
    return answer.json()
  }
  await post('/api/auth/register', {
    email: 'rich@example.com',
    password: PASSWORD,
    username: 'maximiliane.von.hohenstein-wertheim',
  })
  const { token } = await post('/api/auth/login', { email: 'rich@example.com', password: PASSWORD })
  const bearer = { Authorization: `Bearer ${token}` }
  for (let count = 0; count < 12; count++)
    ids.payment = (await post('/api/payments/payments', { amount: 99999.99 }, bearer)).id
  const key = await post(
    '/api/keys',
    {
      name: 'A very long name of a key that somebody gave to a program for the nightly evaluation',
      limits: { daily_limit: 0.01, total_limit: 12345678.9 },
    },
    bearer,
  )
  await post('/api/keys', { name: 'Idle' }, bearer)
  const models = ['gpt-4o', 'accounts/someone/models/a-very-long-model-name-instruct-2026-11-30-preview', 'o3-mini']
  for (const model of models) {
    const answer = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello!' }] }),
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${key.key_value}` },
    })
    ids.call = answer.headers.get('x-polysystems-charge') ?? ids.call
    await answer.text()
  }
  const hook = await post(
    '/api/webhooks',
    {
      url: 'https://hooks.example.com/a/very/long/path/that/somebody/has/made/for/events/of/the/live/account',
      events: ['payment.*', 'balance.low'],
    },
    bearer,
  )
  Object.assign(ids, { key: key.id, webhook: hook.id })
  const me = await (await fetch(`${server.url}/api/auth/me`, { headers: bearer })).json()
  ids.user = me.id
  ids.secret = await server.operator(async (send) => {
    const path = '/api/admin/price-lists/default/versions'
    const long = { model: 'accounts/someone/models/a-very-long-model-name-instruct-2026-11-30-preview' }
    const rows = [
      { input: '1.25', output: '10' },
      { over: 272000, input: '2.50', output: '15' },
      { service: 'priority', input: '2.50', output: '20' },
    ]
    const cards = [
      { model: 'gpt-6', input: '10', output: '50', cache_read: '1', request: '0.0001' },
      { ...long, input: '0.15', output: '0.60' },
      { model: 'long', rows },
    ]
    await send(path, { cards, publish: true })
    const changed = [
      { model: 'gpt-6', input: '12.5', output: '45.123456789', cache_read: '1', request: '0.0001' },
      { model: 'long', rows },
      { model: 'new-model', input: '3', output: '9', reasoning: '12' },
    ]
    ids.draft = (await send(path, { cards: changed })).draft.id
  })
  await post('/api/auth/register', { email: 'new@example.com', password: PASSWORD, username: 'new' })
})
after(async () => {
  await close()
  await server?.stop()
})

const FRONT = ['/sign-in', '/sign-up', '/forgot', '/reset', '/verify']
const OWN = () => [
  '/',
  '/start',
  '/playground',
  '/keys',
  '/keys/new',
  `/keys/${ids.key}`,
  '/usage',
  '/usage?metric=p95&by=key',
  '/calls',
  `/calls/${ids.call}`,
  '/top-up',
  `/payments/${ids.payment}`,
  '/methods',
  '/ledger',
  '/statements',
  '/webhooks',
  `/webhooks/${ids.webhook}`,
  '/security',
  '/activity',
  '/notifications',
  '/account',
  '/change-email',
  '/no-such-page',
]
const EMPTY = [
  '/',
  '/start',
  '/keys',
  '/usage',
  '/calls',
  '/top-up',
  '/ledger',
  '/statements',
  '/webhooks',
  '/?environment=test',
]
const OPERATE = () => [
  '/operate',
  '/operate/users',
  `/operate/users/${ids.user}`,
  `/operate/users/${ids.user}?part=calls`,
  '/operate/revenue',
  '/operate/revenue?metric=liability&by=kind',
  '/operate/usage',
  '/operate/usage?by=user',
  '/operate/payments',
  `/operate/payments/${ids.payment}`,
  '/operate/margins',
  '/operate/models',
  '/operate/prices',
  '/operate/prices/default',
  '/operate/prices/default/new',
  `/operate/prices/default/${ids.draft}`,
  `/operate/users/${ids.user}?part=limits`,
  `/operate/users/${ids.user}?part=webhooks`,
  '/operate/live',
  '/operate/verification',
  '/operate/webhooks',
  '/operate/settings',
  '/operate/audit',
]

const name = (path) =>
  path
    .replace(/(key|req|pay|user|hook)-[\w-]+/, 'one')
    .replace(/[^\w]+/g, '_')
    .replace(/^_$/, '_overview')

/** Looks at pages of one account in one theme. */
async function look(kind, theme, enter, paths) {
  const wrong = []
  // Once as it is, and once without the policy, which would keep the checker out.
  for (const checks of [false, true]) {
    const { page, clean, leave } = await visit({ colorScheme: theme, bypassCSP: checks })
    await enter(page)
    for (const path of paths) {
      await page.goto(`${server.url}/console${path}`)
      await settled(page)
      for (const width of checks ? [390, 1280] : WIDTHS) {
        await page.setViewportSize({ width, height: width < 600 ? 844 : 900 })
        if (checks) for (const finding of await findings(page)) wrong.push(`${path} ${width}: ${finding}`)
        const over = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        )
        if (over > 0) wrong.push(`${path} ${width}: ${over} pixels too wide`)
        if (PICTURES && !checks) {
          await mkdir(`${PICTURES}/${kind}`, { recursive: true })
          await page.screenshot({ path: `${PICTURES}/${kind}/${name(path)}-${theme}-${width}.png`, fullPage: true })
        }
      }
    }
    clean()
    await leave()
  }
  assert.deepEqual(wrong, [])
}

for (const theme of ['light', 'dark']) {
  test(`the pages before the session, ${theme}`, () => look('front', theme, async () => {}, FRONT))
  test(`the pages of a customer, ${theme}`, () =>
    look('own', theme, (page) => signIn(page, server.url, 'rich@example.com'), OWN()))
  test(`the pages of somebody new, ${theme}`, () =>
    look('new', theme, (page) => signIn(page, server.url, 'new@example.com'), EMPTY))
  test(`the pages of an operator, ${theme}`, () =>
    look(
      'operate',
      theme,
      async (page) => {
        await page.goto(`${server.url}/console/sign-in`)
        await page.getByLabel('Email').fill(OPERATOR)
        await page.getByLabel('Password').fill(PASSWORD)
        await page.getByRole('button', { name: 'Sign in' }).click()
        await page.getByLabel('Code').fill(await nextCode())
        await page.getByRole('button', { name: 'Sign in' }).click()
        await page.getByRole('navigation').first().waitFor({ state: 'attached' })
      },
      OPERATE(),
    ))
}

let used = 0
/** A code that was not used before: each works once. */
function nextCode() {
  return until(
    'the next code',
    () => {
      const step = Math.floor(Date.now() / 30_000)
      const later = used === 0 ? 1 : Math.max(used + 1 - step, 0)
      if (later > 1) return undefined
      used = step + later
      return code(ids.secret, later)
    },
    1600,
  )
}
