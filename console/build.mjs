// Builds the console into `dist`, the same bytes from the same sources each time.
//
//     node build.mjs           build, and say how large it is
//     node build.mjs --check   build elsewhere; fail if `dist` differs or is too large
import { build } from 'esbuild'
import { mkdtemp, mkdir, readdir, readFile, rm, writeFile, copyFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

const here = dirname(fileURLToPath(import.meta.url))
const dist = join(here, 'dist')

/** In bytes; of scripts and styles compressed by gzip. */
const BUDGETS = { first: 60 * 1024, scripts: 150 * 1024, styles: 12 * 1024, all: 700 * 1024 }

export async function make(out, { minify = true } = {}) {
  await rm(out, { recursive: true, force: true })
  await mkdir(out, { recursive: true })
  const made = await build({
    absWorkingDir: here,
    entryPoints: { app: 'src/main.tsx', style: 'src/styles/main.css' },
    outdir: out,
    entryNames: 'assets/[name]-[hash]',
    chunkNames: 'assets/[name]-[hash]',
    bundle: true,
    splitting: true,
    minify,
    format: 'esm',
    target: ['es2022', 'chrome120', 'firefox128', 'safari17.5'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    legalComments: 'none',
    charset: 'utf8',
    metafile: true,
    logLevel: 'warning',
  })
  const outputs = Object.entries(made.metafile.outputs)
  const path = ([name]) => `/console/${relative(out, join(here, name))}`
  const entry = (end) => outputs.find(([name, { entryPoint }]) => entryPoint && name.endsWith(end))
  const script = entry('.js')
  const page = await readFile(join(here, 'static/index.html'), 'utf8')
  const early = first(made.metafile, script[0]).slice(1)
  const links = early
    .map((name) => `<link rel="modulepreload" href="${path([name])}">`)
    .sort()
    .join('\n    ')
  await writeFile(
    join(out, 'index.html'),
    page
      .replace('%EARLY%', links)
      .replace('%SCRIPT%', path(script))
      .replace('%STYLE%', path(entry('.css'))),
  )
  await copyFile(join(here, 'static/favicon.svg'), join(out, 'favicon.svg'))
  await writeFile(join(out, 'LICENSES.txt'), await notices(Object.keys(made.metafile.inputs)))
  return first(made.metafile, script[0]).map((name) => join(here, name))
}

/** The scripts that a page needs before it shows anything. */
function first(metafile, entry, found = []) {
  if (found.includes(entry)) return found
  found.push(entry)
  for (const { path, kind } of metafile.outputs[entry].imports) {
    if (kind === 'import-statement') first(metafile, path, found)
  }
  return found
}

/** The notices that the licences of what is built in ask for. */
async function notices(inputs) {
  const names = new Set()
  for (const input of inputs) {
    const [, name] = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input) ?? []
    if (name) names.add(name)
  }
  let text =
    'The console is a part of Polysystems (MIT or Apache-2.0). These packages are built into its scripts and styles.\n'
  for (const name of [...names].sort()) {
    const folder = join(here, 'node_modules', name)
    const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry))
    const words = file
      ? (await readFile(join(folder, file), 'utf8')).trim()
      : `Its package names the licence ${license} and has no text of it.`
    text += `\n${'-'.repeat(80)}\n${name} ${version} (${license})\n\n${words}\n`
  }
  return text
}

async function files(folder) {
  const found = []
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) found.push(relative(folder, join(entry.parentPath ?? entry.path, entry.name)))
  }
  return found.sort()
}

/** What is too large, in words. */
export async function sizes(folder, firsts) {
  const sum = { first: 0, scripts: 0, styles: 0, all: 0 }
  for (const name of await files(folder)) {
    const bytes = await readFile(join(folder, name))
    sum.all += bytes.length
    const packed = gzipSync(bytes, { level: 9 }).length
    if (name.endsWith('.js')) sum.scripts += packed
    if (name.endsWith('.css')) sum.styles += packed
    if (firsts.includes(join(folder, name))) sum.first += packed
  }
  for (const [name, bytes] of Object.entries(sum)) console.log(`${name.padEnd(8)} ${bytes} of ${BUDGETS[name]} bytes`)
  return Object.entries(sum)
    .filter(([name, bytes]) => bytes > BUDGETS[name])
    .map(([name]) => `${name}: too large`)
}

async function differences(made) {
  const [there, here] = [await files(dist).catch(() => []), await files(made)]
  const wrong = []
  for (const name of new Set([...there, ...here])) {
    const [a, b] = await Promise.all(
      [join(dist, name), join(made, name)].map((path) => readFile(path).catch(() => null)),
    )
    if (!a || !b || !a.equals(b))
      wrong.push(`dist/${name}: differs from what the sources make; run \`npm run build\` and commit it`)
  }
  return wrong
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const checks = process.argv.includes('--check')
  const out = checks ? await mkdtemp(join(tmpdir(), 'console-')) : dist
  const begun = performance.now()
  const firsts = await make(out)
  console.log(`built in ${Math.round(performance.now() - begun)} ms`)
  const wrong = [...(await sizes(out, firsts)), ...(checks ? await differences(out) : [])]
  if (checks) await rm(out, { recursive: true, force: true })
  for (const line of wrong) console.error(line)
  process.exitCode = wrong.length ? 1 : 0
}
