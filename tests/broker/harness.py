"""A broker without boxes: the test is mayflyd. It starts `mayfly-broker supervise` in a mount namespace of
its own (for /etc/hosts), opens sessions by the inner RPC and hands doors to the front."""
import asyncio
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import types

import capnp
import pytest

import upstream
from shared import await_true

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("MAYFLY_BUILD", "build")
PROGRAM = BUILD / "bin" / "mayfly-broker"
SCHEMA = capnp.load(str(TOP / "src/broker/broker.capnp"), imports=["/usr/include"])

MAGIC, VERSION = 0x4D464252, 1
FRONT_UP, FRONT_DOWN, VAULT_UP, VAULT_DOWN, POLICY_LOADED, POLICY_REFUSED = range(1, 7)
VAULT_UID, FRONT_UID, COMMAND_UID = 1879048000, 1879048001, 1879048002
USER, TENANT = 1000, "red"


class Rpc:
    """pycapnp's loop on a thread of its own. None of its objects leaves the thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def forever():
            async with capnp.kj_loop():
                self.stopped = asyncio.Event()
                ready.set()
                await self.stopped.wait()

        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(forever()), daemon=True)
        self.thread.start()
        ready.wait()

    def run(self, coroutine, timeout=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def stop(self):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(10)


class Tools(SCHEMA.Tools.Server):
    def __init__(self, functions):
        self.functions = functions

    async def call(self, name, json, _context, **_):
        _context.results.json = self.functions[name](json)


class Session:
    def __init__(self, broker, answer, task, connections):
        self.broker, self.number, self.task, self.env = broker, answer.number, task, answer.env
        self.local_path = str(broker.folder / f"door-{self.number}.sock")
        self.local = socket.socket(socket.AF_UNIX)
        self.local.bind(self.local_path)
        self.tcp = socket.socket()
        self.tcp.bind(("127.0.0.1", 0))
        for each in (self.local, self.tcp):
            each.listen(64)
        self.port = self.tcp.getsockname()[1]
        self.connections = connections

    def open_door(self):
        message = struct.pack("<IHHQII", MAGIC, VERSION, 1, self.number, self.connections, 0)
        socket.send_fds(self.broker.doors, [message], [self.local.fileno(), self.tcp.fileno()])

    def close_door(self):
        self.broker.doors.send(struct.pack("<IHHQII", MAGIC, VERSION, 2, self.number, 0, 0))
        return self.broker.doors.recv(64)

    def connection(self, timeout=30):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, timeout=30):
        """Status, headers (lower case) and body."""
        connection = self.connection(timeout)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body

    def refusal(self, method, path, body=None, headers=None):
        status, _, text = self.ask(method, path, body, headers)
        return status, json.loads(text)["error"]

    def revoke(self, name=""):
        async def revoke():
            answer = await self.broker.faces[self.number].revoke(name)
            return answer.error.message
        assert self.broker.rpc.run(revoke()) == ""

    def drop(self):
        async def drop():
            del self.broker.faces[self.number]
        self.broker.rpc.run(drop())


class Broker:
    def __init__(self, folder, certificates, arguments=()):
        self.folder, self.rpc = folder, Rpc()
        self.certificates = certificates
        self.hosts = folder / "hosts"
        self.policy = folder / "policy.toml"
        self.state = folder / "state"
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.log = folder / "log"
        self.set_hosts({})
        self.arguments = arguments
        self.vault = self.doors = None
        self.faces = {}  # sessions by number: objects of the RPC's thread
        self.events, self.tasks = [], 100

    # --- what the operator writes

    def set_hosts(self, names):
        lines = ["127.0.0.1 localhost"] + [f"{a} {n}" for n, all_ in names.items() for a in all_.split()]
        self.hosts.write_text("\n".join(lines) + "\n")

    def secret(self, name, text, mode=0o600):
        path = self.secrets / name
        part = self.secrets / f".{name}"
        part.write_text(text)
        part.chmod(mode)
        part.rename(path)
        return path

    def write_policy(self, text):
        part = self.folder / ".policy"
        part.write_text(text)
        part.chmod(0o644)
        part.rename(self.policy)

    # --- its life

    def start(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30)
        words = [str(PROGRAM), "supervise", "--policy", str(self.policy), "--state", str(self.state),
                 "--vault-uid", str(VAULT_UID), "--front-uid", str(FRONT_UID), "--command-uid", str(COMMAND_UID),
                 *self.arguments]
        script = f'mount --bind "$0" /etc/hosts && exec 3<&{theirs.fileno()} && exec "$@"'
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "bash", "-c", script, str(self.hosts), *words],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
                start_new_session=True)
        theirs.close()
        self.link = ours
        self.pids = {}
        self.await_events(VAULT_UP, FRONT_UP, POLICY_LOADED)
        return self

    def take_event(self):
        data, fds, _, _ = socket.recv_fds(self.link, 1024, 4)
        assert data, "the supervisor has ended: " + self.log.read_text()
        magic, version, kind, pid, status = struct.unpack_from("<IHHIi", data)
        assert (magic, version) == (MAGIC, VERSION)
        text = data[16:].split(b"\0")[0].decode()
        self.events.append((kind, text))
        if kind == VAULT_UP:
            self.pids["vault"] = pid
            self.connect_vault(socket.socket(fileno=fds[0]))
        if kind == FRONT_UP:
            self.pids["front"] = pid
            self.doors = socket.socket(fileno=fds[0])
            self.doors.settimeout(30)
        return kind, text

    def await_events(self, *kinds):
        """The text of the last."""
        left, text = list(kinds), ""
        while left:
            kind, text = self.take_event()
            if kind in left:
                left.remove(kind)
        return text

    def connect_vault(self, sock):
        async def connect():
            stream = await capnp.AsyncIoStream.create_unix_connection(sock=sock)
            self.faces.clear()
            self.client = capnp.TwoPartyClient(stream)
            self.vault = self.client.bootstrap().cast_as(SCHEMA.Vault)
        self.rpc.run(connect())

    def try_open(self, *grants, uid=USER, tenant=TENANT, tools=None, epoch=1, task=0):
        async def open_():
            spec = SCHEMA.SessionSpec.new_message(uid=uid, tenant=tenant, epoch=epoch, task=task, template="python")
            wishes = spec.init("grants", len(grants))
            for wish, grant in zip(wishes, grants):
                wish.name, _, wish.narrowing = grant.partition(":")
            if tools:
                names = spec.init("toolNames", len(tools))
                for each, name in zip(names, tools):
                    each.name = name
                spec.tools = Tools(tools)
            answer = await self.vault.open(spec)
            if answer.error.code == 0:
                self.faces[answer.number] = answer.session
            return types.SimpleNamespace(code=answer.error.code, message=answer.error.message, number=answer.number,
                                         env={pair.name: pair.value for pair in answer.env})
        return self.rpc.run(open_())

    def session(self, *grants, expires_ms=600_000, connections=64, task=None, **more):
        answer = self.try_open(*grants, **more)
        assert answer.code == 0, answer.message
        self.tasks += 1
        session = Session(self, answer, task or self.tasks, connections)

        async def activate():
            done = await self.faces[session.number].activate(session.task, expires_ms)
            return done.error.message
        assert self.rpc.run(activate()) == ""
        session.open_door()
        return session

    def status(self):
        async def status():
            answer = await self.vault.status()
            return types.SimpleNamespace(sessions=answer.sessions, calls=answer.calls)
        return self.rpc.run(status())

    def audit(self):
        with contextlib.suppress(Exception):
            self.status()  # lines come a moment after their answers
        lines = []
        for path in sorted(self.state.glob("audit.log*"), reverse=True):
            lines += [json.loads(line) for line in path.read_text().splitlines() if line]
        return lines

    def last_line(self, count):
        """The `count`-th line of the audit, once it is there."""
        await_true(lambda: len(self.audit()) >= count)
        return self.audit()[count - 1]

    def kill_vault(self):
        os.kill(self.pids["vault"], signal.SIGKILL)
        self.await_events(VAULT_DOWN, VAULT_UP, POLICY_LOADED)

    def stop(self):
        if self.process.poll() is None:
            self.link.close()
            self.process.wait(15)

        async def forget():
            self.faces.clear()
            self.vault = self.client = None
        self.rpc.run(forget())
        self.rpc.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return upstream.Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def folder():
    path = pathlib.Path(f"/var/tmp/mayfly-broker-test-{os.getpid()}-{time.monotonic_ns()}")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_broker(folder, certificates):
    if os.geteuid() != 0:
        pytest.skip("starting the broker needs root")
    made = []

    def make(policy, secrets=None, hosts=None, arguments=()):
        broker = Broker(folder, certificates, arguments)
        made.append(broker)
        for name, text in (secrets or {}).items():
            broker.secret(name, text)
        broker.secret("ca", certificates.ca.read_text())
        broker.set_hosts(hosts or {})
        broker.write_policy(policy.replace("@SECRETS@", str(broker.secrets)))
        return broker.start()

    yield make
    for broker in made:
        broker.stop()
        text = broker.log.read_text()
        assert "refused itself the system call" not in text, text
        assert "Sanitizer" not in text, text


@pytest.fixture
def serve(certificates):
    """Starts upstreams that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *a, **k: stack.enter_context(upstream.Upstream(certificates, *a, **k))


