"""Coding agents against the running server, with a mock of their providers behind it: each writes a file with a tool,
and pays for it to the nano-dollar.

    agents.py SERVER AGENTS [--record] [NAME ...]

SERVER is the server's binary, AGENTS a folder where npm has installed the agents. With --record the requests of each
agent are kept in tests/clients/agents, without what is somebody's: see `Scrubber`. Every run of the tests sends them
again.
Each agent has a home of its own, and nothing here leaves this machine."""
import base64
import fractions
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
PASSWORD = "SecurePassword123!"
# The word of the mock, and what it writes by a tool.
TEXT, CONTENT = "Good morning, world!", "Good morning, world!\n"
TASK = "Please write a file hello.txt that says good morning to the world."
# Dollars for a million tokens, and for the call.
PRICES = {"input": "3.000000001", "cache_read": "0.300000007", "cache_write": "3.75", "output": "15.000000003",
          "reasoning": "17", "request": "0.0011"}
# What the mock tells of each protocol, in our words.
WRITTEN = {
    "openai": {"input": 1213 - 307, "cache_read": 307, "output": 53 - 17, "reasoning": 17},
    "anthropic": {"input": 1213 - 307 - 101, "cache_read": 307, "cache_write": 101, "output": 53},
    "gemini": {"input": 1213 - 307, "cache_read": 307, "output": 53 - 17, "reasoning": 17},
}
MODELS = {"openai": ["gpt-6", "gpt-6-mini"], "anthropic": ["claude-sonnet-5", "claude-haiku-5"],
          "gemini": ["gemini-3.8-flash", "gemini-3.8-pro"]}


def nanos(protocol):
    """What a call costs."""
    sum = fractions.Fraction(PRICES["request"]) * 1_000_000_000
    for part, tokens in WRITTEN[protocol].items():
        sum += fractions.Fraction(PRICES[part]) * 1000 * tokens
    # Half up.
    return int(sum + fractions.Fraction(1, 2))


class Agent:
    """How an agent is started."""

    def __init__(self, name, protocol, home, work, url, key):
        self.name, self.protocol, self.home, self.work = name, protocol, home, work
        self.environment = {"HOME": str(home), "PATH": os.environ["PATH"], "NO_COLOR": "1", "CI": "1",
                            "XDG_CONFIG_HOME": str(home / "config"), "XDG_DATA_HOME": str(home / "data"),
                            "XDG_CACHE_HOME": str(home / "cache"), "XDG_STATE_HOME": str(home / "state"),
                            "TMPDIR": str(home / "tmp"), "SHELL": "/bin/bash", "DO_NOT_TRACK": "1"}
        (home / "tmp").mkdir(parents=True)
        self.arguments = getattr(self, name)(url, key)

    def run(self, program):
        """Runs it to its end. Returns what it printed, its requests, and both for a person."""
        Front.requests = []
        done = subprocess.run([program, *self.arguments], env=self.environment, cwd=self.work, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
        requests = list(Front.requests)
        told = f"{self.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n" + "\n".join(
            f"{one['method']} {one['path']} {one.get('status')} {one['body'][:200]}" for one in requests)
        return done, requests, told

    def file(self, path, text):
        path = self.home / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def claude(self, url, key):
        self.environment |= {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": key, "DISABLE_TELEMETRY": "1",
                             "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
                             "DISABLE_ERROR_REPORTING": "1", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-5"}
        return ["-p", TASK, "--model", "claude-sonnet-5", "--permission-mode", "acceptEdits"]

    def codex(self, url, key):
        self.environment |= {"CODEX_HOME": str(self.home / "codex"), "OUR_KEY": key}
        self.file("codex/config.toml", f"""
model = "gpt-6"
model_provider = "ours"
check_for_update_on_startup = false
web_search = "disabled"
[analytics]
enabled = false
[model_providers.ours]
name = "ours"
base_url = "{url}/v1"
env_key = "OUR_KEY"
wire_api = "responses"
""")
        return ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK]

    def opencode(self, url, key):
        options = {"baseURL": url + "/v1", "apiKey": key}
        models = {"gpt-6": {"limit": {"context": 200000, "output": 32000}, "tool_call": True},
                  "gpt-6-mini": {"limit": {"context": 200000, "output": 32000}}}
        config = {"model": "ours/gpt-6", "small_model": "ours/gpt-6-mini", "autoupdate": False, "share": "disabled",
                  "permission": {"edit": "allow", "bash": "allow"},
                  "provider": {"ours": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models}}}
        self.environment |= {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "OPENCODE_DISABLE_AUTOUPDATE": "1",
                             "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                             "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"}
        return ["run", TASK]

    def gemini(self, url, key):
        self.environment |= {"GEMINI_API_KEY": key, "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_TELEMETRY_ENABLED": "false",
                             "GEMINI_CLI_TRUST_WORKSPACE": "true"}
        settings = {"privacy": {"usageStatisticsEnabled": False}, "telemetry": {"enabled": False},
                    "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
                    "security": {"auth": {"selectedType": "gemini-api-key"}}}
        self.file(".gemini/settings.json", json.dumps(settings))
        return ["-p", TASK, "-m", "gemini-3.8-flash", "--yolo"]


AGENTS = {"claude": "anthropic", "codex": "openai", "opencode": "openai", "gemini": "gemini"}


class Front(http.server.BaseHTTPRequestHandler):
    """Stands before the server, and keeps every request as it came."""
    protocol_version = "HTTP/1.1"
    server_address_behind, requests = None, []

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def pass_on(self):
        body = self.body()
        kept = {"method": self.command, "path": self.path, "headers": [list(one) for one in self.headers.items()],
                "body": body.decode()}
        self.requests.append(kept)
        behind = http.client.HTTPConnection(*self.server_address_behind, timeout=60)
        headers = {name: value for name, value in self.headers.items()
                   if name.lower() not in ("transfer-encoding", "connection", "content-length")}
        behind.request(self.command, self.path, body or None, headers)
        answer = behind.getresponse()
        kept["status"] = answer.status
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date"):
                self.send_header(name, value)
        if "event-stream" not in (answer.getheader("Content-Type") or ""):
            whole = answer.read()
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(whole)
            return
        self.send_header("Connection", "close")
        self.end_headers()
        while piece := answer.read1():
            self.wfile.write(piece)
            self.wfile.flush()
        self.close_connection = True

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = pass_on


class Gateway:
    """The server, with a customer, and the mock behind it."""

    def __init__(self, binary, folder, work):
        self.binary, self.folder, self.front = binary, folder, None
        try:
            self.start(binary, folder, work)
        except BaseException:
            self.stop()
            raise

    def start(self, binary, folder, work):
        environment = os.environ | {"WRITES_IN": str(work)}
        mock = [sys.executable, HERE / "provider.py"]
        self.provider = subprocess.Popen(mock, stdout=subprocess.PIPE, env=environment)
        self.behind = int(self.provider.stdout.readline())
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "PATH": os.environ["PATH"], "POLYSYSTEMS_DATA_DIR": str(folder),
            "POLYSYSTEMS_SERVER__BIND": f"127.0.0.1:{port}",
            "POLYSYSTEMS_PAYMENTS__SANDBOX": "true", "POLYSYSTEMS_LOG__LEVEL": "error",
            "POLYSYSTEMS_RATE_LIMIT__ENABLED": "false", "POLYSYSTEMS_PRICING__NOTICE_SECONDS": "0",
        }
        self.server = subprocess.Popen([binary], env=self.environment)
        wait(lambda: self.ask("/health/ready") is not None)
        self.command("user", "create", "--email", "ops@example.com", "--username", "ops", "--admin", given=PASSWORD)
        self.become_operator()
        self.sell()
        self.poor = self.customer("poor")
        self.key = self.customer("you")
        self.ask("/api/payments/payments", {"amount": 100})
        Front.server_address_behind = ("127.0.0.1", port)
        self.front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
        threading.Thread(target=self.front.serve_forever, daemon=True).start()

    def customer(self, name):
        """The key of a new customer, who asks from now on."""
        self.token = None
        user = {"email": f"{name}@example.com", "password": PASSWORD}
        self.ask("/api/auth/register", user | {"username": name})
        self.token = self.ask("/api/auth/login", user)["token"]
        return self.ask("/api/keys", {"name": "an agent"})["key_value"]

    def command(self, *arguments, given=None):
        done = subprocess.run([self.binary, *arguments], env=self.environment, input=given, text=True, check=True,
                              stdout=subprocess.PIPE)
        return done.stdout

    def ask(self, path, body=None):
        headers = {"Content-Type": "application/json"}
        if token := getattr(self, "token", None):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, body and json.dumps(body).encode(), headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except (ConnectionError, urllib.error.URLError):
            if path == "/health/ready":
                return None
            raise

    def become_operator(self):
        """Sets up the second factor that operators need."""
        ops = {"email": "ops@example.com", "password": PASSWORD}
        self.token = self.ask("/api/auth/login", ops)["token"]
        secret = self.ask("/api/auth/2fa/enroll", {"password": PASSWORD})["secret"]
        given = self.command("user", "enroll2fa", "ops@example.com").split()[-1]
        key = base64.b32decode(secret + "=" * (-len(secret) % 8))
        digest = hmac.digest(key, int(time.time() // 30).to_bytes(8, "big"), "sha1")
        at = digest[-1] & 15
        code = (int.from_bytes(digest[at:at + 4], "big") & 0x7FFFFFFF) % 1_000_000
        self.ask("/api/auth/2fa/confirm", {"code": f"{code:06}", "token": given})

    def sell(self):
        lines = []
        for protocol, models in MODELS.items():
            base = "v1beta" if protocol == "gemini" else "v1"
            lines.append(f"""[[providers]]
name = "{protocol}"
dialect = "{protocol}"
url = "http://127.0.0.1:{self.behind}/{base}"
allow_private = true
[[credentials]]
name = "{protocol}-main"
provider = "{protocol}"
""")
            for model in models:
                lines.append(f"""[[models]]
name = "{model}"
max_input = 400_000
max_output = 128_000
hides_thoughts = true
targets = [{{ credential = "{protocol}-main" }}]
[[cards]]
model = "{model}"
""" + "".join(f'{name} = "{price}"\n' for name, price in PRICES.items()))
        file = self.folder / "models.toml"
        file.write_text("".join(lines))
        self.command("catalogue", "apply", str(file), "--as", "ops@example.com", "--url", self.url)
        sold = {model for models in MODELS.values() for model in models}
        wait(lambda: sold <= {model["model"] for model in self.ask("/api/pricing")["models"]})

    def charges(self):
        """The amounts of all charges, in nano-dollars."""
        amounts = []
        for entry in self.ask("/api/payments/transactions?limit=100")["transactions"]:
            if entry["kind"] in ("charge", "capture"):
                amounts.append(-round(fractions.Fraction(str(entry["amount"])) * 1_000_000_000))
        return amounts

    def stop(self):
        if self.front:
            self.front.shutdown()
        for process in (getattr(self, "server", None), getattr(self, "provider", None)):
            if process:
                process.terminate()
                process.wait()


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("waited for half a minute, for nothing")
        time.sleep(0.05)


def run(name, binary, installed):
    """Starts an agent, and checks what it did and what it paid. Returns its requests."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "work").mkdir()
        (folder / "server").mkdir()
        gateway = Gateway(binary, folder / "server", folder / "work")
        program = installed / "node_modules/.bin" / name
        try:
            url = f"http://127.0.0.1:{gateway.front.server_address[1]}"
            # Without money it is told so, and nobody else is asked.
            poor = Agent(name, AGENTS[name], folder / "poor", folder / "work", url, gateway.poor)
            done, refused, told = poor.run(program)
            assert done.returncode != 0 and "your balance is insufficient" in done.stdout + done.stderr, told
            assert {one["status"] for one in refused if one["method"] == "POST"} == {402}, told
            agent = Agent(name, AGENTS[name], folder / "home", folder / "work", url, gateway.key)
            done, requests, told = agent.run(program)
            file = agent.work / "hello.txt"
            assert done.returncode == 0, told
            assert file.exists() and file.read_text().strip() == CONTENT.strip(), told
            assert TEXT in done.stdout, told
            paid = [one for one in requests if one["method"] == "POST" and one["status"] == 200
                    and "count" not in one["path"]]
            assert len(paid) >= 2, told
            wait(lambda: len(gateway.charges()) >= len(paid))
            charges = gateway.charges()
            assert charges == [nanos(agent.protocol)] * len(paid), f"{charges} for {len(paid)} calls\n{told}"
            print(f"{name}: {len(requests)} requests, {len(paid)} paid, {sum(charges)} nano-dollars; "
                  f"{len(refused)} requests without money")
            return scrubbed(agent, gateway.key, requests)
        finally:
            gateway.stop()


ID = "00000000-0000-4000-8000-000000000000"
PROSE = "Text of the agent."
# What these tests say themselves.
OURS = (TASK, f'"{TASK}"', TEXT, CONTENT)


class Scrubber:
    """Takes out of a request what is somebody's: the agent's own prose, ids, names, and paths of this machine. Fields,
    roles, types, names of tools and the shapes of schemas stay."""

    def __init__(self, key, places):
        self.key, self.places = key, places

    def text(self, text):
        for place, name in self.places:
            text = text.replace(place, name)
        text = text.replace(self.key, "KEY")
        return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", ID, text)

    def word(self, text):
        """A text of a body."""
        if text in OURS or text.startswith("printf "):
            return self.text(text)
        if text.lstrip().startswith(("{", "[")):
            try:
                return json.dumps(self.value(json.loads(text)))
            except ValueError:
                pass
        if re.fullmatch(r"[0-9a-f]{16,}|(ses|msg|prj|usr|req)_?[0-9A-Za-z]{12,}", text):
            return ID
        # Names, kinds and addresses of schemas are one word; all else is prose.
        text = self.text(text)
        is_word = re.fullmatch(r"\S{0,80}", text) and (text[:1] != "/" or text.startswith("/home/user/"))
        return re.sub(r"[0-9]{13}", "0", text) if is_word else PROSE

    def value(self, value):
        if isinstance(value, str):
            return self.word(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        # An instant.
        return 0 if isinstance(value, int) and value > 10**12 else value

    def header(self, name, value):
        lower = name.lower()
        if lower == "user-agent":
            return re.match(r"[^ ]*", value)[0]
        if value.startswith("{"):
            return json.dumps(self.value(json.loads(value)))
        if "session" in lower or lower.endswith("-id") or lower in ("traceparent", "tracestate"):
            return ID
        return self.text(value)

    def request(self, one):
        gone = ("host", "content-length", "connection", "transfer-encoding", "accept-encoding")
        headers = [[name, self.header(name, value)] for name, value in one["headers"] if name.lower() not in gone]
        return {"method": one["method"], "path": one["path"], "status": one["status"], "headers": headers,
                "body": self.value(json.loads(one["body"])) if one["body"] else None}


def scrubbed(agent, key, requests):
    """The requests without what is somebody's."""
    places = [(str(agent.work), "/home/user/work"), (str(agent.home), "/home/user")]
    scrubber = Scrubber(key, places)
    return [scrubber.request(one) for one in requests]


def main():
    binary, installed, *rest = sys.argv[1:]
    is_recorded = "--record" in rest
    for name in [one for one in rest if not one.startswith("-")] or AGENTS:
        requests = run(name, pathlib.Path(binary).resolve(), pathlib.Path(installed).resolve())
    if is_recorded:
            (HERE / "agents" / f"{name}.json").write_text("[\n" + ",\n".join(map(json.dumps, requests)) + "\n]\n")


if __name__ == "__main__":
    main()
