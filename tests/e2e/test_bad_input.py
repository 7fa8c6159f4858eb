"""Bad input against the real daemon: docs/bad_input.md, row by row.

Each attack is made by tests/e2e/hostile (a client that keeps to no rules). While it
goes on another client's tasks must succeed and the daemon's memory stay within the
bound that the row states; afterwards the daemon must live and hold nothing more.
"""

import json
import os
import pathlib
import re
import select
import subprocess
import threading
import time

import pytest

from support import CLI
from test_lifecycle import Daemon, await_that, read

HOSTILE = pathlib.Path(CLI).parent / "hostile_client"
MIB = 1 << 20
ATTACK_SECONDS_MAX = 240
CONNECTIONS_MAX = 256
# Short times, so that what waits for them does not take long; all else is as installed.
SETTINGS = """
message_time = "2s"
connection_idle = "30s"
result_lease = "20s"
queue_max = 512
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    os.chmod(folder, 0o755)
    daemon = Daemon(folder, config=SETTINGS)
    try:
        yield daemon.start()
        assert daemon.process.poll() is None, daemon.said()
    finally:
        daemon.end()
    assert daemon.process.returncode == 0, daemon.said()


def memory_bytes(pid):
    return int(re.search(r"^VmRSS:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M)[1]) << 10


class Watch:
    """The daemon's memory and another client's tasks, while something bad goes on."""

    def __init__(self, daemon, memory_growth_max):
        self.daemon, self.memory_growth_max = daemon, memory_growth_max
        self.over = threading.Event()
        self.peak = self.tasks = 0
        self.failed = None

    def __enter__(self):
        self.before = memory_bytes(self.daemon.pid)
        self.threads = [threading.Thread(target=each) for each in (self.watch_memory, self.run_tasks)]
        for each in self.threads:
            each.start()
        return self

    def watch_memory(self):
        while not self.over.wait(0.02):
            self.peak = max(self.peak, memory_bytes(self.daemon.pid))

    def run_tasks(self):
        while not self.over.is_set() and self.failed is None:
            result = self.daemon.cli.run("--template", "python", "-c", "print('fine')")
            # Where all connections are taken the next one is refused in words, and may come again.
            error = result.get("error", {})
            if error.get("code") == "resourceExhausted" and error["retryable"]:
                self.over.wait(0.2)
            elif result.get("verdict") != "succeeded" or result["stdout"] != "fine\n":
                self.failed = result
            else:
                self.tasks += 1

    def await_task(self):
        """Another client's task that began after now has succeeded."""
        seen = self.tasks
        await_that(lambda: self.tasks > seen + 1 or self.failed, "another client's task")

    def __exit__(self, kind, *_):
        self.over.set()
        for each in self.threads:
            each.join()
        if kind is None:
            assert self.failed is None, self.failed
            assert self.daemon.process.poll() is None, self.daemon.said()
            growth = self.peak - self.before
            print(f"memory: {self.before / MIB:.0f} MiB before, {growth / MIB:+.0f} at the peak; "
                  f"another client's tasks: {self.tasks}")
            assert growth <= self.memory_growth_max, f"the daemon grew by {growth / MIB:.0f} MiB"


class Attack:
    """One run of hostile_client; what it says, and the way to end one that holds."""

    def __init__(self, daemon, *args):
        self.process = subprocess.Popen([str(HOSTILE), daemon.socket, *map(str, args)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        ready, _, _ = select.select([self.process.stdout], [], [], ATTACK_SECONDS_MAX)
        assert ready, "the hostile client hangs"
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self):
        said, _ = self.process.communicate(timeout=ATTACK_SECONDS_MAX)
        assert self.process.returncode == 0, self.process.returncode
        return [json.loads(line) for line in said.splitlines()]

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

# Every other is invalidArgument.
ANSWERS = {
    "template: unknown": "notFound",
    "template: empty": "notFound",
    "template: NUL": "notFound",
    "template: a path": "notFound",
    "template: 5 MB": "notFound",
    "template: not UTF-8": "notFound",
    # An empty program is one: it ends at once with exit code 0.
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
    with Watch(daemon, 64 * MIB):
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
        # In words, whatever was sent: short, and nothing that moves a terminal's cursor.
        assert 0 < each["textBytes"] < 1000, (name, each)
        assert each["text"].isprintable(), (name, each)
        assert not each["retryable"] and each["retryAfterMs"] == 0, (name, each)


# --- messages that no encoder makes ----------------------------------------------------

# What the daemon may answer besides ending the connection.
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
    # A sink is called when there is output; one that cannot be called cancels its task.
    "a sink that is the daemon itself": {"ok"},
    "a sink that is no capability": {"ok"},
    "a sink that is promised for ever": {"ok"},
    "a sink that is the task's own answer": {"ok"},
}


def test_malformed_messages_end_at_most_their_own_connection(daemon):
    with Watch(daemon, 96 * MIB):
        said = run(daemon, "wire")
    assert len(said) > 35
    wrong = {name: (each["code"], each["text"]) for name, each in said.items()
             if each["code"] not in SURVIVORS.get(name, {"ended"})}
    assert not wrong
    assert not set(SURVIVORS) - set(said), "answers of cases that are gone"


def test_half_messages_and_then_silence_hold_little_and_not_for_long(daemon):
    # Each would hold 8 MiB; all together hold the shared budget at most.
    with Watch(daemon, 600 * MIB) as watch, Attack(daemon, "half-messages", CONNECTIONS_MAX - 16) as attack:
        assert attack.line()["value"] > 64 * MIB
        watch.await_task()
        # message_time has ended them all, though they never hung up.
        await_that(lambda: memory_bytes(daemon.pid) < watch.before + 64 * MIB, "the memory comes back")
        attack.end()


def test_requests_that_are_never_taken_hold_little_and_not_for_long(daemon):
    with Watch(daemon, 600 * MIB) as watch, Attack(daemon, "promises", 64) as attack:
        assert attack.line()["value"] > 64 * MIB
        # A large request of another client is served: who holds the memory is ended.
        large = daemon.cli.run("--template", "python", "-c", "pass" + " " * 3_500_000)
        assert large["verdict"] == "succeeded", large
        watch.await_task()
        attack.end()
    assert re.search(r"it keeps .* of requests from the others", read(daemon.log))


# --- too much of it ------------------------------------------------------------------

def test_a_hundred_thousand_calls_at_once(daemon):
    with Watch(daemon, 256 * MIB) as watch:
        said = run(daemon, "calls", 100_000)
        watch.await_task()
    assert said.pop("after")["code"] == "ok"
    counts = {name: each["value"] for name, each in said.items()}
    assert sum(counts.values()) == 100_000
    assert set(counts) == {"calls: ok", "calls: resourceExhausted"}, counts


def test_answers_that_are_never_finished(daemon):
    with Watch(daemon, 128 * MIB) as watch:
        said = run(daemon, "bootstraps", 300_000)
        watch.await_task()
    assert said["bootstraps: ended"]["value"] == 1
    assert said["bootstraps: sent"]["value"] >= 262_144


def test_ten_thousand_connections(daemon):
    with Watch(daemon, 128 * MIB) as watch, Attack(daemon, "connections", 10_000) as attack:
        counts = {each["name"]: each["value"] for each in iter_lines(attack, "connections: ok")}
        assert counts["connections: opened"] > 9_000
        assert 0 < counts["connections: ok"] <= CONNECTIONS_MAX
        refused = daemon.cli("templates", "--json")
        assert refused.returncode != 0 and b"connections are open" in refused.stdout + refused.stderr
        attack.end()
        watch.await_task()


def iter_lines(attack, last):
    """What it says up to the line of this name."""
    while line := attack.line():
        yield line
        if line["name"] == last:
            return


def test_two_hundred_clients_that_never_read_while_their_tasks_print(daemon):
    clients, tasks = 200, 2
    with Watch(daemon, 512 * MIB) as watch, Attack(daemon, "unread", clients, tasks) as attack:
        assert attack.line()["value"] == clients
        watch.await_task()
        attack.end()
    await_that(lambda: not json.loads(daemon.cli("ps", "--json").stdout)["tasks"], "their tasks end")


def test_large_answers_that_nobody_reads(daemon):
    with Watch(daemon, 512 * MIB) as watch, Attack(daemon, "unread-answers", 200, 20_000) as attack:
        # The daemon stops reading long before all calls are made.
        assert attack.line()["value"] < 200 * 20_000 * 100
        watch.await_task()
        attack.end()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_client_that_cancels_everything_at_random(daemon, seed):
    with Watch(daemon, 128 * MIB) as watch:
        said = run(daemon, "cancels", seed, 6_000)
        watch.await_task()
    assert said["cancels: actions"]["value"] > 1_000
    assert said["cancels: connections dropped"]["value"] > 10
    await_that(lambda: not json.loads(daemon.cli("ps", "--json").stdout)["tasks"], "its tasks end")


def test_afterwards_the_daemon_holds_nothing_of_it(daemon):
    """The last test of this file: what all before it left."""
    await_that(lambda: not daemon.box_cgroups(), "all boxes are gone")
    sockets = lambda: sum("socket:" in os.readlink(fd) for fd in fds() if fd.is_symlink())
    fds = lambda: list(pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir())
    await_that(lambda: sockets() < 20, "their connections are closed")
    assert "internal" not in read(daemon.log)
    started = time.monotonic()
    assert daemon.cli.run("--template", "python", "-c", "print(1)")["verdict"] == "succeeded"
    assert time.monotonic() - started < 20
