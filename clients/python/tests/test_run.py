"""run, submit, wait, cancel, close: input reaches the task and its output comes back, with either client."""

import asyncio
import io
import os

import pytest

import mayfly
from harness import ENDLESS, MIB, WAITING, eventually, until
from mayfly import Verdict


async def test_code_as_a_string(client):
    result = await client.run("python", "print(6*7)")
    assert (result.verdict, result.exit_code, result.stdout, result.stderr) == \
        (Verdict.SUCCEEDED, 0, "42\n", "")
    assert result.ok and result.check() is result and result.template == "python"
    assert result.signal is None and result.cap_value is None and result.id > 0


async def test_phases_usage_limits_and_receipt_are_there(client):
    result = await client.run("python", "print('x' * 10)", memory="64MiB", cpu=0.5)
    assert result.limits.memory_bytes == 64 * MIB and result.limits.cpu_milli == 500
    assert result.usage.stdout_bytes == 11 and result.usage.memory_peak_bytes > 0
    phases, receipt = result.phases, result.receipt
    assert 0 < phases.queued_ns <= phases.started_ns <= phases.exited_ns <= phases.receipt_ns
    assert receipt.complete and receipt.missing == "" and receipt.box > 0
    assert receipt.uid_free_ns >= phases.exited_ns


SAVES = """
import signal, sys, time
def save(*_):
    open('out/state', 'w').write('step 7')
    print('saved', flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
while True: time.sleep(600)
"""


async def test_a_task_may_save_its_state_within_its_grace(client):
    result = await client.run("python", SAVES, wall_time="1s", grace="30s", collect=True)
    assert (result.verdict, result.in_grace, result.exit_code, result.signal) == (Verdict.WALL_TIME, True, 3, None)
    assert result.stdout == "saved\n" and [(f.name, f.data) for f in result.out_files] == [("state", b"step 7")]
    assert result.cap_value == 1000 and result.limits.grace_ms == 30_000
    plain = await client.run("python", "import time; time.sleep(600)", wall_time="300ms", grace=30)
    assert (plain.verdict, plain.in_grace, plain.exit_code, plain.signal) == (Verdict.WALL_TIME, True, None, 15)
    none = await client.run("python", SAVES, wall_time="300ms", grace=0)
    assert (none.in_grace, none.exit_code, none.stdout) == (False, None, "")


async def test_a_trace_context_goes_with_a_task_and_a_wrong_one_is_refused(client):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (await client.run("python", "print(1)", traceparent=trace)).ok
    if log := os.environ.get("MAYFLY_DAEMON_LOG"):
        async def told():
            with open(log) as lines:
                return trace in lines.read()

        await eventually(told, "the task's line has it")
    with pytest.raises(mayfly.InvalidArgument, match="traceparent: 'x' is no W3C trace context"):
        await client.run("python", "print(1)", traceparent="x")


async def test_a_new_runtime_is_told_of(client):
    result = await client.run("python", "import sys; print(sys.flags.optimize)", env={"PYTHONOPTIMIZE": "1"})
    assert (result.stdout, result.usage.fresh_runtime) == ("1\n", True)
    assert not (await client.run("python", "pass")).usage.fresh_runtime


async def test_code_too_long_for_a_new_runtime_is_refused_in_words(client):
    code = "print(len('" + "x" * 131_072 + "'))"
    assert (await client.run("python", code)).stdout == "131072\n"
    result = await client.run("python", code, env={"PYTHONOPTIMIZE": "1"})
    assert result.exit_code == 126 and "put the program into a file" in result.stderr


async def test_code_with_a_nul_byte_is_refused(client):
    with pytest.raises(mayfly.InvalidArgument, match="NUL byte"):
        await client.run("python", "print(1)\0")


async def test_code_through_stdin(client):
    result = await client.run("python", b"print(__name__, 6*7)", via="stdin")
    assert result.stdout == "__main__ 42\n"


async def test_a_module_a_folder_and_a_program_among_the_files(client, tmp_path):
    result = await client.run("python", module="pkg.mod", args=["x"],
                              files={"pkg/mod.py": b"import sys; print(__name__, __package__, sys.argv[1:])"})
    assert result.stdout == "__main__ pkg ['x']\n", result
    app = tmp_path / "app"
    (app / ".hidden").mkdir(parents=True)
    (app / "__main__.py").write_text("import beside, os, sys; print(beside.said, sys.path[0], sorted(os.listdir('/task/app')))")
    (app / "beside.py").write_text("said = 'beside'")
    result = await client.run("python", script=app)
    assert result.stdout.startswith("beside /task/app ['__main__.py', "), result
    assert ".hidden" not in result.stdout
    (app / "link").symlink_to("/etc/passwd")
    with pytest.raises(mayfly.InvalidArgument, match="link"):
        await client.run("python", script=app)
    result = await client.run("python", program="app", files={"app/__main__.py": b"print(__spec__.name)"})
    assert result.stdout == "__main__\n", result
    with pytest.raises(mayfly.InvalidArgument, match="template 'shell' runs no modules"):
        await client.run("shell", module="json.tool")


async def test_script_with_arguments_and_environment(client, tmp_path):
    script = tmp_path / "job.py"
    script.write_text("import os, sys; print(sys.argv, os.environ['WORD'])")
    result = await client.run("python", script=script, args=["a b", "ü"], env={"WORD": "wörd"})
    assert result.stdout == "['job.py', 'a b', 'ü'] wörd\n", result.stderr
    result = await client.run("python", script=("x.py", "print(__file__)"))
    assert result.stdout.strip().endswith("x.py"), result


async def test_command_of_an_exec_template(client):
    result = await client.run("shell", command=["bash", "-c", "echo $((6*7)); echo e >&2; exit 3"])
    assert (result.verdict, result.exit_code) == (Verdict.FAILED, 3)
    assert (result.stdout, result.stderr) == ("42\n", "e\n")


async def test_a_seed_makes_runs_equal(client):
    code = "import random; print(random.random())"
    one, same, other = [(await client.run("python", code, seed=s)).stdout for s in (7, 7, 2**64 - 1)]
    assert one == same != other


@pytest.mark.parametrize("stdin", [
    b"bytes", "text ü", bytearray(b"array"), memoryview(b"view"),
    lambda: io.BytesIO(b"binary file"), lambda: io.StringIO("text file ü")])
async def test_stdin(client, stdin):
    given = stdin() if callable(stdin) else stdin
    result = await client.run("python", "import sys; print(sys.stdin.read())", stdin=given)
    wanted = given.getvalue() if callable(stdin) else given
    wanted = wanted if isinstance(wanted, str) else bytes(wanted).decode()
    assert result.stdout == wanted + "\n", result.stderr


async def test_large_stdin_from_memory_and_from_a_file(client, tmp_path):
    data = os.urandom(5 * MIB)
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    path = tmp_path / "data"
    path.write_bytes(data)
    import hashlib
    wanted = hashlib.sha256(data).hexdigest() + "\n"
    assert (await client.run("python", code, stdin=data)).stdout == wanted
    with open(path, "rb") as file:
        assert (await client.run("python", code, stdin=file)).stdout == wanted


async def test_stdin_of_a_task_that_does_not_read_it(client):
    result = await client.run("python", "print('done')", stdin=bytes(5 * MIB))
    assert (result.verdict, result.stdout) == (Verdict.SUCCEEDED, "done\n")


async def test_stdin_from_a_pipe_that_never_ends_does_not_outlive_the_task(client):
    read, write = os.pipe()
    with open(read, "rb") as file:
        assert (await client.run("python", "print('done')", stdin=file)).stdout == "done\n"
        os.close(write)


async def test_stdin_file_that_cannot_be_read_is_the_callers_error(client):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "broken file")

    with pytest.raises(OSError, match="broken file"):
        await client.run("python", "import sys; sys.stdin.read()", stdin=Broken())


async def test_stdin_by_hand(client):
    async with await client.submit("python", WAITING, stdin=mayfly.PIPE, stream=True) as task:
        await until(task)
        await task.stdin.write("word\n")
        await task.stdin.close()
        result = await task.wait()
    assert result.stdout == "got word\n\n"


async def test_stdin_by_hand_reads_end_of_file_after_the_with(client):
    code = "import sys; print(len(sys.stdin.buffer.read()))"
    async with await client.submit("python", code, stdin=mayfly.PIPE) as task:
        async with task.stdin as stdin:
            for _ in range(3):
                await stdin.write(bytes(MIB))
        assert (await task.wait()).stdout == f"{3 * MIB}\n"
        with pytest.raises(mayfly.FailedPrecondition):
            await task.stdin.write(b"late")


async def test_wait_with_a_deadline_leaves_the_task_running(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        with pytest.raises(mayfly.DeadlineExceeded):
            await task.wait(0.05)
        with pytest.raises(TimeoutError):
            await task.wait("20ms")
        await task.cancel()
        assert (await task.wait()).verdict is Verdict.CANCELLED


async def test_run_with_a_deadline_ends_the_task(client):
    with pytest.raises(mayfly.DeadlineExceeded):
        await client.run("python", ENDLESS, deadline=0.3)
    await eventually(lambda: none_left(client), "the task is gone")


async def none_left(client):
    return not [task for task in await client.tasks() if task.yours]


async def test_cancel_then_wait_gives_the_result(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        await task.cancel()
        result = await task.wait()
        assert result.verdict is Verdict.CANCELLED and result.receipt.complete
        await task.cancel()  # harmless
        assert (await task.wait()) == result


async def test_many_wait_for_one_task(client):
    async with await client.submit("python", WAITING, stdin=mayfly.PIPE) as task:
        waits = [asyncio.create_task(task.wait()) for _ in range(30)]
        await task.stdin.write("x\n")
        results = await asyncio.gather(*waits)
    assert len(results) == 30 and {r.id for r in results} == {task.id}


async def test_close_ends_the_task_and_what_waits(client):
    task = await client.submit("python", ENDLESS, stream=True)
    await until(task)
    waiting = asyncio.create_task(task.wait())
    await task.close()
    with pytest.raises(mayfly.Cancelled):
        await waiting
    await task.close()  # harmless
    await eventually(lambda: none_left(client), "the task is gone")
    for call in (task.cancel, task.stdin.close):
        with pytest.raises(mayfly.FailedPrecondition):
            await call()


async def test_the_result_outlives_its_task(client):
    task = await client.submit("python", "print(1)")
    result = await task.wait()
    await task.close()
    assert await task.wait() == result


async def test_a_dropped_task_ends(client):
    task = await client.submit("python", ENDLESS, stream=True)
    await until(task)
    assert not await none_left(client)
    del task
    await eventually(lambda: none_left(client), "the task is gone")


async def test_kill_and_the_list(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        [info] = [each for each in await client.tasks() if each.id == task.id]
        assert (info.template, info.state, info.yours) == ("python", "running", True)
        assert 0 < info.queued_ns <= info.started_ns <= info.now_ns and info.pid_host > 1
        await client.kill(task.id)
        assert (await task.wait()).verdict is Verdict.CANCELLED
        with pytest.raises(mayfly.NotFound):
            await client.kill(task.id)


async def test_templates_and_server(client):
    templates = {each.name: each for each in await client.templates()}
    assert {"python", "shell"} <= templates.keys()
    python = templates["python"]
    assert (python.mechanism, python.state) == ("fork", "ready")
    assert 0 < python.defaults.memory_bytes <= python.maximum.memory_bytes
    assert client.server.protocol == mayfly.PROTOCOL
    assert client.server.bounds.message_bytes_max == 8 * MIB


@pytest.mark.parametrize("wrong", [
    dict(), dict(code="1", script=("x.py", "1")), dict(code="1", module="m"), dict(module="m", program="p"),
    dict(code="1", via="mail"),
    dict(command="ls -l"), dict(code="1", args="a b"), dict(code="1", memroy="1GiB"),
    dict(code="1", files={"x": "text or path?"}), dict(code="1", files="x"), dict(code=5),
    dict(code="1", stdin=5), dict(code="1", key="k"), dict(command=["ls"], args=["-l"])])
async def test_what_cannot_be_meant_is_a_type_error(client, wrong):
    with pytest.raises(TypeError):
        await client.submit("python", wrong.get("code"),
                            **{name: value for name, value in wrong.items() if name != "code"})
