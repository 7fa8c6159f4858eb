"""kill -9 of every part of a pool, in every phase of a box's life.

Each time: every task has one result, with the verdict that is right for it and a
whole receipt; the others lose nothing; the pool is full again; nothing is left.
"""

import contextlib
import json
import os
import random
import select
import signal
import sys
import time

import pytest

from pool_view import Rest, boxes, collectors, helper, idle, make_templates, tasks, templates
from test_lifecycle import Daemon, SECONDS_MAX, WAITING, await_ends, await_that, daemons, hold, read  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")

PARKED = 4
RANDOM_TRIES = int(os.environ.get("MAYFLY_KILL_TRIES", "60"))
RUN = ("-t", "pooled")
ANSWER = ("run", "--json", *RUN, "-c", "print(6*7)")


@pytest.fixture
def pool(daemons, tmp_path):  # noqa: F811
    """Returns a function that starts a daemon of one template and fills its pool to a given size."""

    def start(parked=PARKED, stocked=0, more="", **options):
        manifests = {"pooled": f"[pool]\nmin = {parked}\nmax = {parked}\n{more}"}
        config = f"parked_max = {parked}\nstocked_max = {stocked}\n"
        daemon = daemons(config=config, **make_templates(tmp_path, manifests), **options)
        return daemon, Rest(daemon, parked, stocked).await_full()

    return start


def kill(pid):
    """Kills it, if it lives, and waits for its death: an init that dies late takes a later task with it."""
    for _, fd in hold([pid]):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], SECONDS_MAX)[0], f"{pid} did not die"
        os.close(fd)


def result_of(client):
    out, err = client.communicate(timeout=SECONDS_MAX)
    try:
        return json.loads(out)
    except ValueError:
        raise AssertionError((client.returncode, out[-500:], err[-2000:])) from None


def check(result, verdict="succeeded", stdout="42\n"):
    shown = json.dumps(result)
    assert result.get("verdict") == verdict and result["receipt"]["complete"], shown
    if verdict == "succeeded":
        assert result["stdout"] == stdout, shown


def answers(daemon, count):
    for client in [daemon.cli.start(*ANSWER) for _ in range(count)]:
        check(result_of(client))


@contextlib.contextmanager
def stopped(pids):
    """Holds processes by SIGSTOP; at the end, continues those that still live."""
    held = hold(pids)
    assert len(held) == len(pids)
    for _, fd in held:
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
    try:
        yield
    finally:
        for _, fd in held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            os.close(fd)


# --- trials ---------------------------------------------------------------------------

def test_a_trial_whose_box_is_lost_before_it_starts_is_given_another(daemons, tmp_path):  # noqa: F811
    """The zygote is not to blame: it serves, and is the first one."""
    daemon = Daemon(daemons.folder, config="parked_max = 0\nstocked_max = 0\n", **make_templates(tmp_path, {"pooled": ""}))
    daemons.made.append(daemon)
    with open(os.devnull, "wb") as null:
        daemon.process = daemon.spawn(null.fileno())
    daemon.pid = daemon.process.pid
    with contextlib.ExitStack() as zygote:
        with stopped([helper(daemon, "maker")]):
            await_that(daemon.box_cgroups, "the trials' boxes are asked for")
            zygote.enter_context(stopped([helper(daemon, "zygote")]))
        made = await_that(lambda: len(b := boxes(daemon)) == 2 and b, "two boxes wait for a trial's clone")
        assert not any(box.clone for box in made.values())
        for box in made.values():
            kill(box.init)
    await_that(lambda: "template 'pooled' is ready" in daemon.said(), "the template is ready")
    assert "unfit" not in daemon.said() and "died" not in daemon.said(), daemon.said()
    check(daemon.cli.run(*RUN, "-c", "print(6*7)"))


# --- parked and stocked ---------------------------------------------------------------

@pytest.mark.parametrize("who", ["clone", "init"])
def test_each_parked_clone_killed_costs_the_next_task_nothing(pool, who):
    daemon, rest = pool()
    for nth in range(PARKED):
        box = idle(daemon)[0][nth]
        kill(getattr(box, who))
        check(daemon.cli.run(*RUN, "-c", "print(6*7)"))
        rest.await_full()
        assert box.id not in boxes(daemon)
    rest.check_books()


@pytest.mark.parametrize("who", ["clone", "init"])
def test_all_parked_clones_killed_at_once_cost_a_crowd_only_time(pool, who):
    daemon, rest = pool()
    for box in idle(daemon)[0]:
        kill(getattr(box, who))
    answers(daemon, PARKED * 3)
    rest.check_books()


def test_a_killed_stocked_box_is_replaced_with_and_without_a_task(pool):
    daemon, rest = pool(parked=0, stocked=1)
    [box] = idle(daemon)[1]
    kill(box.init)
    check(daemon.cli.run(*RUN, "-c", "print(6*7)"))
    rest.await_full()
    [box] = idle(daemon)[1]
    kill(box.init)
    await_that(lambda: [b for b in idle(daemon)[1] if b.id != box.id], "another is stocked, though nobody asked")
    rest.check_books()


@pytest.mark.parametrize("who", ["zygote", "maker", "pid1"])
def test_clones_parked_by_a_zygote_that_is_killed_get_no_task(pool, who):
    daemon, rest = pool(stocked=1)
    old = set(boxes(daemon))
    kill(helper(daemon, who))
    clients = [daemon.cli.start(*ANSWER) for _ in range(PARKED * 2)]
    results = [result_of(c) for c in clients]
    for result in results:
        check(result)
    said = await_that(lambda: "its zygote is restarted" in (s := read(daemon.log)) and s, "its death is told")
    # Tasks that were submitted before the daemon noticed may have got an old, intact clone.
    rest.await_full()
    assert old.isdisjoint(boxes(daemon)), said
    rest.check_books()


# --- in the making ------------------------------------------------------------------------

def test_inits_killed_while_their_boxes_are_made_cost_tasks_only_time(pool):
    """Holds the zygote: boxes are complete, or nearly so, and none has a clone."""
    daemon, rest = pool(parked=0)
    with stopped([helper(daemon, "zygote")]):
        clients = [daemon.cli.start(*ANSWER) for _ in range(3)]
        made = await_that(lambda: len(b := boxes(daemon)) == 3 and b, "three boxes wait for a clone")
        for box in made.values():
            kill(box.init)
    for client in clients:
        check(result_of(client))
    rest.check_books()


@pytest.mark.parametrize("nth", range(4))
def test_inits_killed_while_the_pool_is_filled_are_replaced(pool, nth):
    daemon, rest = pool()
    with stopped([helper(daemon, "zygote")]):
        kill(idle(daemon)[0][0].init)
        box = await_that(lambda: [b for b in idle(daemon)[1]], "its successor is in the making")[0]
        kill(box.init)
        if nth % 2:
            clients = [daemon.cli.start(*ANSWER) for _ in range(PARKED + 1)]
            await_that(lambda: len(tasks(daemon)) < PARKED + 1, "who found a clone is done")
    if nth % 2:
        for client in clients:
            check(result_of(client))
    rest.check_books()


# --- claimed, not started -------------------------------------------------------------------

def claimed(daemon):
    """The init of the box whose clone has the task but has not started it."""
    return next((t["pidHost"] for t in tasks(daemon) if t["state"] == "making" and t["pidHost"]), 0)


@pytest.mark.parametrize("who", ["clone", "init", "pid1"])
def test_a_clone_killed_with_a_task_in_its_hands_costs_the_task_only_time(pool, who):
    """Holds every parked clone, so that the claim stays unread in its channel."""
    daemon, rest = pool()
    with stopped([b.clone for b in idle(daemon)[0]]):
        client = daemon.cli.start(*ANSWER)
        init = await_that(lambda: claimed(daemon), "the task has a clone")
        [box] = [b for b in boxes(daemon).values() if b.init == init]
        kill(helper(daemon, who) if who == "pid1" else getattr(box, who))
        await_that(lambda: box.id not in boxes(daemon), "that box is gone")
    result = result_of(client)
    check(result)
    assert result["receipt"]["box"] != box.id
    rest.check_books()


@pytest.mark.parametrize("who", ["zygote", "maker"])
def test_a_claimed_clone_outlives_its_zygote_and_maker(pool, who):
    daemon, rest = pool()
    with stopped([b.clone for b in idle(daemon)[0]]):
        client = daemon.cli.start(*ANSWER)
        init = await_that(lambda: claimed(daemon), "the task has a clone")
        [box] = [b for b in boxes(daemon).values() if b.init == init]
        kill(helper(daemon, who))
        await_that(lambda: templates(daemon)["pooled"]["state"] != "ready", "its death is noticed")
    result = result_of(client)
    check(result)
    assert result["receipt"]["box"] == box.id
    rest.check_books()


def test_a_task_that_loses_three_claimed_clones_is_internal(pool):
    daemon, rest = pool()
    with stopped([b.clone for b in idle(daemon)[0]]):
        client = daemon.cli.start(*ANSWER)
        for _ in range(3):
            init = await_that(lambda: claimed(daemon), "the task has a clone")
            kill(init)
            await_that(lambda: claimed(daemon) != init, "that one is lost")
        result = result_of(client)
    check(result, "internal")
    assert client.returncode == 125 and result["phases"]["startedNs"] == 0, result
    rest.check_books()


@pytest.mark.parametrize("who", ["clone", "init"])
def test_a_clone_killed_while_it_copies_input_costs_the_task_only_time(pool, tmp_path, who):
    """A twentieth of a core copies 48 MiB for about a second: the kill comes during the copy."""
    daemon, rest = pool()
    file = tmp_path / "large"
    file.write_bytes(os.urandom(48 << 20))
    met = []
    while not met:  # on a busy machine the copy may be over when its box is found
        client = daemon.cli.start("run", "--json", *RUN, "--cpus", "0.05", "--file", file, "-c",
                                  "import os; print(os.path.getsize('large') >> 20)")
        init = await_that(lambda: claimed(daemon), "the task has a clone")
        met = [b for b in boxes(daemon).values() if b.init == init and claimed(daemon) == init]
        if not met:
            check(result_of(client), stdout="48\n")
    [box] = met
    kill(getattr(box, who))
    result = result_of(client)
    check(result, stdout="48\n")
    assert result["receipt"]["box"] != box.id
    rest.check_books()


# --- running, collecting, ending --------------------------------------------------------------

RUNNING = {"clone": "signaled", "init": "internal", "pid1": "internal", "zygote": "succeeded", "maker": "succeeded",
           "parked clone": "succeeded", "parked init": "succeeded"}


@pytest.mark.parametrize("who", RUNNING)
def test_who_is_killed_while_a_task_runs_decides_its_verdict(pool, who):
    daemon, rest = pool()
    client = daemon.cli.start("run", "--json", *RUN, "--stdin", "-c", WAITING)
    [task] = await_that(lambda: [t for t in tasks(daemon) if t["state"] == "running"], "the task runs")
    [box] = [b for b in boxes(daemon).values() if b.init == task["pidHost"]]
    if "parked" in who:
        for each in idle(daemon)[0]:
            kill(getattr(each, who.split()[1]))
    else:
        kill(getattr(box, who) if who in ("clone", "init") else helper(daemon, who))
    if RUNNING[who] == "succeeded":
        check(daemon.cli.run(*RUN, "-c", "print(6*7)"))  # beside it
        client.stdin.write(b"word\n")
        client.stdin.flush()
    result = result_of(client)
    check(result, RUNNING[who], stdout="up\ngot word\n\n")
    assert result["receipt"]["box"] == box.id
    if who == "clone":
        assert result["signal"] == signal.SIGKILL
    rest.check_books()


COLLECTED = 200 << 20


@pytest.mark.parametrize("who", ["collector", "zygote", "maker", "pid1", "parked"])
def test_who_is_killed_while_output_files_are_collected(pool, tmp_path, who):
    """Holds the collector amid 200 MiB; the task itself has already succeeded."""
    daemon, rest = pool()
    spawner, out = daemon.spawner, tmp_path
    code = f"import os\nos.makedirs('/task/out', exist_ok=True)\nopen('/task/out/f', 'wb').write(b'x' * {COLLECTED})\nprint(6*7)"
    for attempt in range(20):
        client = daemon.cli.start("run", "--json", *RUN, "--out", out / f"out-{attempt}", "--out-size", "256MiB", "-c", code)
        held = []
        while client.poll() is None and not held:
            held = hold(collectors(daemon, spawner))
            for _, fd in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGSTOP)
        if held and [t["state"] for t in tasks(daemon)] == ["ending"]:
            break
        check(result_of(client))
    else:
        raise AssertionError("no collector was seen in 20 tasks")
    [(collector, fd)] = held
    if who == "collector":
        kill(collector)
    elif who == "parked":
        for box in idle(daemon)[0]:
            kill(box.clone)
    else:
        kill(helper(daemon, who))
        await_that(lambda: templates(daemon)["pooled"]["state"] != "ready", "its death is noticed")
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, signal.SIGCONT)
    os.close(fd)
    result = result_of(client)
    check(result)
    if who == "collector":
        assert "collecting" in result["filesNote"], result
    else:
        assert (out / f"out-{attempt}" / "f").stat().st_size == COLLECTED, result
    rest.check_books()


# --- at random moments ---------------------------------------------------------------------------

KINDS = {  # name: (flags, code)
    "plain": ((), "print(6*7)"),
    "input": (("--file", "FILE"), "open('FILENAME', 'rb').read(); print(6*7)"),
    "output": (("--out", "OUT"), "import os\nos.makedirs('/task/out', exist_ok=True)\n"
               "open('/task/out/f', 'wb').write(b'x' * (4 << 20))\nprint(6*7)"),
    "children": ((), "import os\nfor _ in range(4): os.fork() or os._exit(0)\nprint(6*7)"),
    "failing": ((), "print(6*7)\nraise SystemExit(3)"),
}
VERDICT = {"failing": "failed"}
TEMPLATE_DEATHS_MAX = 3  # a minute: one more opens the breaker
DEATHS_WINDOW_S = 61


class Chaos:
    """Three tasks at a time, and one kill at a random moment."""

    def __init__(self, daemon, seed, folder):
        self.daemon, self.spawner, self.random, self.folder = daemon, daemon.spawner, random.Random(seed), folder
        self.deaths, self.hit = [], {}
        (folder / "input").write_bytes(os.urandom(4 << 20))

    def begin(self, nth):
        kind = self.random.choice(list(KINDS))
        flags, code = KINDS[kind]
        out = self.folder / f"out-{nth}"
        flags = [{"FILE": self.folder / "input", "OUT": out}.get(f, f) for f in flags]
        return kind, self.daemon.cli.start("run", "--json", *RUN, *flags, "-c", code.replace("FILENAME", "input"))

    def victim(self):
        """(kind, its box, pid) of a living process, or None."""
        now = time.monotonic()
        self.deaths = [d for d in self.deaths if now - d < DEATHS_WINDOW_S]
        collecting = collectors(self.daemon, self.spawner)
        kinds = ["clone", "init"] * 2 + ["collector"] * 4 * bool(collecting)
        if len(self.deaths) < TEMPLATE_DEATHS_MAX:
            kinds += ["zygote", "maker", "pid1"]
        what = self.random.choice(kinds)
        if what in ("clone", "init"):
            found = [(b.id, getattr(b, what)) for b in boxes(self.daemon).values() if getattr(b, what)]
        elif what == "collector":
            found = [(None, p) for p in collecting]
        else:
            found = [(None, helper(self.daemon, what))]
            self.deaths.append(now)
        return (what, *self.random.choice(found)) if found else None

    def once(self, nth):
        begun = [self.begin(f"{nth}-{i}") for i in range(3)]
        time.sleep(self.random.uniform(0, 0.08))  # no event marks all these moments
        victim = self.victim()
        if victim:
            kill(victim[2])
        for kind, client in begun:
            self.judge(kind, result_of(client), victim or ("nothing", None, 0))

    def judge(self, kind, result, victim):
        what, box, _ = victim
        shown = f"{kind}, killed: {victim}\n{json.dumps(result)}\n{self.daemon.said()}"
        assert "error" not in result and result["receipt"]["complete"], shown
        want, started = VERDICT.get(kind, "succeeded"), result["phases"]["startedNs"] != 0
        allowed = {want}
        # If the box dies after the task's start, the task ends; before, it gets another box.
        if what == "clone" and result["receipt"]["box"] == box and started:
            allowed.add("signaled")
        if (what == "init" and result["receipt"]["box"] == box or what == "pid1") and started:
            allowed.add("internal")
        assert result["verdict"] in allowed, shown
        if result["verdict"] == want:
            assert result["stdout"] == "42\n", shown
        where = "nothing there" if what == "nothing" else what if result["verdict"] == want else f"{what}: {result['verdict']}"
        self.hit[where] = self.hit.get(where, 0) + 1


@pytest.mark.parametrize("stocked", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_kills_at_random_moments_lose_no_task_and_leave_nothing(pool, tmp_path, stocked):
    """RANDOM_TRIES kills of random processes, each amid three tasks; every tenth time the pool fills."""
    daemon, rest = pool(parked=2, stocked=stocked)
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}", file=sys.stderr)
    chaos = Chaos(daemon, seed, tmp_path)
    for nth in range(RANDOM_TRIES // 2):
        chaos.once(nth)
        if nth % 10 == 9:
            rest.await_full()
    print(f"{RANDOM_TRIES // 2} kills amid {3 * (RANDOM_TRIES // 2)} tasks: {chaos.hit}", file=sys.stderr)
    rest.check_books()
