"""A task on the side of the event loop: the daemon's object, its result, live output and stdin.

A closed `Remote` holds no pycapnp object: `close_soon`, `release_soon` and `let_go` drop
them on the loop's thread.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import queue
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from . import _wire, errors, results
from .results import Stream

if TYPE_CHECKING:
    from ._connection import Connection

OUTPUT_BYTES_HELD_MAX: Final = 256 << 10  # while more is held, the daemon's write does not return
CAPTURE_BYTES_MAX: Final = 1 << 20        # of each stream, as the daemon's own capture
STDIN_PIECE_BYTES: Final = 256 << 10

Chunk = tuple[Stream, bytes]


class Output:
    """Live output on its way to an iterator; or, if `wait` is called and nobody iterates, into
    the result."""

    def __init__(self) -> None:
        self.reader: object = None  # the iterating thread or asyncio task
        self._chunks: collections.deque[Chunk] = collections.deque()
        self._held_bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._error: errors.MayflyError | None = None
        self._collectors = 0
        self._captured = {stream: bytearray() for stream in Stream}
        self._truncated = {stream: False for stream in Stream}

    async def put(self, stream: Stream, data: bytes) -> None:
        self._chunks.append((stream, data))
        self._held_bytes += len(data)
        if self._collectors:
            self._capture()
        self._news.set()
        while self._held_bytes > OUTPUT_BYTES_HELD_MAX and not self._ended:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> list[Chunk]:
        """All chunks since the last call, at least one; empty at the end."""
        while not self._chunks:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return []
            self._news.clear()
            await self._news.wait()
        chunks = list(self._chunks)
        self._drop()
        return chunks

    def end(self, error: errors.MayflyError | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()
            self._room.set()

    def collect(self, on: bool) -> None:
        self._collectors += 1 if on else -1
        if self._collectors:
            self._capture()

    def into(self, result: results.TaskResult) -> results.TaskResult:
        out, err = self._captured[Stream.STDOUT], self._captured[Stream.STDERR]
        return dataclasses.replace(
            result, stdout_bytes=bytes(out), stderr_bytes=bytes(err),
            stdout_truncated=self._truncated[Stream.STDOUT],
            stderr_truncated=self._truncated[Stream.STDERR])

    def _capture(self) -> None:
        for stream, data in self._chunks:
            to = self._captured[stream]
            if len(to) + len(data) > CAPTURE_BYTES_MAX:
                self._truncated[stream] = True
                data = data[:CAPTURE_BYTES_MAX - len(to)]
            to += data
        self._drop()

    def _drop(self) -> None:
        self._chunks.clear()
        self._held_bytes = 0
        self._room.set()


class Remote:
    def __init__(self, connection: Connection, output: Output | None) -> None:
        self.connection = connection
        self.output = output
        self.id = 0
        self.template = ""
        self.existing = False
        self.detached = False
        self.grants: dict[str, Any] = {}  # by name: the daemon's objects
        self._cap: Any = None
        self._done = asyncio.Event()
        self._outcome: results.TaskResult | errors.MayflyError | None = None
        self._waiter: asyncio.Task[None] | None = None
        self._input_error: BaseException | None = None

    def begin(self, cap: Any, waiting: Any) -> None:
        self._cap = cap
        self._waiter = self.connection.spawn(self._await_result(waiting))

    async def _await_result(self, waiting: Any) -> None:
        value: results.TaskResult | errors.MayflyError
        try:
            value = await self.connection.call(
                "wait", lambda: waiting, lambda answer: _wire.task_result(answer.result), None)
        except errors.MayflyError as error:
            value = error.with_traceback(None)
        self._set(value)

    def _set(self, outcome: results.TaskResult | errors.MayflyError) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if self.output is not None:
                self.output.end(outcome if isinstance(outcome, errors.MayflyError) else None)
            self._done.set()

    # --- ends --------------------------------------------------------------------

    def let_go(self, error: errors.MayflyError) -> None:
        """The connection is ending: the daemon cannot be told any more."""
        self._set(error)
        self._cap = None
        self.grants = {}

    def close_soon(self) -> asyncio.Task[None] | None:
        """The daemon forgets the task, and cancels it if it runs."""
        cap = self._leave(errors.Cancelled("wait: the task was closed"))
        return None if cap is None else self.connection.spawn(self._tell_closed(cap))

    async def close(self, deadline: float | None) -> None:
        closing = self.close_soon()
        if closing is not None:
            await asyncio.wait((closing,), timeout=deadline)

    def release_soon(self) -> None:
        """Forgets the task on this side; a detached task keeps running."""
        self._leave(errors.FailedPrecondition("wait: the task was released"))
        if self._waiter is not None:
            self._waiter.cancel()

    def _leave(self, error: errors.MayflyError) -> Any:
        self.connection.tasks.discard(self)
        cap, self._cap = self._cap, None
        self.grants = {}
        self._set(error)
        return cap

    async def _tell_closed(self, cap: Any) -> None:
        try:
            await self.connection.call("close", lambda: cap.close(), lambda answer: None,  # noqa: F821 (deleted below)
                                       self.connection.call_deadline)
        except errors.MayflyError:
            pass  # a connection that has ended has closed all of its tasks
        finally:
            del cap

    # --- calls -------------------------------------------------------------------

    def _need(self, what: str) -> None:
        if self._cap is None:
            if self.connection.ended:
                raise self.connection.end_error(what)
            raise errors.FailedPrecondition(f"{what}: the task is closed")

    async def wait(self, deadline: float | None, waiter: object) -> results.TaskResult:
        collects = self.output is not None and self.output.reader in (None, waiter)
        if self.output is not None and collects:
            # A thread or task that iterated and now waits will not read on.
            self.output.collect(True)
        try:
            async with asyncio.timeout(deadline):
                await self._done.wait()
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"wait: task {self.id} has not ended within {deadline:g} s") from None
        finally:
            if self.output is not None and collects:
                self.output.collect(False)
        if self._input_error is not None:
            raise self._input_error
        outcome = self._outcome
        assert outcome is not None
        if isinstance(outcome, errors.MayflyError):
            raise outcome.with_traceback(None)
        return self.output.into(outcome) if self.output is not None else outcome

    async def cancel(self, deadline: float | None) -> None:
        self._need("cancel")
        await self._simple("cancel", lambda: self._cap.cancel(), deadline)

    async def revoke(self, grant: str, deadline: float | None) -> None:
        self._need("revoke")
        if grant not in self.grants:
            raise errors.NotFound(f"revoke: the task has no grant '{grant}'")
        await self._simple("revoke", lambda: self.grants[grant].revoke(), deadline)

    async def info(self, deadline: float | None) -> results.TaskInfo:
        self._need("info")
        return await self.connection.call("info", lambda: self._cap.info(),
                                          lambda answer: _wire.task_info(answer.info), deadline)

    async def read_file(self, index: int, offset: int, bytes_max: int,
                        deadline: float | None) -> tuple[bytes, bool]:
        self._need("readFile")
        return await self.connection.call(
            "readFile",
            lambda: self._cap.readFile(index=index, offset=offset,
                                       bytesMax=min(bytes_max, _wire.CHUNK_BYTES_MAX)),
            lambda answer: (answer.data, answer.end), deadline)

    async def read_all(self, index: int, deadline: float | None) -> bytes:
        pieces = []
        offset, end = 0, False
        while not end:
            piece, end = await self.read_file(index, offset, _wire.CHUNK_BYTES_MAX, deadline)
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    async def with_data(self, result: results.TaskResult,
                        deadline: float | None) -> results.TaskResult:
        """The result with the bytes of its output files; raises if Mayfly lost some."""
        result.check_files()
        files = [dataclasses.replace(each, data=await self.read_all(each.index, deadline))
                 if not each.skipped else each for each in result.out_files]
        return dataclasses.replace(result, out_files=tuple(files))

    # --- stdin -------------------------------------------------------------------

    async def write_stdin(self, data: bytes | memoryview, deadline: float | None) -> None:
        """Returns when the task has taken all of it; the deadline applies to each piece."""
        view = memoryview(data)
        for at in range(0, len(view), STDIN_PIECE_BYTES):
            self._need("writeStdin")
            piece = bytes(view[at:at + STDIN_PIECE_BYTES])
            await self._simple("writeStdin", lambda: self._cap.writeStdin(data=piece), deadline)

    async def close_stdin(self, deadline: float | None) -> None:
        self._need("closeStdin")
        await self._simple("closeStdin", lambda: self._cap.closeStdin(), deadline)

    async def _simple(self, what: str, send: Any, deadline: float | None) -> None:
        await self.connection.call(what, send, lambda answer: None, deadline)

    def pump(self, source: Any) -> None:
        """Feeds stdin from bytes or an open file while the task runs."""
        self.connection.spawn(self._pump(source))

    async def _pump(self, source: Any) -> None:
        try:
            if isinstance(source, memoryview):
                await self.write_stdin(source, None)
            else:
                async for piece in _pieces(source):
                    await self.write_stdin(piece, None)
            await self.close_stdin(self.connection.call_deadline)
        except (errors.FailedPrecondition, errors.Cancelled, errors.Disconnected):
            pass  # the task ended before it had read everything; see its result
        except Exception as error:
            self._input_error = error.with_traceback(None)
            if self._cap is not None:
                await self.cancel(self.connection.call_deadline)


async def _pieces(file: Any) -> AsyncIterator[bytes]:
    """An open file's content, read by a separate thread, because a read may block for ever."""
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[bytes] | None] = queue.SimpleQueue()

    def answer(future: asyncio.Future[bytes], data: bytes, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(data)

    def serve() -> None:
        while (future := wanted.get()) is not None:
            data, error = b"", None
            try:
                # read1 returns the present bytes without waiting for a whole piece.
                data = getattr(file, "read1", file.read)(STDIN_PIECE_BYTES)
                data = data.encode() if isinstance(data, str) else bytes(data)
            except Exception as caught:
                error = caught.with_traceback(None)
            try:
                loop.call_soon_threadsafe(answer, future, data, error)
            except RuntimeError:  # the loop is closed: the data is not needed
                return

    threading.Thread(target=serve, name="mayfly-stdin", daemon=True).start()
    try:
        while True:
            future: asyncio.Future[bytes] = loop.create_future()
            wanted.put(future)
            data = await future
            if not data:
                return
            yield data
    finally:
        wanted.put(None)
