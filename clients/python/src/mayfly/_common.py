"""Code that the sync and the async client share, beside the connection."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar

from . import errors
from ._units import Duration, parse, parse_ms
from .results import OutFile, Stream, TaskResult

if TYPE_CHECKING:
    from ._connection import Connection

T = TypeVar("T")

CALL_DEADLINE_SECONDS: Final = 30.0
CLOSE_DEADLINE_SECONDS: Final = 10.0

DEFAULT: Final = "default"
Deadline: TypeAlias = Duration | Literal["default"] | None
"""How long a call waits for its answer: a duration; None: for ever; "default": the client's
`call_deadline`."""


def seconds(deadline: Deadline, connection: Connection) -> float | None:
    if deadline == DEFAULT:
        return connection.call_deadline
    return None if deadline is None else parse("deadline", parse_ms, deadline) / 1000


def default_seconds(call_deadline: Duration | None) -> float | None:
    return None if call_deadline is None else parse("call_deadline", parse_ms, call_deadline) / 1000


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], Deadline]:
    """Splits the keywords into the task's options and the call's deadline."""
    given = dict(options)
    deadline: Deadline = given.pop("deadline", DEFAULT)
    return given, deadline


async def within(left: float | None, limit: float | None, work: Awaitable[T]) -> T:
    """The work's result, unless the `left` part of a call's `limit` passes first."""
    deadline = asyncio.timeout(left)
    try:
        async with deadline:
            return await work
    except TimeoutError:
        if not deadline.expired():
            raise
        raise errors.DeadlineExceeded(f"run: no result within {limit:g} s") from None


class Decode(Protocol):
    def __call__(self, stream: Stream, data: bytes, final: bool = False) -> str: ...


def decoder() -> Decode:
    """Decodes UTF-8 in pieces: a piece may end within a character."""
    make = codecs.getincrementaldecoder("utf-8")
    decoders = {stream: make("replace") for stream in Stream}
    return lambda stream, data, final=False: decoders[stream].decode(data, final)


def index_of(file: OutFile | str | int, result: TaskResult | None) -> int:
    if isinstance(file, int):
        return file
    if isinstance(file, OutFile):
        return file.index
    if result is None:
        raise errors.FailedPrecondition("the task's files have no names before `wait`")
    try:
        return result.file(file).index
    except KeyError:
        raise errors.NotFound(f"the task left no file {file!r} in /task/out") from None


def check_read(offset: int, size: int) -> tuple[int, int]:
    if offset < 0 or size < 1:
        raise errors.InvalidArgument(f"offset {offset}, size {size}: nothing can be read there")
    return offset, min(size, 1 << 20)
