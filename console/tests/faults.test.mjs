// When something goes wrong: what the server said stands on the page, what was shown stays, and there is a way on.
import { after, before, test } from 'node:test'
import assert from 'node:assert/strict'
import { close, PASSWORD, signIn, start, visit } from './harness.mjs'

let server
before(async () => {
  server = await start()
  for (const name of ['fault', 'other'])
    await post('/api/auth/register', { email: `${name}@example.com`, password: PASSWORD, username: name })
})
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
const refused = (status, error, message) => ({
  status,
  contentType: 'application/json',
  body: JSON.stringify({ error, message, request_id: 'req-01a22d3f-46bb-74d0-b22c-3e20ed8d4420' }),
})

test('a refusal stands beside its field, in the words of the server', async () => {
  const { page, clean, leave, expected } = await visit()
  expected.push(/status of 400/)
  await page.goto(`${server.url}/console/sign-up`)
  await page.getByLabel('Name').fill('common')
  await page.getByLabel('Email').fill('common@example.com')
  await page.getByLabel('Password').fill('password1234')
  await page.getByRole('button', { name: 'Make the account' }).click()
  const field = page.getByLabel('Password')
  await page.locator('.field .wrong').waitFor()
  assert.equal(await field.getAttribute('aria-invalid'), 'true')
  assert.equal(await field.evaluate((element) => element === document.activeElement), true)
  assert.ok((await page.locator(`#${await field.getAttribute('aria-describedby')}`).innerText()).length > 10)
  clean()
  await leave()
})

test('what fails says so, and what was shown stays', async () => {
  const { page, clean, leave, expected } = await visit()
  expected.push(/status of 503/, /ERR_FAILED/)
  await signIn(page, server.url, 'fault@example.com')
  await page.route('**/api/monitoring/usage*', (route) =>
    route.fulfill(
      refused(503, 'Service unavailable', 'The database does not answer. Nothing was changed; try again.'),
    ),
  )
  await page.getByRole('navigation').getByRole('link', { name: 'Usage' }).click()
  await page.getByText('The database does not answer. Nothing was changed; try again.').waitFor()
  await page.getByText('req-01a22d3f').waitFor()
  await page.unroute('**/api/monitoring/usage*')
  // The list of keys is there; then the connection breaks while it is read again.
  await page.getByRole('navigation').getByRole('link', { name: 'Security' }).click()
  await page.getByRole('region', { name: 'Sessions' }).waitFor()
  await page.route('**/api/auth/**', (route) => route.abort())
  await page.getByLabel('Current password').fill(PASSWORD)
  await page.getByLabel('New password').fill('AnotherPassword123!')
  await page.getByRole('button', { name: 'Change the password' }).click()
  await page.getByText('The server could not be reached.').waitFor()
  assert.equal(await page.getByRole('region', { name: 'Sessions' }).count(), 1)
  clean()
  await leave()
})

test('what matters asks for the password again, and then goes on', async () => {
  const { page, clean, leave, expected } = await visit()
  expected.push(/status of 403/, /status of 401/)
  await post('/api/auth/login', { email: 'fault@example.com', password: PASSWORD })
  await signIn(page, server.url, 'fault@example.com')
  let times = 0
  await page.route('**/api/auth/logout-all', (route) =>
    times++ === 0 ? route.fulfill(refused(403, 'Confirmation required', 'Confirm it.')) : route.continue(),
  )
  await page.getByRole('navigation').getByRole('link', { name: 'Security' }).click()
  await page.getByRole('button', { name: 'End all' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'End all' }).click()
  const dialog = page.getByRole('dialog', { name: 'Confirm that it is you' })
  await dialog.getByLabel('Password').fill('not the password')
  await dialog.getByRole('button', { name: 'Confirm' }).click()
  await dialog.getByRole('alert').waitFor()
  await dialog.getByLabel('Password').fill(PASSWORD)
  await dialog.getByRole('button', { name: 'Confirm' }).click()
  await page.getByRole('heading', { level: 1, name: 'Sign in' }).waitFor()
  assert.equal(times, 2)
  clean()
  await leave()
})

test('a session that has ended leads to the sign-in, and from there back', async () => {
  const { page, context, clean, leave, expected } = await visit()
  expected.push(/status of 401/)
  await signIn(page, server.url, 'other@example.com')
  await page.goto(`${server.url}/console/ledger?kind=top_up`)
  await page.getByText('No entry is like this').waitFor()
  await context.clearCookies()
  await page.getByRole('navigation').getByRole('link', { name: 'Calls' }).click()
  await page.getByRole('heading', { level: 1, name: 'Sign in' }).waitFor()
  await page.getByLabel('Email').fill('other@example.com')
  await page.getByLabel('Password').fill(PASSWORD)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('heading', { level: 1, name: 'Calls' }).waitFor()
  clean()
  await leave()
})

test('nothing of an account is left after it signs out', async () => {
  const { page, context, clean, leave } = await visit()
  await signIn(page, server.url, 'other@example.com')
  const cookies = await context.cookies()
  assert.deepEqual(
    cookies.map(({ name, httpOnly, secure, sameSite }) => ({ name, httpOnly, secure, sameSite })),
    [{ name: '__Host-polysystems', httpOnly: true, secure: true, sameSite: 'Strict' }],
  )
  assert.equal(await page.evaluate(() => document.cookie), '')
  await page.locator('summary[aria-label^="Signed in"]').click()
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByRole('heading', { level: 1, name: 'Sign in' }).waitFor()
  assert.deepEqual(await context.cookies(), [])
  assert.deepEqual(await page.evaluate(() => [Object.entries(localStorage), Object.entries(sessionStorage)]), [
    [],
    [],
  ])
  assert.equal(await page.getByText('other@example.com').count(), 0)
  clean()
  await leave()
})

test('a page that was opened before an upgrade reads itself again', async () => {
  const { page, leave, expected } = await visit()
  expected.push(/./)
  let missing = 0
  await page.route('**/console/assets/pages-*.js', (route) =>
    missing++ === 0 ? route.fulfill({ status: 404, body: '' }) : route.continue(),
  )
  await signIn(page, server.url, 'other@example.com')
  assert.ok(missing >= 2)
  await leave()
})

test('the dialog gives the focus back', async () => {
  const { page, clean, leave } = await visit()
  await signIn(page, server.url, 'other@example.com')
  await page.goto(`${server.url}/console/webhooks`)
  const opener = page.getByRole('button', { name: 'Add an endpoint' }).first()
  await opener.focus()
  await page.keyboard.press('Enter')
  await page.getByRole('dialog').waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'detached' })
  assert.equal(await opener.evaluate((element) => element === document.activeElement), true)
  clean()
  await leave()
})
