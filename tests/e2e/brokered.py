"""A daemon with a broker for tests of ordinary programs in boxes: its template, its upstreams, its policy.

The policy is made of the examples of docs/broker.md, with the hosts of this test and of the machine's own package
indexes in the places of the documents'.
"""

import fcntl
import hashlib
import ipaddress
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

from light import BINARIES, FOLDER, light, put
from support import CLI
from test_lifecycle import Daemon, comm, family

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / "tests/broker"))
from policies import CANARY  # noqa: E402

VENV = TOP / "build/venv/bin/python"  # ./dev makes it, for the Python client
CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")  # those that this machine trusts
SECONDS_MAX = 900  # of a build
PATIENCE_S = 60  # a bound, never a wait
TOKENS = [f"token-{n} " for n in range(12)]
LARGE_BYTES = 3_000_000

MANIFEST = """name = "programs"
description = "curl, Node.js, npm, pip, requests and openai, for tests of the broker"
base = "python"
[image]
packages = ["ca-certificates", "curl", "nodejs"]
pip = ["openai==3.57.0", "pip==26.3", "requests==2.34.2"]
npm = ["npm@10.9.9"]
"""
# A task of the template that is a shell command.
SHELL = "import os; os.execvp('sh', ['sh', '-c', os.environ['COMMAND']])"


def programs():
    """Arguments of a Daemon that serves the template `programs`. Its image and its lock are kept beside the light ones."""
    places = light()
    templates = places["template_dirs"][0]
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        put(templates / "programs/manifest.toml", MANIFEST.encode())
        words = [CLI, "template", "build", "programs", "--templates", str(templates), "--state-dir", places["state_dir"],
                 "--runtime-dir", str(BINARIES)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX)
        if done.returncode != 0 and "any more" in done.stderr:  # an archive has dropped what the lock names
            done = subprocess.run([*words, "--update"], capture_output=True, text=True, timeout=SECONDS_MAX)
        assert done.returncode == 0, done.stderr
    return {**places, "templates": ("programs",)}


def image_of(places):
    index = json.loads((pathlib.Path(places["state_dir"]) / "index/programs.json").read_text())
    return pathlib.Path(places["state_dir"]) / "images" / (index["digest"] + ".erofs")


# --- upstreams -----------------------------------------------------------------------------------

class ModelApi:
    """A model API of tests, and some paths for HTTP clients. It answers to the key alone."""

    def __init__(self):
        self.printed = threading.Semaphore(0)  # how many tokens the box has printed
        self.sent = []  # tokens of the stream that waits for the box
        self.late = False
        self.denied = []  # requests without the key
        self.reports = []
        self.busy = 0  # answers of 429 that are still to give
        self.held, self.release = threading.Event(), threading.Event()

    def answer(self, r):
        if r.headers["authorization"] != f"Bearer {CANARY}":
            self.denied.append(r.path)
            return self.tell(r, {"error": {"message": "no key", "type": "invalid_request_error", "code": "401"}}, 401)
        path, _, query = r.path.partition("?")
        name = path.removeprefix("/v1/").split("/")[0]
        getattr(self, "on_" + name.replace("/", "_"))(r, path, query)

    @staticmethod
    def tell(r, told, status=200, **headers):
        r.reply(status, json.dumps(told).encode() + b"\n", Content_Type="application/json", **headers)

    def on_hello(self, r, *_):
        r.reply(body=b"hello\n", Content_Type="text/plain", ETag='"1"')

    def on_echo(self, r, path, query):
        # The broker writes a query anew, as S3 would: what counts is its meaning.
        self.tell(r, {"method": r.command, "path": path, "query": urllib.parse.parse_qsl(query), "body": r.body.decode(),
                      "type": r.headers["content-type"], "own": r.headers["x-own"], "cookie": r.headers["cookie"]})

    def on_upload(self, r, *_):
        self.tell(r, {"bytes": len(r.body), "sha256": hashlib.sha256(r.body).hexdigest()})

    def on_large(self, r, *_):
        r.reply(body=bytes(range(250)) * (LARGE_BYTES // 250), Content_Type="application/octet-stream")

    def on_status(self, r, path, _):
        r.reply(int(path.rsplit("/")[-1]), b"of the upstream\n", Content_Type="text/plain")

    def on_redirect(self, r, *_):
        r.reply(302, Location=f"https://{r.headers['host']}/v1/hello")

    def on_reports(self, r, *_):
        self.reports.append(json.loads(r.body))
        self.tell(r, {"number": len(self.reports)}, 201)

    def on_hold(self, r, *_):
        """Begins an answer, and goes on when the test says so."""
        r.send_response(200)
        r.send_header("Transfer-Encoding", "chunked")
        r.end_headers()
        self.chunk(r, b"begun\n")
        self.held.set()
        self.release.wait(PATIENCE_S)
        self.chunk(r, b"")

    def on_models(self, r, path, _):
        if path.endswith("/none"):
            return self.tell(r, {"error": {"message": "no such model", "type": "not_found", "code": "none"}}, 404)
        self.tell(r, {"object": "list", "data": [{"id": name, "object": "model", "created": 1, "owned_by": "tests"}
                                                 for name in ("small", "large")]})

    def on_chat(self, r, *_):
        asked = json.loads(r.body)
        if self.busy > 0:
            self.busy -= 1
            return self.tell(r, {"error": {"message": "busy", "type": "rate_limit", "code": "429"}}, 429, Retry_After="0")
        if not asked.get("stream"):
            return self.tell(r, {
                "id": "c1", "object": "chat.completion", "created": 1, "model": asked["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": {
                    "role": "assistant", "content": asked["messages"][-1]["content"].upper()}}],
                "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}})
        r.send_response(200)
        r.send_header("Content-Type", "text/event-stream")
        r.send_header("Transfer-Encoding", "chunked")
        r.end_headers()
        for token in TOKENS:
            piece = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": asked["model"],
                     "choices": [{"index": 0, "finish_reason": None, "delta": {"content": token}}]}
            self.sent.append(token)
            self.chunk(r, f"data: {json.dumps(piece)}\n\n".encode())
            # The box must have printed this token before the next one is sent.
            if asked["model"] == "slow" and not self.printed.acquire(timeout=PATIENCE_S):
                self.late = True
                return
        self.chunk(r, b"data: [DONE]\n\n")
        self.chunk(r, b"")

    @staticmethod
    def chunk(r, data):
        r.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        r.wfile.flush()


# --- the machine's package indexes ------------------------------------------------------------------

class Indexes:
    """Where this machine's pip and npm find packages. `why`: a reason not to test with them."""

    def __init__(self):
        self.why = ""
        if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
            self.why = "this machine reaches its package indexes through a proxy"
        listed = subprocess.run([VENV, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60).stdout
        found = re.search(r"^\S*\bindex-url='(.*)'$", listed, re.M)
        default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
        self.pip = (found[1] if found else subprocess.run([VENV, "-c", default], capture_output=True, text=True, check=True,
                                                          timeout=60).stdout.strip()).rstrip("/")
        self.npm = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, cwd="/",
                                  timeout=60).stdout.strip().rstrip("/")
        for url in (self.pip, self.npm):
            if not url.startswith("https://") or "@" in url:
                self.why = f"a package index of this machine is not https:// without a user: {url.split('@')[-1]}"
        self.files = []
        if self.why:
            return
        try:
            with urllib.request.urlopen(f"{self.pip}/iniconfig/", timeout=PATIENCE_S) as page:
                links = re.findall(r'href="(https://[^"#]+)', page.read().decode())
            self.files = sorted({self.host(link) for link in links} | {self.host(self.npm)})
        except OSError as error:
            self.why = f"no package index can be reached: {error}"

    @staticmethod
    def host(url):
        return url.split("/")[2]

    def odd_addresses(self):
        """Addresses of the indexes that are no public ones: a policy must name them."""
        found = set()
        for host in {self.host(self.pip), *self.files}:
            name, _, port = host.partition(":")
            for *_, address in socket.getaddrinfo(name, int(port or 443), type=socket.SOCK_STREAM):
                if not ipaddress.ip_address(address[0]).is_global:
                    found.add(address[0])
        return sorted(found)


# --- the policy --------------------------------------------------------------------------------------

def examples():
    """The TOML of docs/broker.md, each block by its first action."""
    text = (TOP / "docs/broker.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    return {re.search(r"^\[(?:http|sql)\.(\w+)\]$", block, re.M)[1]: block for block in blocks}


def within(block, table, **keys):
    """Sets keys of a table: one that is there is replaced."""
    head, tail = block.split(f"[{table}]\n")
    for key in keys:
        lines = tail.split("\n\n", 1)
        lines[0] = re.sub(rf"^{key} = .*\n?", "", lines[0], flags=re.M)
        tail = "\n\n".join(lines)
    return head + f"[{table}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) + tail


def policy(folder, api_port, pg_port, ask_port, indexes):
    """`folder`: with the files key, ca, pg and asker."""
    shown = examples()
    local = {"ca": '"company-ca"', "allow_addresses": '["127.0.0.1"]'}
    model = shown["openai"].split("[secrets.anthropic]")[0]
    model = within(model, "secrets.openai", file=f'"{folder}/key"')
    model = within(model, "http.openai", upstream=f'"https://api.test:{api_port}/v1"', **local)
    orders = within(shown["orders"], "secrets.shop-db", file=f'"{folder}/pg"')
    orders = within(orders, "secrets.company-ca", file=f'"{folder}/ca"')
    orders = within(orders, "databases.shop", host='"db.test"', port=pg_port, database='"postgres"', user='"reader"', **local)
    orders = re.sub(r'statement = """.*?"""', 'statement = """select id, total, at from orders where tenant = $1 and '
                    'at >= $2::date order by id limit $3"""', orders, flags=re.S)
    orders = within(orders, "sql.orders", users='["*"]')
    own = f"""
[http.api]
upstream = "https://api.test:{api_port}/v1"
methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
paths = ["/**"]
query = ["*"]
headers = ["accept", "content-type", "x-*"]
users = ["*"]
ca = "company-ca"
allow_addresses = ["127.0.0.1"]
task = {{calls_per_minute = 6000}}

[http.api.auth]
kind = "header"
prefix = "Bearer "
secret = "openai"

[introspection]
listen = "127.0.0.1:{ask_port}"
secret = "asker"
[secrets.asker]
file = "{folder}/asker"

[mint.ticket]
audience = "https://deploy.test"
scope = "read"
time = "2m"
users = ["*"]
"""
    packages = ""
    if not indexes.why:
        odd = json.dumps(indexes.odd_addresses())
        packages = within(shown["pip"], "http.pip", upstream=f'"{indexes.pip}"', allow_addresses=odd)
        packages = within(packages, "http.npm", upstream=f'"{indexes.npm}"', allow_addresses=odd)
        packages = within(packages, "egress.packages", hosts=json.dumps(indexes.files), allow_addresses=odd)
    return model + "\n" + orders + own + packages


class Brokered(Daemon):
    """A daemon with a broker, and a table of hosts of its own."""

    def __init__(self, folder, policy_text, hosts, **options):
        table = pathlib.Path(folder) / "hosts"
        table.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.1 {name}\n" for name in hosts))
        self.policy = pathlib.Path(folder) / "policy.toml"
        self.policy.write_text(policy_text)
        self.policy.chmod(0o600)
        super().__init__(folder, config=f'broker_policy = "{self.policy}"\n', **options, prefix=(
            "unshare", "-m", "--propagation", "private", "bash", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(table)))

    def process_of(self, verb):
        """The pid of supervise, vault or front."""
        [pid] = [pid for pid in self.broker_processes() if self.words(pid)[1:2] == [verb]]
        return pid

    def broker_processes(self):
        return [pid for pid in family(self.pid) if comm(pid) == "mayfly-broker"]

    @staticmethod
    def words(pid):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")

    def audit(self):
        lines = (self.instance_state / "broker/audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines]
