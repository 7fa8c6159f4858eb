"""Many at once, and many one after the other."""

import asyncio
import concurrent.futures
import gc
import os
import pathlib
import resource

import mayfly
from harness import connect

IN_FLIGHT = 500
TASKS = int(os.environ.get("MAYFLY_CLIENT_TASKS", "1000"))
GROWTH_BYTES_MAX = 2 << 20  # noise of the allocator; a leak of 2 KiB a task exceeds it


def rss_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_500_tasks_in_flight(daemon):
    with mayfly.connect(daemon) as client:
        tasks = [client.submit("shell", command=["echo", str(n)]) for n in range(IN_FLIGHT)]
        assert len({task.id for task in tasks}) == IN_FLIGHT
        results = [task.wait() for task in tasks]
        assert [r.stdout for r in results] == [f"{n}\n" for n in range(IN_FLIGHT)]
        assert all(r.receipt.complete for r in results)
        for task in tasks:
            task.close()


async def test_500_tasks_in_flight_streamed(daemon):
    async def one(client, n):
        said = b""
        async with await client.submit("shell", command=["echo", str(n)], stream=True) as task:
            async for _, data in task.stream():
                said += data
            return said, (await task.wait()).ok

    async with mayfly.connect_async(daemon) as client:
        done = await asyncio.gather(*(one(client, n) for n in range(IN_FLIGHT)))
    assert done == [(b"%d\n" % n, True) for n in range(IN_FLIGHT)]


def test_memory_does_not_grow(daemon):
    """Half of the tasks warm up every cache; the other half must not need more memory."""
    def some(client, count):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            jobs = []
            for n in range(count):
                way = n % 5
                if way == 0:
                    jobs.append(pool.submit(client.run, "shell", command=["true"],
                                            on_output=lambda s, d: None))
                elif way == 1:
                    jobs.append(pool.submit(client.run, "shell", command=["cat"], stdin=bytes(10_000)))
                elif way == 2:
                    jobs.append(pool.submit(refused, client))
                else:
                    jobs.append(pool.submit(client.run, "shell", command=["echo", "x"]))
            for job in jobs:
                job.result()

    def refused(client):
        try:
            client.run("none", "1")
        except mayfly.NotFound:
            pass

    with mayfly.connect(daemon) as client:
        some(client, TASKS // 2)
        gc.collect()
        before, objects = rss_bytes(), len(gc.get_objects())
        some(client, TASKS // 2)
        gc.collect()
        assert rss_bytes() - before < GROWTH_BYTES_MAX
        assert len(gc.get_objects()) - objects < 500
        client.templates()  # follows the last task's close, which is then done
        assert len(client._portal.connection.tasks) == 0


async def test_async_concurrency_is_real(client):
    """All tasks run at once: each ends only when all have started."""
    count = 8
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    tasks = await asyncio.gather(*(client.submit("python", code, stdin=mayfly.PIPE, stream=True)
                                   for _ in range(count)))
    streams = [task.stream() for task in tasks]
    firsts = await asyncio.gather(*(anext(stream) for stream in streams))
    assert [data for _, data in firsts] == [b"up\n"] * count
    for task, stream in zip(tasks, streams):
        await stream.aclose()
        await task.stdin.close()
    assert all([(await task.wait()).ok for task in tasks])
    for task in tasks:
        await task.close()


async def test_uploads_and_streams_do_not_starve_calls(client):
    """While a task's flood of output is read, other calls get answers."""
    async with await client.submit("shell", command=["yes"], stream=True, output="64MiB") as task:
        stream = task.stream()
        await anext(stream)
        reading = asyncio.create_task(drain(stream))
        for _ in range(20):
            assert task.id in [each.id for each in await client.tasks()] or reading.done()
        assert await reading > 32 << 20


async def drain(stream):
    return sum([len(data) async for _, data in stream])


async def test_connections_one_after_the_other_leave_nothing(daemon, kind):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        async with connect(kind, daemon) as client:
            await client.tasks()
    before = descriptors()
    for _ in range(30):
        async with connect(kind, daemon) as client:
            await client.tasks()
    assert descriptors() <= before
