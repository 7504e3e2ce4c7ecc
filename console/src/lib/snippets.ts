// A call in four languages. They run as they are; without a key they take it from the environment.
const NAME = 'POLYSYSTEMS_API_KEY'

export type Kind = 'chat' | 'completion' | 'embedding'
export const PATHS: Record<Kind, string> = {
  chat: '/v1/chat/completions',
  completion: '/v1/completions',
  embedding: '/v1/embeddings',
}
const METHODS: Record<Kind, string> = { chat: 'chat.completions', completion: 'completions', embedding: 'embeddings' }

/** A value of JSON as one of Python. */
function python(value: unknown): string {
  const words: Record<string, string> = { true: 'True', false: 'False', null: 'None' }
  return JSON.stringify(value)
    .replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (token) => words[token] ?? token)
    .replace(/("(?:[^"\\]|\\.)*")|([,:])/g, (_, text?: string, mark?: string) => text ?? `${mark} `)
}

/** What Python and Node print of an answer. */
function printed(kind: Kind, isStream: boolean, access: string): string {
  if (kind === 'embedding') return 'answer.data[0].embedding'
  if (isStream) return kind === 'chat' ? `part.choices[0]${access}.delta.content` : `part.choices[0]${access}.text`
  return kind === 'chat' ? 'answer.choices[0].message.content' : 'answer.choices[0].text'
}

export function snippets(
  base: string,
  key: string | undefined,
  kind: Kind,
  body: Record<string, unknown>,
): [string, string][] {
  const url = base + PATHS[kind]
  const json = JSON.stringify(body)
  const isStream = body.stream === true
  const fields = Object.entries(body)
  return [
    [
      'curl',
      `curl${isStream ? ' -N' : ''} ${url} \\
  -H "Authorization: Bearer ${key ?? `$${NAME}`}" \\
  -H "Content-Type: application/json" \\
  -d '${json.replace(/'/g, `'\\''`)}'`,
    ],
    [
      'Python',
      `# pip install openai${key ? '' : '\nimport os'}
from openai import OpenAI

client = OpenAI(base_url="${base}/v1", api_key=${key ? `"${key}"` : `os.environ["${NAME}"]`})
answer = client.${METHODS[kind]}.create(
${fields.map(([name, value]) => `    ${name}=${python(value)},`).join('\n')}
)
${
  isStream
    ? `for part in answer:\n    if part.choices:\n        print(${printed(kind, true, '')} or "", end="")`
    : `print(${printed(kind, false, '')})`
}`,
    ],
    [
      'Node',
      `// npm install openai
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: '${base}/v1', apiKey: ${key ? `'${key}'` : `process.env.${NAME}`} })
const answer = await client.${METHODS[kind]}.create({
${fields.map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`).join('\n')}
})
${
  isStream
    ? `for await (const part of answer) process.stdout.write(${printed(kind, true, '?')} ?? '')`
    : `console.log(${printed(kind, false, '')})`
}`,
    ],
    [
      'Go',
      `package main

import (
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	body := ${JSON.stringify(json)}
	request, err := http.NewRequest("POST", "${url}", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Authorization", ${key ? `"Bearer ${key}"` : `"Bearer "+os.Getenv("${NAME}")`})
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	io.Copy(os.Stdout, answer.Body)
}`,
    ],
  ]
}

/** The first call of somebody who has made none. */
export const hello = (base: string, key: string | undefined, model: string): [string, string][] =>
  snippets(base, key, 'chat', { model, messages: [{ role: 'user', content: 'Hello!' }] })
