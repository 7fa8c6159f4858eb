"""The client for asyncio: everything runs on the caller's own event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from . import _save, _spec, _upload, errors, results
from ._common import (CALL_DEADLINE_SECONDS, CLOSE_DEADLINE_SECONDS, DEFAULT, Deadline, check_read,
                      decoder, default_seconds, index_of, seconds, split, within)
from ._connection import Connection, socket_path
from ._remote import Remote
from ._spec import FileContent, SubmitOptions, TaskOptions
from ._units import Duration
from .results import OutFile, Stream, TaskResult


class RunOptions(TaskOptions, total=False):
    check: bool
    """Raise TaskFailed for any verdict but `succeeded`."""
    out: str | os.PathLike[str]
    """Save the task's files of /task/out below this folder."""
    on_output: Callable[[Stream, bytes], Awaitable[None] | None]
    """Gets the output live; the result then has none."""


def _check_loop(connection: Connection) -> None:
    if asyncio.get_running_loop() is not connection.loop:
        raise errors.FailedPrecondition("the client belongs to another event loop",
                                        "Make a client on each, or use mayfly.Client.")


class AsyncStdin:
    """A task's standard input: `async with task.stdin as stdin: await stdin.write(...)`."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def write(self, data: bytes | bytearray | memoryview | str, *,
                    deadline: Deadline = None) -> None:
        """Returns when the task has taken all of it: if the task also prints, read its output
        concurrently."""
        _check_loop(self._remote.connection)
        content = data.encode() if isinstance(data, str) else bytes(data)
        await self._remote.write_stdin(content, seconds(deadline, self._remote.connection))

    async def close(self, *, deadline: Deadline = DEFAULT) -> None:
        """The task reads end-of-file after all written data."""
        _check_loop(self._remote.connection)
        await self._remote.close_stdin(seconds(deadline, self._remote.connection))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *unused: object) -> None:
        try:
            await self.close()
        except (errors.FailedPrecondition, errors.Disconnected):
            pass  # the task has ended


def _drop_task(remote: Remote) -> None:
    """Finalizer: no reference to the task is left."""
    try:
        if remote.detached:
            remote.connection.loop.call_soon_threadsafe(remote.release_soon)
        else:
            remote.connection.loop.call_soon_threadsafe(remote.close_soon)
    except RuntimeError:
        pass  # the loop is closed, and the task with it


class AsyncTask:
    """One task. Leaving `async with`, `close` and dropping the object do the same: the daemon
    forgets the task, and cancels it if it still runs. Only `close` forgets a detached task."""

    def __init__(self, remote: Remote, client: AsyncClient) -> None:
        self._remote = remote
        self._client = client  # keeps the client: its end would end the task
        self._result: TaskResult | None = None
        self.stdin = AsyncStdin(remote)
        weakref.finalize(self, _drop_task, remote).atexit = False

    def _here(self) -> Remote:
        _check_loop(self._remote.connection)
        return self._remote

    def __repr__(self) -> str:
        return f"<mayfly task {self.id} of {self.template or 'a template'}>"

    @property
    def id(self) -> int:
        return self._remote.id

    @property
    def template(self) -> str:
        return self._remote.template

    @property
    def existing(self) -> bool:
        """The task was submitted before with the same key: nothing ran a second time."""
        return self._remote.existing

    @property
    def detached(self) -> bool:
        return self._remote.detached

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *unused: object) -> None:
        if self.detached:
            self._here().release_soon()
        else:
            await self.close()

    async def wait(self, deadline: Deadline = None, *, check: bool = False) -> TaskResult:
        """The result, when nothing of the task is left. DeadlineExceeded leaves it running."""
        result = await self._here().wait(seconds(deadline, self._remote.connection),
                                         asyncio.current_task())
        self._result = result
        return result.check() if check else result

    @overload
    def stream(self, *, text: Literal[False] = False) -> AsyncIterator[tuple[Stream, bytes]]: ...
    @overload
    def stream(self, *, text: Literal[True]) -> AsyncIterator[tuple[Stream, str]]: ...

    def stream(self, *, text: bool = False) -> AsyncIterator[tuple[Stream, Any]]:
        """The live output of a task submitted with `stream=True`. A slow reader slows its own task
        only. Once `wait` is called, unread output goes into the result."""
        output = self._here().output
        if output is None:
            raise errors.FailedPrecondition("the task's output is captured into its result",
                                            "Submit it with stream=True.")
        return self._stream(output, text)

    async def _stream(self, output: Any, text: bool) -> AsyncIterator[tuple[Stream, Any]]:
        if output.reader is not None:
            raise errors.FailedPrecondition("another iterator reads this task's output")
        output.reader = asyncio.current_task()
        decode = decoder() if text else None
        try:
            while chunks := await output.take():
                for stream, data in chunks:
                    if decode is None:
                        yield stream, data
                    elif piece := decode(stream, data):
                        yield stream, piece
            if decode is not None:
                for stream in Stream:
                    if rest := decode(stream, b"", True):
                        yield stream, rest
        finally:
            output.reader = None

    async def cancel(self, *, deadline: Deadline = DEFAULT) -> None:
        """Ends the task as `cancelled`; `wait` gives the result. A task with a `grace` first gets
        SIGTERM; a second call ends the grace. Harmless once it has ended."""
        await self._here().cancel(seconds(deadline, self._remote.connection))

    async def revoke(self, grant: str, *, deadline: Deadline = DEFAULT) -> None:
        """Ends one of the task's grants before the task; returns when no call under it works any
        more."""
        await self._here().revoke(grant, seconds(deadline, self._remote.connection))

    async def info(self, *, deadline: Deadline = DEFAULT) -> results.TaskInfo:
        """The task's current state, without waiting."""
        return await self._here().info(seconds(deadline, self._remote.connection))

    async def read_file(self, file: OutFile | str | int, offset: int = 0, size: int = 1 << 20, *,
                        deadline: Deadline = DEFAULT) -> bytes:
        """At most `size` bytes (and at most 1 MiB) of an output file; empty at its end."""
        index = index_of(file, self._result)
        data, _ = await self._here().read_file(index, *check_read(offset, size),
                                               seconds(deadline, self._remote.connection))
        return data

    async def read_chunks(self, file: OutFile | str | int, *,
                          deadline: Deadline = DEFAULT) -> AsyncIterator[bytes]:
        """A whole output file, piece by piece; the deadline applies to each piece."""
        index, limit = index_of(file, self._result), seconds(deadline, self._remote.connection)
        offset, end = 0, False
        while not end:
            piece, end = await self._here().read_file(index, offset, 1 << 20, limit)
            offset += len(piece)
            if piece:
                yield piece

    async def save_files(self, folder: str | os.PathLike[str], *,
                         deadline: Deadline = DEFAULT) -> tuple[OutFile, ...]:
        """Saves the output files below `folder` (made if missing), after `wait`. Each says where
        it was `saved`, or why it was `not_saved`: the task chose the names. Raises `Unavailable`
        (retryable) if Mayfly lost files; those that came are saved before."""
        top = Path(folder)
        await asyncio.to_thread(top.mkdir, exist_ok=True)
        result = self._result or await self.wait()
        saved = []
        for each in result.out_files:
            saved.append(await self._save(top, each, deadline))
        result.check_files()
        return tuple(saved)

    async def _save(self, top: Path, file: OutFile, deadline: Deadline) -> OutFile:
        why = file.skipped or _save.why_odd(file.path)
        if why:
            return dataclasses.replace(file, not_saved=why)
        try:
            with await asyncio.to_thread(_save.Writer, top, file.path, file.mode) as writer:
                async for piece in self.read_chunks(file, deadline=deadline):
                    await asyncio.to_thread(writer.write, piece)
        except OSError as error:
            if isinstance(error, errors.MayflyError):
                raise
            return dataclasses.replace(file, not_saved=error.strerror or str(error))
        return dataclasses.replace(file, saved=writer.path)

    async def close(self, *, deadline: Deadline = CLOSE_DEADLINE_SECONDS) -> None:
        """The daemon forgets the task, and cancels it if it runs. Harmless when repeated."""
        await self._here().close(seconds(deadline, self._remote.connection))


def _drop_client(connection: Connection) -> None:
    try:
        connection.loop.call_soon_threadsafe(
            lambda: connection.loop.create_task(connection.close()))
    except RuntimeError:
        pass  # the loop is closed, and the connection with it


class AsyncClient:
    """A connection to the daemon, for one event loop::

        async with mayfly.AsyncClient() as client:
            result = await client.run("python", "print(6*7)")

    Any calls may overlap. Leaving it ends all of its tasks except detached ones.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None, *,
                 call_deadline: Duration | None = CALL_DEADLINE_SECONDS,
                 name: str = "python") -> None:
        self._path, self._name = socket_path(socket), name
        self._call_deadline = default_seconds(call_deadline)
        self._connection: Connection | None = None

    async def connect(self) -> Self:
        """Connects, unless it is connected."""
        if self._connection is None:
            self._connection = await Connection.open(self._path, self._name, self._call_deadline)
            weakref.finalize(self, _drop_client, self._connection).atexit = False
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.connect().__await__()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Harmless when repeated."""
        if self._connection is not None:
            await self._connection.close()

    def _live(self) -> Connection:
        if self._connection is None:
            raise errors.FailedPrecondition("the client is not connected",
                                            "Use `async with` or `await client.connect()`.")
        _check_loop(self._connection)
        return self._connection

    @property
    def server(self) -> results.ServerInfo:
        """The daemon's answer when the connection was made: version, name, bounds."""
        info = self._live().server
        assert info is not None
        return info

    async def submit(self, template: str, code: str | bytes | None = None, /,
                     **options: Unpack[SubmitOptions]) -> AsyncTask:
        """Returns when the daemon has checked and queued the task."""
        connection = self._live()
        given, deadline = split(options)
        spec = await _build(template, code, given)
        return AsyncTask(await connection.submit(spec, seconds(deadline, connection)), self)

    async def run(self, template: str, code: str | bytes | None = None, /,
                  **options: Unpack[RunOptions]) -> TaskResult:
        """Submits a task, waits for its result and closes it. `deadline` applies to the whole;
        without it, only the task's own `wall_time` bounds the wait."""
        connection = self._live()
        given, deadline = split(options)
        _spec.check_run(given)
        limit = seconds(None if deadline == DEFAULT else deadline, connection)
        check, out, on_output = (given.pop(n, None) for n in ("check", "out", "on_output"))
        collect = given.get("collect")
        given["stream"], given["collect"] = on_output is not None, bool(collect or out is not None)
        result = await within(limit, limit, self._run(
            connection, await _build(template, code, given), collect, out, on_output))
        return result.check() if check else result

    async def _run(self, connection: Connection, spec: _spec.TaskSpec, collect: Any, out: Any,
                   on_output: Any) -> TaskResult:
        if on_output is None and out is None:
            return await connection.run(spec, bool(collect))
        remote = await connection.submit(spec, connection.call_deadline)
        task = AsyncTask(remote, self)
        try:
            output = remote.output
            if on_output is not None and output is not None:
                while chunks := await output.take():
                    for stream, data in chunks:
                        said = on_output(stream, data)
                        if said is not None:
                            await said
            result = await remote.wait(None, None)
            if collect:
                result = await remote.with_data(result, connection.call_deadline)
            if out is not None:
                task._result = result
                result = dataclasses.replace(result, out_files=await task.save_files(out))
            return result
        finally:
            remote.close_soon()

    async def find(self, *, id: int = 0, key: str = "", deadline: Deadline = DEFAULT) -> AsyncTask:
        """A detached task of this user, by `key` or by `id`."""
        connection = self._live()
        remote = await connection.find(id, _spec.text(key, "key"), seconds(deadline, connection))
        return AsyncTask(remote, self)

    async def templates(self, *, deadline: Deadline = DEFAULT) -> list[results.TemplateInfo]:
        """The templates that tasks can name."""
        connection = self._live()
        return await connection.templates(seconds(deadline, connection))

    async def tasks(self, *, deadline: Deadline = DEFAULT) -> list[results.TaskInfo]:
        """The queued, running and ending tasks of the asking user; for root, of every user."""
        connection = self._live()
        return await connection.list_tasks(seconds(deadline, connection))

    async def detached(self, *, deadline: Deadline = DEFAULT) -> list[results.DetachedTask]:
        """This user's detached tasks that are kept, ended ones too. Renews no lease."""
        connection = self._live()
        return await connection.detached(seconds(deadline, connection))

    async def kill(self, id: int, *, deadline: Deadline = DEFAULT) -> None:
        """Ends a task of the asking user, from any connection, as `cancelled`; root may end any user's."""
        connection = self._live()
        await connection.kill(id, seconds(deadline, connection))

    async def upload(self, content: FileContent, *, deadline: Deadline = DEFAULT) -> results.Blob:
        """Stores bytes or a file at the daemon, for `files=` of any number of tasks."""
        connection = self._live()
        source = await asyncio.to_thread(_spec.upload_source, content)
        await _upload.upload(connection, source, seconds(deadline, connection))
        return results.Blob(sha256=source.sha256, size_bytes=source.size)

    async def blobs(self, *, deadline: Deadline = DEFAULT) -> list[results.Blob]:
        """This user's blobs."""
        connection = self._live()
        return await connection.blobs(seconds(deadline, connection))

    async def remove_blob(self, blob: results.Blob | bytes, *, deadline: Deadline = DEFAULT) -> None:
        """Removes a blob. Tasks that already name it keep it."""
        connection = self._live()
        await connection.remove_blob(_spec.blob_hash(blob), seconds(deadline, connection))


async def _build(template: str, code: str | bytes | None, given: dict[str, Any]) -> _spec.TaskSpec:
    if given.get("files") or given.get("script") is not None:  # reads and hashes files
        return await asyncio.to_thread(_spec.build, template, code, given)
    return _spec.build(template, code, given)


def connect_async(socket: str | os.PathLike[str] | None = None, *,
                  call_deadline: Duration | None = CALL_DEADLINE_SECONDS,
                  name: str = "python") -> AsyncClient:
    """`async with mayfly.connect_async() as client`, or `client = await mayfly.connect_async()`."""
    return AsyncClient(socket, call_deadline=call_deadline, name=name)
