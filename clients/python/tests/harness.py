"""Helpers of the tests: both clients behind one async interface, daemons for one test, and a
fake daemon for events that a real one does not produce on demand."""

import asyncio
import contextlib
import inspect
import os
import pathlib
import re
import select
import shutil
import subprocess
import sys
import threading
import time
import uuid

import capnp

import mayfly
from mayfly._wire import schema

TOP = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(TOP / "tests"), str(TOP / "tests/e2e")]
from light import light  # noqa: E402

SECONDS_MAX = 60  # of any wait for an event
MIB = 1 << 20
WAITING = "import sys; print('up', flush=True); print('got', sys.stdin.readline(), flush=True)"
ENDLESS = "import time; print('up', flush=True); time.sleep(600)"
_END = object()


class Awaited:
    """The sync client, or one of its tasks, with the async client's interface."""

    def __init__(self, blocking):
        self.blocking = blocking

    def __getattr__(self, name):
        value = getattr(self.blocking, name)
        if name == "stdin":
            return Awaited(value)
        if not callable(value):
            return value

        def call(*args, **kwargs):
            if inspect.isgeneratorfunction(value) or name == "stream":
                return _iterate(value(*args, **kwargs))
            return _call(value, *args, **kwargs)

        return call

    async def __aenter__(self):
        await in_thread(self.blocking.__enter__)
        return self

    async def __aexit__(self, *error):
        await in_thread(self.blocking.__exit__, *error)


async def in_thread(function, *args, **kwargs):
    """Each call on a thread of its own."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def tell(value, error):
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(value)

    def work():
        try:
            value, error = function(*args, **kwargs), None
        except Exception as caught:
            value, error = None, caught
        loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=work, daemon=True).start()
    return await future


async def _call(function, *args, **kwargs):
    value = await in_thread(function, *args, **kwargs)
    return Awaited(value) if isinstance(value, mayfly.Task) else value


async def _iterate(iterator):
    try:
        while (item := await in_thread(next, iterator, _END)) is not _END:
            yield item
    finally:
        iterator.close()


@contextlib.asynccontextmanager
async def connect(kind, socket, **options):
    if kind == "async":
        async with mayfly.connect_async(socket, **options) as client:
            yield client
    else:
        client = await in_thread(mayfly.connect, socket, **options)
        try:
            yield Awaited(client)
        finally:
            await in_thread(client.close)


async def until(task, word=b"up"):
    """Reads a streamed task's output until it contains `word`."""
    said = b""
    stream = task.stream()
    async for _, data in stream:
        said += data
        if word in said:
            break
    await stream.aclose()
    assert word in said, said
    return said


async def eventually(condition, what):
    deadline = time.monotonic() + SECONDS_MAX
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"{what}: not within {SECONDS_MAX} s"
        await asyncio.sleep(0.01)
    return value


class Daemon:
    """A mayflyd for one test, to be killed or filled up."""

    def __init__(self, folder, config=""):
        self.run_dir = pathlib.Path(folder)
        self.run_dir.chmod(0o755)
        self.socket = str(self.run_dir / "d.sock")
        instance = "py-" + uuid.uuid4().hex[:12]
        (self.run_dir / "d.toml").write_text(config)
        ready, theirs = os.pipe()
        self.log = self.run_dir / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [shutil.which("mayflyd"), "--config", str(self.run_dir / "d.toml"), "--instance",
                 instance, "--socket", self.socket, "--run-dir", str(self.run_dir), "--state-dir",
                 light()["state_dir"], "--templates", str(light()["template_dirs"][0]),
                 "--template", "python", "--ready-fd", str(theirs)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs,))
        os.close(theirs)
        with open(ready, "rb", buffering=0) as pipe:
            assert select.select([pipe], [], [], SECONDS_MAX)[0], self.log.read_text()
            assert pipe.read(16) == b"ready\n", self.log.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait(SECONDS_MAX)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(SECONDS_MAX)


def old_schema(folder):
    """The schema before uploads existed: it lacks those methods."""
    text = pathlib.Path(mayfly.__file__).with_name("mayfly.capnp").read_text()
    old = folder / "old.capnp"
    old.write_text(re.sub(r"  upload @5 .*?\n}\n", "}\n", text, count=1, flags=re.S))
    assert "upload @5" not in old.read_text()
    return capnp.SchemaParser().load(
        str(old), imports=[str(pathlib.Path(capnp.__file__).parent.parent)])


class FakeDaemon:
    """Answers as configured: `answers` maps method names to coroutines, called with the context."""

    def __init__(self, path, answers, old=False):
        self.socket = str(path)
        # pycapnp's classes do not keep their schema.
        self.schema = old_schema(path.parent) if old else schema
        self.server = type("Server", (self.schema.Mayfly.Server,), {
            name + "_context": staticmethod(answer) for name, answer in answers.items()})()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(capnp.run(self.serve())))
        self.thread.start()
        assert self.ready.wait(SECONDS_MAX)

    async def serve(self):
        self.stop, self.loop = asyncio.Event(), asyncio.get_running_loop()

        async def accept(stream):
            await capnp.TwoPartyServer(stream, bootstrap=self.server).on_disconnect()

        server = await capnp.AsyncIoStream.create_unix_server(accept, self.socket)
        self.ready.set()
        await self.stop.wait()
        server.close()

    def end(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(SECONDS_MAX)
