"""Processes of Mayfly that hang (SIGSTOP, or a frozen cgroup): who sees it, within which time, and what is left.

docs/ARCHITECTURE.md, "Who watches whom", has the bounds that these tests hold.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import time
import uuid

import pytest

from test_lifecycle import (SECONDS_MAX, attempt, await_ends, await_that, begin, comm, daemons, family, helpers,  # noqa: F401
                            hold, read, slow, tasks, template_process)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")

ANSWER_SECONDS_MAX = 4  # of a zygote or maker that is asked for a process, and of an init
SERVED_SECONDS_MAX = ANSWER_SECONDS_MAX + 4  # and the next zygote's start and trial
SPAWNER_SECONDS_MAX = 7  # five periods of a second without an answer, and the one that had begun
FREEZER = pathlib.Path("/sys/fs/cgroup/freezer")  # of v1: not even SIGKILL ends what it has frozen
LARGE = "for i in range(200):\n open(f'/task/out/{i}', 'wb').write(bytes(1 << 20))"


stopped = []  # pidfds


@pytest.fixture(autouse=True)
def ends():
    """Nothing that a test stopped outlives it."""
    yield
    for fd in stopped:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    stopped.clear()


def stop(pid):
    stopped.append(os.pidfd_open(pid))
    os.kill(pid, signal.SIGSTOP)
    await_that(lambda: re.search(r"^State:\s+[Tt]", read(f"/proc/{pid}/status"), re.M), f"{pid} is stopped")


@contextlib.contextmanager
def frozen(pid):
    """As a process that waits in the kernel for ever: no signal ends it."""
    if not (FREEZER / "cgroup.procs").exists():
        pytest.skip("this host has no v1 freezer")
    folder = FREEZER / ("mayfly-test-" + uuid.uuid4().hex[:8])
    folder.mkdir()
    try:
        (folder / "cgroup.procs").write_text(str(pid))
        (folder / "freezer.state").write_text("FROZEN")
        await_that(lambda: "FROZEN" in (folder / "freezer.state").read_text(), f"{pid} is frozen")
        yield
    finally:
        (folder / "freezer.state").write_text("THAWED")
        await_that(lambda: not (folder / "cgroup.procs").read_text(), f"{pid} ends once it is thawed")
        await_that(lambda: not folder.exists() or not os.rmdir(folder), "the freezer's folder goes")


def catch_collector(daemon, act=stop):
    """Acts on the first collector that appears; its pid."""
    mine, spawner = daemon.uids(), daemon.spawner
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        for pid in read(f"/proc/{spawner}/task/{spawner}/children").split():
            uid = re.search(r"^Uid:\s+(\d+)", read(f"/proc/{pid}/status"), re.M)
            if comm(pid) == "mayfly-helper" and uid and int(uid[1]) in mine:
                act(int(pid))
                return int(pid)
    raise AssertionError("no collector appeared: " + daemon.said())


def collecting(daemon, tmp_path):
    return daemon.cli.start("run", "--json", "-t", "python", "--disk", "256MiB", "--memory", "512MiB", "--out-size", "256MiB",
                            "--out", tmp_path / "out", "-c", LARGE)


def alive(pid):
    return comm(pid) != "" and not re.search(r"^State:\s+Z", read(f"/proc/{pid}/status"), re.M)


# --- the collector ----------------------------------------------------------------------


def test_a_collector_that_hangs_is_ended_at_its_time_and_the_receipt_is_complete(daemons, tmp_path):
    daemon = daemons(templates=("python",), config='collect_time = "500ms"\n')
    client = collecting(daemon, tmp_path)
    collector = catch_collector(daemon)
    result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
    assert not alive(collector), "the receipt came before its end"
    assert result["verdict"] == "succeeded" and result["receipt"]["complete"], result
    took = (result["phases"]["receiptNs"] - result["phases"]["reapedNs"]) / 1e9
    assert 0.4 <= took <= 0.5 + 0.5 * slow(), took
    assert "quarantine" not in read(daemon.log), daemon.said()


@pytest.mark.parametrize("victim", ["spawner", "daemon"])
def test_a_collector_that_hangs_does_not_outlive_the_spawner(daemons, tmp_path, victim):
    daemon = daemons(templates=("python",), config='collect_time = "60s"\n')
    client = collecting(daemon, tmp_path)
    held = hold([catch_collector(daemon)])
    began = time.monotonic()
    os.kill(daemon.spawner if victim == "spawner" else daemon.pid, signal.SIGKILL)
    assert await_ends(held, began) <= 2 * slow()
    client.communicate(timeout=SECONDS_MAX)
    daemon.process.wait(SECONDS_MAX)


def test_a_stop_that_leaves_a_process_is_an_error_that_names_it(daemons, tmp_path):
    daemon = daemons(templates=("python",), config='collect_time = "500ms"\n')
    client = collecting(daemon, tmp_path)
    with contextlib.ExitStack() as stack:
        collector = catch_collector(daemon, lambda pid: stack.enter_context(frozen(pid)))
        result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
        assert not result["receipt"]["complete"], result
        daemon.process.terminate()
        assert daemon.process.wait(SECONDS_MAX) == 1, daemon.said()
        assert f"process {collector} (mayfly-helper, state " in daemon.said(), daemon.said()
        uids = daemon.uids()
        # It is seen dead before a start of this name, and no other daemon gets its uid.
        with pytest.raises(AssertionError):
            daemon.start()
        assert daemon.process.wait(SECONDS_MAX) == 1
        assert "an earlier daemon left can't be removed" in daemon.said(), daemon.said()
        other = daemons(templates=("python",))
        assert other.uids() != uids, other.said()
        assert other.cli.run("-c", "print(6*7)")["stdout"] == "42\n"
    daemon.start()
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"
    assert "audit: " not in read(daemon.log), "the sweep of an earlier daemon's remains is no finding"


# --- zygote, maker, init, clone ----------------------------------------------------------------


@pytest.mark.parametrize("word", ["/usr/lib/mayfly/zygote.py", "mayfly-maker"])
def test_a_zygote_or_maker_that_hangs_is_replaced_and_no_other_template_notices(daemons, word):
    daemon = daemons(config="parked_max = 0\nstocked_max = 0\n")
    [victim] = [p for p in helpers(daemon, word) if same_template(p, helpers(daemon, "/usr/lib/mayfly/zygote.py"))]
    running = begin(daemon, "print('up', flush=True)\nprint(input())", "--stdin")
    stop(victim)
    began = time.monotonic()
    waiting = [daemon.cli.start("run", "--json", "-t", "python", "-c", "print(6*7)") for _ in range(6)]
    while any(task.poll() is None for task in waiting):
        other = daemon.cli.run("-t", "shell", "--", "echo", "on")
        assert other["stdout"] == "on\n" and other["phases"]["startedNs"] - other["phases"]["queuedNs"] < 1e9 * slow(), other
    took = time.monotonic() - began
    for task in waiting:
        result = json.loads(task.communicate()[0])
        assert result.get("stdout") == "42\n" and result["receipt"]["complete"], (result, daemon.said())
    assert took <= SERVED_SECONDS_MAX * slow(), took
    assert not alive(victim)
    assert "did not answer within 4000 ms" in read(daemon.log), daemon.said()
    out, err = running.communicate(b"on\n", timeout=SECONDS_MAX)
    assert (running.returncode, out) == (0, b"on\n"), err  # a task that ran already
    await_that(lambda: not tasks(daemon) and not daemon.box_cgroups(), "every box frees its place")
    assert "quarantine" not in read(daemon.log), daemon.said()


def same_template(pid, others):
    """Whether the process is in the pid namespace of one of the others."""
    return os.readlink(f"/proc/{pid}/ns/pid") in {os.readlink(f"/proc/{p}/ns/pid") for p in others}


def test_a_template_whose_zygotes_always_hang_is_given_up(daemons):
    """The breaker counts them as deaths: the fourth within a minute."""
    daemon = daemons(templates=("python",), config="parked_max = 0\nstocked_max = 0\n")
    for _ in range(4):
        await_that(lambda: template("python", daemon)["state"] == "ready" and
                   helpers(daemon, "/usr/lib/mayfly/zygote.py"), "it serves")
        for victim in helpers(daemon, "/usr/lib/mayfly/zygote.py"):
            stop(victim)
        client = daemon.cli.start("run", "--json", "-c", "1")
        await_that(lambda: not alive(victim), "it is ended")
    result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
    assert template("python", daemon)["state"] == "unhealthy", daemon.said()
    assert "did not answer" in json.dumps(result), result


def template(name, daemon):
    return next(t for t in json.loads(daemon.cli("templates", "--json").stdout)["templates"] if t["name"] == name)


def test_an_init_that_hangs_before_its_box_stands_costs_that_box_only(daemons):
    daemon = daemons(templates=("python",), config="parked_max = 0\nstocked_max = 0\n")
    zygote = template_process(daemon, "/usr/lib/mayfly/zygote.py")
    for _ in range(100):  # until one is caught before its walls stand
        client = daemon.cli.start("run", "--json", "-c", "print(6*7)")
        caught = catch_young_init(daemon, client)
        began = time.monotonic()
        result = json.loads(client.communicate(timeout=SECONDS_MAX)[0])
        assert result.get("stdout") == "42\n" and result["receipt"]["complete"], (result, daemon.said())
        if caught and time.monotonic() - began >= ANSWER_SECONDS_MAX * 0.9:
            break
    else:
        pytest.fail("no init was caught early enough")
    await_that(lambda: not daemon.box_cgroups(), "its box is gone")
    assert template_process(daemon, "/usr/lib/mayfly/zygote.py") == zygote, "the zygote serves on"


def catch_young_init(daemon, client):
    """Stops the box's init as soon as it is seen."""
    spawner = daemon.spawner
    known = set(read(f"/proc/{spawner}/task/{spawner}/children").split())
    while client.poll() is None:
        for pid in set(read(f"/proc/{spawner}/task/{spawner}/children").split()) - known:
            if re.search(r"^NSpid:\s+\d+\s+\d+\s+1$", read(f"/proc/{pid}/status"), re.M):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGSTOP)
                    return True
    return False


# --- the spawner ------------------------------------------------------------------------------


def test_a_spawner_that_hangs_is_killed_with_all_it_made_and_no_task_is_told_a_falsehood(daemons):
    daemon = daemons(templates=("python",))
    waits = begin(daemon, "print('up', flush=True)\nimport time\ntime.sleep(600)", "--timeout", "1s")
    exits = begin(daemon, "print('up', flush=True)\nprint(input())", "--stdin", "--timeout", "3s")
    held = hold(family(daemon.pid))
    began = time.monotonic()
    stop(daemon.spawner)
    exits.stdin.write(b"done\n")  # it exits at once, and nobody sees that
    exits.stdin.flush()
    assert daemon.process.wait(SECONDS_MAX) == 1, daemon.said()
    took = await_ends(held, began)
    assert took <= (SPAWNER_SECONDS_MAX + 1) * slow(), took
    for task in (waits, exits):
        out, err = task.communicate(timeout=SECONDS_MAX)
        assert task.returncode == 125 and b"did not answer" in err and b"wall time" not in err, (out, err)
    last = daemon.said().strip().splitlines()[-1]
    assert "critical" in last and "the spawner did not answer within 5000 ms" in last, daemon.said()
    assert daemon.processes_by_uid() == []
    daemon.start()
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"


def test_a_spawner_that_hangs_for_a_while_costs_no_task_its_own_end(daemons):
    """Stopped for less than it takes to be seen: who had exited is told so, whoever ran on was killed at its wall time."""
    daemon = daemons(templates=("python",))
    waits = daemon.cli.start("run", "--json", "--timeout", "1s", "-c", "import time\ntime.sleep(600)")
    exits = daemon.cli.start("run", "--json", "--timeout", "1s", "-c", "import time\ntime.sleep(0.5)\nraise SystemExit(7)")
    await_that(lambda: [t["state"] for t in tasks(daemon)] == ["running"] * 2, "both run")
    stop(daemon.spawner)
    time.sleep(2)  # no event tells that both deadlines have passed
    os.kill(daemon.spawner, signal.SIGCONT)
    verdicts = [json.loads(task.communicate(timeout=SECONDS_MAX)[0]) for task in (waits, exits)]
    assert [(v["verdict"], v["exitCode"]) for v in verdicts] == [("wallTime", None), ("failed", 7)], verdicts
    assert all(v["receipt"]["complete"] for v in verdicts), verdicts
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"


def test_sigterm_ends_a_spawner_that_hangs(daemons):
    daemon = daemons(templates=("python",))
    held = hold(family(daemon.pid))
    began = time.monotonic()
    stop(daemon.spawner)
    daemon.process.terminate()
    assert daemon.process.wait(SECONDS_MAX) == 1, daemon.said()
    assert await_ends(held, began) <= 15 * slow()
    assert "the spawner did not" in daemon.said(), daemon.said()


# --- the audit -------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", ["10ms", "1s"])
def test_the_audit_tells_no_falsehood_about_the_remains_of_a_killed_spawner(daemons, tmp_path, walk):
    """Neither the daemon that loses it nor the next one, whose spawner removes what is left, finds anything."""
    daemon = daemons(config=f'audit_time = "{walk}"\nparked_max = 8\n')
    for _ in range(3):
        clients = [begin(daemon, "print('up', flush=True)\nimport time\ntime.sleep(600)") for _ in range(4)]
        clients.append(collecting(daemon, tmp_path))
        catch_collector(daemon, lambda pid: None)
        os.kill(daemon.spawner, signal.SIGKILL)
        assert daemon.process.wait(SECONDS_MAX) == 1, daemon.said()
        for client in clients:
            client.communicate(timeout=SECONDS_MAX)
        daemon.start()
        assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"
    assert re.findall("^.* (?:error|warning|warn) audit.*$", read(daemon.log), re.M) == [], daemon.said()
