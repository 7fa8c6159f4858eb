"""What the daemon answers, as plain frozen data: no object here holds the connection.

Units stand last in a name: bytes, ms, ns, milli. Times in ns are of the host's monotonic
clock; 0 means "did not happen". What each field means: mayfly.capnp, beside this file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from .errors import TaskFailed


class Verdict(enum.StrEnum):
    """How a task ended. The kernel says it; nothing that runs in the box can forge it."""

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
    UNKNOWN = "unknown"
    """One that this client is too old to know."""

    @property
    def is_cap(self) -> bool:
        """The task was killed at one of its caps."""
        return self in _CAPS


_CAPS = frozenset((Verdict.WALL_TIME, Verdict.CPU_TIME, Verdict.MEMORY, Verdict.PROCESSES,
                   Verdict.OUTPUT, Verdict.DISK))


class Stream(enum.StrEnum):
    """Where a piece of output came from."""

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
    """When each step was reached."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OutFile:
    """A file that the task left in /task/out."""

    index: int
    path: bytes
    """Relative to /task/out; bytes that the task chose: never use them as a path as they are."""
    size_bytes: int
    mode: int
    skipped: str
    """Why the daemon did not collect it ("symbolic link"...); empty when it did."""
    data: bytes | None = field(default=None, repr=False)
    """Its bytes, where the task was run with `collect=True`."""
    saved: Path | None = None
    """Where it was saved, if it was."""
    not_saved: str = ""
    """Why it was not saved, though that was asked for."""

    @property
    def name(self) -> str:
        """The path, fit to be printed and compared: odd bytes are escaped."""
        text = self.path.decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    id: int
    template: str
    verdict: Verdict
    exit_code: int | None
    """Where the verdict is succeeded or failed."""
    signal: int | None
    """Where the verdict is signaled."""
    reason: str
    """One line for people: which cap and its value, or what failed."""
    cap_value: int | None
    """The cap that was hit, in its unit."""
    stdout_bytes: bytes = field(repr=False)
    """What was captured: the first MiB. Empty of what went to a `stream` or `on_output`."""
    stderr_bytes: bytes = field(repr=False)
    stdout_truncated: bool
    stderr_truncated: bool
    limits: Limits = field(repr=False)
    usage: Usage = field(repr=False)
    phases: Phases = field(repr=False)
    receipt: Receipt = field(repr=False)
    out_files: tuple[OutFile, ...] = ()
    out_files_note: str = ""
    """Why the collection is not whole; empty when it is."""

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.SUCCEEDED

    def check(self) -> TaskResult:
        """Itself, or `TaskFailed` for any verdict but `succeeded`."""
        if not self.ok:
            raise TaskFailed(self)
        return self

    def file(self, name: str) -> OutFile:
        """The output file of this name; KeyError where the task left none."""
        for each in self.out_files:
            if each.name == name:
                return each
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    id: int
    template: str
    state: str
    """"queued", "making", "running", "ending"; by `Task.info` also "done"."""
    queued_ns: int
    started_ns: int
    now_ns: int
    """The daemon's clock at the answer: ages need no second clock."""
    pid_host: int
    yours: bool
    """Of this connection, or detached and of this user."""


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
    stocked: int  # of them: walls that wait for a clone
    parked_target: int   # what the pool holds, or is being filled to
    stocked_target: int
    making: int    # clones
    waiting: int   # tasks that have a box's place and no clone yet
    zygotes: int   # alive: serving, starting, and those whose last boxes end
    renewals: int  # zygotes that a younger one followed, since the daemon's start
    hits: int      # tasks that found a clone parked, since the daemon's start
    misses: int    # tasks whose clone was made when they came


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """This daemon's; 0 where it is too old to say."""

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
    """Bytes that the daemon keeps for a while; any number of tasks can have them as input."""

    sha256: bytes
    size_bytes: int
    expires_ms: int | None = None
    """From the answer on, if nothing uses it; None where the daemon was not asked."""
