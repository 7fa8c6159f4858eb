"""The stage of a probe: its folder, its parameters, and the things on the host that it could find."""

import base64
import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import time

PROBES = pathlib.Path(__file__).with_name("probes")
READY_SECONDS_MAX = 60
LINES_MAX = 100_000  # of a server before READY


def copy_probe(tmp_path, probe, params):
    folder = tmp_path / "probe"
    folder.mkdir(exist_ok=True)
    for name in ("escapekit.py", probe if "." in probe else f"{probe}.py"):
        shutil.copy(PROBES / name, folder)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def tour(host):
    """The command line of shell_tour.sh, which stands beside the probes."""
    return ["bash", "shell_tour.sh", host.params["marker"], str(host.params["host_port"]), str(os.getpid())]


def report_of(output):
    """The probe's JSON in its output; None if there is none."""
    at = output.rfind(b'{"probe"')
    return json.loads(output[at:].splitlines()[0]) if at >= 0 else None


def output_of(result):
    """A result's stdout as bytes."""
    return base64.b64decode(result["stdout"]) if result["stdoutBase64"] else result["stdout"].encode()


def serve(mayfly, tmp_path, kind, token, flags=()):
    """A box that holds one of two_boxes.py's things until the block ends."""
    folder = copy_probe(tmp_path, "two_boxes", {})
    return hold_box(mayfly, ["--file", folder / "escapekit.py", *flags], folder / "two_boxes.py", "serve", kind, token)


def host_facts():
    """What host_facts.py compares with; the inode numbers of pipes only grow."""
    ends = os.pipe()
    inode = os.fstat(ends[0]).st_ino
    for fd in ends:
        os.close(fd)
    return {"host_facts": {"memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "inode": inode // 2,
                           "processes": sum(name.isdigit() for name in os.listdir("/proc")),
                           "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)}}


def blob_file(folder):
    """two_boxes.py's BLOB_FILE: large enough that --file makes it a blob."""
    path = folder / "blob.bin"
    path.write_bytes(b"b" * (3 << 20))
    return path


@contextlib.contextmanager
def hold_box(mayfly, flags, *task):
    """A box that lives until the block ends. Without a task of its own it says READY and waits."""
    task = task or ("-c", "import sys; print('READY', flush=True); sys.stdin.read()")
    server = mayfly.start("run", "-t", "python", "-q", "--stdin", "--timeout", "300s", *flags, *task)
    try:
        assert wait_ready(server), server.stderr.read().decode()
        yield server
    finally:
        if not server.stdin.closed:
            server.stdin.close()
        server.wait(timeout=READY_SECONDS_MAX)
        server.stdout.close()
        server.stderr.close()


FENCE_BYTES = 384 << 20
FENCE_PROCESSES = 100


class Fence:
    """Cgroups around the bombs' control runs: a mistake here must not become the host's.

    `enter` is for preexec_fn. Raises OSError where the host lets us make none.
    """

    def __init__(self):
        self.folders, self.joins = [], []
        name = f"mayfly-control-{os.getpid()}"
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        if v1.is_dir():
            self._make(v1 / name, {"memory.limit_in_bytes": FENCE_BYTES}, "tasks")
            self._make(pathlib.Path("/sys/fs/cgroup/pids") / name, {"pids.max": FENCE_PROCESSES}, "tasks")
        else:
            self._make(pathlib.Path("/sys/fs/cgroup") / name, {"memory.max": FENCE_BYTES, "pids.max": FENCE_PROCESSES},
                       "cgroup.procs")

    def _make(self, folder, limits, join):
        folder.mkdir()
        self.folders.append(folder)
        for name, value in limits.items():
            (folder / name).write_text(str(value))
        self.joins.append(os.open(folder / join, os.O_WRONLY | os.O_CLOEXEC))

    def enter(self):
        for fd in self.joins:
            os.write(fd, b"0")

    def remove(self):
        """After every process in it has ended."""
        for fd in self.joins:
            os.close(fd)
        for folder in self.folders:
            folder.rmdir()


def read_line(process, seconds=READY_SECONDS_MAX):
    """The next line of its output; empty if none comes in time or it ended. Unbuffered pipe."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], seconds)[0]:
            return b""
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            return b""
        line += byte
    return line


def wait_ready(process):
    for _ in range(LINES_MAX):
        line = read_line(process)
        if line == b"READY\n":
            return True
        if not line:
            return False
    return False


def clean_ipc(token):
    """Removes the leftovers of two_boxes' control run, which bear the token's names."""
    libc = ctypes.CDLL(None)
    number = int(token, 16) & 0x3FFFFFFF
    for get, control in ((lambda: libc.shmget(number, 0, 0), lambda i: libc.shmctl(i, 0, None)),
                         (lambda: libc.semget(number, 0, 0), lambda i: libc.semctl(i, 0, 0)),
                         (lambda: libc.msgget(number, 0), lambda i: libc.msgctl(i, 0, None))):
        identity = get()
        if identity >= 0:
            control(identity)
    for folder in ("/tmp", "/task", "/run", "/dev/shm", "/var/tmp"):
        for name in (token,):
            try:
                os.unlink(f"{folder}/{name}")
            except OSError:
                pass
    libc.syscall(241, token.encode())  # mq_unlink
    key = libc.syscall(249, b"user", token.encode(), None, 0)  # request_key
    if key > 0:
        libc.syscall(250, 9, key, -4, 0, 0)  # unlink it from the user keyring
