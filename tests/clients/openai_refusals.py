"""What the official OpenAI client makes of refusals: a line of JSON for each case of CASES."""
import json
import os

import openai

url = os.environ["PS_API_URL"] + "/v1"
hello = [{"role": "user", "content": "Hello!"}]

for case in json.loads(os.environ["CASES"]):
    client = openai.OpenAI(base_url=url, api_key=case["key"], max_retries=0)
    try:
        if case.get("route"):
            client.files.retrieve("file-1")
        else:
            client.chat.completions.create(
                model=case.get("model", "gpt-4o"),
                messages=hello,
                extra_body=case.get("body", {}),
                extra_headers=case.get("headers", {}),
            )
        print(json.dumps([case["name"], None]))
    except openai.APIStatusError as error:
        told = [error.status_code, error.type, error.code]
        print(json.dumps([case["name"], told, error.message]))
