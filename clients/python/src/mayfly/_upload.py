"""Input files that are too large for the request: uploaded as blobs, once for any number of tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import _wire, errors
from ._spec import Source, TaskSpec
from ._units import human_bytes

if TYPE_CHECKING:
    from ._connection import Connection


async def upload(connection: Connection, source: Source, deadline: float | None) -> None:
    """Uploads the source's bytes as a blob; the deadline applies to each call."""
    to = await connection.begin_upload(source.sha256, source.size, deadline)
    if to is None:
        return
    try:
        for offset in range(0, source.size, _wire.CHUNK_BYTES_MAX):
            size = min(source.size - offset, _wire.CHUNK_BYTES_MAX)
            if source.data is not None:
                piece = bytes(source.data[offset:offset + size])
            else:
                piece = await asyncio.to_thread(source.read, offset, size)
            await connection.call("upload", lambda: to.write(data=piece), _nothing, deadline)
        await connection.call("upload", lambda: to.finish(), _nothing, deadline)
    except BaseException:
        connection.spawn(_give_up(connection, to))
        raise
    finally:
        to = None  # a traceback may outlive this thread


async def _give_up(connection: Connection, to: Any) -> None:
    try:
        await connection.call("upload", lambda: to.close(), _nothing, connection.call_deadline)  # noqa: F821 (deleted below)
    except errors.MayflyError:
        pass  # its lease will end it
    finally:
        del to


def _nothing(answer: Any) -> None:
    return None


async def place(connection: Connection, spec: TaskSpec, deadline: float | None) -> None:
    """Uploads the files that `spec` marks as too large for the request."""
    large = [source for source in spec.files if source.sha256 and source.blob is None]
    known: set[bytes] = set()
    for source in large:
        try:
            if source.sha256 not in known:
                await upload(connection, source, deadline)
                known.add(source.sha256)
            source.blob = source.sha256
        except errors.Unsupported as error:
            await _inline(large, error)
            return


async def _inline(large: list[Source], error: errors.Unsupported) -> None:
    size = sum(source.size for source in large)
    if size > _wire.MESSAGE_BYTES_MAX - _wire.MESSAGE_SLACK_BYTES:
        raise errors.Unsupported(
            f"{human_bytes(size)} of input files do not fit into one request of "
            f"{human_bytes(_wire.MESSAGE_BYTES_MAX)}, and {error.message}",
            "Update the daemon, or give large input on stdin.") from None
    for source in large:
        if source.data is None:
            source.data = await asyncio.to_thread(source.read, 0, source.size)
