"""An upstream of its own kind: a process that speaks OpenAI's chat completions and shares no code with the server.

Prints its port, then answers until it is stopped. It says a word a chunk, tells its usage only where it is
asked for, and refuses whoever does not bring its credential."""
import http.server
import json
import time

WORDS = ["Good", " morning", ",", " world", "!"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, choices, usage=None):
        event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "own",
                 "choices": choices}
        if usage is not None:
            event["usage"] = usage
        self.chunk(f"data: {json.dumps(event)}\n\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer upstream-secret" or self.path != "/v1/chat/completions":
            self.send_error(403)
            return
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": len(WORDS), "total_tokens": prompt + len(WORDS)}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            answer = json.dumps({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "own", "usage": usage,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for word in WORDS:
            self.event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            time.sleep(0.005)
        self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event([], usage)
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
