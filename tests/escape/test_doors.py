"""The doors to the broker: a task reaches its own, only with grants, and can replace none.

Each probe has its control run outside, where a door listens and nothing guards it.
"""

import base64
import gzip
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.parse

import pytest

import stage

sys.path.append(str(stage.PROBES.parents[1] / "e2e"))
from light import BINARIES  # noqa: E402
from test_controls import APART, SECONDS_MAX  # noqa: E402
from test_lifecycle import daemons, family  # noqa: E402, F401 (a fixture)
from test_walls import assert_gone, run_probe  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
POLICY = """
[egress.ticket]
hosts = ["files.example.org"]
modes = ["upgrade"]
users = ["*"]
"""


@pytest.fixture
def brokered(daemons, tmp_path):  # noqa: F811
    """A daemon with a broker, whose policy grants everybody `ticket`."""
    if not (BINARIES / "mayfly-broker").exists():
        pytest.skip("this build has no mayfly-broker")
    policy = daemons.folder / "policy.toml"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    daemon = daemons(config=f'broker_policy = "{policy}"\n', templates=("python",))
    return daemon.cli


MARK = ("MFCAN", "ARY-")
SECRETIVE = POLICY + """
[secrets.key]
file = "@FOLDER@/key"
[http.echo]
upstream = "http://127.0.0.1:@PORT@"
plaintext = true
methods = ["GET", "HEAD"]
paths = ["/**"]
query = ["*"]
headers = ["x-own", "range"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[http.echo.auth]
kind = "basic"
user = "user"
secret = "key"
[http.down]
upstream = "http://127.0.0.1:1"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
[http.down.auth]
kind = "query"
query = "key"
secret = "key"
[http.meta]
upstream = "http://169.254.169.254"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["169.254.0.0/16", "100.64.0.0/10", "fd00::/8"]
[http.meta-mapped]
upstream = "http://[64:ff9b::a9fe:a9fe]"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["64:ff9b::/96"]
[egress.net]
hosts = ["files.example.org"]
modes = ["upgrade", "connect"]
users = ["*"]
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """An upstream that gives back what it was sent, in every form that it can."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/close"):
            self.close_connection = True
            return
        credential = self.headers.get("authorization", "")
        plain = base64.b64decode(credential.partition(" ")[2] or "").decode()
        body = "\n".join([credential, plain, json.dumps(plain), urllib.parse.quote(plain, safe=""), plain.encode().hex(),
                          base64.b64encode(b"x" + plain.encode()).decode(), *map(str, self.headers.items())]).encode()
        if self.path.startswith("/gzip"):
            body = gzip.compress(body)
        self.send_response(302 if self.path.startswith("/redirect") else 200)
        self.send_header("Location", "https://elsewhere.example.org/?t=" + urllib.parse.quote(plain, safe=""))
        self.send_header("X-Echo", credential + " " + plain)
        self.send_header("WWW-Authenticate", f'Basic realm="{plain}"')
        if self.path.startswith("/gzip"):
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def secretive(daemons):  # noqa: F811
    """A daemon whose broker holds a secret, with an upstream that echoes it."""
    if not (BINARIES / "mayfly-broker").exists():
        pytest.skip("this build has no mayfly-broker")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    canary = "".join(MARK) + secrets.token_hex(16)
    for name, text in (("key", canary), ("policy.toml", SECRETIVE.replace("@PORT@", str(server.server_port)).replace(
            "@FOLDER@", str(daemons.folder)))):
        path = daemons.folder / name
        path.write_text(text)
        path.chmod(0o600)
    daemon = daemons(config=f'broker_policy = "{daemons.folder / "policy.toml"}"\n', templates=("python",))
    yield daemon, canary, daemons.folder
    server.shutdown()
    server.server_close()


ALL_GRANTS = [word for name in ("ticket", "echo", "down", "meta", "meta-mapped", "net") for word in ("--grant", name)]


def test_a_secret_of_the_broker_reaches_the_vault_and_nobody_else(secretive, tmp_path, host):
    daemon, canary, folder = secretive
    broker = daemon.instance_state / "broker"
    assert broker.is_dir(), "the probe is to look for the broker's files where they are"
    told = {"mark": MARK, "metadata_actions": ["meta", "meta-mapped"],
            "paths": [str(folder / "key"), str(folder / "policy.toml"), str(broker), str(broker / "audit.log"),
                      str(broker / "journal"), "/journal/actions.db", "/etc/ca.pem"]}
    with stage.hold_box(daemon.cli, ALL_GRANTS, "-c", HOLDER):
        result = run_probe(daemon.cli, tmp_path, host, "broker_secret", ("box",), params=told, flags=ALL_GRANTS)
        report = result["report"]
        assert report, (result["verdict"], result["reason"], result["stderr"][-2000:])
        assert report["reached"] == [], report["evidence"]
        statuses = report["facts"]["statuses"]
        assert {"200", "302", "400", "403", "404", "414", "502"} <= set(statuses), "the probe was not answered as it must be"
        vault = [pid for pid in family(daemon.pid) if b"\0vault\0" in read_bytes(f"/proc/{pid}/cmdline")]
        assert len(vault) == 1
        others = [pid for pid in family(daemon.pid) if pid not in vault]
        assert len(others) > 6, "mayflyd, spawner, zygote, boxes, the broker's supervisor and front"
        needles = [canary.encode(), canary[:20].encode()]
        assert memory_holds(vault[0], needles), "the search itself finds nothing"
        for pid in others:
            assert not memory_holds(pid, needles), read_bytes(f"/proc/{pid}/cmdline")
            for name in ("environ", "cmdline"):
                assert canary.encode() not in read_bytes(f"/proc/{pid}/{name}")
    texts = json.dumps(result) + daemon.log.read_text()
    for words in (("doctor", "--quick", "--json"), ("list",), ("status",), ("broker", "check", str(folder / "policy.toml"))):
        done = daemon.cli(*words)
        texts += str(done.stdout) + str(done.stderr)
    for path in broker.rglob("*"):
        if path.is_file():
            texts += path.read_bytes().decode("latin-1")
    assert canary not in texts and canary[len("".join(MARK)):] not in texts
    assert_gone(result)


HOLDER = """
import http.client, sys
tcp = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
tcp.request("GET", "/cap/echo/held")
tcp.getresponse().read()
print("READY", flush=True)
sys.stdin.read()
"""
WHO = """
import http.client, json, os
for path in ("/", "/?x", "//"):
    tcp = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
    tcp.request("GET", path)
    answer = tcp.getresponse()
    body = answer.read()
    if answer.status == 200:
        print(json.loads(body)["task"], [each["name"] for each in json.loads(body)["grants"]])
"""


def test_two_tasks_with_doors_have_each_its_own(secretive):
    daemon, _, _ = secretive
    holder = WHO + "print('READY', flush=True)\nimport sys\nsys.stdin.read()"
    server = daemon.cli.start("run", "-t", "python", "-q", "--stdin", "--timeout", "300s", "--grant", "echo", "-c", holder)
    try:
        first = stage.read_line(server)
        while stage.read_line(server) not in (b"READY\n", b""):
            pass
        second = daemon.cli.run("-t", "python", "--grant", "ticket", "-c", WHO)
        lines = stage.output_of(second).splitlines()
        assert lines and all(line.endswith(b"['ticket']") for line in lines), second
        assert first.endswith(b"['echo']\n"), first
        assert first.split()[0] != lines[0].split()[0]
    finally:
        server.stdin.close()
        server.wait(timeout=60)
        server.stdout.close()
        server.stderr.close()


def test_the_probe_sees_a_broker_that_gives_its_secret_away(tmp_path):
    marked = tmp_path / "key"
    marked.write_text("x")
    folder = stage.copy_probe(tmp_path, "broker_secret", {"mark": MARK, "paths": [str(marked), str(tmp_path)],
                                                         "metadata_actions": ["meta"]})
    done = subprocess.run([*APART, sys.executable, "-u", str(folder / "broker_secret.py"), "control"], cwd=folder,
                          timeout=SECONDS_MAX, capture_output=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "LEAKED": "".join(MARK) + secrets.token_hex(16)})
    report = stage.report_of(done.stdout)
    assert report, done.stderr
    wanted = {"what_it_has", "echoed", "failed", "tools", "redirected", "refused_path", "not_http", "minted", "headed", "action_meta", "environments", "memory",
              "connect_169.254.169.254", "proxied_169.254.169.254", f"file_{marked}", f"file_{tmp_path}"}
    assert wanted - set(report["reached"]) == set(), report["refused"]


def read_bytes(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def memory_holds(pid, needles):
    """Those of the needles that are in what the process has mapped."""
    found = set()
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps.read().splitlines():
                place, mode = line.split()[:2]
                if "r" not in mode or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    continue
                start, end = (int(x, 16) for x in place.split("-"))
                for at in range(start, end, 1 << 26):
                    try:
                        memory.seek(at)
                        data = memory.read(min(end - at, (1 << 26) + 256))
                    except (OSError, ValueError, OverflowError):
                        continue
                    found |= {n for n in needles if n in data}
    except OSError:
        pass  # a process that has ended holds nothing
    return found


def test_a_task_without_grants_reaches_no_door_and_makes_none(brokered, tmp_path, host):
    result = run_probe(brokered, tmp_path, host, "broker_doors", ("closed",))
    report = result["report"]
    assert report, (result["verdict"], result["reason"], result["stderr"][-2000:])
    assert report["facts"]["door"], "the box has no door: the probe proves nothing"
    assert report["reached"] == [], report["evidence"]
    for label in ("local", "tcp"):
        assert "refused" in report["refused"][label].lower(), report["refused"][label]
    assert result["receipt"]["revokedNs"] == result["receipt"]["brokerClosedNs"] == 0
    assert_gone(result)


def test_a_task_with_grants_can_replace_no_door(brokered, tmp_path, host):
    result = run_probe(brokered, tmp_path, host, "broker_doors", ("open",), flags=("--grant", "ticket"))
    assert result["report"], (result["verdict"], result["reason"], result["stderr"][-2000:])
    assert result["report"]["reached"] == [], result["report"]["evidence"]
    assert result["receipt"]["revokedNs"] > 0 and result["receipt"]["brokerClosedNs"] > 0
    assert_gone(result)


def test_a_task_with_grants_is_answered_at_both_of_its_doors(brokered):
    code = """
import http.client, os, socket
assert os.environ["MAYFLY_BROKER"].startswith("http://127.0.0.1")
tcp = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
tcp.request("GET", "/")
print(tcp.getresponse().status)
local = http.client.HTTPConnection("localhost", timeout=20)
local.sock = socket.socket(socket.AF_UNIX)
local.sock.connect("/run/broker.sock")
local.request("GET", "/")
print(local.getresponse().status)
"""
    result = brokered.run("-t", "python", "--grant", "ticket", "-c", code)
    assert stage.output_of(result).split() == [b"200", b"200"], result["stderr"]


def test_a_door_is_reached_from_no_other_box(brokered, tmp_path, host):
    code = "import os, sys; print('READY', flush=True); sys.stdin.read()"
    with stage.hold_box(brokered, ["--grant", "ticket"], "-c", code):
        result = run_probe(brokered, tmp_path, host, "broker_doors", ("closed",))
    assert result["report"] and result["report"]["reached"] == [], result
    assert_gone(result)


def test_a_grant_that_nobody_has_runs_nothing(brokered):
    done = brokered("run", "--json", "--grant", "nobodys", "-c", "print(1)")
    assert json.loads(done.stdout)["error"]["code"] == "notFound", done.stdout


def test_the_probe_sees_doors_that_are_open_and_unguarded(tmp_path):
    folder = stage.copy_probe(tmp_path, "broker_doors", {"token": secrets.token_hex(4)})
    done = subprocess.run([*APART, sys.executable, "-u", str(folder / "broker_doors.py"), "control"], cwd=folder,
                          timeout=SECONDS_MAX, capture_output=True, stdin=subprocess.DEVNULL)
    report = stage.report_of(done.stdout)
    assert report, done.stderr
    wanted = {"local", "tcp", "bind_127.0.0.1", "bind_127.0.0.1_reuse", "bind_0.0.0.0_reuse_port", "mode", "mode_of_folder",
              "low_ports", "exchange", "replace", "remove"}
    assert wanted - set(report["reached"]) == set(), report["refused"]
