"""The official Anthropic client against our /v1/messages: plain, streamed, with a tool, with thinking, and its exceptions.

Prints one line of JSON: the charge and the tokens of each call, and what the client makes of refusals."""
import json
import os

import anthropic

url = os.environ["PS_API_URL"]
client = anthropic.Anthropic(base_url=url, api_key=os.environ["PS_API_KEY"], max_retries=0)
hello = [{"role": "user", "content": "Hello!"}]
asked = {"model": "claude-sonnet-5", "max_tokens": 2000, "messages": hello}
calls = []


def paid(headers, usage):
    tokens = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    tokens += (usage.cache_creation_input_tokens or 0) + usage.output_tokens
    calls.append({"charge": headers["x-polysystems-charge"], "tokens": tokens})


def plain(**more):
    raw = client.messages.with_raw_response.create(**(asked | more))
    message = raw.parse()
    paid(raw.headers, message.usage)
    return message


message = plain()
assert message.content[0].text.endswith("You wrote: Hello!"), message
assert message.stop_reason == "end_turn", message
assert client.messages.count_tokens(model="claude-sonnet-5", messages=hello).input_tokens == message.usage.input_tokens


def streamed(**more):
    with client.messages.stream(**(asked | more)) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
        paid(stream.response.headers, last.usage)
    return text, last


text, last = streamed()
assert text == message.content[0].text and last.usage.output_tokens == message.usage.output_tokens, last
assert last.stop_reason == "end_turn", last

# It thinks first, also where the thought is not shown.
for display in ("summarized", "omitted"):
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": display}
    text, last = streamed(thinking=thinking)
    assert [block.type for block in last.content] == ["thinking", "text"], last
    assert bool(last.content[0].thinking) == (display == "summarized"), last
    assert last.content[0].signature and last.usage.output_tokens > message.usage.output_tokens, last
    assert [block.type for block in plain(thinking=thinking).content] == ["thinking", "text"]

# The loop of a tool: the call, and the answer to its result.
schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
tools = [{"name": "weather", "description": "Tells the weather.", "input_schema": schema}]
for ask in (plain, lambda **more: streamed(**more)[1]):
    message = ask(tools=tools)
    assert message.stop_reason == "tool_use", message
    call = message.content[-1]
    assert (call.name, sorted(call.input)) == ("weather", ["city", "days"]), call
    turn = [{"role": "assistant", "content": [block.model_dump() for block in message.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}]}]
    message = ask(tools=tools, messages=hello + turn)
    assert message.content[0].text.endswith("It rains."), message


def raised(key, retries=2, **more):
    """What the client makes of a refusal, and how often it asks."""
    asks = []
    refused = anthropic.Anthropic(base_url=url, api_key=key, max_retries=retries)
    send = refused._client.send
    refused._client.send = lambda *all, **named: asks.append(1) or send(*all, **named)
    try:
        for _ in range(int(os.environ.get("CALLS", "1"))):
            asks.clear()
            refused.messages.create(**(asked | more))
    except anthropic.APIStatusError as error:
        assert error.api_message == error.response.json()["message"], error
        assert error.request_id.startswith("req-"), error
        return [type(error).__name__, error.status_code, error.type, len(asks)]
    return None


def broken(model):
    """An error in a stream is an exception of the client."""
    try:
        with client.messages.stream(**(asked | {"model": model})) as stream:
            for _ in stream:
                pass
    except anthropic.APIStatusError as error:
        return [error.type, "broke off" in error.api_message]
    return None


print(json.dumps({
    "calls": calls,
    "invalid": raised("ps_live_nonsense"),
    "poor": raised(os.environ["POOR_KEY"]),
    "limited": raised(os.environ["LIMITED_KEY"], retries=0)[:3],
    "field": raised(os.environ["PS_API_KEY"], container="container_1"),
    "cut": broken("sandbox-cut"),
}))
