"""Makes calls by the clients of Python, as they are told: a JSON object a line on standard input, with `client`,
`model`, `key`, `stream` and `tool`. Prints one line for each: the text, the arguments of the tool that was called, how
the answer ended, and the exception if there was one.

The clients have the settings that they come with, but for one below: how often they ask again is theirs."""
import json
import os
import sys

URL = os.environ["PS_API_URL"]
HELLO = "Hello!"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DESCRIPTION = "Tells the weather."


class Told:
    """What a call has come to."""

    def __init__(self):
        self.text, self.tool, self.end = "", None, None


def chat(step, told):
    import openai

    client = openai.OpenAI(base_url=URL + "/v1", api_key=step["key"])
    messages = [{"role": "user", "content": HELLO}]
    asked = {"model": step["model"]}
    if step["tool"]:
        function = {"name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}
        asked["tools"] = [{"type": "function", "function": function}]

    def ask():
        if not step["stream"]:
            choice = client.chat.completions.create(messages=messages, **asked).choices[0]
            told.end = choice.finish_reason
            told.text += choice.message.content or ""
            return [call.model_dump() for call in choice.message.tool_calls or []]
        calls = {}
        for chunk in client.chat.completions.create(messages=messages, stream=True, **asked):
            for choice in chunk.choices:
                told.text += choice.delta.content or ""
                told.end = choice.finish_reason or told.end
                for call in choice.delta.tool_calls or []:
                    at = calls.setdefault(call.index, {"id": call.id, "type": "function", "function": {
                        "name": call.function.name, "arguments": ""}})
                    at["function"]["arguments"] += call.function.arguments or ""
        return list(calls.values())

    calls = ask()
    if calls:
        told.tool = json.loads(calls[0]["function"]["arguments"])
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": "It rains."})
        ask()


def responses(step, told):
    import openai

    client = openai.OpenAI(base_url=URL + "/v1", api_key=step["key"])
    asked = {"model": step["model"], "store": False}
    if step["tool"]:
        function = {"name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}
        asked["tools"] = [{"type": "function", **function}]

    def ask(given):
        last = None
        if step["stream"]:
            for event in client.responses.create(input=given, stream=True, **asked):
                if event.type == "response.output_text.delta":
                    told.text += event.delta
                last = getattr(event, "response", last)
        else:
            last = client.responses.create(input=given, **asked)
            told.text += last.output_text
        told.end = last.status
        return [item for item in last.output if item.type == "function_call"]

    calls = ask(HELLO)
    if calls:
        told.tool = json.loads(calls[0].arguments)
        result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "It rains."}
        ask([{"role": "user", "content": HELLO}, calls[0].model_dump(exclude_none=True), result])


def anthropic(step, told):
    import anthropic

    client = anthropic.Anthropic(base_url=URL, api_key=step["key"])
    messages = [{"role": "user", "content": HELLO}]
    asked = {"model": step["model"], "max_tokens": 2000}
    if step["tool"]:
        asked["tools"] = [{"name": "weather", "description": DESCRIPTION, "input_schema": SCHEMA}]

    def ask():
        if step["stream"]:
            with client.messages.stream(messages=messages, **asked) as stream:
                for text in stream.text_stream:
                    told.text += text
                message = stream.get_final_message()
        else:
            message = client.messages.create(messages=messages, **asked)
            told.text += "".join(block.text for block in message.content if block.type == "text")
        told.end = message.stop_reason
        return message

    message = ask()
    call = message.content[-1]
    if call.type == "tool_use":
        told.tool = call.input
        messages.append({"role": "assistant", "content": [block.model_dump() for block in message.content]})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
        messages.append({"role": "user", "content": [result]})
        ask()


def gemini(step, told):
    from google import genai
    from google.genai import types

    client = genai.Client(api_key=step["key"], http_options=types.HttpOptions(base_url=URL))
    declared = types.FunctionDeclaration(name="weather", description=DESCRIPTION, parameters_json_schema=SCHEMA)
    tools = [types.Tool(function_declarations=[declared])] if step["tool"] else None
    contents = [types.UserContent(HELLO)]

    def ask():
        asked = {"model": step["model"], "contents": contents, "config": types.GenerateContentConfig(tools=tools)}
        parts = []
        answers = client.models.generate_content_stream(**asked) if step["stream"] else [
            client.models.generate_content(**asked)]
        for answer in answers:
            for candidate in answer.candidates or []:
                told.end = candidate.finish_reason and candidate.finish_reason.value or told.end
                for part in candidate.content and candidate.content.parts or []:
                    told.text += part.text or ""
                    parts.append(part)
        return [part for part in parts if part.function_call]

    calls = ask()
    if calls:
        told.tool = calls[0].function_call.args
        contents.append(types.ModelContent(calls[:1]))
        response = types.Part.from_function_response(name="weather", response={"result": "It rains."})
        contents.append(types.UserContent([response]))
        ask()


def langchain(step, told):
    from langchain_core.messages import HumanMessage, ToolMessage

    kind = step["client"].removeprefix("langchain-")
    if kind == "openai":
        from langchain_openai import ChatOpenAI

        model = ChatOpenAI(model=step["model"], base_url=URL + "/v1", api_key=step["key"])
    elif kind == "anthropic":
        from langchain_anthropic import ChatAnthropic

        model = ChatAnthropic(model=step["model"], base_url=URL, api_key=step["key"], max_tokens=2000)
    else:
        from langchain_google_genai import ChatGoogleGenerativeAI

        # By itself it would ask six times, for half a minute.
        asked = {"base_url": URL, "api_key": step["key"], "max_retries": 2}
        model = ChatGoogleGenerativeAI(model=step["model"], **asked)
    if step["tool"]:
        model = model.bind_tools([{"type": "function", "function": {
            "name": "weather", "description": DESCRIPTION, "parameters": SCHEMA}}])

    def words(message):
        content = message.content
        if isinstance(content, str):
            return content
        return "".join(block.get("text", "") for block in content if isinstance(block, dict))

    def ask(messages):
        if not step["stream"]:
            last = model.invoke(messages)
            told.text += words(last)
        else:
            last = None
            for chunk in model.stream(messages):
                told.text += words(chunk)
                last = chunk if last is None else last + chunk
        about = last.response_metadata
        told.end = about.get("finish_reason") or about.get("stop_reason")
        return last

    messages = [HumanMessage(HELLO)]
    last = ask(messages)
    if last.tool_calls:
        call = last.tool_calls[0]
        told.tool = call["args"]
        ask(messages + [last, ToolMessage("It rains.", tool_call_id=call["id"], name="weather")])


CLIENTS = {"openai-chat": chat, "openai-responses": responses, "anthropic": anthropic, "gemini": gemini,
           "langchain-openai": langchain, "langchain-anthropic": langchain, "langchain-gemini": langchain}


def of_gemini(details):
    """The error in what Google's client keeps of an answer."""
    return details.get("error", details) if isinstance(details, dict) else {}


def described(error):
    """What a person can read of an exception, or a program."""
    # LangChain wraps some of Google's.
    cause = error
    while getattr(cause, "details", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(getattr(cause, "details", None), dict):
        return {"class": type(error).__name__, "status": cause.code, "code": of_gemini(cause.details).get("status"),
                "message": str(error)}
    # Anthropic's kind of an error stands in the body.
    body = getattr(error, "body", None)
    kind = body.get("error", {}).get("type") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
    code = getattr(error, "code", None) or kind or getattr(error, "type", None)
    return {"class": type(error).__name__, "status": getattr(error, "status_code", None), "code": code,
            "message": str(error)}


for line in sys.stdin:
    step = json.loads(line)
    told, error = Told(), None
    try:
        CLIENTS[step["client"]](step, told)
    except Exception as caught:  # Which one it is, is what is asked.
        error = described(caught)
    print(json.dumps({"text": told.text, "tool": told.tool, "end": told.end, "error": error}), flush=True)
