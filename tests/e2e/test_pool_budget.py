"""The pool when descriptors and processes are short: it gets what tasks leave, never the other way round.

Descriptors: the daemon and its spawner are started with a low RLIMIT_NOFILE. Processes: sums
of caps against the host's pids, and a real wall, the `pids` cgroup that holds all boxes.
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import threading

import pytest

from pool_view import Rest, boxes, idle, make_templates, tasks, templates
from support import CLI
from test_lifecycle import SECONDS_MAX, await_that, daemons, read  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")

EMFILE = re.compile("Too many open files|EMFILE|ENFILE|out of file desc", re.I)
RUN = ("run", "--json", "-t", "pooled")
# Stdin, output files, an input file as a blob: everything that takes descriptors.
BUSY = ("import os, sys\nos.makedirs('/task/out', exist_ok=True)\nopen('/task/out/f', 'w').write('x')\n"
        "print(len(sys.stdin.read()), os.path.getsize('blob') >> 20, 6*7)")


def low_files(count):
    """Limits the descriptors of a child, not our own."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, 256), count))}


def doctor(count):
    done = subprocess.run([CLI, "doctor", "--quick", "--json"], capture_output=True, timeout=SECONDS_MAX, **low_files(count))
    return json.loads(done.stdout)


def held(pid):
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


class Peaks(threading.Thread):
    """The highest numbers of descriptors of daemon and spawner, and of boxes."""

    def __init__(self, daemon):
        super().__init__()
        self.pids, self.of, self.most, self.over = (daemon.pid, daemon.spawner), daemon, {}, threading.Event()

    def run(self):
        while not self.over.wait(0.002):
            now = {"daemon": held(self.pids[0]), "spawner": held(self.pids[1]), "boxes": len(self.of.box_cgroups())}
            self.most = {key: max(value, self.most.get(key, 0)) for key, value in now.items()}

    def end(self):
        self.over.set()
        self.join()
        return self.most


def hierarchies(daemon):
    return max(1, len(daemon.cgroups()))


@pytest.mark.parametrize("files", [560, 680, 1000])
def test_few_descriptors_bound_the_pool_and_tasks_still_run(daemons, tmp_path, files):  # noqa: F811
    """Descriptors for 6, 21 and 61 boxes: a third for tasks, at most the rest for parked clones."""
    manifests = {"pooled": "[pool]\nmin = 64\nmax = 64\n"}
    daemon = daemons(config="connections_max = 24\nstocked_max = 1\n", **make_templates(tmp_path, manifests),
                     **low_files(files))
    derived = doctor(files)["budget"]["boxesByFds"]
    assert derived == (files - 512) // 8
    told = int(re.search(r"at most (\d+) boxes", read(daemon.log))[1])
    parked = derived * 3 // 4
    assert told == derived - parked - min(1, derived * 3 // 4 - parked), daemon.said()
    rest = Rest(daemon, parked, 0).await_full()
    assert templates(daemon)["pooled"]["parkedTarget"] == parked
    (tmp_path / "blob").write_bytes(os.urandom(2 << 20))
    peaks = Peaks(daemon)
    peaks.start()
    for _ in range(3):
        clients = [daemon.cli.start(*RUN, "--stdin", "--file", tmp_path / "blob", "--out", tmp_path / f"out-{i}", "-c", BUSY)
                   for i in range(20)]
        for client in clients:  # all of them first: any task with a box waits for its input
            client.stdin.write(b"x" * 10)
            client.stdin.close()
            client.stdin = None
        for client in clients:
            result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
            assert result.get("stdout") == "10 2 42\n" and result["receipt"]["complete"], (result, daemon.said())
            assert [f["path"] for f in result["files"]] == ["f"], (result["filesNote"], result["id"], daemon.said())
    rest.await_full()
    most = peaks.end()
    print(f"RLIMIT_NOFILE {files}: {parked} parked, {told} with tasks; most held: {most}")
    assert max(most["daemon"], most["spawner"]) < files, most
    assert most["boxes"] <= derived * hierarchies(daemon), most
    assert not EMFILE.search(read(daemon.log)), daemon.said()
    rest.check_books()


def test_tasks_that_hoard_and_blobs_that_fill_the_store_take_no_descriptor_of_the_pool(daemons, tmp_path):  # noqa: F811
    files = 800
    daemon = daemons(config="connections_max = 16\nstocked_max = 0\n",
                     **make_templates(tmp_path, {"pooled": "[pool]\nmin = 64\nmax = 64\n"}), **low_files(files))
    rest = Rest(daemon, (files - 512) // 8 * 3 // 4, 0).await_full()
    hoard = "import os\nk=[]\ntry:\n  while True: k.append(os.dup(0))\nexcept OSError as e: print(e.errno, len(k) > 100)"
    for nth in range(4):  # each file above 1 MiB is a blob of its own: more of them than the store has room for
        blobs = []
        for i in range(30):
            blobs += ["--file", tmp_path / f"blob-{nth}-{i}"]
            (tmp_path / f"blob-{nth}-{i}").write_bytes(os.urandom((1 << 20) + 1))
        result = json.loads(daemon.cli(*RUN, *blobs, "-c", hoard).stdout)
        if "error" in result:
            assert result["error"]["code"] == "resourceExhausted", result
        else:
            assert result["stdout"] == "24 True\n" and result["receipt"]["complete"], result
    crowd = [daemon.cli.start(*RUN, "-c", hoard) for _ in range(12)]
    for client in crowd:
        result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
        assert result.get("stdout") == "24 True\n", (result, daemon.said())
    assert not EMFILE.search(read(daemon.log)), daemon.said()
    rest.check_books()


# --- processes ------------------------------------------------------------------------------

def pids_max():
    return min(int(read(f"/proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max")) - 2048


def test_caps_on_processes_are_a_budget_of_the_host(daemons, tmp_path):  # noqa: F811
    """A task that can never fit is refused; one that fits only alone waits for its turn; small tasks pass meanwhile."""
    budget = pids_max()
    if not 2048 < budget <= 32768:
        pytest.skip(f"a cap on processes is at most 32768, and this host has {budget} to give")
    more = f"[pool]\nmin = 2\nmax = 2\n[limits.maximum]\nprocesses = {min(budget + 2, 32768)}\n"
    daemon = daemons(config="parked_max = 2\nstocked_max = 0\n", **make_templates(tmp_path, {"pooled": more}))
    rest = Rest(daemon, 2, 0).await_full()
    assert f"{budget} processes" in read(daemon.log)
    if budget + 2 <= 32768:
        refused = json.loads(daemon.cli(*RUN, "--pids", budget - 1, "-c", "1").stdout)["error"]
        assert refused["code"] == "invalidArgument" and "processes" in refused["message"], refused
    large = budget * 2 // 3
    first = daemon.cli.start(*RUN, "--stdin", "--pids", large, "-c", "import sys; print(sys.stdin.read())")
    await_that(lambda: [t["state"] for t in tasks(daemon)] == ["running"], "the first runs")
    second = daemon.cli.start(*RUN, "--pids", large, "-c", "print(6*7)")
    await_that(lambda: sorted(t["state"] for t in tasks(daemon)) == ["queued", "running"], "the second waits")
    assert len(idle(daemon)[0]) == 2  # a clone is parked for it: it lacks only budget
    for client, out in ((first, "word\n"), (second, "42\n")):
        result = json.loads(client.communicate(b"word" if client is first else None, timeout=SECONDS_MAX)[0])
        assert result.get("stdout") == out and result["receipt"]["complete"], result
    rest.check_books()


def pids_folder(daemon):
    """The instance's cgroup that has the controller `pids`."""
    [top] = [top for top in daemon.cgroups() if (top / "pids.max").exists()]
    return top


def test_no_process_to_be_had_is_an_error_in_words_and_the_pool_comes_back(daemons, tmp_path):  # noqa: F811
    """A process limit around all boxes: failed forks are reported, running tasks continue."""
    daemon = daemons(config="parked_max = 3\nstocked_max = 0\n",
                     **make_templates(tmp_path, {"pooled": "[pool]\nmin = 3\nmax = 3\n"}))
    rest = Rest(daemon, 3, 0).await_full()
    runs = daemon.cli.start(*RUN, "--stdin", "-c", "import sys; print(sys.stdin.read())")
    await_that(lambda: [t["state"] for t in tasks(daemon)] == ["running"], "one runs")
    await_that(lambda: len(idle(daemon)[0]) == 3 and len(boxes(daemon)) == 4, "the pool is full beside it")
    wall = pids_folder(daemon) / "pids.max"
    wall.write_text("1")  # below the living number: no further fork succeeds, even after ends
    verdicts = {"succeeded": 0, "internal": 0}
    for _ in range(8):
        result = json.loads(daemon.cli(*RUN, "-c", "print(6*7)").stdout)
        assert result["receipt"]["complete"], result
        verdicts[result["verdict"]] += 1
        if result["verdict"] == "internal":  # with a reason, and the task did not run
            assert "could not be made" in result["reason"], result
            assert result["phases"]["startedNs"] == 0, result
    assert verdicts["succeeded"] >= 3 and verdicts["internal"] >= 1, (verdicts, daemon.said())
    assert templates(daemon)["pooled"]["state"] == "ready"
    wall.write_text("max")
    result = json.loads(runs.communicate(b"word", timeout=SECONDS_MAX)[0])
    assert result["stdout"] == "word\n" and result["receipt"]["complete"], result
    assert json.loads(daemon.cli(*RUN, "-c", "print(6*7)").stdout)["stdout"] == "42\n"
    rest.check_books()
