# Real tasks on a host where every controller is cgroup v2: doctor, one task for
# every verdict with its receipt, caps, dumps, and the leftovers afterwards.
import functools
import json
import pathlib
import re
import signal
import time

import guest_host
import guest_probes
from guest_base import kernel, read, wait_until
from guest_daemon import (CGROUP, HELD, LOG, SECONDS_MAX, Daemon, box_cgroups, expect, held_boxes,
                          mayfly, python, result_of, run, running_task, standing,
                          start_run)

MIB = 1 << 20
KILLED_SECONDS_MAX = 20  # a second on a machine; emulation is slower
daemon = None


def with_daemon(test):
    @functools.wraps(test)
    def wrapped():
        if not daemon or daemon.process.poll() is not None:
            raise AssertionError("no daemon runs")
        return test()
    return wrapped


def the_daemon_starts():
    global daemon
    daemon = ready_daemon()


def ready_daemon():
    made = Daemon()
    try:
        made.wait_ready()
    except BaseException:
        made.close()
        raise
    return made


def close():
    if daemon:
        daemon.close()


@with_daemon
def doctor_says_that_v2_is_in_force():
    said = mayfly("doctor").stdout
    for cap in ("cpu", "memory", "processes"):
        assert re.search(rf"^  {cap} +cgroup v2 +ok$", said, re.M), said
    assert not re.search(r"\bv1\b", said), said
    assert re.search(r"core dumps.*boxes dump none", said), said
    direct = "mounted straight from a file" in said
    assert direct == (kernel() >= (6, 12)), said


# --- one task per verdict ------------------------------------------------------

@with_daemon
def succeeded():
    result = expect(python("print(6*7)"), "succeeded")
    assert result["stdout"] == "42\n", result
    usage = result["usage"]
    assert usage["memoryPeakBytes"] > 0 and usage["processesPeak"] >= 1, usage
    assert usage["userCpuNs"] + usage["systemCpuNs"] > 0, usage
    phases = list(result["phases"].values())
    assert all(phases) and len(phases) == 10, result["phases"]


@with_daemon
def failed():
    assert expect(python("raise SystemExit(3)"), "failed")["exitCode"] == 3


@with_daemon
def signaled():
    result = expect(python("import os; os.kill(os.getpid(), 15)"), "signaled")
    assert result["signal"] == signal.SIGTERM, result


@with_daemon
def wall_time():
    result = expect(python("import time; time.sleep(600)", "--timeout", "2s"), "wallTime")
    assert result["usage"]["wallNs"] >= 2_000_000_000, result["usage"]


@with_daemon
def cpu_time():
    result = expect(python("while True: pass", "--cpu-time", "2s"), "cpuTime")
    used = result["usage"]["userCpuNs"] + result["usage"]["systemCpuNs"]
    assert used >= 1_900_000_000, result["usage"]


@with_daemon
def memory():
    result = expect(python("b=[]\nwhile True: b.append(b'x' * (1 << 20))", "--memory", "64MiB"),
                    "memory")
    assert result["usage"]["memoryPeakBytes"] <= 66 * MIB, result["usage"]


@with_daemon
def memory_that_a_child_eats():
    code = ("import os, time\n"
            "if os.fork() == 0:\n"
            "    b = []\n"
            "    while True: b.append(b'x' * (1 << 20))\n"
            "time.sleep(600)")
    expect(python(code, "--memory", "64MiB"), "memory")


@with_daemon
def memory_that_tmpfs_eats():
    code = ("f = open('/tmp/fill', 'wb')\n"
            "while True: f.write(b'x' * (1 << 20))")
    result = python(code, "--memory", "64MiB", "--disk", "200MiB")
    expect(result, "memory")


@with_daemon
def processes():
    code = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(600)"
    result = expect(python(code, "--pids", "16"), "processes")
    assert result["usage"]["processesPeak"] <= 16, result["usage"]


@with_daemon
def output():
    expect(python("while True: print('x' * 4096)", "--output", "64KiB"), "output")


@with_daemon
def disk():
    code = ("f = open('/tmp/fill', 'wb')\n"
            "for _ in range(64): f.write(b'x' * (1 << 20))\n"
            "import time; time.sleep(600)")
    expect(python(code, "--disk", "8MiB"), "disk")


@with_daemon
def cancelled():
    process = start_run("-t", "python", "-c", "import time; time.sleep(600)")
    mayfly("kill", running_task())
    expect(result_of(process), "cancelled")


@with_daemon
def client_gone():
    before = read(LOG)
    process = start_run("-t", "python", "-c", HELD + "import time; time.sleep(600)")
    wait_until("the task's box", held_boxes)
    process.kill()
    process.communicate()
    wait_until("the task's box is gone", lambda: not held_boxes())
    wait_until("the log's line of the verdict",
               lambda: re.search(r" template=python .* verdict=clientGone ", read(LOG)[len(before):]))


@with_daemon
def a_command_runs_in_an_exec_template():
    result = expect(run("-t", "shell", "--", "sh", "-c", "echo $((6*7)); exit 5"), "failed")
    assert (result["stdout"], result["exitCode"]) == ("42\n", 5), result


@with_daemon
def terminals():
    code = ("import os\n"
            "held = []\n"
            "try:\n"
            "    while True: held.append(os.openpty())\n"
            "except OSError as e: print(len(held), e.errno)\n"
            "os.write(held[7][0], b'typed\\n')\n"
            "print(os.read(held[7][1], 9), os.ttyname(held[7][1]), os.get_terminal_size(held[0][0]).columns)\n"
            "print([l.split(' - ')[1] for l in open('/proc/self/mountinfo') if 'devpts' in l])\n"
            "if os.fork() == 0:\n"
            "    os.login_tty(held[0][1])\n"
            "    os.write(os.open('/dev/tty', os.O_RDWR), os.ttyname(0).encode())\n"
            "    os._exit(0)\n"
            "os.wait()\n"
            "print(os.read(held[0][0], 99))")
    said = expect(python(code), "succeeded")["stdout"]
    assert said == ("8 28\nb'typed\\n' /dev/pts/7 0\n"
                    "['devpts devpts rw,mode=620,ptmxmode=666,max=8\\n']\nb'/dev/pts/0'\n"), said


# --- caps, cgroups and dumps ---------------------------------------------------

@with_daemon
def a_daemonised_child_dies_with_its_task():
    code = (HELD + "import os, signal, time\n"
            "for s in (1, 2, 13, 15): signal.signal(s, signal.SIG_IGN)\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0: time.sleep(600)\n"
            "    os._exit(0)\n")
    result = expect(python(code), "succeeded")
    assert not held_boxes(), held_boxes()
    assert result["phases"]["receiptNs"] - result["phases"]["exitedNs"] < 60e9, result["phases"]


@with_daemon
def a_task_sees_no_cgroup_file_and_only_its_own_root():
    code = ("import os\n"
            "print(open('/proc/self/cgroup').read().strip(), os.path.exists('/sys/fs/cgroup'))\n"
            "print([l for l in open('/proc/self/mountinfo') if 'cgroup' in l])")
    assert expect(python(code), "succeeded")["stdout"] == "0::/ False\n[]\n"


@with_daemon
def the_limits_stand_in_the_box_cgroup():
    process = start_run("-t", "python", "--memory", "96MiB", "--pids", "17", "--cpus", "0.5",
                        "-c", HELD + "import time; time.sleep(600)")
    task = running_task()
    try:
        [box] = wait_until("the task's box", held_boxes)
        found = {name: "?" for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
        for place in [CGROUP / box, *(CGROUP / box).glob("**/")]:
            for name in found:
                if (place / name).exists() and not read(place / name).startswith("max"):
                    found[name] = read(place / name).split()
        quota, period = map(int, found["cpu.max"])
        assert found["memory.max"] == [str(96 * MIB)], found
        assert quota * 2 == period, found
        assert found["pids.max"] == ["17"], found
        assert not pathlib.Path("/proc/swaps").read_text().count("\n") > 1 \
            or found["memory.swap.max"] == ["0"], found
    finally:
        mayfly("kill", task)
        expect(result_of(process), "cancelled")


@with_daemon
def a_crash_in_a_box_never_reaches_the_hosts_collector():
    code = ("import os, resource\n"
            "try: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\n"
            "except (ValueError, OSError): pass\n"
            "try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
            "except (ValueError, OSError): pass\n"
            "os.abort()")
    for text in ("import os; os.abort()", code):
        before = len(guest_host.cores())
        assert expect(python(text), "signaled")["signal"] == signal.SIGABRT
        control = guest_host.dump(-1)
        wait_until("the control's line", lambda: str(control) in [c[0] for c in guest_host.cores()])
        rows = guest_host.cores()[before:]
        assert [row[0] for row in rows] == [str(control)], rows


# --- the end -------------------------------------------------------------------

@with_daemon
def nothing_is_left_of_all_these_tasks():
    wait_until("no box has a task", lambda: len(box_cgroups()) == standing())
    assert json.loads(mayfly("ps", "--json").stdout)["tasks"] == []


@with_daemon
def daemon_stopping():
    process = start_run("-t", "python", "-c", "import time; time.sleep(600)")
    running_task()
    status = daemon.stop()
    expect(result_of(process), "daemonStopping")
    assert status == 0, status
    assert not mayfly_cgroups(), mayfly_cgroups()


def mayfly_cgroups():
    return sorted(str(p.relative_to(CGROUP)) for p in CGROUP.glob("mayfly/*/"))


def box_identities():
    """Of the folders: a later box may bear a former one's name."""
    return {(CGROUP / box).stat().st_ino for box in box_cgroups()}


def processes_of_boxes():
    """Processes whose uid lies in the range that Mayfly gives to boxes and templates."""
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            uid = int(re.search(r"^Uid:\s+(\d+)", status.read_text(), re.M).group(1))
        except (OSError, AttributeError):
            continue
        if uid >= 1 << 20:
            found.append(status.parent.name)
    return found


@with_daemon
def a_clone_is_restored():
    """Its snapshot was dumped by this kernel, at the daemon's start, and tried out in four clones."""
    [node] = [t for t in json.loads(mayfly("templates", "--json").stdout)["templates"] if t["name"] == "node"]
    assert node["state"] == "ready", node["stateText"][-1_000:]
    draws = {expect(run("-t", "node", "-c", "console.log(Math.random(), crypto.randomUUID())"), "succeeded")["stdout"] for _ in range(2)}
    assert len(draws) == 2, draws
    [made] = json.loads(mayfly("snapshot", "list", "--json").stdout)
    assert made["template"] == "node" and made["in_use"], made
    return f"{made['bytes'] >> 20} MiB, made in {made['built_ms'] / 1000:.1f} s"


def a_killed_daemon_leaves_no_process_and_the_next_sweeps():
    global daemon
    daemon = ready_daemon()
    client = start_run("-t", "python", "-c", "import time; time.sleep(600)")
    running_task()
    assert processes_of_boxes()
    before = box_identities()
    began = time.monotonic()
    daemon.stop(signal.SIGKILL)
    wait_until("no process is left", lambda: not processes_of_boxes(), KILLED_SECONDS_MAX)
    gone = time.monotonic() - began
    client.communicate(timeout=SECONDS_MAX)
    daemon = ready_daemon()
    assert before.isdisjoint(box_identities()), box_cgroups()
    expect(python("print(1)"), "succeeded")
    return f"all gone after {gone:.2f} s"


def tests(mode):
    listed = [
        the_daemon_starts, doctor_says_that_v2_is_in_force,
        succeeded, failed, signaled, wall_time, cpu_time, memory, processes, output, disk, cancelled,
        terminals, client_gone, a_crash_in_a_box_never_reaches_the_hosts_collector,
        a_daemonised_child_dies_with_its_task, a_task_sees_no_cgroup_file_and_only_its_own_root,
        the_limits_stand_in_the_box_cgroup]
    probes = [guest_probes.probes_of_cgroups_and_dumps_reach_nothing_and_bombs_end_by_their_caps]
    if mode == "full":
        listed += [memory_that_a_child_eats, memory_that_tmpfs_eats,
                   a_command_runs_in_an_exec_template, a_clone_is_restored]
        probes = [guest_probes.every_probe_reaches_nothing_and_every_bomb_ends_by_its_cap,
                  guest_probes.mixed_tasks_leave_nothing]
    listed += [with_daemon(probe) for probe in probes]
    listed += [nothing_is_left_of_all_these_tasks, daemon_stopping]
    if mode == "full":
        listed.append(a_killed_daemon_leaves_no_process_and_the_next_sweeps)
    return [(f"task.{test.__name__}", test) for test in listed]

