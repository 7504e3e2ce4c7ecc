"""The official OpenAI client against our /v1: completions, embeddings, models, and its exception classes."""
import json
import os

import openai

url = os.environ["PS_API_URL"] + "/v1"
client = openai.OpenAI(base_url=url, api_key=os.environ["PS_API_KEY"], max_retries=0)
hello = [{"role": "user", "content": "Hello!"}]

chat = client.chat.completions.create(model="gpt-4o", messages=hello, max_tokens=50)
assert chat.choices[0].message.role == "assistant"
assert "Hello!" in chat.choices[0].message.content
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens > 0

text = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello!", max_tokens=5)
assert text.usage.completion_tokens == 5 and text.choices[0].finish_reason == "length"

vectors = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
assert [len(vector.embedding) for vector in vectors.data] == [1536, 1536]
assert vectors.data[0].embedding != vectors.data[1].embedding
assert abs(sum(number * number for number in vectors.data[0].embedding) - 1) < 1e-3

models = [model.id for model in client.models.list()]
assert "polysystems-sandbox" in models, models


def raised(key):
    """What the client makes of a refusal."""
    refused = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    try:
        for _ in range(int(os.environ.get("CALLS", "1"))):
            refused.chat.completions.create(model="gpt-4o", messages=hello)
    except openai.APIStatusError as error:
        assert error.response.json()["message"] in error.message, error.message
        return [type(error).__name__, error.status_code, error.type, error.code]
    return None


print(json.dumps({
    "invalid": raised("ps_live_nonsense"),
    "poor": raised(os.environ["POOR_KEY"]),
    "limited": raised(os.environ["LIMITED_KEY"]),
}))
