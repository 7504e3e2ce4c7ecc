"""Google's client against our Gemini routes: plain, streamed, with a function, with thinking, with an image, and its exceptions.

Prints one line of JSON: the charge and the tokens of each call, and what the client makes of refusals."""
import base64
import json
import os

from google import genai
from google.genai import errors, types

url = os.environ["PS_API_URL"]
MODEL = "gemini-3-flash"
calls = []


def client(key=os.environ["PS_API_KEY"]):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=url))


# The client is closed when nobody holds it.
held = client()
models = held.models


def paid(response):
    headers = {name.lower(): value for name, value in response.sdk_http_response.headers.items()}
    usage = response.usage_metadata
    calls.append({"charge": headers["x-polysystems-charge"], "tokens": usage.total_token_count})


def plain(contents="Hello!", **config):
    response = models.generate_content(model=MODEL, contents=contents, config=config or None)
    paid(response)
    return response


def streamed(contents="Hello!", **config):
    """The parts of the whole stream, and its last chunk."""
    parts = []
    for chunk in models.generate_content_stream(model=MODEL, contents=contents, config=config or None):
        parts += chunk.candidates[0].content.parts or []
    paid(chunk)
    return parts, chunk


def text(parts):
    return "".join(part.text or "" for part in parts if not part.thought)


whole = plain()
assert whole.text.endswith("You wrote: Hello!"), whole
assert whole.candidates[0].finish_reason == types.FinishReason.STOP, whole
counted = models.count_tokens(model=MODEL, contents="Hello!")
assert counted.total_tokens == whole.usage_metadata.prompt_token_count, counted

parts, last = streamed()
assert text(parts) == whole.text, parts
assert last.candidates[0].finish_reason == types.FinishReason.STOP, last
assert last.usage_metadata.total_token_count == whole.usage_metadata.total_token_count, last

# It thinks first, also where the thought is not shown.
for is_shown in (True, False):
    config = {"thinking_config": types.ThinkingConfig(include_thoughts=is_shown, thinking_budget=512)}
    parts, last = streamed(**config)
    assert any(part.thought for part in parts) == is_shown, parts
    assert text(parts) == whole.text and last.usage_metadata.thoughts_token_count > 0, last
    assert plain(**config).usage_metadata.thoughts_token_count > 0

# The loop of a function: the call, and the answer to its result.
schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}}, "required": ["city", "days"]}
weather = types.FunctionDeclaration(name="weather", description="Tells the weather.", parameters=schema)
config = {"tools": [types.Tool(function_declarations=[weather])],
          "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True)}
asked = types.Content(role="user", parts=[types.Part(text="Hello!")])
for ask in (lambda **more: plain(**more).candidates[0].content.parts, lambda **more: streamed(**more)[0]):
    parts = [part for part in ask(**config) if part.function_call]
    assert parts[0].function_call.name == "weather", parts
    assert sorted(parts[0].function_call.args) == ["city", "days"], parts
    result = types.Part.from_function_response(name="weather", response={"result": "It rains."})
    turns = [asked, types.Content(role="model", parts=parts), types.Content(role="user", parts=[result])]
    assert "It rains." in text(ask(contents=turns, **config))

# An image in the prompt, a system instruction, and a limit that cuts.
image = types.Part.from_bytes(data=base64.b64decode("iVBORw0KGgo="), mime_type="image/png")
seen = plain(contents=[image, "What is it?"], system_instruction="Be kind.")
assert seen.usage_metadata.prompt_token_count > 258, seen
cut = plain(max_output_tokens=3)
assert cut.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS, cut
assert cut.usage_metadata.candidates_token_count == 3, cut

embedded = models.embed_content(model="gemini-embedding-001", contents=["one", "two"],
                                config={"output_dimensionality": 8})
assert [len(embedding.values) for embedding in embedded.embeddings] == [8, 8], embedded
# Below /v1 the sandbox lists its models as OpenAI does.
beta = genai.Client(api_key=os.environ["PS_API_KEY"], http_options=types.HttpOptions(base_url=url, api_version="v1beta"))
assert [model.name for model in beta.models.list()][0] == "models/polysystems-sandbox"
assert beta.models.generate_content(model=MODEL, contents="Hello!").text == whole.text


def raised(key=os.environ["PS_API_KEY"], model=MODEL, **config):
    """What the client makes of a refusal."""
    try:
        for _ in range(int(os.environ.get("CALLS", "1"))):
            asking = client(key)
            asking.models.generate_content(model=model, contents="Hello!", config=config or None)
    except errors.APIError as error:
        assert error.message == error.details["message"], error
        return [type(error).__name__, error.code, error.status]
    return None


def broken(model):
    """An error in a stream is an exception of the client."""
    try:
        for _ in models.generate_content_stream(model=model, contents="Hello!"):
            pass
    except errors.APIError as error:
        return [error.code, error.status, "broke off" in str(error)]
    return None


print(json.dumps({
    "calls": calls,
    "invalid": raised("ps_live_nonsense"),
    "poor": raised(os.environ["POOR_KEY"]),
    "limited": raised(os.environ["LIMITED_KEY"]),
    "field": raised(cached_content="cachedContents/1"),
    "search": raised(tools=[types.Tool(google_search=types.GoogleSearch())]),
    "cut": broken("sandbox-cut"),
}))
