#!/usr/bin/env python3
# Leaks: after many mixed tasks (good, failing, killed at every cap, cancelled,
# abandoned, hostile) the host and the daemon are back where they were.
#
# Needs root. Starts its own daemon, whose pools do not follow demand: the same number of boxes is
# parked and stocked before and after.
# MAYFLY_LEAK_TASKS says how many tasks (default 200). Compared before and after:
# the instance's processes, namespaces and cgroups, dying cgroups too; mounts of
# host, spawner and templates; descriptors and memory of daemon and spawner.
import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from test_lifecycle import Daemon

TOP = pathlib.Path(__file__).resolve().parents[2]
MAYFLY = os.environ.get("MAYFLY_CLI", str(TOP / "build/bin/mayfly"))
SOCKET = ""
TASKS = int(os.environ.get("MAYFLY_LEAK_TASKS", "200"))
AT_ONCE = 4
COMMAND_SECONDS_MAX = 120
SETTLE_SECONDS_MAX = 60
MEMORY_SLACK_BYTES = 1 << 20  # noise of the allocator
MEMORY_TASK_BYTES = 512       # growth for each task that is not yet a leak
QUARANTINE_BYTES = 256 << 20  # freed memory that AddressSanitizer keeps, with its own records


# --- the mix -------------------------------------------------------------------

def python(code, *flags):
    return ["-t", "python", *flags, "-c", code]


MIX = [  # (name, arguments of `mayfly run`, the verdict that must come)
    ("good", python("print(6*7)"), "succeeded"),
    ("exit code", python("raise SystemExit(3)"), "failed"),
    ("traceback", python("1/0"), "failed"),
    ("abort", python("import os; os.abort()"), "signaled"),
    ("wall time", python("import time; time.sleep(600)", "--timeout", "300ms"), "wallTime"),
    ("cpu time", python("while True: pass", "--cpu-time", "300ms"), "cpuTime"),
    ("memory", python("b=[]\nwhile True: b.append(b'x' * (1 << 20))", "--memory", "48MiB"), "memory"),
    ("fork bomb", python("import os\nwhile True:\n  if os.fork() == 0: pass", "--pids", "12"),
     "processes"),
    ("flood", python("while True: print('x' * 4096)", "--output", "64KiB"), "output"),
    ("disk", python("f=open('/tmp/f','wb')\nwhile True: f.write(b'x'*65536)", "--disk", "4MiB"), "disk"),
    ("daemonised child", python(
        "import os, signal, time\nfor s in (1, 2, 13, 15): signal.signal(s, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(600)\n  os._exit(0)\n"),
     "succeeded"),
    ("stopped child", python(
        "import os, signal\nif os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)\n"), "succeeded"),
    ("odd output files", python(
        "import os\nos.makedirs('/task/out/d/e', exist_ok=True)\nos.chdir('/task/out')\n"
        "os.symlink('/etc/passwd', 'link')\nos.mkfifo('fifo')\nopen('d/e/f', 'w').write('x')\n"
        "open('sparse', 'w').truncate(1 << 20)\n"), "succeeded"),
    ("many sockets and files", python(
        "import socket\nk=[]\ntry:\n  while True: k.append(socket.socketpair())\n"
        "except OSError: pass\nprint(len(k))", "--files", "256"), "succeeded"),
    ("pseudo-terminals", python(
        "import os\nk=[]\ntry:\n  while True: k.append(os.openpty())\nexcept OSError: pass\n"
        "if os.fork() == 0:\n  os.login_tty(k[0][1])\n  os.read(0, 1)\nprint(len(k))"), "succeeded"),
    ("exec", ["-t", "shell", "--", "sh", "-c", "sleep 600 & echo $((6*7))"], "succeeded"),
    ("unknown template", ["-t", "no-such-template", "-c", "1"], None),
    ("cap above the maximum", python("1", "--memory", "1024GiB"), None),
    ("cancelled", python("import time; print(1, flush=True); time.sleep(600)"), "cancelled"),
    ("abandoned", python("import time; print(1, flush=True); time.sleep(600)"), "clientGone"),
]


def environment():
    return {**os.environ, "MAYFLY_SOCKET": SOCKET}


def live_line(process, name):
    """Waits for the task's own output."""
    line = process.stdout.readline()
    if line != b"1\n":
        out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
        raise AssertionError(f"{name}: no first line: {line!r} {out[-500:]!r} {err[-1500:]!r}")


def do(entry):
    name, arguments, verdict = entry
    live = name in ("cancelled", "abandoned")
    process = subprocess.Popen([MAYFLY, "run", *([] if live else ["--json"]), *arguments],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment())
    try:
        if live:
            live_line(process, name)
            process.send_signal(signal.SIGINT if name == "cancelled" else signal.SIGKILL)
            process.communicate(timeout=COMMAND_SECONDS_MAX)
            return
        out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if verdict is None:
        assert process.returncode == 125, f"{name}: exit {process.returncode} {err[-1500:]!r}"
        return
    result = json.loads(out)
    assert result["verdict"] == verdict, f"{name}: {json.dumps(result)[-1500:]}"
    assert result["receipt"]["complete"], f"{name}: {result['receipt']}"


def do_many(count):
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(do, e) for e in itertools.islice(itertools.cycle(MIX), count)]:
            future.result()


# --- the present state ---------------------------------------------------------

def read(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


def daemon_pid():
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(SOCKET)
        return struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def children():
    """pid -> pids of its children, of the whole host."""
    found = collections.defaultdict(list)
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        fields = read(stat).rpartition(")")[2].split()
        if fields:
            found[int(fields[1])].append(int(stat.parent.name))
    return found


def family(pid):
    tree, found, ahead = children(), [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        ahead += tree[one]
    return found


def name_of(pid):
    return read(f"/proc/{pid}/comm").strip()


def family_top(pid):
    """The daemon and the spawner: parent and child, in this order."""
    parent = int((read(f"/proc/{pid}/stat").rpartition(")")[2].split() or [0, 0])[1])
    return parent if "mayfly" in name_of(parent) else pid


class Instance:
    """One daemon with all its boxes and processes, seen from outside."""

    def __init__(self):
        self.daemon = daemon_pid()
        self.top = family_top(self.daemon)
        [self.spawner] = [p for p in family(self.top) if name_of(p) == "mayfly-spawner"]
        self.cgroups = self.own_cgroups()

    def own_cgroups(self):
        """Directories, one a hierarchy, that hold all cgroups of this instance."""
        tops = set()
        mounts = [line.split() for line in read("/proc/self/mountinfo").splitlines()]
        for fields in mounts:
            kind = fields[fields.index("-") + 1]
            if kind not in ("cgroup", "cgroup2"):
                continue
            controllers = set(fields[-1].split(","))
            for pid in family(self.top):
                for line in read(f"/proc/{pid}/cgroup").splitlines():
                    _, names, path = line.split(":", 2)
                    mine = not names if kind == "cgroup2" else set(names.split(",")) & controllers
                    found = re.match(r"(.*?/mayfly[^/]*(/[^/]+)?)", path) if mine else None
                    if found:
                        tops.add(fields[4] + found.group(1))
        return sorted(tops)

    def snapshot(self):
        members = family(self.top)
        spaces = collections.defaultdict(set)
        for pid in members:
            for space in pathlib.Path(f"/proc/{pid}/ns").glob("*"):
                try:
                    spaces[space.name].add(os.readlink(space))
                except OSError:
                    pass
        state = {
            "processes": sorted(collections.Counter(map(name_of, members)).items()),
            "namespaces": sorted((kind, len(ids)) for kind, ids in spaces.items()),
            "mounts of the host": read("/proc/1/mountinfo").count("\n"),
            "mounts of each process": sorted((name_of(p), read(f"/proc/{p}/mountinfo").count("\n"))
                                             for p in members),
            "cgroups": [(top, sum(1 for _ in os.walk(top)))
                        for top in self.cgroups],
            "dying cgroups": self.dying(),
        }
        for who, pid in (("daemon", self.daemon), ("spawner", self.spawner)):
            state[f"descriptors of the {who}"] = self.descriptors(pid)
        return state

    @staticmethod
    def descriptors(pid):
        kinds = collections.Counter()
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                kinds[re.sub(r"\d+", "N", os.readlink(fd))] += 1
            except OSError:
                pass
        return sorted(kinds.items())

    def reclaim(self, file="memory.force_empty", word=b"1", above=False):  # v1's, which takes seconds
        """Takes back the pages of images: each is charged to the box that read it first, and keeps its cgroup.

        `above`: those of all instances of this host, which lie side by side."""
        for top in {os.path.dirname(top) if above else top for top in self.cgroups}:
            with contextlib.suppress(OSError):  # it is of the other kind, or not all could be taken
                descriptor = os.open(f"{top}/{file}", os.O_WRONLY)
                try:
                    os.write(descriptor, word)
                finally:
                    os.close(descriptor)

    def dying(self):
        """Removed cgroups that the kernel still keeps, of this instance's own trees (v2)."""
        count = 0
        self.reclaim("memory.reclaim", b"1G")
        for top in self.cgroups:
            found = re.search(r"nr_dying_descendants (\d+)", read(f"{top}/cgroup.stat"))
            count += int(found.group(1)) if found else 0
        return count

    def memory(self):
        return {who: int(re.search(r"RssAnon:\s+(\d+) kB", read(f"/proc/{pid}/status")).group(1)) << 10
                for who, pid in (("daemon", self.daemon), ("spawner", self.spawner))}


def has_quarantine(pid):
    return "libasan" in pathlib.Path(f"/proc/{pid}/maps").read_text()


def v1_dying():
    """Dying cgroups of the v1 memory hierarchy, of the whole host: 0 where it is v2."""
    rows = [line.split() for line in read("/proc/cgroups").splitlines()]
    for name, hierarchy, count, *_ in rows:
        if name == "memory" and hierarchy != "0":
            for line in read("/proc/self/mountinfo").splitlines():
                fields = line.split()
                if fields[fields.index("-") + 1] == "cgroup" and "memory" in fields[-1].split(","):
                    return int(count) - sum(1 for _ in os.walk(fields[4]))
    return 0


def ptys_used():
    return int(read("/proc/sys/kernel/pty/nr") or 0)


def settled(read_now, good):
    """Repeats a reading until it is good, or for SETTLE_SECONDS_MAX; returns the last one."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while True:
        now = read_now()
        if good(now) or time.monotonic() > deadline:
            return now
        time.sleep(0.2)


class Leaks(unittest.TestCase):
    def setUp(self):
        global SOCKET
        folder = tempfile.TemporaryDirectory(prefix="mayfly-leaks-", dir="/run")
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        daemon = Daemon(folder.name, config="parked_max = 2\nstocked_max = 2\n")
        self.addCleanup(daemon.end)
        SOCKET = daemon.start().socket

    def test_nothing_is_left_after_mixed_tasks(self):
        do_many(len(MIX) * 2)  # one-time work is done now
        instance = Instance()
        self.assertTrue(instance.cgroups)
        quiet = lambda: sum(n for _, n in instance.snapshot()["cgroups"])  # noqa: E731
        least = quiet()
        settled(quiet, lambda n: n <= least)
        before = settled(instance.snapshot, lambda now: now["dying cgroups"] == 0)  # of the warm-up's boxes
        memory, v1, ptys = instance.memory(), v1_dying(), ptys_used()
        began = time.monotonic()
        do_many(TASKS)
        seconds = time.monotonic() - began
        after = settled(instance.snapshot, lambda now: now == before)
        for key in before:
            self.assertEqual(after[key], before[key], f"{key}, after {TASKS} tasks")
        allowed = MEMORY_SLACK_BYTES + TASKS * MEMORY_TASK_BYTES
        if has_quarantine(instance.daemon):
            allowed += QUARANTINE_BYTES
        for who, was in memory.items():
            grown = settled(instance.memory, lambda now, w=who: now[w] - memory[w] <= allowed)[who] - was
            self.assertLessEqual(grown, allowed, f"memory of the {who}, after {TASKS} tasks")
        # Other instances on this host make cgroups, too, so this check is a bound, not an equality,
        # and the pages of their ended boxes are taken back with this instance's.
        def dying_now():
            instance.reclaim(above=True)
            return v1_dying()

        left = settled(dying_now, lambda now: now - v1 <= TASKS // 20) - v1
        self.assertLessEqual(left, TASKS // 20, "dying cgroups of the v1 memory hierarchy")
        # The pool is the host's: others use some of it, too.
        left_ptys = settled(ptys_used, lambda now: now - ptys <= TASKS // 20) - ptys
        self.assertLessEqual(left_ptys, TASKS // 20, "pseudo-terminals of the host's pool")
        print(f"{TASKS} mixed tasks in {seconds:.1f} s; memory now "
              f"{ {k: v >> 10 for k, v in instance.memory().items()} } KiB, was "
              f"{ {k: v >> 10 for k, v in memory.items()} }; v1 dying cgroups {left:+d}", file=sys.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
