"""Ordinary programs in boxes, with a broker outside: each ends as for a user outside, and no box holds a key.

Upstreams, PostgreSQL, daemon and boxes are real; package indexes are those of the machine's own configuration.
"""

import contextlib
import csv
import hashlib
import http.client
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import uuid

import pytest

import brokered
from brokered import CANARY, CERTIFICATES, LARGE_BYTES, PATIENCE_S, SHELL, TOKENS, TOP, VENV, Brokered, Indexes, ModelApi
from pool_view import mounted
from shared import PASSWORD, Postgres, await_true, memory_holds
from template_place import registries  # noqa: F401 (a fixture)
from test_lifecycle import family
from upstream import Certificates, Upstream

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root"),
              pytest.mark.usefixtures("registries")]
ASKER = "CANARY-asker-7f3a"
HOSTS = ("api.test", "db.test")
COMMAND_SECONDS_MAX = 180


class Stage:
    """The upstreams, and a daemon whose policy names them."""

    def __init__(self, folder, stack):
        self.folder = folder
        (folder / "certificates").mkdir()
        self.certificates = Certificates(folder / "certificates")
        self.model = ModelApi()
        self.api = stack.enter_context(Upstream(self.certificates, self.model.answer))
        data = pathlib.Path(f"/var/tmp/mayfly-programs-pg-{uuid.uuid4().hex[:8]}")
        data.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        self.postgres = Postgres(data, self.certificates)
        stack.callback(self.postgres.stop)
        self.indexes = Indexes()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.ask_port = free.getsockname()[1]
        for name, text in (("key", CANARY), ("pg", PASSWORD), ("asker", ASKER), ("ca", self.certificates.ca.read_text())):
            path = folder / name
            path.write_text(text)
            path.chmod(0o600)
        self.places = brokered.programs()
        text = brokered.policy(folder, self.api.port, self.postgres.port, self.ask_port, self.indexes)
        self.daemon = Brokered(folder, text, HOSTS, **self.places)
        stack.callback(shutil.rmtree, self.daemon.instance_state, ignore_errors=True)
        stack.callback(self.daemon.end)
        self.cli = self.daemon.start().cli

    def run(self, *words, **more):
        """A task's result; one that failed is shown."""
        result = self.cli.run("-t", "programs", *words, **more)
        assert result["verdict"] == "succeeded", (result["verdict"], result["reason"], result["stdout"], result["stderr"])
        return result

    def shell(self, command, *words):
        return self.run("--env", "COMMAND=" + command, *words, "-c", SHELL)

    @contextlib.contextmanager
    def living(self, code, *words):
        """A task whose output is read while it lives; it ends when its standard input does."""
        task = self.cli.start("run", "-t", "programs", "--stdin", *words, "-c", code)
        try:
            yield task
        finally:
            with contextlib.suppress(OSError):
                task.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                task.wait(COMMAND_SECONDS_MAX)
            task.kill()
            task.wait()
            for stream in (task.stdout, task.stderr):
                stream.close()

    def introspect(self, token):
        connection = http.client.HTTPConnection("127.0.0.1", self.ask_port, timeout=10)
        connection.request("POST", "/introspect", "token=" + token, {
            "Authorization": "Bearer " + ASKER, "Content-Type": "application/x-www-form-urlencoded"})
        return json.loads(connection.getresponse().read())


@pytest.fixture(scope="module")
def stage():
    folder = pathlib.Path("/run") / ("mayfly-test-" + uuid.uuid4().hex[:8])
    folder.mkdir(mode=0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Stage(folder, stack)


# --- the same programs inside and outside ----------------------------------------------------------------

CURL = {
    "get": "curl -sS $CURL $BASE/hello",
    "head": "curl -sS -I -o /dev/null -w '%{http_code} %{size_download} %header{etag}\\n' $CURL $BASE/hello",
    "post": """curl -sS $CURL -H 'Content-Type: application/json' -H 'X-Own: mine' -d '{"a": [1, null, "é"]}' "$BASE/echo?b=2&a=%20x" """,
    "upload": "head -c 3000000 /dev/zero | curl -sS $CURL -T - $BASE/upload",
    "large": "curl -sS $CURL $BASE/large | sha256sum",
    "not-found": "curl -sS -w '%{http_code}\\n' $CURL $BASE/status/404",
    "fail": "curl -sS -f $CURL $BASE/status/503; echo $?",
    "redirect": "curl -sS -L -w '%{http_code} %{num_redirects}\\n' $CURL $BASE/redirect",
    "redirect-back": "curl -sS -w '%{http_code}\\n' -o /dev/null $CURL $BASE/redirect",
    "delete": "curl -sS -X DELETE $CURL $BASE/echo",
    "one-connection": "curl -sS -w '%{num_connects}\\n' $CURL $BASE/hello $BASE/hello",
    "cookie": "curl -sS -H 'Cookie: a=b' $CURL $BASE/echo",
}
# As it is outside, where nobody drops what a program sends.
OUTSIDE_ONLY = {"cookie": '"cookie": "a=b"'}

REQUESTS = """
import hashlib, os, requests
base, session = os.environ["BASE"], requests.Session()
if "KEY" in os.environ:
    session.headers["Authorization"] = "Bearer " + os.environ["KEY"]
    session.verify = os.environ["CA"]
print(session.get(base + "/hello").text)
print(session.post(base + "/echo", params={"b": "2", "a": " x&é"}, json={"a": [1, None]}, headers={"X-Own": "mine"}).json())
print(session.put(base + "/upload", data=(b"x" * 10_000 for _ in range(100))).json())
with session.get(base + "/large", stream=True) as answer:
    digest = hashlib.sha256()
    for piece in answer.iter_content(10_000):
        digest.update(piece)
    print(answer.status_code, answer.headers["content-length"], digest.hexdigest())
answer = session.get(base + "/status/503")
print(answer.status_code, answer.text)
try:
    answer.raise_for_status()
except requests.HTTPError as error:
    print(type(error).__name__, error.response.status_code)
answer = session.get(base + "/redirect")
print(answer.text, len(answer.history))
print(session.delete(base + "/echo").json()["method"], session.head(base + "/hello").headers["etag"])
"""

OPENAI = """
import openai
client = openai.OpenAI(max_retries=2)
print([model.id for model in client.models.list()])
answer = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "say é"}])
print(answer.choices[0].message.content, answer.usage.total_tokens)
stream = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "x"}], stream=True)
print("".join(chunk.choices[0].delta.content for chunk in stream))
try:
    client.models.retrieve("none")
except openai.NotFoundError as error:
    print(type(error).__name__, error.status_code, error.body)
"""


def plain(stage, tmp_path, command, **variables):
    """What a shell command does outside of a box: in the same image, with the key, straight to the upstream."""
    with mounted(str(brokered.image_of(stage.places)), tmp_path / "root") as root:
        shutil.copy(stage.folder / "ca", tmp_path / "ca.pem")
        (tmp_path / "ca.pem").chmod(0o644)
        mounts = ('mount --bind "$HOSTS" "$ROOT/etc/hosts" && mount -t tmpfs tmpfs "$ROOT/tmp" && mount --rbind /dev "$ROOT/dev" '
                  '&& mount -t proc proc "$ROOT/proc" && cp "$CA_FILE" "$ROOT/tmp/ca.pem" && exec chroot "$ROOT" /usr/bin/env -i "$@"')
        base = f"https://api.test:{stage.api.port}/v1"
        given = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "BASE": base, "KEY": CANARY,
                 "CA": "/tmp/ca.pem", "SSL_CERT_FILE": "/tmp/ca.pem", "OPENAI_BASE_URL": base, "OPENAI_API_KEY": CANARY,
                 "CURL": f"--cacert /tmp/ca.pem --oauth2-bearer {CANARY}", **variables}
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", mounts, "bash", *(f"{k}={v}" for k, v in given.items()),
             "sh", "-c", command], capture_output=True, timeout=COMMAND_SECONDS_MAX, stdin=subprocess.DEVNULL,
            env={**os.environ, "ROOT": str(root), "HOSTS": str(stage.folder / "hosts"), "CA_FILE": str(tmp_path / "ca.pem")})
        return done.returncode, done.stdout.decode(), done.stderr.decode()


def boxed(stage, command, *words):
    result = stage.cli.run("-t", "programs", *words, "--env", "COMMAND=" + command, "-c", SHELL)
    assert result["verdict"] in ("succeeded", "failed"), result
    assert CANARY not in result["stdout"] + result["stderr"]
    return result["exitCode"], result["stdout"], result["stderr"]


# All commands in one script, with the exit code of each.
EVERY = "".join(f"echo '== {name}'\n{text}\necho \"-> $?\"\n" for name, text in CURL.items())


def parts(text):
    return dict(part.split("\n", 1) for part in text.split("== ")[1:])


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_curl_does_at_both_doors_what_it_does_outside(stage, tmp_path, door):
    outside = plain(stage, tmp_path, EVERY)
    flags = ["--env", "CURL=--unix-socket /run/broker.sock" if door == "unix" else "CURL=",
             "--env", "BASE=" + ("http://broker" if door == "unix" else "http://127.0.0.1") + "/cap/api"]
    inside = boxed(stage, EVERY, "--grant", "api", *flags)
    assert outside[0] == inside[0] == 0 and inside[2] == outside[2], (outside, inside)
    inside, outside = parts(inside[1]), parts(outside[1])
    assert inside.keys() == outside.keys() == CURL.keys()
    for name in CURL:
        if word := OUTSIDE_ONLY.get(name):
            assert word in outside[name] and inside[name] == outside[name].replace(word, '"cookie": null'), inside[name]
        else:
            assert inside[name] == outside[name], name
    assert f"{hashlib.sha256(bytes(range(250)) * (LARGE_BYTES // 250)).hexdigest()}  -\n-> 0\n" == inside["large"]
    assert not stage.model.denied


def test_requests_does_what_it_does_outside(stage, tmp_path):
    outside = plain(stage, tmp_path, 'python3 -c "$CODE"', CODE=REQUESTS)
    assert outside[0] == 0, outside
    result = stage.run("--grant", "api", "--env", "BASE=http://127.0.0.1/cap/api", "-c", REQUESTS)
    assert (result["exitCode"], result["stdout"], result["stderr"]) == outside
    assert "hello" in outside[1] and CANARY not in result["stdout"]


def test_the_openai_package_does_what_it_does_outside(stage, tmp_path):
    stage.model.busy = 1  # it repeats by itself
    outside = plain(stage, tmp_path, 'python3 -c "$CODE"', CODE=OPENAI)
    assert outside[0] == 0, outside
    stage.model.busy = 1
    result = stage.run("--grant", "openai", "-c", OPENAI)
    assert stage.model.busy == 0 and result["stdout"] == outside[1], result
    assert "".join(TOKENS) in outside[1] and "SAY É 5" in outside[1]


def test_tokens_flow_one_by_one_through_the_openai_package(stage):
    code = """
import openai
for chunk in openai.OpenAI().chat.completions.create(model="slow", messages=[{"role": "user", "content": "x"}], stream=True):
    print(chunk.choices[0].delta.content, flush=True)
"""
    stage.model.sent.clear()
    with stage.living(code, "--grant", "openai") as task:
        got = []
        for token in TOKENS:
            # The upstream sends a token once the box has printed the one before.
            got.append(task.stdout.readline().decode().rstrip("\n"))
            assert stage.model.sent[-1] == token, "the box had a token before it was sent"
            stage.model.printed.release()
        assert task.wait(COMMAND_SECONDS_MAX) == 0, task.stderr.read()
        assert got == TOKENS and task.stdout.read() == b""
    assert not stage.model.late


def test_nothing_of_the_box_is_a_key(stage):
    result = stage.run("--grant", "openai", "--grant", "orders", "--grant", "ticket", "-c", """
import os
print(*(f"{name}={value}" for name, value in sorted(os.environ.items())), sep="\\n")
print(open("/proc/self/environ").read(), open("/proc/1/cmdline").read())
""")
    said = result["stdout"]
    assert "MAYFLY_BROKER=http://127.0.0.1:80\n" in said and "OPENAI_API_KEY=held-by-the-broker\n" in said
    assert "CANARY" not in said
    bare = stage.run("-c", "import os; print(*os.environ)")["stdout"]
    assert "MAYFLY" not in bare and "OPENAI" not in bare


# --- databases ----------------------------------------------------------------------------------------------

def test_rows_come_from_a_real_postgresql_and_only_the_tenants_own(stage):
    code = """
import json, os, requests
url = os.environ["MAYFLY_BROKER"] + "/sql/orders"
print(json.dumps(requests.post(url, json={"since": "2026-01-01", "limit": 2}).json()))
print(requests.get(url, params={"since": "2026-01-01", "limit": "2"}, headers={"Accept": "text/csv"}).text)
for wrong in ({"since": "x", "limit": 2}, {"since": "2026-01-01", "limit": 501}, {"since": "2026-01-01", "limit": 2, "tenant": "blue"}):
    answer = requests.post(url, json=wrong)
    print(answer.status_code, answer.json()["error"]["message"])
"""
    for tenant, ids in (("red", [2, 4]), ("blue", [1, 3])):
        said = stage.run("--grant", "orders", "--tenant", tenant, "-c", code)["stdout"]
        rows, rest = said.split("\n", 1)
        assert [row["id"] for row in json.loads(rows)] == ids
        assert [int(row["id"]) for row in csv.DictReader(io.StringIO(rest.split("\n\n")[0]))] == ids
        assert {line.split()[0] for line in rest.strip().splitlines()[-3:]} <= {"400", "403"}, said
        assert "CANARY" not in said
    line = next(line for line in stage.daemon.audit() if line["kind"] == "sql")
    assert (line["action"], line["outcome"], line["tenant"]) == ("orders", "allowed", "red")


def test_a_task_pulls_rows_and_posts_a_result(stage):
    code = """
import os, requests
broker = os.environ["MAYFLY_BROKER"]
rows = requests.post(broker + "/sql/orders", json={"since": "2026-01-01", "limit": 500}).json()
answer = requests.post(broker + "/cap/api/reports", json={"orders": len(rows), "total": str(sum(row["total"] for row in rows))})
print(answer.status_code, answer.json())
"""
    before = len(stage.model.reports)
    assert stage.run("--grant", "orders", "--grant", "api", "--tenant", "red", "-c", code)["stdout"].startswith("201 ")
    assert stage.model.reports[before:] and stage.model.reports[-1]["orders"] == 50


# --- minted credentials -----------------------------------------------------------------------------------------

MINT = """
import os, requests, sys
print(requests.post(os.environ["MAYFLY_BROKER"] + "/mint/ticket").json()["credential"], flush=True)
sys.stdin.read()
"""


def test_a_minted_credential_dies_with_its_box(stage):
    with stage.living(MINT, "--grant", "ticket") as task:
        token = task.stdout.readline().decode().strip()
        told = stage.introspect(token)
        assert told["active"] and told["aud"] == "https://deploy.test" and told["scope"] == "read", told
        task.stdin.close()
        assert task.wait(COMMAND_SECONDS_MAX) == 0
    assert stage.introspect(token) == {"active": False}


def test_a_killed_client_leaves_no_credential(stage):
    with stage.living(MINT, "--grant", "ticket") as task:
        token = task.stdout.readline().decode().strip()
        assert stage.introspect(token)["active"]
        task.kill()
        await_true(lambda: stage.introspect(token) == {"active": False})


# --- package indexes ------------------------------------------------------------------------------------------

@pytest.fixture
def indexes(stage):
    if stage.indexes.why:
        pytest.skip("pip and npm are NOT TESTED in boxes: " + stage.indexes.why)
    if not CERTIFICATES.exists():
        pytest.skip(f"pip and npm are NOT TESTED in boxes: there is no {CERTIFICATES}")
    # A machine whose network opens TLS trusts a certificate of its own, which pip and npm bring no copy of.
    return ["--file", f"{CERTIFICATES}:ca.pem", "--env", "PIP_CERT=/task/ca.pem", "--env", "NODE_EXTRA_CA_CERTS=/task/ca.pem",
            "--cpu-time", "120s", "--wall-time", "170s", "--memory", "1GiB", "--pids", "256", "--disk", "512MiB"]


def test_pip_installs_from_the_listed_index(stage, indexes):
    said = stage.shell("python3 -m pip install -q --no-input --disable-pip-version-check --target lib iniconfig==2.0.0 && "
                       "PYTHONPATH=lib python3 -c 'import iniconfig; print(iniconfig.__name__)' && ls lib",
                       "--grant", "pip", "--grant", "packages", *indexes)["stdout"]
    assert "iniconfig\n" in said and "iniconfig-2.0.0.dist-info" in said
    kinds = {(line["kind"], line["action"]) for line in stage.daemon.audit() if line["outcome"] == "allowed"}
    assert {("http", "pip"), ("tunnel", "packages")} <= kinds


# Without a package.json, npm installs into the image's /node_modules.
NPM = "npm init -y >/dev/null && npm install --no-audit --no-fund --loglevel=error is-odd@3.0.1 && "


def test_npm_installs_from_the_listed_registry(stage, indexes):
    said = stage.shell(NPM + "node -p 'require(\"is-odd\")(3)'",
                       "--grant", "npm", "--grant", "packages", *indexes)["stdout"]
    assert said.endswith("true\n"), said


def test_npm_installs_through_the_proxy_alone(stage, indexes):
    said = stage.shell(NPM + "node -p 'require(\"is-odd\")(4)'",
                       "--grant", "packages", "--env", "npm_config_registry=" + stage.indexes.npm + "/", *indexes)["stdout"]
    assert said.endswith("false\n"), said


def test_a_host_that_is_not_listed_is_refused_in_words(stage, indexes):
    result = stage.shell("curl -sS https://api.test/; echo $?; curl -sS -o /dev/null -w '%{http_connect}\\n' https://api.test/; "
                         "curl -sS http://169.254.169.254/latest/meta-data", "--grant", "packages", *indexes)
    lines = result["stdout"].splitlines()
    assert lines[:2] == ["56", "403"], result
    assert json.loads("\n".join(lines[2:]))["error"]["advice"], result


# --- tools ------------------------------------------------------------------------------------------------------

TOOLS_TASK = """
import os, requests
tools = os.environ["MAYFLY_BROKER"] + "/tools"
print([tool["name"] for tool in requests.get(tools).json()])
print(requests.post(tools + "/lookup", json={"id": 7}).json())
answer = requests.post(tools + "/lookup", json={"id": "7; drop"})
print(answer.status_code)
answer = requests.post(tools + "/leak", json={})
print(answer.status_code, "hunter2" in answer.text)
print(requests.post(tools + "/other", json={}).status_code)
"""


def clients(stage, code, *words):
    done = subprocess.run(words, input=code, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX,
                          env={**os.environ, "MAYFLY_SOCKET": stage.daemon.socket, "PYTHONPATH": str(TOP / "clients/python/src"),
                               "TASK": TOOLS_TASK})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


TOOLS_SAID = ["['lookup', 'leak']", "{'id': 7, 'name': 'Ada'}", "400", "502 False", "404"]


def test_a_task_calls_plain_functions_of_a_python_client(stage):
    said = clients(stage, """
import os, mayfly
def lookup(id: int) -> dict:
    "Finds a customer."
    return {"id": id, "name": "Ada"}
def leak():
    raise ValueError("password=hunter2")
with mayfly.connect() as client:
    result = client.run("programs", os.environ["TASK"], tools={"lookup": lookup, "leak": leak})
    print(result.stdout + result.stderr, end="")
    print(result.verdict.value, result.receipt.complete)
""", VENV, "-")
    assert said == [*TOOLS_SAID, "succeeded True"]


def test_a_task_calls_plain_functions_of_a_typescript_client(stage, tmp_path):
    built = TOP / "build/typescript"
    if not (built / "dist").exists():
        pytest.skip("`./dev setup` has not built the TypeScript client")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/mayfly").symlink_to(built)
    script = tmp_path / "tools.mjs"
    script.write_text("""
import { connect, ToolError } from "mayfly";
const mayfly = await connect();
const lookup = ({ id }) => {
  if (typeof id !== "number") throw new ToolError("id must be a number");
  return { id, name: "Ada" };
};
const leak = () => { throw new RangeError("password=hunter2"); };
const result = await mayfly.run({ template: "programs", code: process.env.TASK, tools: { lookup, leak } });
process.stdout.write(result.stdout + result.stderr);
console.log(result.verdict, result.receipt.complete);
await mayfly.close();
""")
    assert clients(stage, "", "node", script) == [*TOOLS_SAID[:2], "409", *TOOLS_SAID[3:], "succeeded true"]


# --- grants and their ends ------------------------------------------------------------------------------------

def test_a_task_without_grants_is_refused_at_both_doors(stage):
    result = stage.shell("curl -sS http://127.0.0.1/; echo $?; curl -sS --unix-socket /run/broker.sock http://broker/; echo $?")
    assert result["stdout"] == "7\n7\n", result
    assert result["receipt"]["revokedNs"] == result["receipt"]["brokerClosedNs"] == 0


def test_two_boxes_at_once_have_their_own_grants(stage):
    code = """
import os, requests, sys
print(*(grant["name"] for grant in requests.get(os.environ["MAYFLY_BROKER"]).json()["grants"]), flush=True)
sys.stdin.readline()
print(requests.get(os.environ["MAYFLY_BROKER"] + "/cap/api/hello").status_code)
"""
    with stage.living(code, "--grant", "api:methods=GET") as one, stage.living(code, "--grant", "ticket") as two:
        assert [task.stdout.readline() for task in (one, two)] == [b"api\n", b"ticket\n"]
        for task in (one, two):
            task.stdin.close()
        assert [task.stdout.readline() for task in (one, two)] == [b"200\n", b"404\n"]


def test_the_receipt_tells_the_end_of_a_session(stage):
    result = stage.shell("curl -sS http://127.0.0.1/cap/api/hello", "--grant", "api")
    receipt = result["receipt"]
    assert receipt["complete"] and receipt["note"] == "" and receipt["missing"] == ""
    assert result["phases"]["exitedNs"] <= receipt["revokedNs"] <= result["phases"]["receiptNs"]
    assert result["phases"]["exitedNs"] <= receipt["brokerClosedNs"] <= result["phases"]["receiptNs"]


HOLDING = """
import os, requests
with requests.get(os.environ["MAYFLY_BROKER"] + "/cap/api/hold", stream=True) as answer:
    for line in answer.iter_lines():
        print(line.decode(), flush=True)
"""


def test_a_task_that_ends_in_mid_stream_leaves_no_call(stage):
    stage.model.held.clear()
    try:
        with stage.living(HOLDING, "--grant", "api") as task:
            assert task.stdout.readline() == b"begun\n" and stage.model.held.wait(PATIENCE_S)
            task.kill()
        await_true(lambda: any("/hold" in line["target"] and line["outcome"] in ("revoked", "failed")
                               for line in stage.daemon.audit()))
    finally:
        stage.model.release.set()


def test_a_grant_is_revoked_in_mid_stream(stage):
    stage.model.release.clear()
    try:
        said = clients(stage, f"""
import mayfly
with mayfly.connect() as client, client.submit("programs", {HOLDING!r}, grants=["api"], stream=True) as task:
    output = task.stream()
    print(next(output)[1])
    task.revoke("api")
    rest = b"".join(data for _, data in output)
    result = task.wait(60)
    print(result.verdict.value, b"ChunkedEncodingError" in rest or b"ConnectionError" in rest, result.receipt.complete)
""", VENV, "-")
    finally:
        stage.model.release.set()
    assert said == ["b'begun\\n'", "failed True True"]


# --- deaths ---------------------------------------------------------------------------------------------------

ASKING = """
import os, requests, sys
session = requests.Session()
for line in sys.stdin:
    try:
        print(session.get(os.environ["MAYFLY_BROKER"] + "/cap/api/hello", timeout=20).status_code, flush=True)
    except requests.RequestException as error:
        print(type(error).__name__, flush=True)
"""


def ask(task):
    task.stdin.write(b"\n")
    task.stdin.flush()
    return task.stdout.readline().decode().strip()


@pytest.mark.parametrize("verb", ["front", "vault"])
def test_the_death_of_a_process_of_the_broker_costs_calls_and_no_task(stage, verb):
    with stage.living(ASKING, "--grant", "api") as task:
        assert ask(task) == "200"
        dead = stage.daemon.process_of(verb)
        os.kill(dead, 9)
        said = []
        await_true(lambda: (said.append(ask(task)), said[-1] == "200")[1], PATIENCE_S)
        assert stage.daemon.process_of(verb) != dead
        assert {"200"} <= set(said) <= {"200", "502", "503", "ConnectionError", "ChunkedEncodingError", "ReadTimeout"}, said
        task.stdin.close()
        assert task.wait(COMMAND_SECONDS_MAX) == 0
    assert stage.shell("curl -sS http://127.0.0.1/cap/api/hello", "--grant", "api")["stdout"] == "hello\n"


# --- the canary -------------------------------------------------------------------------------------------------

def test_the_secrets_are_in_the_vault_alone(stage):
    code = ASKING.replace("/cap/api/hello", "/cap/api/echo")
    with stage.living(code, "--grant", "api", "--grant", "orders") as task:
        for _ in range(5):
            assert ask(task) == "200"
        needles = [CANARY.encode(), ASKER.encode(), PASSWORD.encode()]
        vault = stage.daemon.process_of("vault")
        assert CANARY.encode() in memory_holds(vault, needles), "the search itself finds nothing"
        searched = 0
        for pid in family(stage.daemon.pid):
            if pid == vault:
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends
                assert not memory_holds(pid, needles), brokered.Brokered.words(pid)
                for file in ("environ", "cmdline"):
                    assert b"CANARY" not in pathlib.Path(f"/proc/{pid}/{file}").read_bytes()
                searched += 1
        assert searched > 8
        told = "".join(stage.cli(*words).stdout.decode() for words in (("ps", "--json"), ("doctor", "--quick", "--json"), ("templates", "--json")))
    files = "".join(path.read_bytes().decode("latin-1") for path in stage.daemon.instance_state.rglob("*") if path.is_file())
    assert "CANARY" not in told + files + stage.daemon.log.read_text()


def test_the_policy_of_these_tests_is_the_documents(stage):
    """The examples of docs/broker.md are what runs here: the command line reads them as the vault does."""
    done = subprocess.run([brokered.CLI, "broker", "check", stage.daemon.policy], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
