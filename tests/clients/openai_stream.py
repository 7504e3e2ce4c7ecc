"""The official OpenAI client streams through our /v1, with its plain and its async client.

Prints one line of JSON a stream: the charge, the cost that its usage frame named, and the text."""
import asyncio
import json
import os

import openai

settings = {"base_url": os.environ["PS_API_URL"] + "/v1", "api_key": os.environ["PS_API_KEY"], "max_retries": 0}
hello = [{"role": "user", "content": "Hello!"}]


def arguments(asks):
    chat = {"model": "gpt-4o", "messages": hello, "stream": True}
    return chat | ({"stream_options": {"include_usage": True}} if asks else {})


class Seen:
    """What a stream of chat chunks says."""

    def __init__(self, charge, asks):
        self.charge, self.asks, self.text, self.usage = charge, asks, "", None

    def add(self, chunk):
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
        if chunk.usage is not None:
            self.usage = chunk.usage

    def tell(self):
        assert (self.usage is not None) == self.asks, self.usage
        tokens = self.usage and self.usage.total_tokens
        cost = self.usage and self.usage.model_extra["cost"]
        print(json.dumps({"charge": self.charge, "cost": cost, "tokens": tokens, "text": self.text}))


def plain(asks):
    raw = openai.OpenAI(**settings).chat.completions.with_raw_response.create(**arguments(asks))
    seen = Seen(raw.headers["x-polysystems-charge"], asks)
    for chunk in raw.parse():
        seen.add(chunk)
    seen.tell()


async def asynchronous(asks):
    client = openai.AsyncOpenAI(**settings)
    raw = await client.chat.completions.with_raw_response.create(**arguments(asks))
    seen = Seen(raw.headers["x-polysystems-charge"], asks)
    async for chunk in raw.parse():
        seen.add(chunk)
    seen.tell()


def responses():
    """The sandbox alone has these."""
    client = openai.OpenAI(**settings)
    raw = client.responses.with_raw_response.create(model="gpt-4o", input="Hello!", stream=True)
    text, last = "", None
    for event in raw.parse():
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert last.type == "response.completed" and last.response.output_text == text
    usage = last.response.usage
    cost = usage.model_extra["cost"]
    charge = raw.headers["x-polysystems-charge"]
    print(json.dumps({"charge": charge, "cost": cost, "tokens": usage.total_tokens, "text": text}))
    whole = client.responses.create(model="gpt-4o", input="Hello!")
    assert whole.output_text == text
    completion = client.completions.create(model="gpt-4o", prompt="Hello!", stream=True)
    assert "".join(chunk.choices[0].text for chunk in completion if chunk.choices) == text


def broken():
    """An error in a stream is an exception of the client."""
    stream = openai.OpenAI(**settings).chat.completions.create(**arguments(False) | {"model": "sandbox-cut"})
    try:
        for _ in stream:
            pass
    except openai.APIError as error:
        assert "broke off" in error.message, error.message
        return
    raise AssertionError("no exception")


for asks in (True, False):
    plain(asks)
    asyncio.run(asynchronous(asks))
if os.environ["ON_SANDBOX"] == "1":
    responses()
    broken()
