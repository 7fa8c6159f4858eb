"""Every verdict reaches the client, with its fields."""

import signal

import pytest

import mayfly
from harness import ENDLESS, MIB, connect, until
from mayfly import Verdict

CAPS = [
    (Verdict.WALL_TIME, "import time; time.sleep(600)", dict(wall_time="200ms"), 200),
    (Verdict.CPU_TIME, "while True: pass", dict(cpu_time=0.2), 200),
    (Verdict.MEMORY, "b=[]\nwhile True: b.append(b'x' * (1 << 20))", dict(memory="48MiB"), 48 * MIB),
    (Verdict.PROCESSES, "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(600)",
     dict(processes=12), 12),
    (Verdict.OUTPUT, "while True: print('x' * 4096)", dict(output="64KiB"), 65536),
    (Verdict.DISK, "f=open('/tmp/f','wb',0)\nwhile True: f.write(b'x' * 65536)", dict(disk=4 * MIB), 4 * MIB),
]


@pytest.mark.parametrize("verdict,code,caps,value", CAPS, ids=[str(c[0]) for c in CAPS])
async def test_caps(client, verdict, code, caps, value):
    result = await client.run("python", code, **caps)
    assert result.verdict is verdict, result
    assert verdict.is_cap and not result.ok and result.cap_value == value and result.reason
    assert result.exit_code is None and result.signal is None and result.receipt.complete


async def test_failed_and_signaled(client):
    result = await client.run("python", "raise SystemExit(3)")
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.FAILED, 3, None)
    result = await client.run("python", "import os; os.kill(os.getpid(), 11)")
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.SIGNALED, None, signal.SIGSEGV)
    assert not result.verdict.is_cap


async def test_check_raises_only_where_asked(client):
    result = await client.run("python", "1/0")
    assert result.verdict is Verdict.FAILED
    with pytest.raises(mayfly.TaskFailed, match="ZeroDivisionError") as caught:
        await client.run("python", "1/0", check=True)
    assert caught.value.result.exit_code == 1 and not isinstance(caught.value, mayfly.MayflyError)
    with pytest.raises(mayfly.TaskFailed):
        result.check()
    async with await client.submit("python", "1/0") as task:
        with pytest.raises(mayfly.TaskFailed):
            await task.wait(check=True)
    hostile = await client.run("python", r"import sys; sys.exit('\x1b[2J' + 'x' * 5000)")
    assert "\x1b" not in str(mayfly.TaskFailed(hostile)) and len(str(mayfly.TaskFailed(hostile))) < 400


async def test_cancelled(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        await task.cancel()
        assert (await task.wait()).verdict is Verdict.CANCELLED


async def test_daemon_stopping(daemons, kind):
    daemon = daemons()
    async with connect(kind, daemon.socket) as client:
        async with await client.submit("python", ENDLESS, stream=True) as task:
            await until(task)
            daemon.process.terminate()
            assert (await task.wait()).verdict is Verdict.DAEMON_STOPPING
