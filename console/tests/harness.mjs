// A server in a folder of its own, a browser, and what every test of a page looks for: no error in the console of the
// browser, nothing that the policy refused, nothing that an accessibility checker finds.
import { spawn } from 'node:child_process'
import { createHmac, randomUUID } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createServer } from 'node:net'
import assert from 'node:assert/strict'
import { chromium } from 'playwright-core'

const root = fileURLToPath(new URL('../..', import.meta.url))
const PROGRAM = process.env.POLYSYSTEMS_PROGRAM ?? join(root, 'target/release/polysystems')
const AXE = await readFile(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8')

export const PASSWORD = 'SecurePassword123!'
export const OPERATOR = 'ops@example.com'

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address()
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Asks until there is an answer, at most for a while. */
export async function until(what, ask, tries = 300) {
  for (let count = 0; count < tries; count++) {
    const found = await ask()
    if (found) return found
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`waited in vain for ${what}`)
}

function run(program, args, options, input = '') {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: 'pipe', ...options })
    let out = ''
    child.stdout.on('data', (part) => (out += part))
    child.stderr.on('data', (part) => (out += part))
    child.on('error', reject)
    child.on('exit', (code) =>
      code === 0 ? resolve(out) : reject(new Error(`${program} ${args.join(' ')}: ${code}\n${out}`)),
    )
    child.stdin.end(input)
  })
}

/** A new database in the cluster that a URL of PostgreSQL names. */
async function newDatabase(url) {
  const name = `console_${randomUUID().replaceAll('-', '')}`
  await run('psql', [url, '--quiet', '--command', `CREATE DATABASE ${name}`], {})
  return Object.assign(new URL(url), { pathname: name }).href
}

/** A server with a database of its own, until `stop`. `cluster` is a URL of PostgreSQL; without one it is SQLite. */
export async function start({ cluster = process.env.CONSOLE_DATABASE, settings = {} } = {}) {
  const database = cluster && (await newDatabase(cluster))
  const folder = await mkdtemp(join(tmpdir(), 'console-test-'))
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const env = {
    PATH: process.env.PATH,
    POLYSYSTEMS_SERVER__BIND: `127.0.0.1:${port}`,
    POLYSYSTEMS_SERVER__PUBLIC_URL: url,
    ...(database ? { POLYSYSTEMS_DATABASE__URL: database } : {}),
    ...settings,
  }
  let log = ''
  const child = spawn(PROGRAM, ['serve'], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
  child.on('error', (error) => (log += error.message))
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (log += part))
  await until(
    'the server',
    async () => {
      assert.equal(child.exitCode, null, log)
      return fetch(`${url}/health/ready`).then(
        (answer) => answer.ok,
        () => false,
      )
    },
    1200,
  )
  return {
    url,
    log: () => log,
    /** The last letter to somebody whose subject or text has some words. */
    letter: (to, words) =>
      until(`a letter to ${to} with ${words}`, async () => {
        const names = await readdir(join(folder, 'data/mail')).catch(() => [])
        const letters = await Promise.all(
          names
            .sort()
            .reverse()
            .map((name) => readFile(join(folder, 'data/mail', name), 'utf8')),
        )
        const text = letters.find((letter) => letter.includes(`To: ${to}`) && plain(letter).includes(words))
        return text && plain(text)
      }),
    /** An operator with a second factor, who prepares something; answers the secret of the factor. */
    operator: async (prepare) => {
      const made = await run(
        PROGRAM,
        ['user', 'create', '--email', OPERATOR, '--username', 'ops', '--admin'],
        { cwd: folder, env },
        PASSWORD,
      )
      const token = made.trim().split('\n').at(-1).trim()
      const post = async (path, body, bearer, method = 'POST', headers = {}) => {
        const answer = await fetch(url + path, {
          method,
          body: JSON.stringify(body),
          headers: {
            'Content-Type': 'application/json',
            ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}),
            ...headers,
          },
        })
        const text = await answer.text()
        assert.ok(answer.ok, `${path}: ${text}`)
        return JSON.parse(text)
      }
      const { token: bearer } = await post('/api/auth/login', { email: OPERATOR, password: PASSWORD })
      const { secret } = await post('/api/auth/2fa/enroll', { password: PASSWORD }, bearer)
      await post('/api/auth/2fa/confirm', { code: code(secret), token }, bearer)
      await prepare?.((path, body, method, headers) => post(path, body, bearer, method, headers))
      return secret
    },
    stop: async () => {
      if (child.exitCode === null) {
        const gone = new Promise((resolve) => child.once('exit', resolve))
        child.kill('SIGTERM')
        await gone
      }
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** A letter without the marks of its encoding. */
const plain = (letter) =>
  letter.replace(/=\r?\n/g, '').replace(/=([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)))

/** The code of an authenticator app, now or some steps of 30 seconds later. */
export function code(secret, later = 0) {
  const bits = [...secret.replace(/=+$/, '')]
    .map((sign) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(sign).toString(2).padStart(5, '0'))
    .join('')
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)))
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + later))
  const digest = createHmac('sha1', key).update(counter).digest()
  const place = digest[19] & 15
  return String((digest.readUInt32BE(place) & 0x7fffffff) % 1_000_000).padStart(6, '0')
}

let browser
export async function open() {
  browser ??= await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
  })
  return browser
}
export async function close() {
  await browser?.close()
  browser = undefined
}

/** A page whose errors are collected in `wrong`. What a test expects to fail it names in `expected`. */
export async function visit(options = {}) {
  const context = await (
    await open()
  ).newContext({ viewport: { width: 1280, height: 900 }, locale: 'en-US', timezoneId: 'UTC', ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(60_000)
  const wrong = []
  const expected = []
  const note = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) wrong.push(text)
  }
  page.on(
    'console',
    (message) => ['error', 'warning'].includes(message.type()) && note(`${page.url()}: ${message.text()}`),
  )
  page.on('pageerror', (error) => note(`${page.url()}: ${error.message}`))
  await context.exposeFunction('reportViolation', (text) => note(text))
  await context.addInitScript(() =>
    document.addEventListener('securitypolicyviolation', (event) =>
      window.reportViolation(`policy: ${event.violatedDirective} ${event.blockedURI}`),
    ),
  )
  return {
    page,
    context,
    expected,
    /** Fails if anything went wrong in the browser until now. */
    clean: () => assert.deepEqual(wrong, []),
    leave: () => context.close(),
  }
}

/** What a checker finds on the page. The page must not enforce the policy, which would keep the checker out. */
export async function findings(page) {
  await page.evaluate(AXE)
  const { violations } = await page.evaluate(() =>
    window.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    }),
  )
  return violations.map(
    ({ id, nodes }) =>
      `${id}: ${nodes
        .slice(0, 3)
        .map(({ target, failureSummary }) => `${target} (${failureSummary.split('\n').slice(1, 3).join(';').trim()})`)
        .join(' | ')}`,
  )
}

/** Nothing moves on the page: what it asked for has come. */
export async function settled(page) {
  // What is watched goes on and on.
  if (page.url().includes('/operate/live')) await page.getByText('Calls a second').waitFor()
  else await page.waitForLoadState('networkidle')
  await page.waitForFunction(() => !document.querySelector('.waiting'))
}

export async function signIn(page, url, email, password = PASSWORD) {
  await page.goto(`${url}/console/sign-in`)
  await page.getByLabel('Email').fill(email)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
  // What a refusal says is told, and not only that the page did not come.
  const alert = page.getByRole('alert')
  await page.getByRole('heading', { level: 1, name: 'Overview' }).or(alert).first().waitFor()
  if (await alert.isVisible()) throw new Error(await alert.innerText())
}
