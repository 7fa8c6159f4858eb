"""The client without asyncio: every call blocks until it is answered, from any thread."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from . import _save, _spec, _upload, errors, results
from ._common import (CALL_DEADLINE_SECONDS, CLOSE_DEADLINE_SECONDS, DEFAULT, Deadline, check_read,
                      decoder, default_seconds, index_of, seconds, split, within)
from ._connection import Connection, socket_path
from ._portal import Portal
from ._remote import Output, Remote
from ._spec import FileContent, SubmitOptions, TaskOptions
from ._units import Duration
from .results import OutFile, Stream, TaskResult

T = TypeVar("T")


class RunOptions(TaskOptions, total=False):
    check: bool
    """Raise TaskFailed for any verdict but `succeeded`."""
    out: str | os.PathLike[str]
    """Save the task's files of /task/out below this folder."""
    on_output: Callable[[Stream, bytes], object]
    """Gets the output live, on the calling thread; the result then has none."""


class Stdin:
    """A task's standard input: `with task.stdin as stdin: stdin.write(...)`."""

    def __init__(self, remote: Remote, portal: Portal) -> None:
        self._remote, self._portal = remote, portal

    def write(self, data: bytes | bytearray | memoryview | str, *, deadline: Deadline = None) -> None:
        """Returns when the task has taken all of it: if the task also prints, read its output
        concurrently."""
        content = data.encode() if isinstance(data, str) else bytes(data)
        limit = seconds(deadline, self._remote.connection)
        self._portal.call(lambda _: self._remote.write_stdin(content, limit))

    def close(self, *, deadline: Deadline = DEFAULT) -> None:
        """The task reads end-of-file after all written data."""
        limit = seconds(deadline, self._remote.connection)
        self._portal.call(lambda _: self._remote.close_stdin(limit))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        try:
            self.close()
        except (errors.FailedPrecondition, errors.Disconnected):
            pass  # the task has ended


def _drop_task(portal: Portal, remote: Remote) -> None:
    """Finalizer: no reference to the task is left."""
    portal.soon(remote.release_soon if remote.detached else remote.close_soon)


class Task:
    """One task. Leaving `with`, `close` and dropping the object do the same: the daemon forgets
    the task, and cancels it if it still runs. Only `close` forgets a detached task."""

    def __init__(self, remote: Remote, client: Client) -> None:
        self._remote = remote
        self._client = client  # keeps the client: its end would end the task
        self._portal = client._portal
        self._result: TaskResult | None = None
        self.stdin = Stdin(remote, self._portal)
        weakref.finalize(self, _drop_task, self._portal, remote).atexit = False

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        if self.detached:
            self._portal.soon(self._remote.release_soon)
        else:
            self.close()

    def wait(self, deadline: Deadline = None, *, check: bool = False) -> TaskResult:
        """The result, when nothing of the task is left. DeadlineExceeded leaves it running."""
        limit, me = seconds(deadline, self._remote.connection), threading.current_thread()
        self._result = result = self._portal.call(lambda _: self._remote.wait(limit, me))
        return result.check() if check else result

    @overload
    def stream(self, *, text: Literal[False] = False) -> Iterator[tuple[Stream, bytes]]: ...
    @overload
    def stream(self, *, text: Literal[True]) -> Iterator[tuple[Stream, str]]: ...

    def stream(self, *, text: bool = False) -> Iterator[tuple[Stream, Any]]:
        """The live output of a task submitted with `stream=True`. A slow reader slows its own task
        only. Once `wait` is called, unread output goes into the result."""
        output = self._remote.output
        if output is None:
            raise errors.FailedPrecondition("the task's output is captured into its result",
                                            "Submit it with stream=True.")
        return self._stream(output, text)

    def _stream(self, output: Output, text: bool) -> Iterator[tuple[Stream, Any]]:
        if output.reader is not None:
            raise errors.FailedPrecondition("another iterator reads this task's output")
        output.reader = threading.current_thread()
        decode = decoder() if text else None
        try:
            while chunks := self._portal.call(lambda _: output.take()):
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

    def cancel(self, *, deadline: Deadline = DEFAULT) -> None:
        """Ends the task as `cancelled`; `wait` gives the result. A task with a `grace` first gets
        SIGTERM; a second call ends the grace. Harmless once it has ended."""
        limit = seconds(deadline, self._remote.connection)
        self._portal.call(lambda _: self._remote.cancel(limit))

    def revoke(self, grant: str, *, deadline: Deadline = DEFAULT) -> None:
        """Ends one of the task's grants before the task; returns when no call under it works any
        more."""
        limit = seconds(deadline, self._remote.connection)
        self._portal.call(lambda _: self._remote.revoke(grant, limit))

    def info(self, *, deadline: Deadline = DEFAULT) -> results.TaskInfo:
        """The task's current state, without waiting."""
        limit = seconds(deadline, self._remote.connection)
        return self._portal.call(lambda _: self._remote.info(limit))

    def read_file(self, file: OutFile | str | int, offset: int = 0, size: int = 1 << 20, *,
                  deadline: Deadline = DEFAULT) -> bytes:
        """At most `size` bytes (and at most 1 MiB) of an output file; empty at its end."""
        index, (offset, size) = index_of(file, self._result), check_read(offset, size)
        limit = seconds(deadline, self._remote.connection)
        return self._portal.call(lambda _: self._remote.read_file(index, offset, size, limit))[0]

    def read_chunks(self, file: OutFile | str | int, *,
                    deadline: Deadline = DEFAULT) -> Iterator[bytes]:
        """A whole output file, piece by piece; the deadline applies to each piece."""
        index, limit = index_of(file, self._result), seconds(deadline, self._remote.connection)
        offset, end = 0, False
        while not end:
            piece, end = self._portal.call(
                lambda _: self._remote.read_file(index, offset, 1 << 20, limit))
            offset += len(piece)
            if piece:
                yield piece

    def save_files(self, folder: str | os.PathLike[str], *,
                   deadline: Deadline = DEFAULT) -> tuple[OutFile, ...]:
        """Saves the output files below `folder` (made if missing), after `wait`. Each says where
        it was `saved`, or why it was `not_saved`: the task chose the names. Raises `Unavailable`
        (retryable) if Mayfly lost files; those that came are saved before."""
        top = Path(folder)
        top.mkdir(exist_ok=True)
        result = self._result or self.wait()
        saved = tuple(self._save(top, each, deadline) for each in result.out_files)
        result.check_files()
        return saved

    def _save(self, top: Path, file: OutFile, deadline: Deadline) -> OutFile:
        why = file.skipped or _save.why_odd(file.path)
        if why:
            return dataclasses.replace(file, not_saved=why)
        try:
            with _save.Writer(top, file.path, file.mode) as writer:
                for piece in self.read_chunks(file, deadline=deadline):
                    writer.write(piece)
        except OSError as error:
            if isinstance(error, errors.MayflyError):
                raise
            return dataclasses.replace(file, not_saved=error.strerror or str(error))
        return dataclasses.replace(file, saved=writer.path)

    def close(self, *, deadline: Deadline = CLOSE_DEADLINE_SECONDS) -> None:
        """The daemon forgets the task, and cancels it if it runs. Harmless when repeated."""
        limit = seconds(deadline, self._remote.connection)
        try:
            self._portal.call(lambda _: self._remote.close(limit))
        except errors.Disconnected:
            pass  # the connection has ended, and the task with it


class Client:
    """A connection to the daemon, for any number of threads::

        with mayfly.connect() as client:
            print(client.run("python", "print(6*7)").stdout)

    Leaving it ends all of its tasks except detached ones. It does not survive a fork: the new
    process must connect again.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None, *,
                 call_deadline: Duration | None = CALL_DEADLINE_SECONDS,
                 name: str = "python") -> None:
        self._portal = Portal(socket_path(socket), name, default_seconds(call_deadline))
        weakref.finalize(self, self._portal.close, wait=False).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Harmless when repeated."""
        self._portal.close()

    @property
    def server(self) -> results.ServerInfo:
        """The daemon's answer when the connection was made: version, name, bounds."""
        info = self._portal.connection.server
        assert info is not None
        return info

    def _seconds(self, deadline: Deadline) -> float | None:
        return seconds(deadline, self._portal.connection)

    def submit(self, template: str, code: str | bytes | None = None, /,
               **options: Unpack[SubmitOptions]) -> Task:
        """Returns when the daemon has checked and queued the task."""
        given, deadline = split(options)
        spec, limit = _spec.build(template, code, given), self._seconds(deadline)
        return Task(self._portal.call(lambda c: c.submit(spec, limit)), self)

    def run(self, template: str, code: str | bytes | None = None, /,
            **options: Unpack[RunOptions]) -> TaskResult:
        """Submits a task, waits for its result and closes it. `deadline` applies to the whole;
        without it, only the task's own `wall_time` bounds the wait."""
        given, deadline = split(options)
        _spec.check_run(given)
        limit = self._seconds(None if deadline == DEFAULT else deadline)
        check, out, on_output = (given.pop(n, None) for n in ("check", "out", "on_output"))
        collect = bool(given.get("collect"))
        given["stream"], given["collect"] = on_output is not None, collect or out is not None
        spec = _spec.build(template, code, given)
        if on_output is None and out is None:
            result = self._portal.call(lambda c: c.run(spec, collect, limit))
        else:
            result = self._run(spec, collect, out, on_output, limit)
        return result.check() if check else result

    def _run(self, spec: _spec.TaskSpec, collect: bool, out: str | os.PathLike[str] | None,
             on_output: Callable[[Stream, bytes], object] | None,
             limit: float | None) -> TaskResult:
        """In steps, because the calling thread handles output in between."""
        end = None if limit is None else time.monotonic() + limit

        def step(make: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
            left = None if end is None else end - time.monotonic()
            return self._portal.call(lambda c: within(left, limit, make(c)))

        remote = step(lambda c: c.submit(spec, c.call_deadline))
        task = Task(remote, self)
        try:
            output = remote.output
            if on_output is not None and output is not None:
                while chunks := step(lambda _: output.take()):
                    for stream, data in chunks:
                        on_output(stream, data)
            result = step(lambda _: remote.wait(None, None))
            if collect:
                result = step(lambda c: remote.with_data(result, c.call_deadline))
            if out is not None:
                task._result = result
                result = dataclasses.replace(result, out_files=task.save_files(out))
            return result
        finally:
            self._portal.soon(remote.close_soon)

    def find(self, *, id: int = 0, key: str = "", deadline: Deadline = DEFAULT) -> Task:
        """A detached task of this user, by `key` or by `id`."""
        limit, key = self._seconds(deadline), _spec.text(key, "key")
        return Task(self._portal.call(lambda c: c.find(id, key, limit)), self)

    def templates(self, *, deadline: Deadline = DEFAULT) -> list[results.TemplateInfo]:
        """The templates that tasks can name."""
        limit = self._seconds(deadline)
        return self._portal.call(lambda c: c.templates(limit))

    def tasks(self, *, deadline: Deadline = DEFAULT) -> list[results.TaskInfo]:
        """The queued, running and ending tasks of the asking user; for root, of every user."""
        limit = self._seconds(deadline)
        return self._portal.call(lambda c: c.list_tasks(limit))

    def detached(self, *, deadline: Deadline = DEFAULT) -> list[results.DetachedTask]:
        """This user's detached tasks that are kept, ended ones too. Renews no lease."""
        limit = self._seconds(deadline)
        return self._portal.call(lambda c: c.detached(limit))

    def kill(self, id: int, *, deadline: Deadline = DEFAULT) -> None:
        """Ends a task of the asking user, from any connection, as `cancelled`; root may end any user's."""
        limit = self._seconds(deadline)
        self._portal.call(lambda c: c.kill(id, limit))

    def upload(self, content: FileContent, *, deadline: Deadline = DEFAULT) -> results.Blob:
        """Stores bytes or a file at the daemon, for `files=` of any number of tasks."""
        source, limit = _spec.upload_source(content), self._seconds(deadline)
        self._portal.call(lambda c: _upload.upload(c, source, limit))
        return results.Blob(sha256=source.sha256, size_bytes=source.size)

    def blobs(self, *, deadline: Deadline = DEFAULT) -> list[results.Blob]:
        """This user's blobs."""
        limit = self._seconds(deadline)
        return self._portal.call(lambda c: c.blobs(limit))

    def remove_blob(self, blob: results.Blob | bytes, *, deadline: Deadline = DEFAULT) -> None:
        """Removes a blob. Tasks that already name it keep it."""
        sha256, limit = _spec.blob_hash(blob), self._seconds(deadline)
        self._portal.call(lambda c: c.remove_blob(sha256, limit))


def connect(socket: str | os.PathLike[str] | None = None, *,
            call_deadline: Duration | None = CALL_DEADLINE_SECONDS,
            name: str = "python") -> Client:
    """Connects to the daemon at `socket`, else at MAYFLY_SOCKET, else at the default path.
    `call_deadline`: for every call except `run` and `Task.wait`; `name`: for the daemon's log."""
    return Client(socket, call_deadline=call_deadline, name=name)
