"""Turns a caller's keyword arguments into one checked TaskSpec.

Pure but for looking at the files that the caller names. The daemon decides whether a name, a
cap or a number of files is acceptable; this module refuses only values that cannot be sent.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, TypedDict

from .errors import InvalidArgument
from .results import Blob
from ._tools import Tool, grants_of, tools_of
from ._units import (Cores, Duration, Size, parse, parse_bytes, parse_cores_milli, parse_count,
                     parse_ms)

INLINE_STDIN_BYTES_MAX: Final = 1 << 20  # larger input is sent in pieces
INLINE_FILES_BYTES_MAX: Final = 2 << 20  # all input files of a task together; the rest become blobs
FOLDER_FILES_MAX: Final = 1_000  # as many as a task may bring
U64_MAX: Final = (1 << 64) - 1


class PipeType:
    """The type of `mayfly.PIPE`: stdin stays open, `Task.stdin` writes to it."""

    def __repr__(self) -> str:
        return "mayfly.PIPE"


PIPE: Final = PipeType()


@dataclass(frozen=True)
class File:
    """An input file with permission bits of its own."""

    content: bytes | bytearray | memoryview | os.PathLike[str] | Blob
    mode: int = 0o644


FileContent: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | Blob | File
Files: TypeAlias = Mapping[str, FileContent] | Sequence[str | os.PathLike[str]]
Stdin: TypeAlias = bytes | bytearray | memoryview | str | IO[bytes] | IO[str] | PipeType


class Caps(TypedDict, total=False):
    """A cap that is not named takes the template's default."""

    cpu: Cores
    cpu_time: Duration
    wall_time: Duration
    memory: Size
    processes: int
    open_files: int
    file_size: Size
    disk: Size
    disk_inodes: int
    output: Size
    input: Size
    out_files_size: Size
    out_files: int
    queue_time: Duration
    grace: Duration
    """From SIGTERM to the kill, at wall time and at a cancel; 0: the kill alone."""


class TaskOptions(Caps, total=False):
    """The options that `run` and `submit` share."""

    command: Sequence[str]
    """A whole command line, instead of code: templates of mechanism "exec" only."""
    script: str | os.PathLike[str] | tuple[str, str | bytes]
    """A script, instead of code: a local file, a folder with a __main__.py, or (name, text). It is placed at
    /task/NAME."""
    module: str
    """The name of a module, instead of code, as after Python's -m: of the template, or among `files`."""
    program: str
    """The program's path among `files`, instead of code: a script, or for templates of Python an archive or a
    folder with a __main__.py."""
    via: str
    """How code reaches the runtime: "string" (as after -c, the default) or "stdin"."""
    args: Sequence[str]
    """The arguments after the script in argv."""
    env: Mapping[str, str]
    files: Files
    """Input files: {"name in /task": bytes, a Path, a Blob or a File}, or a list of local paths."""
    stdin: Stdin | None
    """Bytes, text, an open file, or PIPE."""
    seed: int
    """Seeds the runtime's reproducible generators."""
    collect: bool
    """Keep the files that the task leaves in /task/out."""
    tenant: str
    """The person or service that the task is for, if this client serves several."""
    traceparent: str
    """The W3C trace context of the caller, for the daemon's lines about the task and the broker's audit."""
    grants: Sequence[str]
    """The actions of the broker's policy that the task may use: "NAME", or "NAME:BOUNDS" with its own, narrower
    bounds, like "openai:calls=10". Empty or not given: none."""
    tools: Mapping[str, Callable[..., Any]]
    """Functions of this process that the task may call as POST /tools/NAME; sync ones run in a thread. Their
    parameters, annotations and docstring become the tool's JSON schema and description."""
    deadline: Duration | None
    """How long the call waits; the cap of the task's own time is `wall_time`."""


class SubmitOptions(TaskOptions, total=False):
    stream: bool
    """Send the output live, for `Task.stream`, instead of capturing it."""
    detach: Duration
    """Let the task outlive the connection; keep its result for this time after its end."""
    key: str
    """With `detach`: your own name for this run. A second submit with it gives the same task."""


@dataclass(slots=True)
class Source:
    """An input file, before it is placed in the request or in a blob."""

    path: str
    mode: int
    data: bytes | memoryview | None = None  # one of these three
    local: Path | None = None
    blob: bytes | None = None
    size: int = 0
    sha256: bytes = b""  # of a file that is too large for the request

    def read(self, offset: int, size: int) -> bytes:
        assert self.local is not None
        with open(self.local, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def hash(self) -> None:
        if self.data is not None:
            self.sha256 = hashlib.sha256(self.data).digest()
        else:
            assert self.local is not None
            with open(self.local, "rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").digest()


def place(sources: list[Source]) -> None:
    """Marks the largest files for upload until the others fit into a request; reads the others."""
    inline = sum(source.size for source in sources if source.blob is None)
    for source in sorted(sources, key=lambda source: -source.size):
        if inline <= INLINE_FILES_BYTES_MAX:
            break
        if source.blob is None:
            source.hash()
            inline -= source.size
    for source in sources:
        if source.local is not None and not source.sha256:
            source.data = source.local.read_bytes()


@dataclass(slots=True)
class TaskSpec:
    template: str
    kind: str  # a member of the schema's union `code`
    code: bytes = b""
    script_name: str = ""  # kinds module and path: the module's name, the program's path
    args: list[str] = field(default_factory=list)
    env: list[tuple[str, str]] = field(default_factory=list)
    files: list[Source] = field(default_factory=list)
    stdin_data: bytes = b""
    stdin_open: bool = False
    pump: Any = None  # feeds stdin while the task runs: a memoryview or a file object
    limits: dict[str, int] = field(default_factory=dict)
    seed: int | None = None
    collect: bool = False
    stream: bool = False
    detach_ms: int = 0
    key: str = ""
    tenant: str = ""
    traceparent: str = ""
    grants: list[tuple[str, str]] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)


_CAPS = {
    "cpu": ("cpuMilli", parse_cores_milli), "cpu_time": ("cpuTimeMs", parse_ms),
    "wall_time": ("wallTimeMs", parse_ms), "memory": ("memoryBytes", parse_bytes),
    "processes": ("processes", parse_count), "open_files": ("openFiles", parse_count),
    "file_size": ("fileSizeBytes", parse_bytes), "disk": ("diskBytes", parse_bytes),
    "disk_inodes": ("diskInodes", parse_count), "output": ("outputBytes", parse_bytes),
    "input": ("inputBytes", parse_bytes), "out_files_size": ("outFilesBytes", parse_bytes),
    "out_files": ("outFiles", parse_count), "queue_time": ("queueTimeMs", parse_ms),
    "grace": ("graceMs", parse_ms),
}
_U32 = frozenset(("cpuMilli", "processes", "openFiles", "outFiles"))
_TASK_OPTIONS = frozenset(("command", "script", "module", "program", "via", "args", "env", "files", "stdin", "seed",
                           "collect", "stream", "detach", "key", "tenant", "traceparent", "grants", "tools"))


# Of `run` and `submit` both, or of one of them.
_CALL_OPTIONS = ("deadline", "check", "out", "on_output")
_OTHER_NAMES = {
    "timeout": "the cap of the task's time is `wall_time`, the call's limit is `deadline`",
    "limits": "each cap is a keyword of its own, like `memory`",
    "cpus": "it is `cpu`", "pids": "it is `processes`",
}


def check_keywords(given: Mapping[str, Any]) -> None:
    """Refuses a keyword that does not exist, whatever its value: an ignored cap would be a task
    that runs with another one."""
    known = [*_CAPS, *sorted(_TASK_OPTIONS), *_CALL_OPTIONS]
    for name in sorted(given.keys() - _TASK_OPTIONS - _CAPS.keys()):
        if name in _CALL_OPTIONS:
            raise TypeError(f"submit has no keyword `{name}`: it goes with run")
        said = f"unknown keyword `{name}`"
        if name in _OTHER_NAMES:
            said += f": {_OTHER_NAMES[name]}"
        elif near := difflib.get_close_matches(name, known, 1):
            said += f": did you mean `{near[0]}`?"
        raise TypeError(f"{said}; there are {', '.join(known)}")


def check_run(given: Mapping[str, Any]) -> None:
    if "stream" in given:
        raise TypeError("run has no keyword `stream`: it goes with submit; run takes `on_output`")


def text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: a str is needed, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what}: {value!r} is not valid Unicode text") from None
    return value


def _bytes(value: object, what: str) -> bytes:
    if isinstance(value, str):
        return text(value, what).encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what}: str or bytes are needed, not {type(value).__name__}")


def _limits(options: dict[str, Any]) -> dict[str, int]:
    limits = {}
    for name, (field_name, how) in _CAPS.items():
        value = options.pop(name, None)
        if value is None:
            continue
        number = parse(name, how, value)
        # All ones mean "not named".
        if number >= (0xFFFFFFFF if field_name in _U32 else U64_MAX):
            raise InvalidArgument(f"{name}: {value!r} is too large")
        limits[field_name] = number
    return limits


def _source(path: str, content: object, mode: int | None = None) -> Source:
    if isinstance(content, File):
        return _source(path, content.content, content.mode)
    if isinstance(content, (bytes, bytearray, memoryview)):
        # Copied, because a bytearray may change while it is sent.
        data = content if isinstance(content, bytes) else bytes(content)
        return Source(path, 0o644 if mode is None else mode, data=data, size=len(data))
    if isinstance(content, Blob):
        return Source(path, 0o644 if mode is None else mode, blob=content.sha256, size=content.size_bytes)
    if isinstance(content, os.PathLike):
        return _local(path, Path(content), mode)
    if isinstance(content, str):
        raise TypeError(f"files[{path!r}]: a str may mean a path or the content; "
                        "give pathlib.Path(...) or bytes")
    raise TypeError(f"files[{path!r}]: bytes, a path, a Blob or a File are needed, "
                    f"not {type(content).__name__}")


def _local(path: str, local: Path, mode: int | None) -> Source:
    status = local.stat()
    if stat.S_ISDIR(status.st_mode):
        raise InvalidArgument(f"'{local}' is a folder", "Give its files, or a tar archive.")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device: only reading tells its size
        data = local.read_bytes()
        return Source(path, 0o644 if mode is None else mode, data=data, size=len(data))
    return Source(path, status.st_mode & 0o777 if mode is None else mode, local=local,
                  size=status.st_size)


def _files(files: object) -> list[Source]:
    if isinstance(files, Mapping):
        return [_source(text(path, "files"), content) for path, content in files.items()]
    if isinstance(files, (str, bytes)) or not isinstance(files, Iterable):
        raise TypeError("files: a dict {name: content} or a list of paths is needed")
    sources = []
    for each in files:
        local = Path(each)
        sources.append(_local(text(local.name, "files"), local, None))
    return sources


def _folder(folder: Path, name: str) -> list[Source]:
    """A folder's files, without hidden ones, which may hold secrets. A link may lead out of it."""
    if not (folder / "__main__.py").is_file():
        raise InvalidArgument(f"the folder '{folder}' has no __main__.py", "Name the script in it.")
    sources: list[Source] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            continue
        if path.is_symlink():
            raise InvalidArgument(f"'{path}' is a link, which may lead out of the folder", "Give files= instead.")
        if path.is_dir():
            continue
        if not path.is_file():
            raise InvalidArgument(f"'{path}' is neither a file nor a folder", "Give files= instead.")
        if len(sources) == FOLDER_FILES_MAX:
            raise InvalidArgument(f"the folder '{folder}' has more than {FOLDER_FILES_MAX} files",
                                  "Give an archive: python3 -m zipapp FOLDER.")
        sources.append(_local(text(f"{name}/{inside.as_posix()}", "script"), path, None))
    return sources


def _code(spec: TaskSpec, code: object, options: dict[str, Any]) -> None:
    command, script = options.pop("command", None), options.pop("script", None)
    module, program = options.pop("module", None), options.pop("program", None)
    via = options.pop("via", None)
    if sum(each is not None for each in (code, command, script, module, program)) != 1:
        raise TypeError("one of code, script=, module=, program= and command= is needed")
    if via is not None and (code is None or via not in ("string", "stdin")):
        raise TypeError('via= goes with code and is "string" or "stdin"')
    if command is not None:
        if isinstance(command, (str, bytes)):
            raise TypeError('command: a list of words is needed, like ["bash", "-c", "ls | wc -l"]')
        if options.get("args"):
            raise TypeError("args= goes with code, script=, module= and program=, not with command=")
        spec.kind, spec.args = "command", [text(word, "command") for word in command]
    elif script is not None:
        spec.kind = "file"
        if isinstance(script, tuple):
            if len(script) != 2:
                raise TypeError(f"script: a pair (name, text) is needed, not {len(script)} values")
            spec.script_name, spec.code = text(script[0], "script"), _bytes(script[1], "script")
        elif (local := Path(script)).is_dir():
            spec.kind, spec.script_name = "path", text(local.resolve().name, "script")
            spec.files = _folder(local, spec.script_name)
        else:
            spec.script_name, spec.code = text(local.name, "script"), local.read_bytes()
    elif module is not None:
        spec.kind, spec.script_name = "module", text(module, "module")
    elif program is not None:
        spec.kind, spec.script_name = "path", text(program, "program")
    else:
        spec.kind, spec.code = via or "string", _bytes(code, "code")


def _stdin(spec: TaskSpec, stdin: object) -> None:
    if isinstance(stdin, PipeType):
        spec.stdin_open = True
    elif isinstance(stdin, (str, bytes, bytearray, memoryview)):
        data = _bytes(stdin, "stdin")
        if len(data) <= INLINE_STDIN_BYTES_MAX:
            spec.stdin_data = data
        else:
            spec.stdin_open, spec.pump = True, memoryview(data)
    elif hasattr(stdin, "read"):
        spec.stdin_open, spec.pump = True, stdin
    else:
        raise TypeError("stdin: bytes, str, an open file or mayfly.PIPE are needed, "
                        f"not {type(stdin).__name__}")


def build(template: str, code: str | bytes | None, given: Mapping[str, Any]) -> TaskSpec:
    """Reads the script and stats the input files: this module's only I/O."""
    options = {name: value for name, value in given.items() if value is not None}
    check_keywords(given)
    spec = TaskSpec(template=text(template, "template"), kind="string")
    _code(spec, code, options)
    spec.limits = _limits(options)
    args = options.get("args", ())
    if isinstance(args, (str, bytes)):
        raise TypeError('args: a list of words is needed, like ["--verbose", "in.csv"]')
    spec.args += [text(word, "args") for word in args]
    env = options.get("env", {})
    if not isinstance(env, Mapping):
        raise TypeError(f"env: a dict {{name: value}} is needed, not {type(env).__name__}")
    spec.env = [(text(name, "env"), text(value, "env")) for name, value in env.items()]
    if "files" in options:
        spec.files += _files(options["files"])
    place(spec.files)
    if "stdin" in options:
        _stdin(spec, options["stdin"])
    spec.seed = options.get("seed")
    if spec.seed is not None and not 0 <= spec.seed <= U64_MAX:
        raise InvalidArgument(f"seed: {spec.seed} is not between 0 and 2**64 - 1")
    spec.collect, spec.stream = bool(options.get("collect")), bool(options.get("stream"))
    spec.tenant = text(options.get("tenant", ""), "tenant")
    spec.traceparent = text(options.get("traceparent", ""), "traceparent")
    spec.grants = [(text(name, "grants"), text(narrowing, "grants"))
                   for name, narrowing in grants_of(options.get("grants", ()))]
    spec.tools = tools_of(options.get("tools", {}))
    _detach(spec, options)
    return spec


def _detach(spec: TaskSpec, options: dict[str, Any]) -> None:
    spec.key = text(options.get("key", ""), "key")
    if "detach" not in options:
        if spec.key:
            raise TypeError("key= goes with detach=")
        return
    spec.detach_ms = parse("detach", parse_ms, options["detach"])
    if not 0 < spec.detach_ms < 1 << 32:
        raise InvalidArgument(f"detach: {options['detach']!r} is not a lease",
                              'Write it like "10m" or in seconds.')
    if spec.stream:
        raise InvalidArgument("a detached task cannot be streamed: its output is captured",
                              "Leave out stream=True.")
    if spec.tools:
        raise InvalidArgument("a detached task has no tools: nobody may be there to answer",
                              "Leave out tools=, or detach=.")
    if spec.stdin_open:
        raise InvalidArgument(
            f"the stdin of a detached task is part of the request: at most {INLINE_STDIN_BYTES_MAX} "
            "bytes, no file and no PIPE", "Give large input as an input file.")


def upload_source(content: FileContent) -> Source:
    """The content given to `upload`, hashed."""
    source = _source("upload", content)
    if source.blob is not None:
        raise TypeError("upload: this is already a blob")
    source.hash()
    return source


def blob_hash(blob: Blob | bytes) -> bytes:
    return blob.sha256 if isinstance(blob, Blob) else bytes(blob)
