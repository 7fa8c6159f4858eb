"""A daemon at work for a long time: good, failing, hostile, cancelled, detached and abandoned tasks
of several clients and templates, zygotes that are renewed, and kill -9 of what is parked.

MAYFLY_SOAK_SECONDS says for how long (default 600). Every task has one result, and the right one;
what a killed box may end with is said at `judge`. How those ended whose client is gone, the daemon's
log tells: it names as many ends as there were tasks. In the end nothing is left, memory did not
grow, and a report is printed and written to build/soak.json.
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests/e2e"), str(TOP / "clients/python/src")]

import test_leaks  # noqa: E402
from pool_view import MAKER, ZYGOTE, helpers, idle, templates  # noqa: E402
from test_lifecycle import BINARIES, STATE_DIR, Daemon  # noqa: E402

SECONDS = float(os.environ.get("MAYFLY_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("MAYFLY_SOAK_SEED", "1"))
PARKED = {"python": 4, "shell": 2, "python-data": 1}
KILL_EVERY_SECONDS = 1.0
KILL_HELPER_EVERY = 25        # kills to one of a zygote or maker: not four within 60 s, so that the breaker stays shut
KILL_HELPER_FIRST = 10
LONG_SECONDS = 60             # from here on zygotes and makers must have been killed, and zygotes renewed
RENEW_CLONES = {"python": 150, "shell": 20, "python-data": 100}
GROWTH_BYTES_MAX = 2 << 20    # of daemon and spawner, from the third quarter to the last
DYING_MAX = 50                # cgroups that the kernel still keeps, of the whole host
END_SECONDS_MAX = 120         # of a worker's last task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root"),
              pytest.mark.timeout(SECONDS + 400)]


def templates_with_small_pools(folder):
    shutil.copytree(TOP / "templates", folder, symlinks=False)
    served = [name for name in PARKED if (pathlib.Path(STATE_DIR) / "index" / f"{name}.json").exists()]
    for name in served:
        path = folder / name / "manifest.toml"
        text = re.sub(r"(?ms)^\[pool\]\n.*?(?=^\[|\Z)", "", path.read_text())
        path.write_text(text.replace("[zygote]\n", f"[zygote]\nrenew_clones = {RENEW_CLONES[name]}\n", 1)
                        + f"\n[pool]\nmin = {PARKED[name]}\nmax = {PARKED[name]}\n")
    return tuple(served)


# `box`: None if the client cannot know it. `began` is set for abandoned tasks.
Ended = collections.namedtuple("Ended", "kind wanted verdict box complete began at said")
UNSEEN = "unseen"
VERDICT_LINE = re.compile(r"^mayfly: (\w+).* \| box (\d+)(?: (is gone)|:)", re.M)
TOLD = re.compile(r"task id=\d+ template=[\w-]+ .*?verdict=(\w+)")


class Soak:
    def __init__(self, daemon):
        self.daemon, self.over = daemon, threading.Event()
        self.lock = threading.Lock()
        self.ended = []          # Ended
        self.killed = {}         # box: who in it
        self.box_kills = []      # times
        self.kills = collections.Counter()
        self.faults = []
        self.samples = []        # (time, {"daemon": bytes, "spawner": bytes})
        self.latencies = []      # s, of small good tasks of the Python client
        self.most = collections.Counter()

    # --- tasks ---

    def note(self, kind, wanted, verdict, box=None, complete=True, began=None, said=""):
        with self.lock:
            self.ended.append(Ended(kind, wanted, verdict, box, complete, began, time.monotonic(), said))

    def by_command_line(self, rng):
        kind, arguments, verdict = rng.choice(test_leaks.MIX)
        live = kind in ("cancelled", "abandoned")
        began = time.monotonic()
        process = self.daemon.cli.start("run", *([] if live else ["--json"]), *arguments)
        try:
            if live:
                started = process.stdout.readline() == b"1\n"
                if started:  # else it ended before its first output; its result says how
                    process.send_signal(signal.SIGINT if kind == "cancelled" else signal.SIGKILL)
            out, err = process.communicate(timeout=END_SECONDS_MAX)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if verdict is None:
            return self.note(kind, "refused", "refused" if process.returncode == 125 else f"exit {process.returncode}")
        # A client that is interrupted before it knows its task's id exits at once, like a killed one.
        left = kind == "abandoned" or (process.returncode == 130 and err == b"")
        if live and started and left:
            return self.note(kind, verdict, UNSEEN, began=began)
        if live:
            said = VERDICT_LINE.search(err.decode(errors="replace"))
            if said is None or (said[1] == "cancelled") != (process.returncode == 130):
                return self.note(kind, verdict, f"exit {process.returncode}", said=err[-500:].decode(errors="replace"))
            return self.note(kind, verdict, said[1], int(said[2]), said[3] == "is gone")
        result = json.loads(out)
        if "verdict" not in result:
            return self.note(kind, verdict, "error " + result["error"]["code"], said=str(result))
        self.note(kind, verdict, result["verdict"], result["receipt"]["box"], result["receipt"]["complete"])

    def by_client(self, client, rng):
        what = rng.randrange(6)
        small = "print(6*7)"
        if what == 0:
            task = client.submit("python", small, detach="60s", key=f"soak-{rng.random()}")
            found = client.find(id=task.id)
            result = found.wait()
            found.close()
            kind, wanted = "detached", "succeeded"
        elif what == 1:
            task = client.submit("python", "import time; time.sleep(600)")
            if rng.random() < 0.5:
                time.sleep(rng.random() * 0.02)
            task.cancel()
            result = task.wait()
            task.close()
            kind, wanted = "cancelled by call", "cancelled"
        elif what == 2:
            result = client.run("python", "import os; os.makedirs('/task/out', exist_ok=True); "
                                          "open('/task/out/f', 'wb').write(bytes(1 << 20))", collect=True)
            kind, wanted = "output files", "succeeded"
        elif what == 3 and "python-data" in self.daemon.templates:
            result = client.run("python-data", "import pandas as pd; print(pd.DataFrame({'a': [1, 2]}).sum())")
            kind, wanted = "table", "succeeded"
        elif what == 4:
            result = client.run("python", "import sys; print(len(sys.stdin.read()))", stdin=b"x" * (2 << 20))
            kind, wanted = "input", "succeeded"
        else:
            began = time.monotonic()
            result = client.run("python", small)
            self.latencies.append(time.monotonic() - began)
            kind, wanted = "small", "succeeded"
        self.note(kind, wanted, result.verdict.value if hasattr(result.verdict, "value") else str(result.verdict),
                  result.receipt.box, result.receipt.complete)

    def worker(self, number):
        rng = random.Random(SEED * 1000 + number)
        try:
            if number % 2:
                import mayfly
                with mayfly.connect(self.daemon.socket) as client:
                    while not self.over.is_set():
                        self.by_client(client, rng)
            else:
                while not self.over.is_set():
                    self.by_command_line(rng)
        except Exception as error:
            self.faults.append(f"worker {number}: {type(error).__name__}: {error}")
            self.over.set()

    # --- killers and watchers ------

    def kill_helper(self, rng):
        """A zygote and a maker in turn."""
        name, word = (("zygote", ZYGOTE), ("maker", MAKER))[(self.kills["zygote"] + self.kills["maker"]) % 2]
        if found := helpers(self.daemon, word):
            os.kill(rng.choice(found), signal.SIGKILL)
            self.kills[name] += 1

    def killer(self):
        rng = random.Random(SEED)
        count, proven = 0, set()  # proven: zygotes whose trial is over; a killed trial would make one unfit
        while not self.over.wait(KILL_EVERY_SECONDS * (0.5 + rng.random())):
            count += 1
            try:
                if count % KILL_HELPER_EVERY == KILL_HELPER_FIRST:
                    self.kill_helper(rng)
                    continue
                parked, stocked = idle(self.daemon)
                if all(t["state"] == "ready" and t["zygotes"] == 1 for t in templates(self.daemon).values()):
                    proven |= {box.template for box in parked + stocked}
                candidates = [box for box in parked + stocked if box.template in proven]
                if not candidates:
                    continue
                box = rng.choice(candidates)
                who = rng.choice([pid for pid in (box.init, box.clone) if pid])
                name = "init" if who == box.init else "clone"
                self.killed[box.id] = name
                os.kill(who, signal.SIGKILL)
                self.box_kills.append(time.monotonic())
                self.kills[name] += 1
            except ProcessLookupError:
                pass
            except Exception as error:
                self.faults.append(f"killer: {type(error).__name__}: {error}")
                self.over.set()

    def look(self, instance):
        while not self.over.wait(1):
            self.samples.append((time.monotonic(), instance.memory()))
            for who, pid in (("daemon", instance.daemon), ("spawner", instance.spawner)):
                try:
                    held = len(os.listdir(f"/proc/{pid}/fd"))
                except OSError:
                    continue
                self.most[f"descriptors of the {who}"] = max(self.most[f"descriptors of the {who}"], held)

    # --- results -----------

    def judge(self):
        """Those whose result is wrong. A box that we killed may have been claimed meanwhile: before `started` its
        task gets another box; after it, a killed clone is `signaled` and a killed init `internal`."""
        after = {"clone": "signaled", "init": "internal"}
        wrong = []
        for each in self.ended:
            ours = each.box in self.killed and each.verdict == after[self.killed[each.box]]
            if each.verdict != UNSEEN and not ours and (each.verdict != each.wanted or not each.complete):
                wrong.append(each)
        return wrong

    def unseen(self, told):
        """Of all ends that the log told ({verdict: count}), those that no client saw, and what is wrong with them. Each
        is `clientGone`, but for tasks in whose life a box was killed."""
        seen = collections.Counter(e.verdict for e in self.ended if e.verdict not in (UNSEEN, "refused"))
        abandoned = [e for e in self.ended if e.verdict == UNSEEN]
        left = collections.Counter(told)
        left.subtract(seen)
        left = {verdict: count for verdict, count in left.items() if count != 0}
        others = {verdict: count for verdict, count in left.items() if verdict != "clientGone"}
        excused = sum(any(e.began <= at <= e.at for at in self.box_kills) for e in abandoned)
        good = (sum(left.values()) == len(abandoned) and set(others) <= {"signaled", "internal"}
                and all(count > 0 for count in others.values()) and sum(others.values()) <= excused)
        return left, [] if good else [f"{len(abandoned)} abandoned tasks, {excused} of them beside a kill, ended as {left}"]

    def growth(self):
        """From the third quarter's median to the last one's."""
        quarter = max(1, len(self.samples) // 4)
        third, last = self.samples[-2 * quarter:-quarter], self.samples[-quarter:]
        return {who: int(statistics.median(m[who] for _, m in last) - statistics.median(m[who] for _, m in third))
                for who in ("daemon", "spawner")} if third else {}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def test_nothing_is_left_after_a_long_time():
    with tempfile.TemporaryDirectory(prefix="mayfly-soak-", dir="/run") as folder:
        os.chmod(folder, 0o755)
        manifests = pathlib.Path(folder) / "templates"
        served = templates_with_small_pools(manifests)
        daemon = Daemon(folder, config="parked_max = 8\nstocked_max = 3\nlog_level = 'debug'\n", templates=served,
                        template_dirs=(manifests,))
        try:
            run(daemon.start())
        finally:
            daemon.end()


def run(daemon):
    test_leaks.SOCKET = daemon.socket
    # One-time work is done now: each kind of task, and each zygote's first renewal.
    warm = Soak(daemon)
    rng = random.Random(SEED)
    for _ in range(3 * len(test_leaks.MIX)):
        warm.by_command_line(rng)
    instance = test_leaks.Instance()
    quiet = lambda: sum(n for _, n in instance.snapshot()["cgroups"])  # noqa: E731
    test_leaks.settled(quiet, lambda now: now == expected_cgroups(instance, daemon))
    before, v1 = instance.snapshot(), test_leaks.v1_dying()
    at_first = templates(daemon)
    log_from = pathlib.Path(daemon.log).stat().st_size

    soak = Soak(daemon)
    threads = [threading.Thread(target=soak.worker, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=soak.killer), threading.Thread(target=soak.look, args=(instance,))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    soak.over.wait(SECONDS)
    soak.over.set()
    for thread in threads:
        thread.join(END_SECONDS_MAX)
    assert not any(thread.is_alive() for thread in threads), "a task has no result"
    seconds = time.monotonic() - began

    leaks = test_leaks.settled(lambda: left_over(before, instance.snapshot()), lambda left: left == {})
    instance.reclaim()
    dying = test_leaks.settled(test_leaks.v1_dying, lambda now: now - v1 <= DYING_MAX) - v1
    told = templates(daemon)
    with open(daemon.log, "rb") as log:
        log.seek(log_from)
        said = log.read().decode(errors="replace")
    unseen, unseen_wrong = soak.unseen(collections.Counter(TOLD.findall(said)))
    kinds = collections.defaultdict(collections.Counter)
    for each in soak.ended:
        kinds[each.kind][each.verdict] += 1
    report = {
        "seconds": round(seconds, 1), "seed": SEED, "templates": list(daemon.templates), "tasks": len(soak.ended),
        "verdicts": dict(collections.Counter(each.verdict for each in soak.ended)),
        "kinds": {kind: dict(verdicts) for kind, verdicts in sorted(kinds.items())},
        "unseen": unseen, "wrong": [each._asdict() for each in soak.judge()] + unseen_wrong, "faults": soak.faults,
        "kills": dict(soak.kills),
        "renewals": {name: t["renewals"] - at_first[name]["renewals"] for name, t in told.items()},
        "not_renewed": not_renewed(at_first, told, soak.kills["zygote"] + soak.kills["maker"]),
        "small_task_ms": {"p50": round(1e3 * (percentile(soak.latencies, 0.5) or 0), 2),
                          "p99": round(1e3 * (percentile(soak.latencies, 0.99) or 0), 2)},
        "hit_rate": {name: round(t["hits"] / max(1, t["hits"] + t["misses"]), 4) for name, t in told.items()},
        "peaks": {**soak.most, **{f"memory of the {who}": max((m[who] for _, m in soak.samples), default=0)
                                  for who in ("daemon", "spawner")}},
        "memory_growth_bytes": soak.growth(), "leaks": leaks, "dying_v1_cgroups": dying,
        "quarantines": len(re.findall(r"is in quarantine", said)), "audit": re.findall(r"audit: (?:box|stray) .*", said)[:5],
    }
    written = BINARIES.parent / "soak.json"
    written.write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + json.dumps(report, indent=1), file=sys.stderr)
    assert soak.faults == [] and report["wrong"] == [] and leaks == {}, report
    assert report["tasks"] > SECONDS and all(soak.kills[who] > 0 for who in ("clone", "init")), report
    if SECONDS >= LONG_SECONDS:
        assert soak.kills["zygote"] > 0 and soak.kills["maker"] > 0, report
        assert sum(report["renewals"].values()) > 0, report
    assert report["not_renewed"] == [] and all(t["state"] == "ready" for t in told.values()), report
    assert dying <= DYING_MAX and report["quarantines"] == 0 and report["audit"] == [], report
    assert all(grown <= GROWTH_BYTES_MAX for grown in report["memory_growth_bytes"].values()), report
    daemon.process.terminate()
    assert daemon.process.wait(60) == 0, daemon.said()
    assert daemon.processes_by_uid() == [] and daemon.cgroups() == []


def not_renewed(before, after, kills):
    """Templates that served so many tasks that some zygote was due, and had no renewal. Each kill may have ended a
    zygote just before it was due, or a successor."""
    def served(t):
        return t["hits"] + t["misses"]

    return [name for name, now in after.items() if now["renewals"] == before[name]["renewals"]
            and served(now) - served(before[name]) >= (kills + 2) * RENEW_CLONES[name]]


def left_over(before, after):
    """The differences from before; for things that the kernel frees later, only increases."""
    late = "dying cgroups"
    return {key: [before[key], after[key]] for key in before
            if (after[key] > before[key] if key == late else after[key] != before[key])}


def expected_cgroups(instance, daemon):
    """As many folders as there are once every pool is full and nothing else is there."""
    told = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
    full = all(t["parked"] == t["parkedTarget"] and t["stocked"] == t["stockedTarget"] and
               t["boxes"] == t["parked"] + t["stocked"] and t["zygotes"] == 1 for t in told)
    return sum(n for _, n in instance.snapshot()["cgroups"]) if full else -1
