// Serves the console while it is being changed, in front of a server that runs already:
//
//     node dev.mjs [http://127.0.0.1:8080] [port]
//
// It builds at each reload of a page, and hands everything else to the server. The headers are those of the server, so
// that what its policy forbids fails here too.
import { createServer, request } from 'node:http'
import { readFile } from 'node:fs/promises'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { make } from './build.mjs'

const server = new URL(process.argv[2] ?? 'http://127.0.0.1:8080')
const port = Number(process.argv[3] ?? 8090)
const out = fileURLToPath(new URL('./.dev', import.meta.url))

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
}
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; " +
    "trusted-types 'none'",
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}

async function file(path, answer) {
  const name = normalize(decodeURIComponent(path.slice('/console/'.length)))
  const isPage = extname(name) === ''
  try {
    if (isPage) await make(out, { minify: false })
    const bytes = await readFile(join(out, isPage ? 'index.html' : name))
    answer
      .writeHead(200, {
        ...HEADERS,
        'Content-Type': TYPES[isPage ? '.html' : extname(name)] ?? 'application/octet-stream',
      })
      .end(bytes)
  } catch (error) {
    answer.writeHead(404, HEADERS).end(String(error.message))
  }
}

createServer((asked, answer) => {
  const { pathname } = new URL(asked.url, server)
  if (pathname.startsWith('/console/')) return void file(pathname, answer)
  if (pathname === '/' || pathname === '/console') return void answer.writeHead(302, { Location: '/console/' }).end()
  const passed = request(new URL(asked.url, server), { method: asked.method, headers: asked.headers }, (answered) => {
    answer.writeHead(answered.statusCode, answered.headers)
    answered.pipe(answer)
  })
  passed.on('error', (error) => answer.writeHead(502).end(String(error.message)))
  answer.on('close', () => passed.destroy())
  asked.pipe(passed)
}).listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}/console/ in front of ${server}`))
