"""Writes TypeScript that uses each operation of an OpenAPI document: its parameters, its body and its answers."""
import json
import sys

document = json.load(open(sys.argv[1]))
print('import type { operations } from "./schema";')
for item in document["paths"].values():
    for operation in item.values():
        name = operation["operationId"]
        of = f'operations["{name}"]'
        answers = [status for status in operation["responses"] if status.startswith("2")]
        parts = [f'parameters: {of}["parameters"]'] + [f'ok{status}: {of}["responses"][{status}]' for status in answers]
        if "requestBody" in operation:
            parts.append(f'body: {of}["requestBody"]')
        print(f"export type {name} = {{ {'; '.join(parts)} }};")
print("""
export function balance(answer: keysGetLimits["ok200"]): string | undefined {
  return answer.content["application/json"].daily_limit_decimal;
}
export const key: keysCreate["body"] = { content: { "application/json": { name: "a" } } };
""")
