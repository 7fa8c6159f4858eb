"""Bad input against the real daemon: the table "Bad input" of docs/SPECIFICATION.md, row by row.

Each attack comes from tests/e2e/hostile (a client that keeps no rules), with a uid of its own. While it goes
on, another user's tasks (good_neighbour, one connection; the command line, one each) lose nothing, and the
daemon's memory stays within the bound of the row; afterwards the daemon lives and has returned the memory.
MAYFLY_HEAVY (./dev check) makes each attack longer.
"""

import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import threading
import uuid

import pytest

from light import light
from support import CLI
from test_lifecycle import Daemon, await_that, read, slow

HOSTILE = pathlib.Path(CLI).parent / "hostile_client"
NEIGHBOUR = pathlib.Path(CLI).parent / "good_neighbour"
HEAVY = bool(os.environ.get("MAYFLY_HEAVY"))
# A sanitizer keeps freed memory and pads the rest, so memory is measured only without one.
MEASURED = "ASAN_OPTIONS" not in os.environ
MIB = 1 << 20
ATTACK_SECONDS_MAX = 240
CONNECTIONS_MAX = 256
TASK_HOLDS_MAX = 2 * (256 + 64) << 10  # of output, per task whose output is not read
IN_FLIGHT_MAX = 512 * MIB  # of requests
UNSENT_MAX = 256 * MIB  # of answers
REST = 64 * MIB  # tables, connections, malloc's overhead
OUT_FILES_MAX = 64 * MIB
ATTACKER = 64_001  # a uid that no other test uses
# Short times, so that waiting for them does not take long. The bounds are the installed ones,
# except the bound on output files.
SETTINGS = f"""
uids_allowed = [{ATTACKER}]
message_time = "2s"
connection_idle = "30s"
result_lease = "60s"
out_files_held_max = "{OUT_FILES_MAX >> 20}MiB"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


@contextlib.contextmanager
def serving(settings):
    folder = pathlib.Path("/run") / ("mayfly-test-" + uuid.uuid4().hex[:8])  # a folder that the attacker can enter
    folder.mkdir(mode=0o755)
    shutil.copy(HOSTILE, folder)
    daemon = Daemon(folder, config=settings, **light())
    try:
        daemon.start()
        assert daemon.cli.run("-c", "print(1)")["verdict"] == "succeeded"
        daemon.fresh_bytes = memory_bytes(daemon.pid)
        yield daemon
        assert daemon.process.poll() is None, daemon.said()
    finally:
        daemon.end()
        said = daemon.said()
        shutil.rmtree(folder)
    assert daemon.process.returncode == 0, said


@pytest.fixture(scope="module")
def daemon():
    with serving(SETTINGS) as daemon:
        yield daemon


@pytest.fixture
def patient_daemon():
    """A daemon with a longer message_time: even on a busy machine a message arrives in time."""
    with serving(SETTINGS.replace('message_time = "2s"', 'message_time = "10s"')) as daemon:
        yield daemon


def memory_bytes(pid):
    return int(re.search(r"^VmRSS:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M)[1]) << 10


def memfd_bytes(pid, name):
    """The memory of the process's memfds with this name."""
    total = 0
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if f"memfd:{name}" in os.readlink(fd):
                total += os.stat(fd).st_blocks * 512
        except OSError:
            pass  # closed meanwhile
    return total


def tasks_of(daemon):
    return json.loads(daemon.cli("ps", "--json").stdout)["tasks"]


class Watch:
    """Watches the daemon's memory and another client's tasks during an attack."""

    def __init__(self, daemon, memory_growth_max):
        self.daemon, self.memory_growth_max = daemon, memory_growth_max
        self.over = threading.Event()
        self.peak = 0

    def __enter__(self):
        self.neighbour = subprocess.Popen([str(NEIGHBOUR), self.daemon.socket], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, text=True)
        assert self.neighbour.stdout.readline() == "connected\n"
        self.thread = threading.Thread(target=self.watch_memory)
        self.thread.start()
        return self

    def growth(self):
        return memory_bytes(self.daemon.pid) - self.daemon.fresh_bytes

    def watch_memory(self):
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.growth())

    def new_client(self, *args):
        """A new client is served as soon as there is room for it."""
        def served():
            result = self.daemon.cli.run("--template", "python", *args)
            error = result.get("error")
            assert error is None or error["retryable"], error
            return result if error is None else None
        result = await_that(served, "another client's task")
        assert result["verdict"] == "succeeded", result

    def settled(self):
        """Waits until the daemon's memory no longer changes."""
        seen = []
        def same():
            seen.append(self.growth())
            return not MEASURED or len(seen) > 5 and max(seen[-5:]) - min(seen[-5:]) < MIB or select.select([], [], [], 0.2)[0]
        await_that(same, "the memory settles")

    def memory_back(self, bytes_max=REST):
        await_that(lambda: not MEASURED or self.growth() < bytes_max, "the memory comes back")

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        said, _ = self.neighbour.communicate(timeout=ATTACK_SECONDS_MAX)
        if kind is None:
            assert self.daemon.process.poll() is None, self.daemon.said()
            neighbour = json.loads(said)
            print(f"memory: {self.peak / MIB:+.0f} MiB at the peak, {self.growth() / MIB:+.0f} now; neighbour: {said}")
            assert neighbour["fault"] == "" and neighbour["tasks"] > 0, neighbour
            # A host whose cores are busy with other work may take longer over a proof than its
            # bound.
            assert neighbour["incompleteReceipts"] == 0 or slow() > 3, neighbour
            assert not MEASURED or self.peak <= self.memory_growth_max, f"the daemon grew by {self.peak / MIB:.0f} MiB"


class Attack:
    """One run of hostile_client: its output, and the way to end a run that holds its attack."""

    def __init__(self, daemon, *args):
        self.process = subprocess.Popen([str(daemon.run_dir / HOSTILE.name), daemon.socket, *map(str, args)],
                                        user=ATTACKER, group=ATTACKER, extra_groups=[],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.unread = b""

    def line(self):
        """Its next line of output; None at its end."""
        out = self.process.stdout.fileno()
        while b"\n" not in self.unread:
            assert select.select([out], [], [], ATTACK_SECONDS_MAX)[0], "the hostile client hangs"
            read_now = os.read(out, 1 << 16)
            if not read_now:
                return None
            self.unread += read_now
        line, _, self.unread = self.unread.partition(b"\n")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        said = list(iter(self.line, None))
        assert self.process.wait(ATTACK_SECONDS_MAX) == 0, self.process.returncode
        return said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def run(daemon, *args):
    with Attack(daemon, *args) as attack:
        return {each["name"]: each for each in attack.end()}


# --- requests that are whole messages, and wrong -------------------------------------

# All other cases get invalidArgument.
ANSWERS = {
    "grants: one, without a broker": "failedPrecondition",
    "template: unknown": "notFound",
    "template: empty": "notFound",
    "template: NUL": "notFound",
    "template: a path": "notFound",
    "template: 5 MB": "notFound",
    "template: not UTF-8": "notFound",
    # An empty program is a program: it ends at once with exit code 0.
    "code: empty": "ok",
    "code: an empty stdin": "ok",
    "code: an empty file": "ok",
    "files: an unknown blob": "notFound",
    "kill: unknown": "notFound",
    "find: unknown id": "notFound",
    "find: nothing": "notFound",
    "find: a key of 1 MB": "notFound",
    "removeBlob: unknown": "notFound",
    "upload: begun": "ok",
    "upload: begun again": "ok",
    "upload: all bytes": "ok",
    "stdin: the task has none": "failedPrecondition",
    "a good task": "ok",
    "readFile: no such file": "notFound",
    "closed: readFile": "failedPrecondition",
    "closed: wait": "cancelled",
    "closed: close": "ok",
    "stdin closed": "ok",
    "stdin: closed": "failedPrecondition",
    "its end": "ok",
    "a task that closes its streams": "ok",
    "unknown method": "exception",
    "unknown interface": "exception",
    "hello: protocol 0": "failedPrecondition",
    "hello: protocol 999": "failedPrecondition",
}


def test_wrong_requests_are_answered_in_words_and_the_connection_goes_on(daemon):
    with Watch(daemon, REST):
        said = run(daemon, "submissions")
    assert said.pop("a task that closes its streams: exit code")["value"] == 7
    assert len(said) > 130
    wrong = {name: (each["code"], each["text"]) for name, each in said.items()
             if each["code"] != ANSWERS.get(name, "invalidArgument")}
    assert not wrong
    assert not set(ANSWERS) - set(said), "answers of cases that are gone"
    for name, each in said.items():
        if each["code"] in ("ok", "exception"):
            continue
        # Every answer is text: short, and without characters that move a terminal's cursor.
        assert 0 < each["textBytes"] < 1000, (name, each)
        assert each["text"].isprintable(), (name, each)
        assert not each["retryable"] and each["retryAfterMs"] == 0, (name, each)


# --- messages that no encoder makes ----------------------------------------------------

# The permitted answers; the daemon may also end the connection.
SURVIVORS = {
    "a spec from the future": {"ok"},
    "nesting: 100,000 deep in a field that nobody reads": {"ok"},
    "nesting: 100,000 deep where the spec is hashed": {"exception"},
    "nesting: lists in lists": {"exception"},
    "amplification: 1,024 pointers to 200 KB": {"exception"},
    "amplification: 2^29 arguments of no size": {"exception", "invalidArgument"},
    "amplification: 2^29 files of no size": {"exception", "invalidArgument"},
    "amplification: 2^29 variables of no size": {"exception", "invalidArgument"},
    "amplification: 2^29 things of no size where the spec is hashed": {"exception", "ok"},
    "a text that does not end": {"exception"},
    # The daemon never contacts the third party; the vine stands for it.
    "capabilities: third party": {"ok"},
    # A sink is called when there is output; a sink that can't be called cancels its task.
    "a sink that is the daemon itself": {"ok"},
    "a sink that is no capability": {"exception"},
    "a sink that is promised for ever": {"ok"},
    "a sink that is the task's own answer": {"ok"},
}


def test_malformed_messages_end_at_most_their_own_connection(daemon):
    with Watch(daemon, REST):
        said = run(daemon, "wire")
    assert len(said) > 35
    wrong = {name: (each["code"], each["text"]) for name, each in said.items()
             if each["code"] not in SURVIVORS.get(name, {"ended"})}
    assert not wrong
    assert not set(SURVIVORS) - set(said), "answers of cases that are gone"


def test_half_messages_and_then_silence_hold_little_and_not_for_long(daemon):
    # Each would hold 8 MiB.
    with Watch(daemon, IN_FLIGHT_MAX + REST) as watch, Attack(daemon, "half-messages", CONNECTIONS_MAX - 16) as attack:
        assert attack.line()["value"] > 64 * MIB
        watch.new_client("-c", "print('fine')")
        # message_time has ended them all, although they never hung up.
        watch.memory_back()
        attack.end()


def test_requests_that_are_never_taken_hold_little_and_not_for_long(patient_daemon, tmp_path):
    daemon = patient_daemon
    large = tmp_path / "large.py"
    large.write_text("pass" + " " * 3_500_000)
    with Watch(daemon, IN_FLIGHT_MAX + REST) as watch, Attack(daemon, "promises", 64) as attack:
        assert attack.line()["value"] > 64 * MIB
        # Another user's large request is served at once.
        watch.new_client(large)
        # The attacker's own connections wait for each other; the one that keeps the bytes is ended.
        await_that(lambda: re.search(r"it keeps .* of requests from the others", read(daemon.log)), "one is ended")
        attack.end()
        watch.memory_back()


# --- too much of it ------------------------------------------------------------------

def test_a_hundred_thousand_calls_at_once(daemon):
    with Watch(daemon, 256 * MIB) as watch:
        said = run(daemon, "calls", 100_000)
        watch.new_client("-c", "print('fine')")
    assert said.pop("after")["code"] == "ok"
    counts = {name: each["value"] for name, each in said.items()}
    assert sum(counts.values()) == 100_000
    assert counts["calls: ok"] > 8_192 and set(counts) <= {"calls: ok", "calls: resourceExhausted"}, counts


def test_answers_that_are_never_finished(daemon):
    with Watch(daemon, 256 * MIB) as watch:
        said = run(daemon, "bootstraps", 300_000)
        watch.new_client("-c", "print('fine')")
        watch.memory_back()
    assert said["bootstraps: ended"]["value"] == 1
    assert said["bootstraps: sent"]["value"] >= 262_144


def test_ten_thousand_connections(daemon):
    log_bytes = daemon.log.stat().st_size
    with Watch(daemon, 128 * MIB) as watch, Attack(daemon, "connections", 10_000) as attack:
        counts = {each["name"]: each["value"] for each in iter_lines(attack, "connections: resourceExhausted")}
        assert counts["connections: opened"] > 9_000
        assert 0 < counts["connections: ok"] < CONNECTIONS_MAX
        # Another user always has room for a connection.
        watch.new_client("-c", "print('fine')")
        attack.end()
        watch.new_client("-c", "print('fine')")
    assert daemon.log.stat().st_size - log_bytes < 64 << 10  # nor does the log grow with them


def iter_lines(attack, last):
    """Its output up to the line with this name."""
    while line := attack.line():
        yield line
        if line["name"] == last:
            return


def test_two_hundred_clients_that_never_read_while_their_tasks_print(daemon):
    clients, tasks = 200, 2
    with Watch(daemon, clients * tasks * TASK_HOLDS_MAX + REST) as watch, \
            Attack(daemon, "unread", clients, tasks) as attack:
        assert attack.line()["value"] == clients
        running = lambda: sum(t["state"] == "running" for t in tasks_of(daemon))
        await_that(lambda: running() >= clients, "they run")
        watch.new_client("-c", "print('fine')")
        watch.settled()
        assert running() >= clients / 2  # they still run, because nobody reads their output
        attack.end()
        await_that(lambda: len(tasks_of(daemon)) < 3, "their tasks end")
        watch.memory_back()


def test_large_answers_that_nobody_reads(daemon):
    with Watch(daemon, IN_FLIGHT_MAX + UNSENT_MAX + REST) as watch, \
            Attack(daemon, "unread-answers", 200, 20_000) as attack:
        # The daemon stops reading long before all calls are made.
        assert attack.line()["value"] < 200 * 20_000 * 100
        watch.new_client("-c", "print('fine')")
        attack.end()
        watch.memory_back()


def test_output_files_that_nobody_closes(daemon, tmp_path):
    with Watch(daemon, REST) as watch, Attack(daemon, "spools", 100) as attack:
        kept, refused = attack.line(), attack.line()
        # One user has half of it; the others' tasks still bring their files.
        assert OUT_FILES_MAX / 2 <= kept["value"] * 8 * MIB <= OUT_FILES_MAX / 2 + 8 * MIB
        assert refused["code"] == "resourceExhausted" and refused["retryable"], refused
        assert refused["retryAfterMs"] > 0, refused
        assert memfd_bytes(daemon.pid, "out") <= OUT_FILES_MAX + 16 * MIB
        watch.new_client("--out", tmp_path, "-c", "open('out/f', 'w').write('fine')")
        assert (tmp_path / "f").read_text() == "fine"
        [after] = attack.end()
        assert after["code"] == "ok", after
        await_that(lambda: memfd_bytes(daemon.pid, "out") < MIB, "their memory comes back")


@pytest.mark.parametrize("seed", [1, 2, 3] if HEAVY else [1])
def test_a_client_that_cancels_everything_at_random(daemon, seed):
    with Watch(daemon, 128 * MIB) as watch:
        said = run(daemon, "cancels", seed, 20_000 if HEAVY else 5_000)
        watch.new_client("-c", "print('fine')")
    assert said["cancels: actions"]["value"] > 500
    assert said["cancels: connections dropped"]["value"] > 10
    await_that(lambda: not tasks_of(daemon), "its tasks end")


def test_afterwards_the_daemon_holds_nothing_of_it(daemon):
    """The last test of this file: what all before it left."""
    def boxes_without_a_clone():
        templates = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
        return sum(each["boxes"] - each["parked"] - each["stocked"] for each in templates)
    await_that(lambda: not tasks_of(daemon), "no task is left")
    await_that(lambda: boxes_without_a_clone() == 0, "all their boxes are gone")
    fds = lambda: list(pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir())
    parked = lambda: sum(each["parked"] for each in json.loads(daemon.cli("templates", "--json").stdout)["templates"])
    # Beside a few of its own: a control socket of each clone that is parked.
    sockets = lambda: sum("socket:" in os.readlink(fd) for fd in fds() if fd.is_symlink())
    await_that(lambda: sockets() < 20 + parked(), "their connections are closed")
    assert not MEASURED or memory_bytes(daemon.pid) - daemon.fresh_bytes < REST
    assert "internal" not in read(daemon.log)
    assert daemon.cli.run("-c", "print(1)")["verdict"] == "succeeded"
