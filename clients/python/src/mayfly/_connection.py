"""One connection and its tasks, on the event loop; both clients are built on it.

Every coroutine here runs on the loop that opened the connection. Errors are raised from
frames without pycapnp objects, because a traceback may be freed on any thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import capnp

from . import _upload, _wire, errors, results
from ._common import within
from ._remote import Output, Remote
from ._spec import TaskSpec
from ._wire import schema

DEFAULT_SOCKET: Final = "/run/mayfly/default.sock"
CONNECT_RETRY_SECONDS: Final = 0.02  # while the daemon's queue of connections is full

T = TypeVar("T")

_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Closes the socket in the child, so that the parent's end ends the connection."""
    for connection in list(_open):
        connection.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)


def socket_path(path: str | os.PathLike[str] | None) -> str:
    return os.fspath(path) if path is not None else os.environ.get("MAYFLY_SOCKET") or DEFAULT_SOCKET


async def _connect(path: str, deadline: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    end = None if deadline is None else asyncio.get_running_loop().time() + deadline
    while True:
        try:
            sock.connect(path)  # a unix socket connects at once or not at all
            return sock
        except OSError as error:
            if error.errno == errno.EAGAIN and (
                    end is None or asyncio.get_running_loop().time() < end):
                await asyncio.sleep(CONNECT_RETRY_SECONDS)
                continue
            sock.close()
            raise _connect_error(error, path) from None


def _connect_error(error: OSError, path: str) -> errors.MayflyError:
    said = f"cannot connect to the daemon at '{path}': {error.strerror or error}"
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return errors.Unavailable(
            said, "No daemon answers there. Start mayflyd, or name its socket: "
            "mayfly.connect(PATH) or MAYFLY_SOCKET.", retryable=True)
    if error.errno in (errno.EACCES, errno.EPERM):
        return errors.PermissionDenied(
            said, "Run it as root, or let the user in: `uids_allowed` and `gids_allowed` in the "
            "daemon's settings.")
    if error.errno == errno.EAGAIN:
        return errors.ResourceExhausted(
            said, "The daemon's queue of new connections is full. Try again later.", retryable=True)
    return errors.InvalidArgument(said)


class Connection:
    def __init__(self, path: str, call_deadline: float | None) -> None:
        self.path = path
        self.call_deadline = call_deadline
        self.loop = asyncio.get_running_loop()
        self.server: results.ServerInfo | None = None
        self.tasks: set[Remote] = set()
        self.ended: str = ""  # why no more calls are possible
        self._socket: socket.socket | None = None
        self._stream: Any = None
        self._rpc: Any = None
        self._mayfly: Any = None
        self._hold: _wire.Hold | None = None
        self._background: set[asyncio.Task[Any]] = set()

    # --- opening and ending ------------------------------------------------------

    @classmethod
    async def open(cls, path: str, name: str, call_deadline: float | None) -> Connection:
        self = cls(path, call_deadline)
        self._socket = await _connect(path, call_deadline)
        try:
            self._hold = await _wire.Hold.take(self)
            _open.add(self)
            self._stream = await capnp.AsyncIoStream.create_unix_connection(sock=self._socket)
            self._rpc = capnp.TwoPartyClient(
                self._stream, traversal_limit_in_words=_wire.TRAVERSAL_WORDS_MAX)
            self._mayfly = self._rpc.bootstrap().cast_as(schema.Mayfly)
            self.server = await self.call(
                "hello", lambda: self._mayfly.hello(client=name, protocol=_wire.PROTOCOL),
                lambda answer: _wire.server_info(answer.info), call_deadline)
            idle_ms = self.server.bounds.connection_idle_ms
            if idle_ms:
                self.spawn(self._keep_alive(name, idle_ms / 3000))
        except errors.MayflyError as error:
            await self.close()
            error.message = f"cannot use the daemon at '{path}': {error.message}"
            raise
        except BaseException:
            await self.close()
            raise
        return self

    async def _keep_alive(self, name: str, pause_seconds: float) -> None:
        """Sends calls on an idle connection, which the daemon would otherwise close."""
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                await self.call("hello", lambda: self._mayfly.hello(
                    client=name, protocol=_wire.PROTOCOL), _nothing, self.call_deadline)
            except errors.Disconnected:
                return
            except errors.MayflyError:
                pass  # the next call may succeed

    async def close(self) -> None:
        """Ends all of its tasks and waits. Harmless when repeated."""
        if not self.ended:
            self.ended = "the client was closed"
        tasks, self.tasks = self.tasks, set()
        for task in tasks:
            task.let_go(self.end_error("wait"))
        for job in list(self._background):
            job.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._mayfly = None
        rpc, self._rpc = self._rpc, None
        if rpc is not None:
            rpc.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        elif self._socket is not None:
            self._socket.close()
        self._socket = None
        _open.discard(self)
        hold, self._hold = self._hold, None
        if hold is not None:
            await hold.drop(self)

    def forked(self) -> None:
        self.ended = "this process is a fork of the one that connected"
        sock, self._socket = self._socket, None
        if sock is not None and sock.fileno() >= 0:
            os.close(sock.detach())

    def end_error(self, what: str) -> errors.Disconnected:
        return errors.Disconnected(f"{what}: {self.ended or 'the connection has ended'}",
                                   "Connect again.")

    # --- calls -------------------------------------------------------------------

    def spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A cancelled task keeps the exception, and with its traceback the frames.
        async def run() -> None:
            try:
                await job
            except asyncio.CancelledError:
                pass

        def done(task: asyncio.Task[None]) -> None:
            self._background.discard(task)
            job.close()  # releases the arguments even of a job that never started

        task = self.loop.create_task(run())
        self._background.add(task)
        task.add_done_callback(done)
        return task

    async def call(self, what: str, send: Callable[[], Awaitable[Any]],
                   decode: Callable[[Any], T], deadline: float | None) -> T:
        """Runs `send` and then `decode` on the answer, both on this thread, within the deadline."""
        value, error = await self._exchange(what, send, decode, deadline)
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    async def _exchange(self, what: str, send: Callable[[], Awaitable[Any]],
                        decode: Callable[[Any], T],
                        deadline: float | None) -> tuple[T | None, Exception | None]:
        if self.ended:
            return None, self.end_error(what)
        try:
            async with asyncio.timeout(deadline):
                return await self._ask(send, decode)
        except TimeoutError:
            return None, errors.DeadlineExceeded(f"{what}: no answer within {deadline:g} s")
        except capnp.KjException as exception:
            if exception.type == "DISCONNECTED" and self.ended:
                return None, self.end_error(what)
            return None, _wire.error_of_exception(exception, what)
        except Exception as error:  # sending or reading failed
            error.__cause__ = error.__context__ = None
            return None, error.with_traceback(None)

    async def _ask(self, send: Callable[[], Awaitable[Any]],
                   decode: Callable[[Any], T]) -> tuple[T | None, Exception | None]:
        answer = await send()
        error = _wire.error_of(answer)
        return (None, error) if error is not None else (decode(answer), None)

    # --- the daemon --------------------------------------------------------------

    async def submit(self, spec: TaskSpec, deadline: float | None) -> Remote:
        if spec.detach_ms and self.server and not self.server.bounds.detached_per_user_max:
            raise errors.Unsupported("submit: the daemon keeps no detached tasks",
                                     "Update the daemon, or leave out detach=.")
        if (spec.grants or spec.tools) and self.server and self.server.protocol < _wire.GRANTS_PROTOCOL:
            raise errors.Unsupported("submit: the daemon knows no grants and no tools",
                                     "Update the daemon, or leave out grants= and tools=.")
        for left in reversed(range(_upload.SUBMITS_MAX)):
            await _upload.place(self, spec, deadline)
            try:
                return await self._submit(spec, deadline)
            except errors.NotFound:
                if not left or not await _upload.lost(self, spec, deadline):
                    raise
        raise AssertionError

    async def _submit(self, spec: TaskSpec, deadline: float | None) -> Remote:
        output = Output() if spec.stream else None
        remote = Remote(self, output)
        remote.template = spec.template
        cap: list[Any] = []  # the pipelined wait, until submit has answered

        def send() -> Any:
            request = self._mayfly.submit_request()
            _wire.put_spec(request.spec, spec)
            if spec.traceparent:
                request.traceparent = spec.traceparent
            _wire.check_size(request)
            if output is not None:
                request.output = _wire.Sink(output.put)
            if spec.tools:
                request.toolBox = _wire.ToolBox(spec.tools)
            promise = request.send()
            cap.append(promise.task.wait())
            return promise

        def decode(answer: Any) -> None:
            remote.id, remote.existing = answer.id, answer.existing
            remote.detached = spec.detach_ms != 0
            remote.grants = dict(zip((name for name, _ in spec.grants), answer.grants))
            remote.begin(answer.task, cap.pop())

        try:
            await self.call("submit", send, decode, deadline)
        finally:
            cap.clear()
        self.tasks.add(remote)
        if spec.pump is not None:
            remote.pump(spec.pump)
        return remote

    async def run(self, spec: TaskSpec, collect: bool, limit: float | None = None,
                  ) -> results.TaskResult:
        """Submits, waits and closes in one step."""
        return await within(limit, limit, self._run(spec, collect))

    async def _run(self, spec: TaskSpec, collect: bool) -> results.TaskResult:
        remote = await self.submit(spec, self.call_deadline)
        try:
            result = await remote.wait(None, None)
            return await remote.with_data(result, self.call_deadline) if collect else result
        finally:
            remote.close_soon()

    async def find(self, id: int, key: str, deadline: float | None) -> Remote:
        remote = Remote(self, None)
        remote.detached = remote.existing = True

        def decode(answer: Any) -> None:
            remote.id = answer.id
            remote.begin(answer.task, answer.task.wait())

        await self.call("find", lambda: self._mayfly.find(id=id, key=key), decode, deadline)
        self.tasks.add(remote)
        return remote

    async def templates(self, deadline: float | None) -> list[results.TemplateInfo]:
        return await self.call("templates", lambda: self._mayfly.templates(),
                               lambda a: [_wire.template_info(t) for t in a.templates], deadline)

    async def list_tasks(self, deadline: float | None) -> list[results.TaskInfo]:
        return await self.call("tasks", lambda: self._mayfly.tasks(),
                               lambda a: [_wire.task_info(t) for t in a.tasks], deadline)

    async def detached(self, deadline: float | None) -> list[results.DetachedTask]:
        return await self.call("detached", lambda: self._mayfly.detached(),
                               lambda a: [_wire.detached_task(t) for t in a.tasks], deadline)

    async def kill(self, id: int, deadline: float | None) -> None:
        await self.call("kill", lambda: self._mayfly.kill(id=id), _nothing, deadline)

    async def blobs(self, deadline: float | None) -> list[results.Blob]:
        return await self.call("blobs", lambda: self._mayfly.blobs(),
                               lambda a: [_wire.blob(b) for b in a.blobs], deadline)

    async def remove_blob(self, sha256: bytes, deadline: float | None) -> None:
        await self.call("removeBlob", lambda: self._mayfly.removeBlob(sha256=sha256), _nothing,
                        deadline)

    async def begin_upload(self, sha256: bytes, size: int, deadline: float | None) -> Any:
        """An Upload to write to, or None if the daemon already has the blob."""
        return await self.call("upload", lambda: self._mayfly.upload(sha256=sha256, sizeBytes=size),
                               lambda a: None if a.known else a.upload, deadline)


def _nothing(answer: Any) -> None:
    return None
