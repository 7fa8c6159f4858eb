"""The errors of this package, one class for each code of the protocol.

The end of a *task* is never an error: it is the result's verdict. `TaskFailed` is
raised only if the caller asks for it (`check=True`, `TaskResult.check`).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import TaskResult


class ErrorCode(enum.StrEnum):
    """The same words in the protocol, the command line and the clients."""

    INVALID_ARGUMENT = "invalidArgument"
    NOT_FOUND = "notFound"
    ALREADY_EXISTS = "alreadyExists"
    RESOURCE_EXHAUSTED = "resourceExhausted"
    UNAVAILABLE = "unavailable"
    FAILED_PRECONDITION = "failedPrecondition"
    PERMISSION_DENIED = "permissionDenied"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadlineExceeded"
    HOST_UNFIT = "hostUnfit"
    INTERNAL = "internal"


class MayflyError(Exception):
    """A failed call. The base class of this package's errors."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, advice: str = "", *, retryable: bool = False,
                 retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.retryable = retryable
        """The same call can succeed later."""
        self.retry_after = retry_after
        """Do not retry for this many seconds; None: unknown."""

    def __str__(self) -> str:
        if not self.advice:
            return self.message
        return f"{self.message}{'' if self.message.endswith(('.', '!', '?')) else '.'} {self.advice}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.advice, self.retryable, self.retry_after))


def _rebuild(kind: type[MayflyError], message: str, advice: str, retryable: bool,
             retry_after: float | None) -> MayflyError:
    return kind(message, advice, retryable=retryable, retry_after=retry_after)


class InvalidArgument(MayflyError, ValueError):
    """This request can never succeed."""

    code = ErrorCode.INVALID_ARGUMENT


class NotFound(MayflyError, LookupError):
    """The named template, task, file or blob does not exist."""

    code = ErrorCode.NOT_FOUND


class AlreadyExists(MayflyError):
    """The key already belongs to another task, or to one of before the daemon's restart."""

    code = ErrorCode.ALREADY_EXISTS


class ResourceExhausted(MayflyError):
    """A bound is reached: a queue, connections, bytes."""

    code = ErrorCode.RESOURCE_EXHAUSTED


class Unavailable(MayflyError):
    """Not now: the daemon is missing, starting or stopping, the template is not ready, or Mayfly
    lost the output files that were asked for: run the task again."""

    code = ErrorCode.UNAVAILABLE


class Disconnected(Unavailable, ConnectionError):
    """The connection has ended: the daemon is gone, or this client was closed."""


class FailedPrecondition(MayflyError):
    """The object is not in the state that the call needs."""

    code = ErrorCode.FAILED_PRECONDITION


class Unsupported(FailedPrecondition, NotImplementedError):
    """The daemon is older than this client and does not know the call."""


class PermissionDenied(MayflyError, PermissionError):
    """This user may not use the daemon."""

    code = ErrorCode.PERMISSION_DENIED


class Cancelled(MayflyError):
    """The task was closed during the call."""

    code = ErrorCode.CANCELLED


class DeadlineExceeded(MayflyError, TimeoutError):
    """No answer within the call's `deadline`."""

    code = ErrorCode.DEADLINE_EXCEEDED


class HostUnfit(MayflyError):
    """The host cannot keep a promise."""

    code = ErrorCode.HOST_UNFIT


class Internal(MayflyError):
    """A fault of Mayfly itself."""

    code = ErrorCode.INTERNAL


class TaskFailed(Exception):
    """The task's verdict is not `succeeded`, and the caller asked for this exception."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        result = self.result
        text = f"task {result.id} ({result.template}) ended as {result.verdict}"
        if result.reason:
            text += f": {result.reason}"
        last = result.stderr.strip().rsplit("\n", 1)[-1]
        # The task chose the bytes that it printed: escape them for a terminal.
        last = "".join(c if c.isprintable() else "?" for c in last)[:200]
        return f"{text}; its last line on stderr: {last}" if last else text


# By the number on the wire.
BY_NUMBER: tuple[type[MayflyError] | None, ...] = (
    None, InvalidArgument, NotFound, AlreadyExists, ResourceExhausted, Unavailable,
    FailedPrecondition, PermissionDenied, Cancelled, DeadlineExceeded, HostUnfit, Internal)
