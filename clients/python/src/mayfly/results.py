"""The daemon's answers as plain frozen data: no object here holds the connection.

Units stand last in a name: bytes, ms, ns, milli. Times in ns are of the host's monotonic
clock; 0 means "did not happen". mayfly.capnp, beside this file, explains each field.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from .errors import TaskFailed, Unavailable


class Verdict(enum.StrEnum):
    """How a task ended, as the kernel reports it; no code in the box can forge it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SIGNALED = "signaled"
    WALL_TIME = "wallTime"
    CPU_TIME = "cpuTime"
    MEMORY = "memory"
    PROCESSES = "processes"
    OUTPUT = "output"
    DISK = "disk"
    CANCELLED = "cancelled"
    CLIENT_GONE = "clientGone"
    DAEMON_STOPPING = "daemonStopping"
    INTERNAL = "internal"
    QUEUE_TIME = "queueTime"
    """No box was free within this cap: the task never ran."""
    UNKNOWN = "unknown"
    """A verdict that is newer than this client."""

    @property
    def is_cap(self) -> bool:
        """The task was killed at one of its caps."""
        return self in _CAPS


_CAPS = frozenset((Verdict.WALL_TIME, Verdict.CPU_TIME, Verdict.MEMORY, Verdict.PROCESSES,
                   Verdict.OUTPUT, Verdict.DISK))


def _printable(text: str, keep: str = "") -> str:
    """The text with every character escaped that could drive a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode()
                   for c in text)


class Stream(enum.StrEnum):
    """The stream of a piece of output."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpu_milli: int
    cpu_time_ms: int
    wall_time_ms: int
    memory_bytes: int
    processes: int
    open_files: int
    file_size_bytes: int
    disk_bytes: int
    disk_inodes: int
    output_bytes: int
    input_bytes: int
    out_files_bytes: int
    out_files: int
    queue_time_ms: int
    grace_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    wall_ns: int
    user_cpu_ns: int
    system_cpu_ns: int
    memory_peak_bytes: int
    processes_peak: int
    stdout_bytes: int
    stderr_bytes: int
    disk_bytes: int
    disk_inodes: int
    fresh_runtime: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The time of each step."""

    queued_ns: int
    box_ns: int
    box_ready_ns: int
    clone_ns: int
    claimed_ns: int
    started_ns: int
    first_byte_ns: int
    exited_ns: int
    reaped_ns: int
    receipt_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The proof that the box is gone, each point with its time."""

    box: int
    complete: bool
    reaped_ns: int
    unpopulated_ns: int
    fds_closed_ns: int
    cgroups_gone_ns: int
    uid_free_ns: int
    missing: str
    revoked_ns: int = 0
    """Of a task with grants or tools: no call of it works any more."""
    broker_closed_ns: int = 0
    """The same: the broker has no socket of the box open."""
    note: str = ""
    """Which process of the broker was restarted, because it did not confirm in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutFile:
    """A file that the task left in /task/out."""

    index: int
    path: bytes
    """Relative to /task/out; bytes that the task chose: never use them as a path unchecked."""
    size_bytes: int
    mode: int
    skipped: str
    """Why the daemon did not collect it ("symbolic link"...); empty if it did."""
    data: bytes | None = field(default=None, repr=False)
    """Its bytes, if the task was run with `collect=True`."""
    saved: Path | None = None
    """The path under which it was saved; None if it was not."""
    not_saved: str = ""
    """Why saving failed, if it was requested."""

    @property
    def name(self) -> str:
        """The path in a form to print and compare: odd bytes are escaped."""
        return _printable(self.path.decode("utf-8", "backslashreplace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    id: int
    template: str
    verdict: Verdict
    exit_code: int | None
    """Set if the verdict is succeeded or failed, and for a task that exited `in_grace`."""
    signal: int | None
    """Set if the verdict is signaled, and for a task that a signal ended `in_grace`."""
    reason: str
    """One line for people: which cap and its value, or what failed."""
    cap_value: int | None
    """The cap that the task reached, in its unit."""
    stdout_bytes: bytes = field(repr=False)
    """The captured output: the first MiB. Empty if it went to a `stream` or `on_output`."""
    stderr_bytes: bytes = field(repr=False)
    stdout_truncated: bool
    stderr_truncated: bool
    limits: Limits = field(repr=False)
    usage: Usage = field(repr=False)
    phases: Phases = field(repr=False)
    receipt: Receipt = field(repr=False)
    out_files: tuple[OutFile, ...] = ()
    out_files_note: str = ""
    """Why files are missing from the collection; empty if none are."""
    out_files_lost: bool = False
    """Mayfly lost files that the task may have left; another run can give them."""
    in_grace: bool = False
    """The task was asked to end (SIGTERM), and ended by itself before the kill."""

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.SUCCEEDED

    def __str__(self) -> str:
        """For a person: the verdict, unless it is `succeeded`; stdout; stderr. Control characters
        are escaped; `stdout` and `stderr` have the text as it is."""
        lines = []
        if not self.ok:
            lines.append(f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict))
        for name, text, truncated in (("stdout", self.stdout, self.stdout_truncated),
                                      ("stderr", self.stderr, self.stderr_truncated)):
            if text:
                lines.append(text.removesuffix("\n"))
            if truncated:
                lines.append(f"[{name} goes on: only its beginning was captured]")
        return _printable("\n".join(lines), keep="\n\t")

    def check(self) -> TaskResult:
        """Returns itself; raises `TaskFailed` for any verdict but `succeeded`."""
        if not self.ok:
            raise TaskFailed(self)
        return self

    def check_files(self) -> TaskResult:
        """Returns itself; raises `Unavailable` (retryable) if Mayfly lost output files."""
        if self.out_files_lost:
            raise Unavailable(f"the task's output files were lost: {self.out_files_note}",
                              "Run the task again.", retryable=True)
        return self

    def file(self, name: str) -> OutFile:
        """The output file of this name; KeyError if there is none, `Unavailable` if it may be
        one that Mayfly lost."""
        for each in self.out_files:
            if each.name == name:
                return each
        self.check_files()
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    id: int
    template: str
    state: str
    """"queued", "making", "running", "ending"; from `Task.info` also "done"."""
    queued_ns: int
    started_ns: int
    now_ns: int
    """The daemon's clock at the answer, to compute ages with."""
    pid_host: int
    yours: bool
    """The task belongs to this connection, or is detached and belongs to this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedTask:
    """A detached task that the daemon keeps, ended or not."""

    task: TaskInfo
    key: str
    """Empty if it was submitted without one."""
    lease_left_ms: int
    """Until an ended task is forgotten; before its end, the whole lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateInfo:
    name: str
    description: str
    mechanism: str
    state: str
    state_text: str
    image_digest: str
    defaults: Limits = field(repr=False)
    maximum: Limits = field(repr=False)
    boxes: int    # alive now
    parked: int   # of them: with a clone that is ready for a task
    stocked: int  # of them: without a clone yet
    parked_target: int   # the number that the pool holds or is being filled to
    stocked_target: int
    making: int    # clones being made
    waiting: int   # tasks that have a place but no clone yet
    zygotes: int   # alive: serving, starting, or draining
    renewals: int  # zygotes replaced by a successor, since the daemon's start
    hits: int      # tasks that found a parked clone, since the daemon's start
    misses: int    # tasks that had to wait for their clone to be made


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """This daemon's bounds; 0 if it is too old to report one."""

    connections_max: int
    tasks_per_connection_max: int
    tasks_max: int
    calls_per_connection_max: int
    message_bytes_max: int
    in_flight_bytes_per_connection_max: int
    blob_bytes_max: int
    blob_store_bytes_max: int
    blobs_per_user_max: int
    uploads_per_connection_max: int
    detached_per_user_max: int
    detach_lease_ms_max: int
    result_lease_ms: int
    upload_idle_ms: int
    blob_ttl_ms: int
    connection_idle_ms: int
    message_ms_max: int
    in_flight_bytes_max: int
    output_held_bytes_max: int
    handles_per_connection_max: int
    out_files_held_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    version: str
    protocol: int
    instance: str
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes that the daemon stores for a while; any number of tasks can take them as input."""

    sha256: bytes
    size_bytes: int
    expires_ms: int | None = None
    """From the answer on, unless a task uses it; None if the daemon was not asked."""
