"""Input files that are too large for the request: uploaded as blobs, once for any number of tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from . import _wire, errors, results
from ._spec import Source, TaskSpec
from ._units import human_bytes

if TYPE_CHECKING:
    from ._connection import Connection

SUBMITS_MAX: Final = 3  # of one task, whose uploads are lost before it holds them


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
    if large:
        await _check(connection, spec, large, deadline)
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


async def lost(connection: Connection, spec: TaskSpec, deadline: float | None) -> bool:
    """Whether the daemon has dropped files that `place` uploaded: until a task holds them, they give
    way to other uploads of this user. Marks them, so that `place` uploads them again."""
    ours = [source for source in spec.files if source.sha256 and source.blob is not None]
    if not ours:
        return False
    kept = {blob.sha256 for blob in await connection.blobs(deadline)}
    gone = [source for source in ours if source.sha256 not in kept]
    for source in gone:
        source.blob = None
    return bool(gone)


async def _check(connection: Connection, spec: TaskSpec, large: list[Source], deadline: float | None) -> None:
    """Refuses input that the daemon would refuse after the upload. The submit names an unknown template."""
    templates = await connection.templates(deadline)
    assert connection.server is not None
    uploaded = sum({source.sha256: source.size for source in large}.values())
    most = connection.server.bounds.blob_bytes_max
    if most and uploaded > most:
        raise errors.InvalidArgument(
            f"the large input files have {human_bytes(uploaded)}; the daemon keeps at most "
            f"{human_bytes(most)} for a user. Nothing was uploaded",
            "Give the task less, or large data on stdin.")
    for template in templates:
        if template.name == spec.template:
            _check_caps(spec, template)


def _check_caps(spec: TaskSpec, template: results.TemplateInfo) -> None:
    files = sum(source.size for source in spec.files)
    brought = files + len(spec.code) + len(spec.stdin_data)
    on_disk = files + len(spec.code) if spec.kind == "file" else files
    for size, name, wish, default, maximum, part in (
            (brought, "input", "inputBytes", template.defaults.input_bytes, template.maximum.input_bytes, 1),
            (on_disk, "disk", "diskBytes", template.defaults.disk_bytes, template.maximum.disk_bytes, 1),
            (on_disk, "memory", "memoryBytes", template.defaults.memory_bytes, template.maximum.memory_bytes, 2)):
        cap = spec.limits.get(wish, default)
        if size > cap // part:
            half = " (input files may take half of it)" if part == 2 else ""
            raise errors.InvalidArgument(
                f"code and input files have {human_bytes(size)}; the task's cap `{name}` is "
                f"{human_bytes(cap)}{half}. Nothing was uploaded",
                f"Raise `{name}`, up to the template's maximum of {human_bytes(maximum)}.")


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
