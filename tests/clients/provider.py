"""A mock of a provider: OpenAI's chat completions and responses, Anthropic's messages, Gemini's content.

It shares no code with the server. Prints its port, then answers until it is stopped. The name of the model, as the
provider knows it, orders what happens:

    limited       429 with Retry-After, always
    limited-once  429 with Retry-After: 2 at first, then well
    overloaded    529, always
    closes        it takes the request, and closes the connection
    silent        it takes the request, and says nothing
    endless       a stream that goes on for ever, whatever limit it is told
    anything else it answers

A name may go on after a `.`, so that there can be several. If a request has tools, and no result of one, the tool
`weather` is called, or the one that writes a file. The usage that is told is that of USAGE, whatever was asked.

`GET /seen` answers with every request it got, as [path, headers, body]."""
import http.server
import json
import os
import re
import sys
import threading
import time

TEXT = "Good morning, world!"
# Prompt, of it cached; completion, of it thought. Each protocol tells them in its own way.
PROMPT, CACHED, WRITTEN, COMPLETION, THOUGHT = 1213, 307, 101, 53, 17
USAGE = {
    "chat": {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "total_tokens": PROMPT + COMPLETION,
             "prompt_tokens_details": {"cached_tokens": CACHED, "audio_tokens": 0},
             "completion_tokens_details": {"reasoning_tokens": THOUGHT, "audio_tokens": 0}},
    "responses": {"input_tokens": PROMPT, "input_tokens_details": {"cached_tokens": CACHED},
                  "output_tokens": COMPLETION, "output_tokens_details": {"reasoning_tokens": THOUGHT},
                  "total_tokens": PROMPT + COMPLETION},
    "messages": {"input_tokens": PROMPT - CACHED - WRITTEN, "cache_creation_input_tokens": WRITTEN,
                 "cache_read_input_tokens": CACHED, "output_tokens": COMPLETION},
    "gemini": {"promptTokenCount": PROMPT, "cachedContentTokenCount": CACHED,
               "candidatesTokenCount": COMPLETION - THOUGHT, "thoughtsTokenCount": THOUGHT,
               "totalTokenCount": PROMPT + COMPLETION},
}
# What is written by a tool that writes files.
FILE = os.environ.get("WRITES_FILE", "hello.txt")
CONTENT = "Good morning, world!\n"
seen, counts, lock = [], {}, threading.Lock()


def arguments(name):
    """The arguments of a call of this tool, for those that the mock can call."""
    path = os.path.join(os.environ.get("WRITES_IN", "."), FILE)
    script = f"printf '%s' '{CONTENT}' > {path}"
    return {
        "weather": {"city": "Bonn"},
        "Write": {"file_path": path, "content": CONTENT},
        "write": {"filePath": path, "content": CONTENT},
        "write_file": {"file_path": path, "content": CONTENT},
        "exec_command": {"cmd": script},
        "shell_command": {"command": script},
        "shell": {"command": ["bash", "-c", script]},
        "bash": {"command": script, "description": "Writes a file"},
    }.get(name)


def chosen(names):
    """The first tool that the mock can call, in the order above."""
    known = ["weather", "Write", "write", "write_file", "exec_command", "shell_command", "shell", "bash"]
    return next((name for name in known if name in names), None)


class Asked:
    """A request, whatever its protocol."""

    def __init__(self, path, body):
        self.body = body
        plain = path.split("?")[0]
        method = re.fullmatch(r"/v1(?:beta)?/models/([^:]+):(\w+)", plain)
        self.stream = bool(body.get("stream"))
        self.protocol, self.model = None, body.get("model", "")
        if method:
            self.protocol, self.model = "gemini", method[1]
            self.stream = method[2] == "streamGenerateContent"
            self.counts = method[2] == "countTokens"
        else:
            self.protocol = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages",
                             "/v1/messages/count_tokens": "messages"}.get(plain)
            self.counts = plain.endswith("/count_tokens")
        self.order = self.model.split(".")[0]
        self.tool = None if self.has_result() else chosen(self.tools())

    def tools(self):
        tools = self.body.get("tools") or []
        if self.protocol == "chat":
            return [tool["function"]["name"] for tool in tools]
        if self.protocol == "gemini":
            return [one["name"] for tool in tools for one in tool.get("functionDeclarations") or []]
        return [tool["name"] for tool in tools if tool.get("name")]

    def has_result(self):
        if self.protocol == "chat":
            return self.body["messages"][-1]["role"] == "tool"
        if self.protocol == "responses":
            items = self.body["input"] if isinstance(self.body["input"], list) else []
            return any(str(item.get("type")).endswith("_call_output") for item in items)
        if self.protocol == "messages":
            return any(block["type"] == "tool_result" for message in self.body["messages"]
                       for block in message["content"] if isinstance(message["content"], list))
        contents = self.body.get("contents") or []
        return any("functionResponse" in part for content in contents for part in content["parts"])


def sse(event, kind=None):
    head = f"event: {kind}\n" if kind else ""
    return f"{head}data: {event if isinstance(event, str) else json.dumps(event)}\n\n"


class Chat:
    """OpenAI's chat completions."""

    def __init__(self, asked):
        self.asked = asked
        self.call = asked.tool and {
            "id": "call_1", "type": "function",
            "function": {"name": asked.tool, "arguments": json.dumps(arguments(asked.tool))}}
        self.end = "tool_calls" if self.call else "stop"

    def head(self, kind):
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.asked.model}

    def whole(self):
        message = {"role": "assistant", "content": None if self.call else TEXT}
        if self.call:
            message["tool_calls"] = [self.call]
        return {**self.head("chat.completion"), "usage": USAGE["chat"],
                "choices": [{"index": 0, "message": message, "finish_reason": self.end}]}

    def chunk(self, delta, end=None):
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        return sse({**self.head("chat.completion.chunk"), "choices": [choice]})

    def begin(self):
        yield self.chunk({"role": "assistant", "content": ""})

    def word(self, word):
        return self.chunk({"content": word})

    def rest(self):
        if self.call:
            yield self.chunk({"tool_calls": [{"index": 0, **self.call}]})
        yield self.chunk({}, self.end)
        if (self.asked.body.get("stream_options") or {}).get("include_usage"):
            yield sse({**self.head("chat.completion.chunk"), "choices": [], "usage": USAGE["chat"]})
        yield sse("[DONE]")


class Responses:
    """OpenAI's responses."""

    def __init__(self, asked):
        self.asked, self.number = asked, 0
        if asked.tool:
            self.item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": asked.tool,
                         "arguments": json.dumps(arguments(asked.tool)), "status": "completed"}
        else:
            part = {"type": "output_text", "text": TEXT, "annotations": []}
            self.item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                         "content": [part]}

    def response(self, status, output, usage):
        return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": self.asked.model,
                "output": output, "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
                "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1,
                "top_p": 1}

    def whole(self):
        return self.response("completed", [self.item], USAGE["responses"])

    def event(self, kind, **fields):
        self.number += 1
        return sse({"type": kind, "sequence_number": self.number - 1, **fields}, kind)

    def begin(self):
        yield self.event("response.created", response=self.response("in_progress", [], None))
        if self.asked.tool:
            item = {**self.item, "status": "in_progress", "arguments": ""}
            yield self.event("response.output_item.added", output_index=0, item=item)
            return
        item = {**self.item, "status": "in_progress", "content": []}
        yield self.event("response.output_item.added", output_index=0, item=item)
        part = {"type": "output_text", "text": "", "annotations": []}
        yield self.event("response.content_part.added", item_id="msg_1", output_index=0, content_index=0, part=part)

    def word(self, word):
        return self.event("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=word)

    def rest(self):
        if self.asked.tool:
            of_item = {"item_id": "fc_1", "output_index": 0}
            yield self.event("response.function_call_arguments.delta", **of_item, delta=self.item["arguments"])
            yield self.event("response.function_call_arguments.done", **of_item, arguments=self.item["arguments"])
        else:
            of_part = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
            yield self.event("response.output_text.done", **of_part, text=TEXT)
            yield self.event("response.content_part.done", **of_part, part=self.item["content"][0])
        yield self.event("response.output_item.done", output_index=0, item=self.item)
        yield self.event("response.completed", response=self.whole())


class Messages:
    """Anthropic's messages."""

    def __init__(self, asked):
        self.asked = asked
        self.end = "tool_use" if asked.tool else "end_turn"

    def message(self, content, end, usage):
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": self.asked.model, "content": content,
                "stop_reason": end, "stop_sequence": None, "usage": usage}

    def block(self, is_whole):
        if self.asked.tool:
            given = arguments(self.asked.tool) if is_whole else {}
            return {"type": "tool_use", "id": "toolu_1", "name": self.asked.tool, "input": given}
        return {"type": "text", "text": TEXT if is_whole else ""}

    def whole(self):
        return self.message([self.block(True)], self.end, USAGE["messages"])

    def event(self, kind, **fields):
        return sse({"type": kind, **fields}, kind)

    def begin(self):
        # What never ends tells little of its prompt, so that the money is for words.
        told = {"input_tokens": 9} if self.asked.order == "endless" else USAGE["messages"]
        begun = self.message([], None, {**told, "output_tokens": 1})
        yield self.event("message_start", message=begun)
        yield self.event("content_block_start", index=0, content_block=self.block(False))

    def word(self, word):
        return self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})

    def rest(self):
        if self.asked.tool:
            delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments(self.asked.tool))}
            yield self.event("content_block_delta", index=0, delta=delta)
        yield self.event("content_block_stop", index=0)
        ended = {"stop_reason": self.end, "stop_sequence": None}
        yield self.event("message_delta", delta=ended, usage=USAGE["messages"])
        yield self.event("message_stop")


class Gemini:
    """Google's content."""

    def __init__(self, asked):
        self.asked = asked

    def content(self, parts, end=None, usage=None):
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        if end:
            candidate["finishReason"] = end
        told = {"candidates": [candidate], "modelVersion": self.asked.model, "responseId": "r1"}
        return {**told, "usageMetadata": usage} if usage else told

    def last(self):
        if self.asked.tool:
            return [{"functionCall": {"name": self.asked.tool, "args": arguments(self.asked.tool)}}]
        return [{"text": TEXT}]

    def whole(self):
        return self.content(self.last(), "STOP", USAGE["gemini"])

    def begin(self):
        return iter(())

    def word(self, word):
        return sse(self.content([{"text": word}]))

    def rest(self):
        parts = self.last() if self.asked.tool else [{"text": ""}]
        yield sse(self.content(parts, "STOP", USAGE["gemini"]))


PROTOCOLS = {"chat": Chat, "responses": Responses, "messages": Messages, "gemini": Gemini}


def refusal(protocol, status, message):
    """An error in the words of the protocol."""
    if protocol == "messages":
        kind = "overloaded_error" if status == 529 else "rate_limit_error"
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    if protocol == "gemini":
        return {"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED"}}
    return {"error": {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nothing waits for a delayed acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def write(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_GET(self):
        with lock:
            self.answer(200 if self.path == "/seen" else 404, seen)

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(self.path, json.loads(raw))
        with lock:
            seen.append([self.path, [list(one) for one in self.headers.items()], raw.decode()])
            nth = counts[asked.model] = counts.get(asked.model, 0) + 1
        if asked.protocol is None:
            self.answer(404, refusal("chat", 404, "There is no such route."))
        elif asked.counts:
            self.answer(200, {"totalTokens": PROMPT} if asked.protocol == "gemini" else {"input_tokens": PROMPT})
        elif asked.order == "limited" or (asked.order == "limited-once" and nth == 1):
            wait = "2" if asked.order == "limited-once" else "30"
            self.answer(429, refusal(asked.protocol, 429, "The provider is busy."), retry_after=wait)
        elif asked.order == "overloaded":
            self.answer(529, refusal(asked.protocol, 529, "Overloaded"))
        elif asked.order == "closes":
            self.close_connection = True
        elif asked.order == "silent":
            self.rfile.read(1)
            self.close_connection = True
        else:
            self.speak(asked)

    def speak(self, asked):
        speaker = PROTOCOLS[asked.protocol](asked)
        if not asked.stream:
            self.answer(200, speaker.whole())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in speaker.begin():
                self.write(event)
            while asked.order == "endless":
                self.write(speaker.word(" word"))
                time.sleep(0.002)
            if not asked.tool:
                for word in re.findall(r" ?\S+", TEXT):
                    self.write(speaker.word(word))
            for event in speaker.rest():
                self.write(event)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
