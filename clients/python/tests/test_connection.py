"""Ends: the daemon dies, the client is closed, forked, dropped or forgotten; nothing hangs."""

import asyncio
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import mayfly
from harness import ENDLESS, SECONDS_MAX, WAITING, connect, eventually, in_thread, until

SOURCE = pathlib.Path(mayfly.__file__).resolve().parents[1]


async def test_a_killed_daemon_ends_every_call(daemons, kind):
    daemon = daemons()
    async with connect(kind, daemon.socket) as client:
        task = await client.submit("python", ENDLESS, stream=True)
        await until(task)
        writer = await client.submit("python", ENDLESS, stdin=mayfly.PIPE, stream=True)
        await until(writer)
        stream = task.stream()
        calls = [asyncio.create_task(call) for call in (
            task.wait(), task.wait(600), anext(stream), writer.stdin.write(bytes(1 << 20)),
            client.run("python", ENDLESS), client.run("python", ENDLESS, on_output=print))]
        await eventually(lambda: running(client, 4), "all of them run")
        daemon.kill()
        for call in calls:
            with pytest.raises(mayfly.Disconnected):
                await asyncio.wait_for(call, SECONDS_MAX)
        for call in (client.templates, client.tasks, task.cancel, lambda: client.run("python", "1")):
            with pytest.raises(mayfly.Disconnected) as caught:
                await call()
            assert isinstance(caught.value, ConnectionError) and caught.value.advice
        await task.close()  # harmless


async def running(client, count):
    return len([each for each in await client.tasks() if each.state == "running"]) >= count


async def test_a_new_client_reaches_the_next_daemon(daemons, kind):
    first = daemons()
    async with connect(kind, first.socket) as client:
        first.kill()
        second = daemons()
        with pytest.raises(mayfly.Disconnected):
            await client.tasks()
        async with connect(kind, second.socket) as other:
            assert (await other.run("python", "print(1)")).ok


async def test_closing_ends_what_waits_and_the_tasks(daemon, kind):
    async with connect(kind, daemon) as witness:
        async with connect(kind, daemon) as client:
            task = await client.submit("python", ENDLESS, stream=True)
            await until(task)
            stream = task.stream()
            calls = [asyncio.create_task(call) for call in (
                task.wait(), anext(stream), client.run("python", ENDLESS))]
            await eventually(lambda: running(client, 2), "both run")
            await client.close()
            for call in calls:
                with pytest.raises(mayfly.Disconnected, match="closed"):
                    await asyncio.wait_for(call, SECONDS_MAX)
            for call in (client.tasks, task.wait, task.cancel):
                with pytest.raises(mayfly.Disconnected, match="closed"):
                    await call()
            await client.close()  # harmless
        await eventually(lambda: gone(witness, task.id), "its tasks end")


async def test_closing_ends_a_call_that_is_never_answered(fakes, kind):
    asked = threading.Event()

    async def hello(context):
        context.results.init("info").protocol = mayfly.PROTOCOL

    async def templates(context):
        asked.set()
        await asyncio.Event().wait()

    async with connect(kind, fakes(hello=hello, templates=templates)) as client:
        calls = [asyncio.create_task(client.templates(deadline=None)) for _ in range(3)]
        await in_thread(asked.wait, SECONDS_MAX)
        await client.close()
        for call in calls:
            with pytest.raises(mayfly.Disconnected):
                await asyncio.wait_for(call, SECONDS_MAX)


async def test_an_idle_client_stays_connected(daemons, kind):
    daemon = daemons('connection_idle = "600ms"\n')
    async with connect(kind, daemon.socket) as client:
        for _ in range(2):
            # The control: a later, silent connection is closed.
            reader, writer = await asyncio.open_unix_connection(daemon.socket)
            assert await asyncio.wait_for(reader.read(1), SECONDS_MAX) == b""
            writer.close()
        assert (await client.run("python", "print(1)")).ok


async def gone(client, *ids):
    return not [each for each in await client.tasks() if each.id in ids]


async def test_a_dropped_client_ends_its_tasks(daemon, kind):
    async with connect("sync", daemon) as witness:
        client = mayfly.Client(daemon) if kind == "sync" else await mayfly.connect_async(daemon)
        if kind == "sync":
            task = await in_thread(client.submit, "python", ENDLESS)
        else:
            task = await client.submit("python", ENDLESS)
        number = task.id
        assert not await gone(witness, number)
        del client
        gc.collect()
        assert not await gone(witness, number)  # the task keeps it
        del task
        gc.collect()
        await eventually(lambda: gone(witness, number), "its task ends")


def test_threads_share_a_client(daemon):
    failures, results = [], []

    def work(client, number):
        try:
            for step in range(10):
                said = client.run("python", f"print({number} * 1000 + {step})").stdout
                results.append(int(said))
        except Exception as error:
            failures.append(error)

    with mayfly.connect(daemon) as client:
        threads = [threading.Thread(target=work, args=(client, n)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS_MAX)
    assert not failures and sorted(results) == [n * 1000 + s for n in range(12) for s in range(10)]


def test_garbage_is_collected_on_any_thread(daemon):
    """Cycles and tracebacks with tasks in them, freed away from the event loop's thread."""
    with mayfly.connect(daemon) as client:
        for round_ in range(30):
            cycle = {"task": client.submit("python", "print(1)"), "errors": []}
            cycle["self"] = cycle
            for bad in (lambda: client.run("none", "1"), lambda: client.run("python", "1", memory=0)):
                try:
                    bad()
                except mayfly.MayflyError as error:
                    cycle["errors"].append(error)
            del cycle
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()
        assert client.run("python", "print(2)").stdout == "2\n"


def test_a_fork_leaves_the_parents_client_alone(daemon):
    with mayfly.connect(daemon) as client, mayfly.connect(daemon) as witness:
        task = client.submit("python", ENDLESS, stream=True)
        next(task.stream())
        go_on, wait = os.pipe()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"?"
            try:
                os.close(wait)
                try:
                    client.run("python", "print(1)")
                except mayfly.Disconnected as error:
                    said = b"refused " if "fork" in str(error) else b"odd "
                with mayfly.connect(daemon) as own:
                    said += own.run("python", "print(42)").stdout.encode()
                del task, client
                gc.collect()
                os.write(write, said)
                os.read(go_on, 1)  # lives on, with its inherited descriptors
            finally:
                os._exit(0)
        os.close(go_on)
        os.close(write)
        assert os.read(read, 200) == b"refused 42\n"
        assert client.run("python", "print(1)").ok
        number = task.id
        client.close()
        # The child does not hold the socket: the daemon sees that the client is gone.
        deadline = time.monotonic() + SECONDS_MAX
        while [each for each in witness.tasks() if each.id == number]:
            assert time.monotonic() < deadline
        os.close(wait)
        assert os.waitpid(child, 0)[1] == 0


def script(daemon, text, **options):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::RuntimeWarning", "-c", text], timeout=SECONDS_MAX,
        capture_output=True, text=True,
        env={**os.environ, "MAYFLY_SOCKET": daemon, "PYTHONPATH": str(SOURCE)}, **options)


FORGOTTEN = {
    "a sync client": "c = mayfly.connect(); t = c.submit('python', 'while True: pass')",
    "a sync client in a cycle": "c = mayfly.connect(); c.me = c; t = c.submit('python', 'while True: pass')",
    "a stream under way": (
        "c = mayfly.connect(); t = c.submit('python', 'while True: print(1)', stream=True)\n"
        "s = t.stream(); next(s)"),
    "a waiting thread": (
        "import threading\nc = mayfly.connect()\ndef run():\n"
        "  try: c.run('python', 'while True: pass')\n  except mayfly.Disconnected: pass\n"
        "t = threading.Thread(target=run, daemon=True); t.start()\n"
        "while not c.tasks(): pass"),
    "an async client": (
        "import asyncio\nasync def main():\n"
        "  c = await mayfly.connect_async(); t = await c.submit('python', 'while True: print(1)', stream=True)\n"
        "  await anext(t.stream())\n"
        "asyncio.run(main())"),
    "an async client, kept": (
        "import asyncio\nkeep = []\nasync def main():\n"
        "  c = await mayfly.connect_async(); t = await c.submit('python', 'while True: pass')\n"
        "  keep.extend((c, t))\n"
        "asyncio.run(main())\n"
        "try: asyncio.run(keep[1].wait())\nexcept mayfly.MayflyError: pass"),
    "an async client whose loop is left open": (
        "import asyncio\nloop = asyncio.new_event_loop()\n"
        "c = loop.run_until_complete(mayfly.AsyncClient().connect())\n"
        "t = loop.run_until_complete(c.submit('python', 'while True: pass'))"),
    "an exception": "with mayfly.connect() as c:\n  c.run('python', 'pass')\n  raise SystemExit(0)",
    "a fork that ends by itself": (
        "import os\nc = mayfly.connect(); t = c.submit('python', 'while True: pass')\n"
        "if os.fork() == 0: raise SystemExit(0)\n"
        "code = os.waitpid(-1, 0)[1]\nassert code == 0, code\nassert c.run('python', 'pass').ok"),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_program_that_forgets_to_close_ends_well(daemon, what):
    with mayfly.connect(daemon) as witness:
        done = script(daemon, f"import mayfly\n{FORGOTTEN[what]}\nprint('end')")
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["end"]) or \
            (what == "an exception" and done.returncode == 0), done.stderr
        assert "Fatal" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        deadline = time.monotonic() + SECONDS_MAX
        while witness.tasks():
            assert time.monotonic() < deadline, "its tasks are left"


def test_control_c_ends_a_run(daemon):
    text = ("import mayfly, signal\n"  # a shell's background job has it ignored
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "with mayfly.connect() as c:\n"
            "  try: c.run('python', \"import time; print('up', flush=True); time.sleep(600)\")\n"
            "  except KeyboardInterrupt: print('interrupted', c.run('python', 'print(1)').ok)\n")
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "MAYFLY_SOCKET": daemon, "PYTHONPATH": str(SOURCE)})
    with mayfly.connect(daemon) as witness:
        deadline = time.monotonic() + SECONDS_MAX
        while not [each for each in witness.tasks() if each.state == "running"]:
            assert time.monotonic() < deadline and process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=SECONDS_MAX)[0] == "interrupted True\n"
        while witness.tasks():
            assert time.monotonic() < deadline


async def test_a_cancelled_coroutine_ends_its_task(daemon):
    async with mayfly.connect_async(daemon) as client:
        call = asyncio.create_task(client.run("python", ENDLESS))
        await eventually(lambda: running(client, 1), "it runs")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: empty(client), "it is gone")
        assert (await client.run("python", "print(1)")).ok


async def empty(client):
    return not [each for each in await client.tasks() if each.yours]


async def test_clients_share_a_loop_and_end_one_by_one(daemon):
    first = await mayfly.connect_async(daemon)
    async with mayfly.connect_async(daemon) as second:
        assert (await second.run("python", "print(1)")).ok
    assert (await first.run("python", "print(1)")).ok
    await first.close()
    async with mayfly.connect_async(daemon) as third:
        assert (await third.run("python", "print(1)")).ok


async def test_a_loop_that_runs_kj_already_is_used(daemon):
    import capnp
    async with capnp.kj_loop():
        async with mayfly.connect_async(daemon) as client:
            assert (await client.run("python", "print(1)")).ok
        async with mayfly.connect_async(daemon) as client:
            assert (await client.run("python", "print(1)")).ok


def test_an_async_client_belongs_to_its_loop(daemon):
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(mayfly.AsyncClient(daemon).connect())
    with pytest.raises(mayfly.FailedPrecondition, match="loop"):
        asyncio.run(client.tasks())
    loop.run_until_complete(client.close())
    loop.close()
    with pytest.raises(mayfly.FailedPrecondition, match="not connected"):
        asyncio.run(mayfly.AsyncClient(daemon).tasks())


def test_the_socket_is_found_by_the_environment(daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("MAYFLY_SOCKET", daemon)
    with mayfly.connect() as client:
        assert client.run("python", "print(1)").ok
    monkeypatch.setenv("MAYFLY_SOCKET", str(tmp_path / "none"))
    with pytest.raises(mayfly.Unavailable, match="none"):
        mayfly.connect()
    monkeypatch.delenv("MAYFLY_SOCKET")
    assert mayfly.DEFAULT_SOCKET == "/run/mayfly/default.sock"


async def test_waiting_task_hears_of_stdin_and_ends(client):
    """The control of the tests above: the killed things do not end by themselves."""
    async with await client.submit("python", WAITING, stdin=mayfly.PIPE, stream=True) as task:
        await until(task)
        with pytest.raises(mayfly.DeadlineExceeded):
            await task.wait(0.1)
        await task.stdin.write("x\n")
        assert (await task.wait()).ok
