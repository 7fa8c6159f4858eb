"""Fixtures. MAYFLY_SOCKET names the daemon (`./dev test python` starts one); without it the
tests skip and say so. Tests that take `client` run with both clients."""

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import pathlib
import threading

import pytest

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "src")]

import harness  # noqa: E402


def pytest_pyfunc_call(pyfuncitem):
    """Coroutines run to their end; `client` is made on the test's own loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    args = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            if "client" in args:
                args["client"] = await stack.enter_async_context(args["client"])
            await pyfuncitem.obj(**args)

    asyncio.run(run())
    return True


@pytest.fixture(scope="session", autouse=True)
def collector():
    """Frees all cyclic garbage on a thread that owns no event loop: if it contains a pycapnp
    object, the process aborts."""
    stop = threading.Event()

    def collect():
        while not stop.wait(0.2):
            gc.collect()

    gc.freeze()
    gc.disable()
    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
    gc.enable()


@pytest.fixture(scope="session")
def daemon():
    socket = os.environ.get("MAYFLY_SOCKET")
    if not socket:
        pytest.skip("no daemon: run this by `./dev test python`")
    return socket


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def client(daemon, kind):
    return harness.connect(kind, daemon)


@pytest.fixture
def daemons(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("starting a daemon needs root")
    started = []

    def start(config=""):
        started.append(harness.Daemon(tmp_path_factory.mktemp("d"), config))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def fakes(tmp_path):
    started = []

    def start(old=False, **answers):
        started.append(harness.FakeDaemon(tmp_path / f"fake{len(started)}", answers, old))
        return started[-1].socket

    yield start
    for each in started:
        each.end()
