"""One class for each code, with message, advice and retry hint."""

import asyncio
import os
import pickle
import socket
import traceback

import pytest

import mayfly
from harness import ENDLESS, connect, until
from mayfly import errors
from mayfly._wire import schema

CODES = [name for name in schema.ErrorCode.schema.enumerants if name != "ok"]


def refusing(code, **fields):
    """A method that answers with an error of this code."""
    async def answer(context):
        error = context.results.init("error")
        error.code = code
        for name, value in fields.items():
            setattr(error, name, value)
    return answer


async def hello(context):
    context.results.init("info").protocol = mayfly.PROTOCOL


def test_every_code_has_a_class_and_every_class_its_code():
    assert CODES == [str(code) for code in mayfly.ErrorCode]
    for number, name in enumerate(CODES, 1):
        assert str(errors.BY_NUMBER[number].code) == name


@pytest.mark.parametrize("code", CODES)
async def test_each_code_arrives_as_its_class(fakes, kind, code):
    path = fakes(hello=hello, templates=refusing(code, message="what and why", advice="Do this.",
                                                 retryable=True, retryAfterMs=1500))
    async with connect(kind, path) as client:
        with pytest.raises(mayfly.MayflyError) as caught:
            await client.templates()
    error = caught.value
    assert type(error) is errors.BY_NUMBER[CODES.index(code) + 1] and error.code == code
    assert (error.message, error.advice) == ("what and why", "Do this.")
    assert (error.retryable, error.retry_after) == (True, 1.5)
    assert str(error) == "what and why. Do this."
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retry_after) == (type(error), str(error), 1.5)


async def test_a_code_of_a_newer_daemon_is_an_error_still(fakes, kind):
    async def newer(context):
        context.results.init("error").code = 99

    async with connect(kind, fakes(hello=hello, templates=newer)) as client:
        with pytest.raises(mayfly.MayflyError):
            await client.templates()


async def test_a_verdict_of_a_newer_daemon_is_unknown():
    from mayfly import _wire
    known = list(schema.Verdict.schema.enumerants)
    assert [*known, "unknown"] == [str(v) for v in mayfly.Verdict]
    assert [_wire.verdict(n) for n in range(len(known))] == known
    assert _wire.verdict(len(known)) is _wire.verdict(500) is mayfly.Verdict.UNKNOWN


async def test_a_newer_client_is_told_plainly(daemon, kind, monkeypatch):
    from mayfly import _wire
    monkeypatch.setattr(_wire, "PROTOCOL", 60000)
    with pytest.raises(mayfly.FailedPrecondition) as caught:
        async with connect(kind, daemon):
            pass
    assert "60000" in str(caught.value) and daemon in str(caught.value)


async def test_no_daemon(tmp_path, kind):
    for path in (tmp_path / "none", tmp_path / "stale"):
        if path.name == "stale":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))
        with pytest.raises(mayfly.Unavailable) as caught:
            async with connect(kind, path):
                pass
        assert caught.value.retryable and "mayflyd" in caught.value.advice
    with pytest.raises(mayfly.InvalidArgument):
        async with connect(kind, "/" + "x" * 200):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_refused(daemon):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"nothing"
        try:
            os.setgid(65534)
            os.setuid(65534)
            mayfly.connect(daemon)
        except BaseException as error:
            said = type(error).__name__.encode() + b" " + str(error).encode()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read().startswith(b"PermissionDenied cannot connect to the daemon at")
    os.waitpid(child, 0)


async def test_a_server_that_hangs_up_or_says_nothing(tmp_path, kind):
    path = tmp_path / "odd"
    said = []

    async def serve(reader, writer):
        if not said:
            said.append(1)
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    with pytest.raises(mayfly.Disconnected):
        async with connect(kind, path, call_deadline=30):
            pass
    with pytest.raises(mayfly.DeadlineExceeded):
        async with connect(kind, path, call_deadline="100ms"):
            pass
    server.close()


async def test_noise_instead_of_a_protocol(tmp_path, kind):
    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "odd")
    with pytest.raises(mayfly.MayflyError):
        async with connect(kind, tmp_path / "odd", call_deadline=5):
            pass
    server.close()


@pytest.mark.parametrize("options,kind_of_error,words", [
    (dict(memory=0), mayfly.InvalidArgument, "memory"),
    (dict(memory="1TiB"), mayfly.InvalidArgument, "maximum"),
    (dict(memory="much"), mayfly.InvalidArgument, '"512MiB"'),
    (dict(wall_time="soon"), mayfly.InvalidArgument, '"250ms"'),
    (dict(cpu=-1), mayfly.InvalidArgument, "cores"),
    (dict(processes=1.5), mayfly.InvalidArgument, "whole number"),
    (dict(seed=-1), mayfly.InvalidArgument, "seed"),
    (dict(env={"A=B": "x"}), mayfly.InvalidArgument, ""),
    (dict(env={"A": "x\0y"}), mayfly.InvalidArgument, ""),
    (dict(args=["\udc80"]), mayfly.InvalidArgument, "Unicode"),
    (dict(args=["x"] * 5000), mayfly.InvalidArgument, ""),
    (dict(template="pyton"), mayfly.NotFound, "pyton"),
    (dict(code=b"#" * (5 << 20)), mayfly.InvalidArgument, ""),
    (dict(code=b"#" * (9 << 20)), mayfly.InvalidArgument, "8 MiB"),
    (dict(env={"A" * 300_000 + str(n): "" for n in range(40)}), mayfly.InvalidArgument, "8 MiB"),
])
async def test_what_can_never_succeed(client, options, kind_of_error, words):
    template, code = options.get("template", "python"), options.get("code", "print(1)")
    rest = {name: value for name, value in options.items() if name not in ("template", "code")}
    with pytest.raises(kind_of_error) as caught:
        await client.run(template, code, **rest)
    assert words in str(caught.value) and not caught.value.retryable
    assert (await client.run("python", "print(1)")).ok  # the connection still works


async def test_more_input_than_the_cap(client):
    with pytest.raises(mayfly.InvalidArgument) as caught:
        await client.run("python", "import sys; sys.stdin.read()", stdin=bytes(3 << 20), input="1MiB")
    assert not caught.value.retryable


async def test_a_full_queue_can_be_tried_again(daemons, kind):
    daemon = daemons("boxes_max = 1\nqueue_max = 1\n")
    async with connect(kind, daemon.socket) as client:
        async with await client.submit("python", ENDLESS, stream=True) as running:
            await until(running)
            async with await client.submit("python", "print(2)") as queued:
                with pytest.raises(mayfly.ResourceExhausted) as caught:
                    await client.submit("python", "print(3)")
                assert caught.value.retryable and caught.value.advice
                await running.cancel()
                assert (await queued.wait()).stdout == "2\n"


async def test_errors_carry_no_frames_of_the_event_loop(client):
    with pytest.raises(mayfly.NotFound) as caught:
        await client.run("none", "1")
    assert caught.value.__context__ is None and caught.value.__cause__ is None
    names = {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert "_exchange" not in names
    if isinstance(client, mayfly.AsyncClient):
        return
    assert "submit" not in names and "call" in names
