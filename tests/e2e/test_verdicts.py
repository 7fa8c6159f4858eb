"""P2: every verdict, with its cap named; none can be forged, none is given for another's fault."""

import json
import os
import signal

import pytest

PHASES = ["queued", "box", "boxReady", "clone", "claimed", "started", "firstByte", "exited", "reaped", "receipt"]
MIB = 1 << 20


def python(mayfly, code, *flags, **kwargs):
    return mayfly.run("-t", "python", *flags, "-c", code, **kwargs)


def check_sound(result):
    """Checks the invariants of every result of a task that ran."""
    receipt, phases, usage, limits = (result[k] for k in ("receipt", "phases", "usage", "limits"))
    assert receipt["complete"] and receipt["missing"] == "" and receipt["box"] > 0
    for point in ("reapedNs", "unpopulatedNs", "fdsClosedNs", "cgroupsGoneNs", "uidFreeNs"):
        assert receipt[point] >= phases["exitedNs"] > 0, point
    times = [(name, phases[name + "Ns"]) for name in PHASES]
    reached = [(name, at) for name, at in times if not (name == "firstByte" and at == 0)]
    assert all(at > 0 for _, at in reached), times
    if phases["firstByteNs"] == 0:
        assert usage["stdoutBytes"] == usage["stderrBytes"] == 0
    # A byte that was written before the end may be read after it.
    order = [at for name, at in reached if name != "firstByte"]
    assert order == sorted(order), times
    assert phases["firstByteNs"] == 0 or phases["firstByteNs"] >= phases["startedNs"]
    assert usage["wallNs"] == phases["exitedNs"] - phases["startedNs"]
    cpu = usage["userCpuNs"] + usage["systemCpuNs"]
    assert 0 < cpu <= (os.cpu_count() + 1) * (phases["reapedNs"] - phases["boxReadyNs"])
    assert 0 < usage["memoryPeakBytes"] <= limits["memoryBytes"]
    assert 0 <= usage["processesPeak"] <= limits["processes"] + 2
    return result


def check_cap(result, verdict, cap, words):
    check_sound(result)
    assert result["verdict"] == verdict, result["reason"]
    assert result["capValue"] == result["limits"][cap], result["reason"]
    assert words in result["reason"]
    assert result["exitCode"] is None and result["signal"] is None


# --- the task's own ends -------------------------------------------------------------


def test_succeeded(mayfly):
    result = check_sound(python(mayfly, "print(6*7)"))
    assert (result["verdict"], result["exitCode"], result["signal"]) == ("succeeded", 0, None)
    assert (result["stdout"], result["stderr"], result["capValue"]) == ("42\n", "", 0)
    assert result["usage"]["stdoutBytes"] == 3
    assert result["phases"]["firstByteNs"] <= result["phases"]["reapedNs"]


def test_succeeded_without_a_word(mayfly):
    result = check_sound(python(mayfly, ""))
    assert result["verdict"] == "succeeded" and result["phases"]["firstByteNs"] == 0


@pytest.mark.parametrize("code", [1, 3, 124, 125, 126, 127, 130, 137, 255])
def test_failed_with_any_code_is_the_tasks_own(mayfly, code):
    result = check_sound(mayfly.run("-t", "shell", "--", "sh", "-c", f"exit {code}"))
    assert (result["verdict"], result["exitCode"], result["capValue"]) == ("failed", code, 0)
    assert str(code) in result["reason"]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGXCPU", "SIGXFSZ", "SIGSYS"])
def test_signaled_by_itself_is_no_cap(mayfly, name):
    result = check_sound(mayfly.run("-t", "shell", "--", "bash", "-c", f"ulimit -c 0; kill -{name} $$"))
    assert (result["verdict"], result["signal"]) == ("signaled", getattr(signal, name))
    assert name in result["reason"] and result["capValue"] == 0 and result["exitCode"] is None


def test_usage_counts_what_was_used(mayfly):
    code = ("import sys, threading, os\n"
            "x = bytearray(b'x') * (60 << 20)\n"
            "e = threading.Event()\n"
            "t = [threading.Thread(target=e.wait) for _ in range(9)]\n"
            "for each in t: each.start()\n"
            "e.set()\n"
            "while sum(os.times()[:2]) < 0.3: pass\n"
            "sys.stdout.write('o' * 1000); sys.stderr.write('e' * 500)\n"
            "open('/tmp/f', 'wb').write(bytes(1 << 20))\n")
    usage = check_sound(python(mayfly, code))["usage"]
    assert 0.25e9 <= usage["userCpuNs"] + usage["systemCpuNs"] <= 5e9
    assert usage["wallNs"] >= 0.2e9
    assert 60 * MIB <= usage["memoryPeakBytes"] <= 100 * MIB
    assert (usage["stdoutBytes"], usage["stderrBytes"]) == (1000, 500)
    assert usage["diskBytes"] >= MIB and usage["diskInodes"] >= 1


def test_processes_peak_counts_all_of_them(mayfly):
    code = ("import os, time\n"
            "r, w = os.pipe()\n"
            "for _ in range(9):\n"
            "  if os.fork() == 0: os.close(w); os.read(r, 1); os._exit(0)\n"
            "os.close(w)\n"
            "for _ in range(9): os.wait()\n")
    # v1 has no peak: it is sampled, so at least the task itself is counted.
    peak = check_sound(python(mayfly, code))["usage"]["processesPeak"]
    assert 1 <= peak <= 12


# --- caps ----------------------------------------------------------------------------


def test_wall_time(mayfly):
    result = python(mayfly, "import time; print('up', flush=True); time.sleep(600)", "--timeout", "300ms")
    check_cap(result, "wallTime", "wallTimeMs", "300 ms")
    assert result["limits"]["wallTimeMs"] == 300
    assert 0.3e9 <= result["usage"]["wallNs"] <= 20e9


def test_wall_time_of_a_task_that_stops_itself(mayfly):
    check_cap(python(mayfly, "import os; os.kill(os.getpid(), 19)", "--timeout", "200ms"),
              "wallTime", "wallTimeMs", "200 ms")


CPU_TIME = {
    "itself": "while True: pass",
    "threads": "import threading\nfor _ in range(3): threading.Thread(target=lambda: exec('while True: pass')).start()",
    "a child": "import os\nif os.fork() == 0:\n  while True: pass\nos.wait()",
    "a grandchild in its own session": (
        "import os, signal, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    for s in range(1, 32):\n      if s not in (9, 19, 17): signal.signal(s, signal.SIG_IGN)\n"
        "    while True: pass\n  os._exit(0)\ntime.sleep(600)"),
    "many short children": "import os\nwhile True:\n  if os.fork() == 0: sum(range(300000)); os._exit(0)\n  os.wait()",
    "the kernel, for it": "import os\nz = os.open('/dev/zero', 0)\nb = bytearray(1 << 20)\nwhile True: os.readv(z, [b])",
}


@pytest.mark.parametrize("who", CPU_TIME)
def test_cpu_time(mayfly, who):
    result = python(mayfly, CPU_TIME[who], "--cpu-time", "300ms")
    check_cap(result, "cpuTime", "cpuTimeMs", "300 ms")
    used = result["usage"]["userCpuNs"] + result["usage"]["systemCpuNs"]
    # The specification's worst overshoot: 10 ms on each core and one quota period.
    assert 0.3e9 <= used <= 0.3e9 + (0.01 + 0.1) * 1e9 * os.cpu_count() + 0.2e9, used


MEMORY = {
    "itself": "b=[]\nwhile True: b.append(b'x' * (1 << 20))",
    "a child": ("import os\nif os.fork() == 0:\n  b=[]\n  while True: b.append(b'x' * (1 << 20))\nos.wait()\n"
                "import time; time.sleep(600)"),
    "a child, its parent ending well": (
        "import os\nif os.fork() == 0:\n  b=[]\n  while True: b.append(b'x' * (1 << 20))\nos.wait()\nprint('fine')"),
    "tmpfs": "f=open('/tmp/f','wb')\nwhile True: f.write(b'x'*65536)",
    "/dev/shm": "f=open('/dev/shm/f','wb')\nwhile True: f.write(b'x'*65536)",
    "memfd": "import os\nf=os.memfd_create('x')\nwhile True: os.write(f, b'x'*65536)",
    "shared memory": "import mmap\nb=[]\nwhile True:\n  m=mmap.mmap(-1, 1<<20); m.write(b'x'*(1<<20)); b.append(m)",
    "many children": (
        "import os, time\nfor _ in range(40):\n  if os.fork() == 0:\n    b = b'x' * (3 << 20); time.sleep(600)\n"
        "time.sleep(600)"),
}


@pytest.mark.parametrize("eater", MEMORY)
def test_memory(mayfly, eater):
    # The disk's cap is above the memory's, so that memory ends it.
    result = python(mayfly, MEMORY[eater], "--memory", "48MiB", "--disk", "256MiB", "--pids", "64")
    check_cap(result, "memory", "memoryBytes", "48")
    assert result["limits"]["memoryBytes"] == 48 * MIB
    assert result["usage"]["memoryPeakBytes"] >= 40 * MIB


def test_page_cache_of_the_image_is_no_cause(mayfly):
    """Reading much more than the memory cap is no failure: clean pages go away."""
    code = ("import os\nn = 0\nfor d, _, names in os.walk('/usr'):\n  for name in names:\n    p = os.path.join(d, name)\n"
            "    if os.path.isfile(p) and not os.path.islink(p):\n"
            "      with open(p, 'rb') as f:\n        while (b := f.read(65536)): n += len(b)\n"
            "print(n)")
    result = check_sound(python(mayfly, code, "--memory", "32MiB"))
    assert result["verdict"] == "succeeded", result["reason"]
    assert int(result["stdout"]) > 40 * MIB


PROCESSES = {
    "fork": "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(600)",
    "fork, in all": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "threads": ("import threading\ne = threading.Event()\nwhile True:\n  try: threading.Thread(target=e.wait, daemon=True).start()\n"
                "  except RuntimeError: pass"),
    "a task that then ends well": (
        "import os, time\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(600)\nexcept OSError: print('refused')"),
    "double fork": ("import os, time\nwhile True:\n  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n"
                    "    os._exit(0)\n  os.wait()"),
}


@pytest.mark.parametrize("way", PROCESSES)
def test_processes(mayfly, way):
    result = python(mayfly, PROCESSES[way], "--pids", "12")
    check_cap(result, "processes", "processes", "12 processes")
    assert result["limits"]["processes"] == 12
    assert result["usage"]["processesPeak"] >= 10


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output(mayfly, stream):
    result = python(mayfly, f"import sys\nwhile True: sys.{stream}.write('x' * 4096)", "--output", "64KiB")
    check_cap(result, "output", "outputBytes", "64")
    assert result["limits"]["outputBytes"] == 65536
    assert len(result[stream]) == 65536 and set(result[stream]) == {"x"}
    other = "stderr" if stream == "stdout" else "stdout"
    assert result[other] == ""


def test_output_up_to_the_cap_is_no_cause(mayfly):
    code = "import sys; sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)"
    result = check_sound(python(mayfly, code, "--output", "64KiB"))
    assert result["verdict"] == "succeeded", result["reason"]
    assert (len(result["stdout"]), len(result["stderr"])) == (65536, 65536)


def test_output_by_a_child_after_the_task_is_over(mayfly):
    """A descendant that holds the pipes and floods them adds nothing and delays nothing."""
    code = ("import os, time\nif os.fork() == 0:\n  os.setsid()\n  while True: os.write(1, b'x' * 4096)\n"
            "print('end', flush=True)")
    result = check_sound(python(mayfly, code, "--output", "8MiB"))
    assert result["verdict"] in ("succeeded", "output")  # the task itself decides which comes first
    assert result["usage"]["wallNs"] < 30e9


DISK = {
    "a file": "f=open('/tmp/f','wb',0)\nwhile True:\n  try: f.write(b'x'*65536)\n  except OSError: pass",
    "many files": ("n=0\nwhile True:\n  try:\n    with open(f'/task/{n}','wb',0) as f: f.write(b'x'*65536)\n    n+=1\n"
                   "  except OSError: pass"),
    "a task that then ends well": ("f=open('/tmp/f','wb',0)\ntry:\n  while True: f.write(b'x'*65536)\n"
                                   "except OSError as e: print(e.errno)"),
    "/dev/shm": "f=open('/dev/shm/f','wb',0)\nwhile True:\n  try: f.write(b'x'*65536)\n  except OSError: pass",
    "/run": "f=open('/run/f','wb',0)\nwhile True:\n  try: f.write(b'x'*65536)\n  except OSError: pass",
    "an unlinked file": ("import os\nf=open('/tmp/f','wb',0); os.unlink('/tmp/f')\nwhile True:\n"
                         "  try: f.write(b'x'*65536)\n  except OSError: pass"),
}


@pytest.mark.parametrize("way", DISK)
def test_disk_bytes(mayfly, way):
    result = python(mayfly, DISK[way], "--disk", "4MiB")
    check_cap(result, "disk", "diskBytes", "4")
    assert result["limits"]["diskBytes"] == 4 * MIB
    # Held at death: an unlinked file is freed with its last holder.
    assert result["usage"]["diskBytes"] <= 4 * MIB
    assert way == "an unlinked file" or result["usage"]["diskBytes"] >= 4 * MIB - 8192


@pytest.mark.parametrize("maker", ["open(f'/tmp/{n}','w').close()", "os.mkdir(f'/task/{n}')", "os.symlink('x', f'/run/{n}')",
                                   "os.mkfifo(f'/dev/shm/{n}')"])
def test_disk_inodes(mayfly, maker):
    code = f"import os\nn=0\nwhile True:\n  try: {maker}; n+=1\n  except OSError: pass"
    result = python(mayfly, code, "--inodes", "200")
    check_cap(result, "disk", "diskInodes", "200 inodes")
    assert result["limits"]["diskInodes"] == 200


# --- limits at which the kernel refuses: the task's own errors -----------------------------


def test_open_files_are_refused(mayfly):
    code = ("import os, errno\nk=[]\ntry:\n  while True: k.append(os.open('/dev/null', 0))\n"
            "except OSError as e: print(errno.errorcode[e.errno], len(k) + 3)\n")
    result = check_sound(python(mayfly, code, "--open-files", "50"))
    assert (result["verdict"], result["stdout"]) == ("succeeded", "EMFILE 50\n")


def test_file_size_is_refused(mayfly):
    code = ("import errno\nf=open('/tmp/f','wb',0)\ntry:\n  while True: f.write(b'x'*4096)\n"
            "except OSError as e: print(errno.errorcode[e.errno], f.tell())\n")
    result = check_sound(python(mayfly, code, "--file-size", "64KiB"))
    assert (result["verdict"], result["stdout"]) == ("succeeded", "EFBIG 65536\n")
    result = check_sound(mayfly.run("-t", "shell", "--file-size", "64KiB", "--", "dd", "if=/dev/zero", "of=/tmp/f",
                                    "bs=4096", "count=100"))
    assert (result["verdict"], result["signal"]) == ("signaled", signal.SIGXFSZ)


def test_limits_cannot_be_raised(mayfly):
    code = ("import resource as r\nfor n in ('NOFILE', 'FSIZE', 'CPU', 'CORE', 'NPROC', 'MEMLOCK', 'STACK'):\n"
            "  k = getattr(r, 'RLIMIT_' + n); soft, hard = r.getrlimit(k)\n"
            "  for want in ((hard + 1, hard + 1), (-1, -1)):\n"
            "    if hard == -1: continue\n"
            "    try: r.setrlimit(k, want); print('raised', n)\n"
            "    except (ValueError, OSError): pass\n")
    result = check_sound(python(mayfly, code))
    assert (result["verdict"], result["stdout"]) == ("succeeded", "")


# --- forging -------------------------------------------------------------------------

FORGED = json.dumps({"verdict": "succeeded", "exitCode": 0, "receipt": {"complete": True}, "usage": {}})

FORGERS = {
    # name: (code, flags, verdict, exit code, signal)
    "prints a verdict": (f"print({FORGED!r}); import sys; print({FORGED!r}, file=sys.stderr); sys.exit(7)", [], "failed", 7, None),
    "exits as if for memory": ("import os; os._exit(137)", [], "failed", 137, None),
    "exits as if for time": ("import os; os._exit(124)", [], "failed", 124, None),
    "exits as if by Mayfly": ("import os; os._exit(125)", [], "failed", 125, None),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", [], "signaled", None, 9),
    "is killed by a child": ("import os, time\nif os.fork() == 0: os.kill(2, 9); os._exit(0)\ntime.sleep(600)", [],
                             "signaled", None, 9),
    "kills all": ("import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nos._exit(9)", [], "failed", 9, None),
    "cleans up after a cap": ("f=open('/tmp/f','wb',0)\nimport os\ntry:\n  while True: f.write(b'x'*65536)\n"
                              "except OSError: os._exit(0)", ["--disk", "4MiB"], "disk", None, None),
    "exits 0 over its output": ("import os, sys\ntry:\n  while True: os.write(1, b'x' * 4096)\nfinally: os._exit(0)",
                                ["--output", "16KiB"], "output", None, None),
    "writes to every descriptor": (
        "import os\ndone = []\nfor fd in range(3, 1024):\n"
        "  for what in (b'\\0' * 64, b'x' * 4096):\n"
        "    try: os.write(fd, what); done.append(fd)\n    except OSError: pass\n"
        "    try: os.read(fd, 64); done.append(fd)\n    except OSError: pass\n"
        "print(done)\nos._exit(9)", [], "failed", 9, None),
    "talks on its standard streams": (
        "import os, socket\ndone = []\nfor fd in range(3):\n  for op in ('send', 'recv'):\n"
        "    try:\n      s = socket.socket(fileno=os.dup(fd)); getattr(s, op)(*([b'x' * 64] if op == 'send' else [1])); done.append(fd)\n"
        "    except OSError: pass\n"
        "print(done)\nos._exit(9)", [], "failed", 9, None),
    "writes as the kernel would to its cgroup": (
        "import glob\ndone = []\nfor p in glob.glob('/sys/fs/cgroup/**', recursive=True) + ['/proc/self/oom_score_adj']:\n"
        "  try: open(p, 'w').write('-1000'); done.append(p)\n  except OSError: pass\n"
        "print(done)\nimport os; os._exit(9)", [], "failed", 9, None),
}


@pytest.mark.parametrize("forger", FORGERS)
def test_forging(mayfly, forger):
    code, flags, verdict, exit_code, number = FORGERS[forger]
    result = check_sound(python(mayfly, code, *flags))
    assert (result["verdict"], result["exitCode"], result["signal"]) == (verdict, exit_code, number), result["reason"]
    if forger.startswith(("writes", "talks")):
        assert result["stdout"] == "[]\n"


def test_the_first_cause_wins(mayfly):
    """Neither output after the kill at the wall time, nor the kill's signal, changes the verdict."""
    code = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    result = python(mayfly, code, "--timeout", "200ms", "--output", "3")
    check_cap(result, "wallTime", "wallTimeMs", "200 ms")


# --- errors before any box --------------------------------------------------------------

BAD_CAPS = [(flag, value) for flag in ("--memory", "--cpus", "--wall-time", "--cpu-time", "--pids", "--open-files",
                                       "--file-size", "--disk", "--inodes", "--output", "--input", "--out-size",
                                       "--out-files")
            for value in ("0", "-1", "", "nonsense", "1e3", "99999999999999999999999", "inf", "nan", "0x10", "1 2")]
ABOVE = {"--memory": "100TiB", "--cpus": "10000", "--wall-time": "100000h", "--cpu-time": "100000h", "--pids": "1000000",
         "--open-files": "10000000", "--file-size": "100TiB", "--disk": "100TiB", "--inodes": "1000000000",
         "--output": "100TiB", "--input": "100TiB", "--out-size": "100TiB", "--out-files": "10000000"}


def refused(mayfly, flag, value):
    done = mayfly("run", "-t", "python", f"{flag}={value}", "-c", "print('ran')")
    assert done.returncode == 125 and done.stdout == b"", (flag, value, done)
    said = done.stderr.decode()
    assert said.startswith("mayfly: ") and "box" not in said, (flag, value, said)
    return said


@pytest.mark.parametrize("flag", ABOVE)
def test_caps_of_nonsense_are_refused(mayfly, flag):
    for name, value in BAD_CAPS:
        if name == flag:
            refused(mayfly, flag, value)


@pytest.mark.parametrize("flag", ABOVE)
def test_a_cap_above_the_maximum_is_refused_and_both_are_named(mayfly, flag):
    said = refused(mayfly, flag, ABOVE[flag])
    assert "maximum" in said, said


def test_refusals_are_typed_and_touch_no_box(mayfly):
    refusals = 40  # more than the boxes that are stocked and parked meanwhile
    first = python(mayfly, "")["receipt"]["box"]
    for flags in (("--memory", "100TiB"),) * refusals + (["--memory", "100TiB"], ["--pids", "1000000"], ["--env", "A=1", "--env", "A=2"]):
        done = mayfly("run", "--json", "-t", "python", *flags, "-c", "1")
        error = json.loads(done.stdout)["error"]
        assert done.returncode == 125 and error["code"] == "invalidArgument" and error["message"]
    assert python(mayfly, "")["receipt"]["box"] < first + refusals


def test_a_box_that_cannot_be_prepared_is_never_the_tasks_failure(mayfly, tmp_path):
    """From the lowest memory cap up: a typed refusal, `internal`, the memory cap, or a running task. Never `failed`."""
    seen = {}
    for memory in ("4KiB", "64KiB", "1MiB", "2MiB", "3MiB", "4MiB", "5MiB", "6MiB", "8MiB", "12MiB", "16MiB"):
        done = mayfly("run", "--json", "-t", "python", "--memory", memory, "-c", "print(6*7)")
        result = json.loads(done.stdout)
        if "error" in result:
            assert result["error"]["code"] in ("invalidArgument", "internal"), (memory, result)
            seen[memory] = result["error"]["code"]
            continue
        assert result["receipt"]["complete"], (memory, result)
        seen[memory] = result["verdict"]
        if result["phases"]["startedNs"] == 0:
            assert result["verdict"] in ("internal", "memory"), (memory, result)
            assert result["reason"], (memory, result)
        else:
            assert result["verdict"] in ("memory", "succeeded"), (memory, result)
    assert seen["4KiB"] == "invalidArgument" and seen["16MiB"] == "succeeded", seen


def test_input_that_fills_a_cap_is_refused_and_what_just_fits_runs(mayfly, tmp_path):
    blob = tmp_path / "blob"
    for size, disk, fits in ((MIB, "1MiB", False), (MIB - 4096, "1MiB", True), (MIB + 1, "1MiB", False)):
        blob.write_bytes(bytes(size))
        done = mayfly("run", "--json", "--disk", disk, "--file", blob, "-c", "print(6*7)")
        result = json.loads(done.stdout)
        assert fits == (result.get("verdict") == "succeeded"), (size, result)
        assert fits or result["error"]["code"] == "invalidArgument"
    # Half of the memory may be files; the rest suffices for the task's start.
    blob.write_bytes(bytes(8_000_000))
    assert python(mayfly, "print(6*7)", "--memory", "16MiB", "--file", blob)["verdict"] == "succeeded"


def test_least_inodes_and_processes_leave_room_for_a_task_or_say_no(mayfly):
    for flags in (["--pids", "1"], ["--inodes", "1"], ["--inodes", "10"], ["--disk", "4KiB"], ["--open-files", "1"],
                  ["--open-files", "3"], ["--cpu-time", "1ms"], ["--timeout", "1ms"], ["--output", "1"], ["--cpus", "0.001"]):
        done = mayfly("run", "--json", "-t", "python", *flags, "-c", "pass")
        result = json.loads(done.stdout)
        if "error" in result:
            assert result["error"]["code"] == "invalidArgument", (flags, result)
        else:
            assert result["verdict"] in ("succeeded", "processes", "disk", "cpuTime", "wallTime"), (flags, result["reason"])
            assert result["receipt"]["complete"]
