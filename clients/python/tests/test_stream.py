"""Live output: immediate, in order, no more than is read, and never lost between two readers."""

import asyncio
import threading

import pytest

import mayfly
from harness import ENDLESS, MIB, connect, until
from mayfly import Stream, Verdict

COUNT = "import sys\nfor i in range({n}): print(i, flush=True); print(-i, file=sys.stderr, flush=True)"


async def test_output_comes_while_the_task_runs(client):
    code = "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)"
    async with await client.submit("python", code, stdin=mayfly.PIPE, stream=True) as task:
        stream = task.stream()
        for word in (b"one", b"two", b"three"):
            await task.stdin.write(word + b"\n")
            kind, data = await anext(stream)
            assert (kind, data) == (Stream.STDOUT, b"got " + word + b"\n")
        await task.stdin.close()
        assert [item async for item in stream] == []
        result = await task.wait()
        assert result.ok and result.stdout == "" and result.usage.stdout_bytes == 26


async def test_both_streams_are_whole_and_in_order(client):
    async with await client.submit("python", COUNT.format(n=2000), stream=True) as task:
        said = {stream: b"" for stream in Stream}
        async for stream, data in task.stream():
            said[stream] += data
    assert said[Stream.STDOUT] == b"".join(b"%d\n" % i for i in range(2000))
    assert said[Stream.STDERR] == b"".join(b"%d\n" % -i for i in range(2000))


async def test_text_is_whole_however_it_is_cut(client):
    code = ("import os\nfor byte in 'aü€😀'.encode(): os.write(1, bytes([byte])); os.write(2, b'.')\n"
            "os.write(1, b'\\xff\\xe2')")
    async with await client.submit("python", code, stream=True) as task:
        said = {stream: "" for stream in Stream}
        async for stream, text in task.stream(text=True):
            assert text
            said[stream] += text
    assert said == {Stream.STDOUT: "aü€😀\ufffd\ufffd", Stream.STDERR: "." * 10}


async def test_what_nobody_reads_stops_the_task_and_not_the_client(client):
    code = f"import os, sys\nfor _ in range(64): os.write(1, b'x' * {MIB // 8})\nprint('end', file=sys.stderr)"
    async with await client.submit("python", code, stream=True, output="64MiB") as slow:
        stream = slow.stream()
        first = len((await anext(stream))[1])
        # Others proceed; the slow reader's task cannot end before it is read.
        for _ in range(3):
            assert (await client.run("python", "print(1)")).ok
        with pytest.raises(mayfly.DeadlineExceeded):
            await asyncio.create_task(slow.wait(0.2))  # of another task: it takes no output
        total = first + sum([len(data) async for kind, data in stream if kind is Stream.STDOUT])
        assert total == 8 * MIB
        assert (await slow.wait()).ok


async def test_wait_takes_what_nobody_iterates(client):
    async with await client.submit("python", COUNT.format(n=300), stream=True) as task:
        result = await task.wait()
    assert result.stdout_bytes == b"".join(b"%d\n" % i for i in range(300))
    assert result.stderr.startswith("0\n-1\n") and not result.stdout_truncated


async def test_wait_takes_the_rest_of_a_left_iterator(client):
    code = "print('first', flush=True)\nfor i in range(3): print('x' * 1000000, flush=True)"
    async with await client.submit("python", code, stream=True) as task:
        stream = task.stream()
        kind, data = await anext(stream)
        if isinstance(task, mayfly.AsyncTask):  # within the loop, as people write it
            result = await task.wait()
        else:
            await stream.aclose()
            result = await task.wait()
        assert data.startswith(b"first\n")
        assert len(result.stdout_bytes) == MIB and result.stdout_truncated
        assert result.usage.stdout_bytes == 3_000_009


def test_wait_within_the_loop_of_the_same_thread(daemon):
    code = "print('first', flush=True)\nfor i in range(3): print('x' * 1000000, flush=True)"
    with mayfly.connect(daemon) as client, client.submit("python", code, stream=True) as task:
        for _, data in task.stream():
            assert data.startswith(b"first\n")
            result = task.wait()
            break
        assert result.ok and result.stdout_truncated


async def test_a_second_iterator_is_refused_while_the_first_is_under_way(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        first = task.stream()
        await anext(first)
        with pytest.raises(mayfly.FailedPrecondition):
            await anext(task.stream())
        await first.aclose()
        await task.cancel()
        assert [item async for item in task.stream()] == []


async def test_a_task_without_stream_says_so(client):
    async with await client.submit("python", "print(1)") as task:
        with pytest.raises(mayfly.FailedPrecondition, match="stream=True"):
            task.stream()


async def test_close_ends_the_iterator(client):
    task = await client.submit("python", ENDLESS, stream=True)
    stream = task.stream()
    await anext(stream)
    following = asyncio.create_task(anext(stream))
    await task.close()
    with pytest.raises(mayfly.Cancelled):
        await following


async def test_run_gives_its_output_to_a_function(client):
    said = []
    result = await client.run("python", COUNT.format(n=5), on_output=lambda s, d: said.append((s, d)))
    assert b"".join(d for s, d in said if s is Stream.STDOUT) == b"0\n1\n2\n3\n4\n"
    assert result.ok and result.stdout == ""


async def test_an_error_of_that_function_ends_the_task(client):
    def refuse(stream, data):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await client.run("python", ENDLESS, on_output=refuse)


def test_on_output_is_called_on_the_callers_thread(daemon):
    threads = set()
    with mayfly.connect(daemon) as client:
        client.run("python", "print(1)", on_output=lambda s, d: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


async def test_async_on_output_is_awaited(daemon):
    said = []

    async def take(stream, data):
        await asyncio.sleep(0)
        said.append(data)

    async with connect("async", daemon) as client:
        await client.run("python", "print(1)", on_output=take)
    assert said == [b"1\n"]


async def test_run_with_output_has_a_deadline(client):
    with pytest.raises(mayfly.DeadlineExceeded):
        await client.run("python", ENDLESS, on_output=lambda s, d: None, deadline="300ms")


async def test_a_flood_is_cut_at_the_cap(client):
    async with await client.submit("python", "while True: print('x' * 4096)", stream=True,
                                   output="1MiB") as task:
        total = sum([len(data) async for _, data in task.stream()])
        result = await task.wait()
    assert result.verdict is Verdict.OUTPUT and total == MIB == result.cap_value


async def test_until_finds_its_word(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        assert b"up\n" in await until(task)
