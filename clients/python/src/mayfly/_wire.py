"""The only code that handles pycapnp's objects: the schema, and conversions to and from plain data.

pycapnp's objects belong to the thread of their event loop; even destroying them elsewhere
crashes. So everything here is called on that thread, and returns plain data.
"""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from typing import Any, Final, TypeVar

import capnp

from . import errors, results
from ._spec import TaskSpec
from ._tools import Tool, ToolError
from ._units import human_bytes
from .results import Stream, Verdict

_here = Path(__file__).resolve().parent
# pycapnp contains the files that the schema imports.
schema: Any = capnp.SchemaParser().load(
    str(_here / "mayfly.capnp"), imports=[str(Path(capnp.__file__).resolve().parent.parent)])

GRANTS_PROTOCOL: Final = 4  # an older daemon would ignore them
PROTOCOL: int = schema.protocolVersion
MESSAGE_BYTES_MAX: int = schema.messageBytesMax
CHUNK_BYTES_MAX: int = schema.chunkBytesMax
MESSAGE_SLACK_BYTES: Final = 64 << 10  # a generous bound on RPC's own part of a message
# The daemon's messages have at most 8 MiB, so reading them repeatedly is no attack.
TRAVERSAL_WORDS_MAX: Final = 1 << 26

T = TypeVar("T")

# --- errors --------------------------------------------------------------------


def error_of(answer: Any) -> errors.MayflyError | None:
    """The error that an answer carries, or None."""
    error = answer.error
    number = error.code.raw
    if number == 0:
        return None
    kind = errors.BY_NUMBER[number] if number < len(errors.BY_NUMBER) else None
    return (kind or errors.MayflyError)(
        error.message, error.advice, retryable=error.retryable,
        retry_after=error.retryAfterMs / 1000 or None)


def error_of_exception(exception: Any, what: str) -> errors.MayflyError:
    """Converts Cap'n Proto's own exceptions: transport, version, malformed."""
    text = str(exception.description).removeprefix("remote exception: ")
    if exception.type == "DISCONNECTED":
        return errors.Disconnected(f"{what}: the connection has ended", "Connect again.",
                                   retryable=True)
    if exception.type == "UNIMPLEMENTED":
        return errors.Unsupported(f"{what}: the daemon does not know this call",
                                  "Update the daemon: it is older than this client.")
    if exception.type == "OVERLOADED":
        return errors.ResourceExhausted(f"{what}: {text}", "Try again later.", retryable=True)
    return errors.Internal(f"{what}: {text}")


# --- answers -------------------------------------------------------------------


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _plain(kind: type[T]) -> Any:
    """A function from a message to `kind`, whose fields are named as in the schema."""
    names = [(name, _camel(name)) for name in kind.__dataclass_fields__]  # type: ignore[attr-defined]
    return lambda reader: kind(**{name: getattr(reader, theirs) for name, theirs in names})


limits = _plain(results.Limits)
usage = _plain(results.Usage)
phases = _plain(results.Phases)
receipt = _plain(results.Receipt)
task_info = _plain(results.TaskInfo)
bounds = _plain(results.Bounds)

_VERDICTS = tuple(Verdict)
_ENDS_WITH_A_CODE = (Verdict.SUCCEEDED, Verdict.FAILED)


def verdict(number: int) -> Verdict:
    # The enum has the schema's order, and UNKNOWN last.
    return _VERDICTS[min(number, len(_VERDICTS) - 1)]


def task_result(reader: Any) -> results.TaskResult:
    end = verdict(reader.verdict.raw)
    in_grace = reader.inGrace
    return results.TaskResult(
        id=reader.id, template=reader.template, verdict=end, in_grace=in_grace,
        exit_code=reader.exitCode if end in _ENDS_WITH_A_CODE or (
            in_grace and reader.signal == 0) else None,
        signal=reader.signal if end is Verdict.SIGNALED or (
            in_grace and reader.signal != 0) else None,
        reason=reader.reason, cap_value=reader.capValue if end.is_cap else None,
        limits=limits(reader.limits), usage=usage(reader.usage), phases=phases(reader.phases),
        receipt=receipt(reader.receipt),
        stdout_bytes=reader.stdout, stderr_bytes=reader.stderr,
        stdout_truncated=reader.stdoutTruncated, stderr_truncated=reader.stderrTruncated,
        out_files=tuple(
            results.OutFile(index=index, path=each.path, size_bytes=each.sizeBytes,
                            mode=each.mode, skipped=each.skipped)
            for index, each in enumerate(reader.outFiles)),
        out_files_note=reader.outFilesNote, out_files_lost=reader.outFilesLost)


def detached_task(reader: Any) -> results.DetachedTask:
    return results.DetachedTask(task=task_info(reader.task), key=reader.key,
                                lease_left_ms=reader.leaseLeftMs)


def template_info(reader: Any) -> results.TemplateInfo:
    return results.TemplateInfo(
        name=reader.name, description=reader.description, mechanism=reader.mechanism,
        state=reader.state, state_text=reader.stateText, image_digest=reader.imageDigest,
        defaults=limits(reader.defaults), maximum=limits(reader.maximum), boxes=reader.boxes,
        parked=reader.parked, stocked=reader.stocked, parked_target=reader.parkedTarget,
        stocked_target=reader.stockedTarget, making=reader.making, waiting=reader.waiting,
        zygotes=reader.zygotes, renewals=reader.renewals, hits=reader.hits, misses=reader.misses)


def server_info(reader: Any) -> results.ServerInfo:
    return results.ServerInfo(version=reader.version, protocol=reader.protocol,
                              instance=reader.instance, bounds=bounds(reader.bounds))


def blob(reader: Any) -> results.Blob:
    return results.Blob(sha256=reader.sha256, size_bytes=reader.sizeBytes,
                        expires_ms=reader.expiresMs)


# --- requests ------------------------------------------------------------------


def put_spec(to: Any, spec: TaskSpec) -> None:
    to.template = spec.template
    if spec.kind == "command":
        to.code.command = None
    elif spec.kind == "file":
        to.code.init("file")
        to.code.file.name, to.code.file.text = spec.script_name, spec.code
    elif spec.kind in ("module", "path"):
        setattr(to.code, spec.kind, spec.script_name)
    else:
        setattr(to.code, spec.kind, spec.code)
    if spec.args:
        to.args = spec.args
    for index, (entry, (name, value)) in enumerate(zip(to.init("env", len(spec.env)), spec.env)):
        entry.name, entry.value = name, value
    for entry, source in zip(to.init("files", len(spec.files)), spec.files):
        entry.path, entry.mode = source.path, source.mode
        if source.blob is not None:
            entry.blob = source.blob
        elif source.data is not None:
            entry.data = source.data
    to.stdinData, to.stdinOpen = spec.stdin_data, spec.stdin_open
    for name, number in spec.limits.items():
        setattr(to.limits, name, number)
    if spec.seed is not None:
        to.seed.value = spec.seed
    to.collectOutFiles = spec.collect
    to.tenant = spec.tenant
    for wish, (name, narrowing) in zip(to.init("grants", len(spec.grants)), spec.grants):
        wish.name, wish.narrowing = name, narrowing
    for entry, tool in zip(to.init("tools", len(spec.tools)), spec.tools):
        entry.name, entry.description, entry.schemaJson = tool.name, tool.description, tool.schema_json
    if spec.detach_ms:
        to.detach.leaseMs, to.detach.key = spec.detach_ms, spec.key


def check_size(request: Any) -> None:
    """Refuses a request above the largest message, which would end the connection and all its tasks."""
    size = request.total_size.word_count * 8
    if size > MESSAGE_BYTES_MAX - MESSAGE_SLACK_BYTES:
        raise errors.InvalidArgument(
            f"the task with its code, names and inline input takes {human_bytes(size)}; "
            f"a request holds at most {human_bytes(MESSAGE_BYTES_MAX)}",
            "Give large input as input files or on stdin: they go in pieces.")


# --- the loop ------------------------------------------------------------------


class Hold:
    """KJ's event loop on one asyncio loop, for as long as anything here uses it.

    One asyncio loop can have only one of KJ's, so all connections on it share one; if the
    caller already runs one (`capnp.kj_loop`, `capnp.run`), that one is used.
    """

    _of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hold] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.users: set[object] = set()  # keeps them alive, so that they end on this thread
        self.context: Any = None

    @classmethod
    async def take(cls, user: object) -> Hold:
        loop = asyncio.get_running_loop()
        hold = cls._of.get(loop)
        if hold is None:
            hold = cls()
            if getattr(loop, "_kj_loop", None) is None:
                hold.context = capnp.kj_loop()
                await hold.context.__aenter__()  # does not pause
            cls._of[loop] = hold
        hold.users.add(user)
        return hold

    async def drop(self, user: object) -> None:
        self.users.discard(user)
        if self.users:
            return
        self._of.pop(asyncio.get_running_loop(), None)
        context, self.context = self.context, None
        if context is not None:
            await context.__aexit__(None, None, None)


class Sink(schema.OutputSink.Server):  # type: ignore[misc]
    """Receives a task's live output from the daemon. Its write returns when there is room again."""

    def __init__(self, write: Any) -> None:
        self._write = write

    async def started_context(self, context: Any) -> None:
        pass

    async def write_context(self, context: Any) -> None:
        params = context.params
        stream = Stream.STDERR if params.stream.raw else Stream.STDOUT
        data: bytes = params.data
        context.release_params()
        del params, context  # freed now: the next line may wait for long, and be cancelled
        await self._write(stream, data)


class ToolBox(schema.ToolBox.Server):  # type: ignore[misc]
    """Answers the task's calls of this client's functions."""

    def __init__(self, tools: list[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    async def call_context(self, context: Any) -> None:
        name, text = context.params.name, context.params.json
        context.release_params()
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise errors.NotFound("there is no such tool")
            context.results.json = await tool.call(text)
        except errors.MayflyError as error:
            put_error(context.results.init("error"), error.code, error.message)
        except ToolError as error:
            put_error(context.results.init("error"), errors.ErrorCode.FAILED_PRECONDITION, str(error))
        except Exception as error:  # its text may hold what no task should see
            put_error(context.results.init("error"), errors.ErrorCode.INTERNAL,
                      f"the tool failed: {type(error).__name__}")


def put_error(to: Any, code: errors.ErrorCode | None, message: str) -> None:
    to.code = str(code or errors.ErrorCode.INTERNAL)
    to.message = message[:2000].encode("utf-8", "replace").decode()
