"""The sync client's thread: it runs an event loop with one connection, for calls of any thread.

pycapnp objects never leave the thread, and errors leave it without their frames.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from . import errors
from ._connection import Connection

THREAD_END_SECONDS_MAX: Final = 10.0

T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]


def _stripped(error: BaseException) -> BaseException:
    """The error without its frames, whose objects must be freed on this thread."""
    if not isinstance(error, (errors.MayflyError, OSError)):
        error.add_note("".join(traceback.format_exception(error)))
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for portal in list(_portals):
        portal.close()


class Portal:
    def __init__(self, path: str, name: str, call_deadline: float | None) -> None:
        self._pid = os.getpid()
        _portals.add(self)
        self._lock = threading.RLock()  # re-entrant: a finalizer may run in between
        self._calls: set[concurrent.futures.Future[Outcome]] = set()
        self._over = ""  # why no call can be made any more
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._stop: asyncio.Event | None = None
        ready: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._serve, args=(path, name, call_deadline, ready),
                                        name="mayfly-client", daemon=True)
        self._thread.start()
        try:
            _, error = ready.result()
        except BaseException:
            self.close(wait=False)
            raise
        if error is not None:
            self._thread.join()
            raise error

    @property
    def connection(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _serve(self, path: str, name: str, call_deadline: float | None,
               ready: concurrent.futures.Future[Outcome]) -> None:
        try:
            asyncio.run(self._main(path, name, call_deadline, ready))
        except BaseException as error:
            if not ready.done():
                ready.set_result((None, _stripped(error)))
        finally:
            # Calls that the loop did not get to any more.
            with self._lock:
                self._over = self._over or "the client's thread has ended"
                rest, self._calls = self._calls, set()
            for call in rest:
                if not call.done():
                    call.set_result((None, self._closed()))

    async def _main(self, path: str, name: str, call_deadline: float | None,
                    ready: concurrent.futures.Future[Outcome]) -> None:
        self._stop = asyncio.Event()
        with self._lock:
            self._loop = asyncio.get_running_loop()
            if self._over:  # closed before it was open
                return
        connection = await Connection.open(path, name, call_deadline)
        self._connection = connection
        ready.set_result((None, None))
        try:
            await self._stop.wait()
        finally:
            await connection.close()

    def _closed(self) -> errors.Disconnected:
        return errors.Disconnected(f"{self._over or 'the client was closed'}", "Connect again.")

    def check(self) -> None:
        if os.getpid() != self._pid:
            raise errors.Disconnected("this process is a fork of the one that connected",
                                      "Connect again in the new process.")
        if threading.current_thread() is self._thread:
            raise errors.FailedPrecondition("called on the client's own thread")

    def call(self, make: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine on the loop and waits for it; an interrupted caller cancels it."""
        self.check()
        done: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        job: list[asyncio.Task[None]] = []

        async def finish() -> None:
            outcome: Outcome
            try:
                outcome = await make(self.connection), None
            except asyncio.CancelledError:
                outcome = None, self.connection.end_error("call")
            except BaseException as error:
                outcome = None, _stripped(error)
            with self._lock:
                self._calls.discard(done)
            if not done.done():
                done.set_result(outcome)

        def begin() -> None:
            job.append(self.connection.spawn(finish()))

        with self._lock:
            if self._over or self._loop is None:
                raise self._closed()
            self._calls.add(done)
            self._loop.call_soon_threadsafe(begin)
        try:
            value, error = done.result()
        except BaseException:
            self._soon(lambda: job and job[0].cancel())
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error, done  # no cycle through this frame
        return value  # type: ignore[no-any-return]

    def _soon(self, job: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is not None and not self._loop.is_closed() and os.getpid() == self._pid:
                self._loop.call_soon_threadsafe(job)

    def soon(self, job: Callable[[], object]) -> None:
        """Calls `job` on the loop, if the loop still exists; for finalizers."""
        if os.getpid() != self._pid or self._over:
            return
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(job)
        except RuntimeError:
            pass

    def close(self, wait: bool = True) -> None:
        """Ends the connection and the thread. Harmless when repeated."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._over = self._over or "the client was closed"
            loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                pass  # ended already
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(THREAD_END_SECONDS_MAX)
