// What people come for, from the first page to the last, on a server that runs: a stranger who becomes a customer,
// and an operator who helps them. Each way is walked by mouse, and by keyboard alone.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { close, code, OPERATOR, PASSWORD, start, until, visit } from './harness.mjs'
import { keyboard, mouse } from './hands.mjs'

let server
before(async () => (server = await start()))
after(async () => {
  await close()
  await server?.stop()
})

const post = (path, body, headers = {}) =>
  fetch(server.url + path, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', ...headers },
  })
const call = (key) =>
  post(
    '/v1/chat/completions',
    { messages: [{ role: 'user', content: 'Hello!' }] },
    { Authorization: `Bearer ${key}` },
  )

/** An amount as it is shown, in nano-dollars. */
function nano(shown) {
  const [, sign, whole, part = ''] = /([+\u2212]?)\$([\d,]+)(?:\.(\d+))?/.exec(shown)
  const size = BigInt(whole.replace(/,/g, '')) * 1_000_000_000n + BigInt(part.padEnd(9, '0'))
  return sign === '\u2212' ? -size : size
}

for (const hand of [mouse, keyboard]) {
  test(`a stranger becomes a customer, ${hand.name}`, async () => {
    const { page, clean, leave, expected } = await visit()
    const email = `${hand === mouse ? 'mouse' : 'keys'}@example.com`
    const button = (name) => page.getByRole('button', { name, exact: true })
    const link = (name) => page.getByRole('link', { name, exact: true })
    const heading = (name) => page.getByRole('heading', { level: 1, name, exact: true }).waitFor()
    const go = async (name) => {
      await hand.press(page.getByRole('navigation').getByRole('link', { name, exact: true }))
      await heading(name)
    }
    const signIn = async () => {
      await hand.fill(page.getByLabel('Email'), email)
      await hand.fill(page.getByLabel('Password'), PASSWORD)
      await hand.press(button('Sign in'))
    }

    // The root of the server leads here, and here to the first page.
    await page.goto(`${server.url}/`)
    await heading('Sign in')
    await hand.press(link('Make an account'))
    await hand.fill(page.getByLabel('Name'), email.split('@')[0])
    await hand.fill(page.getByLabel('Email'), email)
    await hand.fill(page.getByLabel('Password'), PASSWORD)
    await hand.press(button('Make the account'))
    await heading('Overview')

    // The link of the letter verifies the address, and ends the session.
    const letter = await server.letter(email, 'verify')
    const verify = /https?:\/\/\S+\/console\/verify#token=\S+/.exec(letter)?.[0]
    assert.ok(verify, `no link in the letter:\n${letter}`)
    await page.goto(verify)
    await hand.press(button('Verify'))
    await page.getByText('Your address is verified').waitFor()
    await signIn()
    await heading('Overview')
    assert.equal(await page.getByText('Verify your address', { exact: true }).count(), 0)

    // Credits.
    await go('Top up')
    await hand.press(button('$25'))
    await hand.press(button('Add credits'))
    await page.getByText('$25.00 added').waitFor()
    const receipt = await page.request.get(server.url + (await link('JSON').getAttribute('href')))
    assert.equal(receipt.status(), 200)

    // A key with a limit, shown this one time.
    await go('Keys')
    await hand.press(link('Make a key').first())
    await heading('Make a key')
    await hand.fill(page.getByLabel('Name'), 'First program')
    await hand.fill(page.getByLabel('In all'), '1.00')
    await hand.press(button('Make the key'))
    await heading('The key is made')
    const value = await page.locator('.secret-line code').innerText()
    assert.match(value, /^ps_live_/)
    assert.match(await page.getByRole('tabpanel').innerText(), new RegExp(value))

    // The price before, the cost after.
    await hand.press(link('Try it in the playground'))
    await heading('Playground')
    const price = await page.locator('.price-before').innerText()
    const [least, most = least] = price.split('–').map(nano)
    await hand.press(button('Run'))
    const cost = nano(await page.locator('.cost-after').innerText())
    assert.ok(least <= cost && cost <= most, `${price}, then ${cost}`)
    assert.match(await page.locator('.turn.assistant').innerText(), /simulated answer/)
    const balance = 25_000_000_000n - cost
    assert.ok((await page.locator('.note.good').innerText()).includes('The balance is '))
    assert.equal(nano(/The balance is (\S+)\./.exec(await page.locator('.note.good').innerText())[1]), balance)

    // The same to the last digit in its bill, in the ledger and in the usage.
    await hand.press(link('The bill'))
    await heading('One call')
    assert.equal(nano(await page.locator('tfoot .total td').innerText()), cost)
    await go('Ledger')
    const rows = page.getByRole('region', { name: 'Entries' }).locator('tbody tr')
    await until('two entries', async () => (await rows.count()) === 2)
    assert.equal(nano(await rows.nth(0).locator('td').nth(5).innerText()), -cost)
    assert.equal(nano(await rows.nth(0).locator('td').nth(6).innerText()), balance)
    assert.equal(nano(await rows.nth(1).locator('td').nth(5).innerText()), 25_000_000_000n)
    await go('Usage')
    await page.getByRole('region', { name: 'Groups' }).waitFor()
    assert.equal(
      nano(await page.getByRole('region', { name: 'Groups' }).locator('tbody td').nth(1).innerText()),
      cost,
    )

    // The limit of the key is kept: it is written where one looks for it.
    await go('Keys')
    await hand.press(link('First program'))
    await heading('First program')
    await page.getByText('of $1.00').waitFor()

    // Revoked: the next call is refused.
    assert.equal((await call(value)).status, 200)
    await hand.press(button('Revoke'))
    await page.getByRole('dialog').waitFor()
    await hand.press(page.getByRole('dialog').getByRole('button', { name: 'Revoke' }))
    await page.getByText('The key is revoked.').waitFor()
    await page.locator('.badge', { hasText: 'Revoked' }).waitFor()
    assert.equal((await call(value)).status, 401)

    // A second factor, and the way in with it.
    await go('Security')
    await hand.press(button('Set it up'))
    await hand.fill(page.getByRole('dialog').getByLabel('Password'), PASSWORD)
    await hand.press(button('Go on'))
    await page.getByAltText('The secret as a QR code').waitFor()
    await hand.press(page.getByText('I cannot scan it'))
    const secret = await page.getByRole('dialog').locator('.secret-line code').innerText()
    // What was written before stands in no other field.
    assert.equal(await page.getByRole('dialog').getByLabel('Code').inputValue(), '')
    await hand.fill(page.getByRole('dialog').getByLabel('Code'), code(secret))
    await hand.press(button('Switch it on'))
    const recovery = await page.locator('.codes code').first().innerText()
    await hand.press(button('I have saved them'))
    await page.getByText('recovery codes are left').waitFor()
    await hand.press(page.locator('summary[aria-label^="Signed in"]'))
    await hand.press(button('Sign out'))
    await heading('Sign in')
    await signIn()
    await heading('Second factor')
    assert.equal(await page.getByLabel('Code').inputValue(), '')
    expected.push(/status of 401/)
    await hand.fill(page.getByLabel('Code'), 'not-a-code')
    await hand.press(button('Sign in'))
    await page.getByRole('alert').waitFor()
    await hand.fill(page.getByLabel('Code'), recovery)
    await hand.press(button('Sign in'))
    await page.getByRole('navigation').waitFor()

    // All that the server has of them.
    await go('Account')
    const file = await page.request.get(server.url + (await link('Save everything').getAttribute('href')))
    assert.equal((await file.json()).user.email, email)
    clean()
    await leave()
  })
}

test('a stream is stopped, and its cost is told', async () => {
  const { page, context, clean, leave } = await visit()
  await post('/api/auth/register', { email: 'stop@example.com', password: PASSWORD, username: 'stop' })
  const { token } = await (await post('/api/auth/login', { email: 'stop@example.com', password: PASSWORD })).json()
  await post('/api/payments/payments', { amount: 25 }, { Authorization: `Bearer ${token}` })
  await page.goto(`${server.url}/console/sign-in?next=/playground`)
  await page.getByLabel('Email').fill('stop@example.com')
  await page.getByLabel('Password').fill(PASSWORD)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('button', { name: 'Make a key for this page' }).click()
  await page.locator('.price-before').waitFor()
  // A connection so slow that the answer is still on its way.
  const network = await context.newCDPSession(page)
  const slow = (bytes) =>
    network.send('Network.emulateNetworkConditions', {
      offline: false,
      latency: 0,
      downloadThroughput: bytes,
      uploadThroughput: -1,
    })
  await slow(1024)
  await page.getByRole('button', { name: 'Run' }).click()
  await page.locator('.turn.assistant', { hasText: 'This is' }).waitFor()
  await page.getByRole('button', { name: 'Stop' }).click()
  await slow(-1)
  await page.getByText('Stopped').waitFor()
  const cost = await page.locator('.cost-after').innerText()
  await page.getByRole('link', { name: 'The bill' }).click()
  assert.equal(await page.locator('tfoot .total td').innerText(), cost)
  clean()
  await leave()
})

for (const hand of [mouse, keyboard]) {
  test(`an operator helps a customer, ${hand.name}`, async () => {
    const name = hand === mouse ? 'anna' : 'boris'
    await post('/api/auth/register', { email: `${name}@example.com`, password: PASSWORD, username: name })
    const { token } = await (
      await post('/api/auth/login', { email: `${name}@example.com`, password: PASSWORD })
    ).json()
    const bearer = { Authorization: `Bearer ${token}` }
    await post('/api/payments/payments', { amount: 10 }, bearer)
    const key = await (await post('/api/keys', { name: 'Bot' }, bearer)).json()
    assert.equal((await call(key.key_value)).status, 200)

    secret ??= await server.operator()
    const { page, clean, leave } = await visit()
    const button = (words) => page.getByRole('button', { name: words, exact: true })
    await page.goto(`${server.url}/console/`)
    await hand.fill(page.getByLabel('Email'), OPERATOR)
    await hand.fill(page.getByLabel('Password'), PASSWORD)
    await hand.press(button('Sign in'))
    await hand.fill(page.getByLabel('Code'), await nextCode())
    await hand.press(button('Sign in'))

    // Found by what the customer can read out: the preview of the key.
    await hand.press(page.getByRole('navigation').getByRole('link', { name: 'Users' }))
    await hand.fill(page.getByLabel('Search'), key.key_value_preview)
    await page.keyboard.press('Enter')
    await hand.press(page.getByRole('region', { name: 'Found' }).getByRole('link').first())
    await page.getByRole('heading', { level: 1, name }).waitFor()
    await page.getByRole('region', { name: 'Ledger' }).getByText('+$10.00').waitFor()

    const dialog = page.getByRole('dialog')
    await hand.press(button('Credits'))
    await hand.fill(dialog.getByLabel('Amount'), '5.00')
    await hand.fill(dialog.getByLabel('Reason'), 'for the trouble of yesterday')
    await hand.press(dialog.getByRole('button', { name: 'Book it' }))
    await page.getByRole('region', { name: 'Ledger' }).getByText('+$5.00').waitFor()

    await hand.press(button('Suspend'))
    await hand.fill(dialog.getByLabel('Reason'), 'looks stolen')
    await hand.press(dialog.getByRole('button', { name: 'Suspend' }))
    await page.locator('.badge', { hasText: 'Suspended' }).first().waitFor()
    assert.equal((await call(key.key_value)).status, 403)
    await hand.press(button('Resume'))
    await hand.fill(dialog.getByLabel('Reason'), 'it was not')
    await hand.press(dialog.getByRole('button', { name: 'Resume' }))
    await button('Suspend').waitFor()
    assert.equal((await call(key.key_value)).status, 200)

    // All of it stands in the audit log, with its reasons.
    await hand.press(page.getByRole('navigation').getByRole('link', { name: 'Audit log' }))
    for (const words of ['for the trouble of yesterday', 'looks stolen', 'it was not']) {
      await page.getByRole('region', { name: 'Acts' }).getByText(words).first().waitFor()
    }
    clean()
    await leave()
  })
}

for (const hand of [mouse, keyboard]) {
  test(`an operator changes a price, ${hand.name}`, async () => {
    // A provider that counts a thousand tokens in and a hundred out.
    const provider = createServer((request, answer) => {
      request.resume().on('end', () => {
        answer.setHeader('Content-Type', 'application/json')
        answer.end(
          JSON.stringify({
            choices: [{ message: { role: 'assistant', content: 'Hello!' } }],
            usage: { prompt_tokens: 1000, completion_tokens: 100 },
          }),
        )
      })
    }).listen(0, '127.0.0.1')
    await once(provider, 'listening')
    const shop = await start({ settings: { POLYSYSTEMS_PRICING__NOTICE_SECONDS: '1' } })
    try {
      const at = async (path, body, headers = {}) => {
        const answer = await fetch(shop.url + path, {
          method: 'POST',
          body: JSON.stringify(body),
          headers: { 'Content-Type': 'application/json', ...headers },
        })
        assert.ok(answer.ok, `${path}: ${await answer.clone().text()}`)
        return answer
      }
      const customer = { email: 'anna@example.com', password: PASSWORD, username: 'anna' }
      await at('/api/auth/register', customer)
      const { token } = await (await at('/api/auth/login', { email: customer.email, password: PASSWORD })).json()
      const bearer = { Authorization: `Bearer ${token}` }
      await at('/api/payments/payments', { amount: 10 }, bearer)
      const key = await (await at('/api/keys', { name: 'Bot' }, bearer)).json()
      const secret = await shop.operator(async (send) => {
        const catalogue = {
          providers: [
            {
              name: 'p',
              dialect: 'openai',
              url: `http://127.0.0.1:${provider.address().port}/v1`,
              allow_private: true,
            },
          ],
          credentials: [{ name: 'main', provider: 'p' }],
          models: [{ name: 'small', max_input: 4000, max_output: 1000, targets: [{ credential: 'main' }] }],
        }
        await send('/api/admin/catalogue', catalogue, 'PUT', { 'If-Match': '"rev-0"' })
      })
      /** What a call costs, once the model is sold for this much a million tokens in. */
      const cost = async (input) => {
        await until(
          `the price ${input}`,
          async () => {
            const { models } = await (await fetch(`${shop.url}/api/pricing?model=small`)).json()
            return models[0]?.card.input === input
          },
          600,
        )
        const answer = await at(
          '/v1/chat/completions',
          { model: 'small', messages: [{ role: 'user', content: 'Hello!' }] },
          { Authorization: `Bearer ${key.key_value}` },
        )
        return answer.headers.get('x-polysystems-cost')
      }
      const { page, clean, leave, expected } = await visit()
      const button = (words) => page.getByRole('button', { name: words, exact: true })
      const link = (words) => page.getByRole('link', { name: words, exact: true })
      const price = (words) => page.getByLabel(words, { exact: true })
      const dialog = page.getByRole('dialog')
      await page.goto(`${shop.url}/console/`)
      await hand.fill(page.getByLabel('Email'), OPERATOR)
      await hand.fill(page.getByLabel('Password'), PASSWORD)
      await hand.press(button('Sign in'))
      await hand.fill(page.getByLabel('Code'), code(secret, 1))
      await hand.press(button('Sign in'))
      const publish = async () => {
        await hand.press(button('Publish'))
        await hand.press(dialog.getByRole('button', { name: 'Publish' }))
        await page.getByRole('region', { name: 'Versions' }).waitFor()
      }

      await hand.press(page.getByRole('navigation').getByRole('link', { name: 'Prices', exact: true }))
      await hand.press(link('default'))
      await hand.press(link('New draft'))
      await hand.press(button('Add a card'))
      await hand.fill(price('Model'), 'small')
      // What the server refuses stands beside its field.
      await hand.fill(price('Input'), '10 dollars')
      await hand.fill(price('Output'), '50')
      expected.push(/status of 400/)
      await hand.press(button('Save as a draft'))
      await page.locator('.wrong').waitFor()
      assert.equal(await price('Input').getAttribute('aria-invalid'), 'true')
      await hand.fill(price('Input'), '10')
      await hand.press(button('Save as a draft'))
      const differs = page.getByRole('region', { name: 'Differences' })
      await differs.getByText('New').first().waitFor()
      await publish()
      assert.equal(Number(await cost('10')), 0.015)

      // Another price: what changes, what the last call would have cost, and what the next one does.
      await page.reload()
      await hand.press(link('New draft'))
      await hand.fill(price('Input'), '20.5')
      await hand.press(button('Save as a draft'))
      await differs.getByText('+105.00 %').waitFor()
      const last = page.getByRole('region', { name: 'The last calls by model' })
      await last.getByText('$0.0255').waitFor()
      await publish()
      assert.equal(Number(await cost('20.5')), 0.0255)
      clean()
      await leave()
    } finally {
      await shop.stop()
      provider.close()
    }
  })
}

let secret
let used = 0
/** A code that was not used before: each works once. */
async function nextCode() {
  return until(
    'the next code',
    () => {
      const step = Math.floor(Date.now() / 30_000)
      if (step + 1 <= used) return undefined
      const later = used === 0 ? 1 : Math.max(used + 1 - step, 0)
      if (later > 1) return undefined
      used = step + later
      return code(secret, later)
    },
    1200,
  )
}
