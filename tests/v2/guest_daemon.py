# A daemon of our own inside the guest, and the command line that speaks to it.
import json
import os
import pathlib
import signal
import subprocess

from guest_base import read, wait_until

MAYFLYD = "/share/bin/mayflyd"
MAYFLY = "/share/bin/mayfly"
LOG = "/run/mayflyd.log"
SOCKET = "/run/v2.sock"
SECONDS_MAX = 300  # one command; software emulation is 10 to 30 times slower than a machine
CGROUP = pathlib.Path("/sys/fs/cgroup")


class Daemon:
    """mayflyd with its defaults except instance and socket; close() ends it."""

    def __init__(self, instance="v2", socket=SOCKET):
        self.socket = socket
        self.log = open(LOG, "ab")
        self.log_begin = len(read(LOG))
        self.process = subprocess.Popen(
            [MAYFLYD, "--instance", instance, "--socket", socket, "--templates", "/share/repo/templates",
             "--log-level", "debug"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def wait_ready(self):
        def ready():  # by the log: a command costs a second of the emulated processor
            assert self.process.poll() is None, f"mayflyd ended:\n{read(LOG)[-4000:]}"
            said = read(LOG)[self.log_begin:]
            return all(f"template '{name}' is ready" in said for name in ("python", "shell"))
        wait_until("templates python and shell are ready", ready, SECONDS_MAX)
        states = {t["name"]: t["state"] for t in json.loads(mayfly("templates", "--json").stdout)["templates"]}
        assert states["python"] == states["shell"] == "ready", states

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(SECONDS_MAX)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def environment():
    return {**os.environ, "MAYFLY_SOCKET": SOCKET}


def mayfly(*arguments, check=True, text=None):
    done = subprocess.run([MAYFLY, *arguments], capture_output=True, text=True, input=text,
                          timeout=SECONDS_MAX, env=environment())
    if check:
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start_run(*arguments):
    return subprocess.Popen([MAYFLY, "run", "--json", *arguments], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment())


def result_of(process):
    out, err = process.communicate(timeout=SECONDS_MAX)
    try:
        return json.loads(out)
    except ValueError:
        raise AssertionError(f"no JSON result; exit {process.returncode}\n{out}\n{err}\n"
                             f"{read(LOG)[-3000:]}") from None


def run(*arguments):
    """`mayfly run --json ...`: the result, whatever the verdict."""
    return result_of(start_run(*arguments))


def python(code, *flags):
    return run("-t", "python", *flags, "-c", code)


def expect(result, verdict):
    """The verdict is this one and the receipt proves that nothing is left."""
    shown = json.dumps(result, indent=1)[-3000:]
    assert result["verdict"] == verdict, f"verdict {result['verdict']}, not {verdict}\n{shown}"
    receipt = result["receipt"]
    assert receipt["complete"] is True and not receipt["missing"], shown
    for point in ("reapedNs", "unpopulatedNs", "fdsClosedNs", "cgroupsGoneNs", "uidFreeNs"):
        assert receipt[point] > 0, f"{point} is not proven\n{shown}"
    return result


def box_cgroups():
    """Cgroups of the present boxes."""
    return sorted(str(p.relative_to(CGROUP)) for p in CGROUP.glob("mayfly/*/t*/b*") if p.is_dir())


# First line of a task's code: its box is found by this name among the parked ones.
HELD = "import ctypes; ctypes.CDLL(None).prctl(15, b'held', 0, 0, 0)\n"  # PR_SET_NAME


def held_boxes():
    """Cgroups of boxes in which a process bears the name."""
    found = []
    for box in box_cgroups():
        for folder, _, _ in os.walk(CGROUP / box):  # a cgroup that is removed meanwhile is skipped
            try:
                pids = pathlib.Path(folder, "cgroup.procs").read_text().split()
                if any(pathlib.Path(f"/proc/{pid}/comm").read_text() == "held\n" for pid in pids):
                    found.append(box)
            except OSError:  # it ended
                pass
    return found


def standing():
    listing = json.loads(mayfly("templates", "--json").stdout)["templates"]
    return sum(t["boxes"] for t in listing)


def running_task():
    """The id of the one task that runs, once it does."""
    def one():
        tasks = json.loads(mayfly("ps", "--json").stdout)["tasks"]
        return [t["id"] for t in tasks if t["state"] == "running"]
    [task] = wait_until("a running task", one, SECONDS_MAX)
    return str(task)
