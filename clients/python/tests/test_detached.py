"""Detached tasks outlive their connection, are found again, and run once for each key."""

import asyncio
import uuid

import pytest

import mayfly
from harness import ENDLESS, connect, eventually, until
from mayfly import Verdict


def new_key():
    return "py-" + uuid.uuid4().hex


async def test_a_task_outlives_its_connection(daemon, kind):
    key = new_key()
    async with connect(kind, daemon) as client:
        task = await client.submit("python", "print(6*7)", detach="1m", key=key)
        assert task.detached and not task.existing
        number = task.id
    async with connect(kind, daemon) as client:
        for wanted in (dict(key=key), dict(id=number)):
            task = await client.find(**wanted)
            result = await task.wait()
            assert (task.id, task.detached, result.stdout) == (number, True, "42\n")
            assert result.template == "python" and result.id == number
        await task.close()
        for wanted in (dict(key=key), dict(id=number)):
            with pytest.raises(mayfly.NotFound):
                await client.find(**wanted)


async def test_a_running_one_goes_on_and_can_be_ended_from_elsewhere(daemon, kind):
    async with connect(kind, daemon) as first:
        number = (await first.submit("python", ENDLESS, detach=60)).id
    async with connect(kind, daemon) as second:
        task = await second.find(id=number)
        await eventually(lambda: in_state(task, "running"), "it runs on")
        assert number in [each.id for each in await second.tasks() if each.yours]
        await task.cancel()
        assert (await task.wait()).verdict is Verdict.CANCELLED
        await task.close()


async def test_all_are_listed_with_key_and_lease(daemon, kind):
    key = new_key()
    async with connect(kind, daemon) as client:
        ended = await client.submit("python", "print(6*7)", detach="1m", key=key)
        runs = await client.submit("python", ENDLESS, detach="2m")
        await ended.wait()
        listed = {each.task.id: each for each in await client.detached()}
        assert (listed[ended.id].key, listed[ended.id].task.state) == (key, "done")
        assert 0 < listed[ended.id].lease_left_ms <= 60_000
        assert (listed[runs.id].key, listed[runs.id].lease_left_ms) == ("", 120_000)
        assert listed[runs.id].task.state != "done" and listed[runs.id].task.yours
        await ended.close()
        await runs.close()
        assert not {ended.id, runs.id} & {each.task.id for each in await client.detached()}


async def in_state(task, state):
    return (await task.info()).state == state


async def test_the_same_key_gives_the_same_task(daemon, kind):
    key, code = new_key(), "import uuid; print(uuid.uuid4())"
    async with connect(kind, daemon) as client, connect(kind, daemon) as other:
        tasks = await asyncio.gather(*(c.submit("python", code, detach="1m", key=key)
                                       for c in (client, other) * 3))
        assert len({task.id for task in tasks}) == 1
        assert sorted(task.existing for task in tasks) == [False] + [True] * 5
        assert len({(await task.wait()).stdout for task in tasks}) == 1
        with pytest.raises(mayfly.AlreadyExists, match=key):
            await client.submit("python", "print('another')", detach="1m", key=key)
        await tasks[0].close()
        fresh = await client.submit("python", "print('another')", detach="1m", key=key)
        assert not fresh.existing and (await fresh.wait()).stdout == "another\n"
        await fresh.close()


async def test_leaving_and_dropping_do_not_forget_it(daemon, kind):
    key = new_key()
    async with connect(kind, daemon) as client:
        async with await client.submit("python", ENDLESS, detach="1m", key=key) as task:
            number = task.id
        with pytest.raises(mayfly.FailedPrecondition):
            await task.cancel()  # this handle is released
        again = await client.find(key=key)
        assert again.id == number
        del again, task
        task = await client.find(key=key)
        await eventually(lambda: in_state(task, "running"), "it runs on")
        waiting = asyncio.create_task(task.wait())
        other = await client.find(id=number)
        await other.close()  # forgets it for everybody
        with pytest.raises(mayfly.Cancelled):
            await waiting
        with pytest.raises(mayfly.NotFound):
            await client.find(key=key)


async def test_its_files_and_stdin(daemon, kind):
    code = "import sys; open('out/copy', 'w').write(sys.stdin.read()); print('done')"
    async with connect(kind, daemon) as client:
        number = (await client.submit("python", code, detach="1m", stdin="words", collect=True)).id
    async with connect(kind, daemon) as client:
        task = await client.find(id=number)
        assert (await task.wait(check=True)).stdout == "done\n"
        assert await task.read_file("copy") == b"words"
        await task.close()


async def test_its_lease_ends(daemons, kind):
    daemon = daemons()
    async with connect(kind, daemon.socket) as client:
        async with await client.submit("python", "pass", detach="1ms", key="k"):
            pass
        await eventually(lambda: forgotten(client), "it is forgotten")


async def forgotten(client):
    try:
        async with await client.find(key="k"):
            return False
    except mayfly.NotFound:
        return True


@pytest.mark.parametrize("options", [
    dict(detach="1m", stream=True), dict(detach="1m", stdin=mayfly.PIPE), dict(detach=0),
    dict(detach="1m", stdin=bytes(2 << 20)), dict(detach="1m", key="k" * 200), dict(detach="40000h")])
async def test_what_a_detached_task_cannot_be(client, options):
    with pytest.raises(mayfly.InvalidArgument):
        await client.submit("python", "1", **options)


async def test_too_many_of_them(daemons, kind):
    daemon = daemons("detached_per_user_max = 2\n")
    async with connect(kind, daemon.socket) as client:
        assert client.server.bounds.detached_per_user_max == 2
        tasks = [await client.submit("python", "pass", detach="1m") for _ in range(2)]
        with pytest.raises(mayfly.ResourceExhausted):
            await client.submit("python", "pass", detach="1m")
        await tasks[0].close()
        await client.submit("python", "pass", detach="1m")


async def test_find_of_what_is_not_detached(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        with pytest.raises(mayfly.NotFound):
            await client.find(id=task.id)


async def test_info_of_a_task_from_beginning_to_end(client):
    async with await client.submit("python", ENDLESS, stream=True) as task:
        await until(task)
        info = await task.info()
        assert (info.id, info.template, info.state, info.yours) == (task.id, "python", "running", True)
        assert 0 < info.queued_ns <= info.started_ns <= info.now_ns
        await task.cancel()
        await task.wait()
        assert (await task.info()).state == "done"
    with pytest.raises(mayfly.FailedPrecondition):
        await task.info()
