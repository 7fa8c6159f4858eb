"""Templates with faults of every kind: each is refused with the fault named, and other templates go on.

One daemon serves them all, beside one that is right. They share one image, whose only
preload does what its zygote's argument tells.
"""

import json
import os
import pathlib
import select
import shutil
import subprocess
import threading
import time

import pytest

from light import light
from pool_view import boxes, helpers, make_templates, templates
from support import CLI
from test_lifecycle import BINARIES, SECONDS_MAX, Daemon, await_that, pids_inside, read

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root")

FOLDER = "/usr/local/lib/python3.13/dist-packages"
START_SECONDS_MAX = 300  # all of them, four times each, with sanitizers on a busy machine
QUICK = '[zygote]\nstart_time = "1s"\n'
SMALL = '[zygote]\nmemory = "96MiB"\n'

NO = "import builtins, ctypes\ndef no(*words, **more): raise OSError('no')\n"

# kind: (what the preload does, the words that the template's state text must have, more of the
# manifest)
FAULTS = {
    "hang": ("import time; time.sleep(600)", "did not serve within", QUICK),
    "hang-busy": ("while True: pass", "did not serve within", QUICK),
    "segfault": ("import ctypes; ctypes.string_at(8)", "zygote was killed by signal 11", ""),
    "abort": ("os.abort()", "zygote was killed by signal 6", ""),
    "exit": ("os._exit(7)", "zygote exited with 7", ""),
    "exception": ("1 / 0", "preload 'culprit' failed: ZeroDivisionError: division by zero", ""),
    "memory": ("keep = [bytearray(os.urandom(1 << 20)) for _ in range(256)]", "memory cap of its zygote", SMALL),
    "thread": ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
               "preload 'culprit' started a thread", ""),
    "socket": ("import socket; keep = socket.socket()", "preload 'culprit' opened a socket", ""),
    "child": ("import subprocess; keep = subprocess.Popen(['sleep', '600'])", "preload 'culprit' left a child process", ""),
    "descriptor": ("keep = open('/etc/passwd')", "preload 'culprit' left descriptor 5 open: /etc/passwd", ""),
    "shared": ("import mmap; keep = mmap.mmap(-1, 4096)", "preload 'culprit' left writable shared memory", ""),
    "timer": ("import signal; signal.setitimer(signal.ITIMER_REAL, 1000)", "preload 'culprit' set a timer", ""),
    "timer-cpu": ("import signal; signal.setitimer(signal.ITIMER_PROF, 1000)", "preload 'culprit' set a timer", ""),
    "timer-posix": ("import ctypes; ctypes.CDLL(None).timer_create(1, None, ctypes.byref(ctypes.c_void_p()))",
                    "preload 'culprit' set a timer", ""),
    "timer-fd": ("import ctypes; ctypes.CDLL(None).timerfd_create(1, 0)",
                 "preload 'culprit' left descriptor 5 open: anon_inode:[timerfd]", ""),
    "canary-memory": ("word = 'MAYFLY-CANARY' + '-0123456789abcdef'", "unfit: the daemon's canary is in its memory", ""),
    # Its memory holds the word as well, so the look there is switched off and the other look has to
    # find it.
    "canary-env": ("import builtins\ntrue_open = open\ndef blind(name, *words, **more):\n"
                   "  return true_open('/dev/null' if name == '/proc/self/maps' else name, *words, **more)\n"
                   "os.register_at_fork(after_in_child=lambda: setattr(builtins, 'open', blind))",
                   "unfit: the daemon's canary is in its environment",
                   '[task.env]\nSECRET = "MAYFLY-CANARY-0123456789abcdef"\n'),
    "differs": ("os.register_at_fork(after_in_child=lambda: sys.path.append(os.urandom(4).hex()))",
                "unfit: two clones differ in sys.path", ""),
    "alike": ("import random\nos.register_at_fork(after_in_child=lambda: random.seed(1))",
              "unfit: two clones have the same random.random", ""),
    "rehearsal": (NO + "builtins.compile = no", "the rehearsal failed: OSError: no", ""),
    "rehearsal-clone": (NO + "os.register_at_fork(after_in_child=lambda: setattr(ctypes, 'create_string_buffer', no))",
                        "step 'rehearsal'", ""),
}
# Serves: an allocator of its own, which relies on zeros after MADV_DONTNEED.
OWN_MEMORY = "import mmap\nkeep = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nkeep[:] = b'x' * len(keep)"
# Serves, and dies at its memory cap some clones later.
LEAKS = "keep = []\nos.register_at_fork(before=lambda: keep.append(bytearray(os.urandom(1 << 20)) * 16))"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Builds one image for all templates; returns the folder that their manifests are written to."""
    folder = tmp_path_factory.mktemp("bad")
    culprit = "import os, sys\nDO = {}\n".format({**{k: f[0] for k, f in FAULTS.items()}, "leaks": LEAKS,
                                            "own-memory": OWN_MEMORY})
    culprit += "exec(DO.get(sys.argv[1] if len(sys.argv) > 1 else '', ''))\n"
    bad = folder / "templates/bad"
    shutil.copytree(light()["template_dirs"][0] / "python", bad)
    (bad / "culprit.py").write_text(culprit)
    manifest = (bad / "manifest.toml").read_text()
    for old, new in (('name = "python"\n', 'name = "bad"\n'), ("preload = []\n", 'preload = ["culprit"]\n'),
                     ("[image.files]\n", f'[image.files]\n"{FOLDER}/culprit.py" = "culprit.py"\n')):
        assert manifest.count(old) == 1, manifest
        manifest = manifest.replace(old, new)
    (bad / "manifest.toml").write_text(manifest)
    subprocess.run([CLI, "template", "build", "bad", "--templates", str(bad.parent), "--state-dir", str(folder / "built"),
                    "--runtime-dir", str(BINARIES)], check=True, capture_output=True, timeout=900)
    # The sound template: the same image, without an argument.
    make_templates(folder, {"good": "[pool]\nmin = 1\nmax = 1\n"}, base="bad", image=folder / "built/index/bad.json")
    return folder


def manifests(kinds, more):
    """Writes the templates, each with its own argument for the zygote."""
    made = {}
    for kind in kinds:
        zygote = f'argv = ["/usr/bin/python3", "/usr/lib/mayfly/zygote.py", "{kind}"]\n'
        text = more.get(kind, "")
        made[kind] = text.replace("[zygote]\n", "[zygote]\n" + zygote) if "[zygote]" in text else text + "[zygote]\n" + zygote
    return made


def serve(image, folder, kinds, more):
    options = make_templates(image, manifests(kinds, more), base="bad", image=image / "built/index/bad.json")
    return Daemon(folder, **{**options, "templates": (*options["templates"], "good")})


@pytest.fixture(scope="module")
def run_dir():
    folder = pathlib.Path("/run") / f"mayfly-test-bad-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


class Neighbour(threading.Thread):
    """Runs tasks on the sound template all the while, and leaves the processors some time."""

    def __init__(self, daemon):
        super().__init__()
        self.daemon_of_tasks, self.done, self.bad, self.over = daemon, 0, [], threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            result = json.loads(self.daemon_of_tasks.cli("run", "--json", "-t", "good", "-c", "print(6*7)").stdout)
            if result.get("stdout") == "42\n" and result["receipt"]["complete"]:
                self.done += 1
            else:
                self.bad.append(result)

    def end(self):
        self.over.set()
        self.join()
        assert not self.bad and self.done > 0, (self.done, json.dumps(self.bad))


@pytest.fixture(scope="module")
def served(image, run_dir):
    daemon = serve(image, run_dir, FAULTS, {kind: fault[2] for kind, fault in FAULTS.items()})
    ready, theirs = os.pipe()
    daemon.process = daemon.spawn(theirs)
    os.close(theirs)
    daemon.pid = daemon.process.pid
    try:
        await_that(lambda: "template 'good' is ready" in read(daemon.log), "the one that is right is ready", START_SECONDS_MAX)
        neighbour = Neighbour(daemon)
        neighbour.start()
        began = time.monotonic()
        with open(ready, "rb", buffering=0) as pipe:  # until the daemon has given up all other templates
            told = select.select([pipe], [], [], START_SECONDS_MAX)[0]
            left = [name for name, t in templates(daemon).items() if t["state"] != ("ready" if name == "good" else "unhealthy")]
            neighbour.end()
            said = [line for line in read(daemon.log).splitlines() if any(f"'{name}'" in line for name in left)]
            assert told and pipe.read(16) == b"ready\n" and not left, "\n".join([str(left), *said])
        print(f"{len(FAULTS)} templates given up in {time.monotonic() - began:.1f} s, "
              f"{neighbour.done} tasks of the neighbour meanwhile")
        yield daemon
    finally:
        daemon.end()


@pytest.mark.parametrize("kind", FAULTS)
def test_a_broken_template_is_refused_and_its_fault_named(served, kind):
    listed = templates(served)[kind]
    assert listed["state"] == "unhealthy", listed
    text = listed["stateText"]
    assert FAULTS[kind][1] in text, text
    assert "died 4 times " in text, text  # within 60 s, or, on a slow machine, before it served
    assert f"template '{kind}' is unhealthy" in read(served.log)
    assert listed["boxes"] == listed["parked"] == listed["stocked"] == 0
    # The breaker is open: a client hears so at once, with the fault and the time to try again.
    began = time.monotonic()
    done = served.cli("run", "--json", "-t", kind, "-c", "print(1)")
    assert time.monotonic() - began < SECONDS_MAX
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 125 and error["code"] == "unavailable", error
    assert FAULTS[kind][1] in error["message"] and 0 < error["retryAfterMs"] <= 300_000, error


def test_broken_templates_leave_nothing_and_the_right_one_serves_on(served):
    assert templates(served)["good"]["state"] == "ready"
    assert "template 'good' is starting: " not in read(served.log)  # its zygote never died
    await_that(lambda: all(len(list(top.glob("t[0-9]*"))) == 1 for top in served.cgroups()),
               "cgroups of one template are left, in each hierarchy")
    owners = {b.template for b in boxes(served).values()}
    assert len(owners) == 1
    ours = [p for p, _ in served.processes_by_uid() if p != served.pid and len(pids_inside(p)) == 2]
    assert len(ours) == 3, [read(f"/proc/{p}/cmdline") for p in ours]  # a pid 1, a maker and a zygote
    for _ in range(5):
        assert served.cli.run("-t", "good", "-c", "print(6*7)")["stdout"] == "42\n"
    assert len(helpers(served, "zygote.py")) == 1


def test_a_zygote_that_leaks_with_every_clone_costs_its_own_tasks_only(image, run_dir):
    """It dies at its memory cap again and again. Its tasks get results until the breaker opens, the neighbour's always."""
    daemon = serve(image, run_dir, ["leaks"], {"leaks": '[zygote]\nmemory = "160MiB"\n[pool]\nmin = 1\nmax = 1\n'})
    try:
        daemon.start()
        neighbour = Neighbour(daemon)
        neighbour.start()
        verdicts, began = [], time.monotonic()
        while time.monotonic() - began < SECONDS_MAX:
            result = json.loads(daemon.cli("run", "--json", "-t", "leaks", "-c", "print(6*7)").stdout)
            if "error" in result:
                assert result["error"]["code"] == "unavailable", result
                break
            verdicts.append(result["verdict"])
            assert result["verdict"] in ("succeeded", "internal") and result["receipt"]["complete"], result
            if result["verdict"] == "internal":  # the fourth death: the task waited, and hears the cause
                assert "unhealthy" in result["reason"] and result["phases"]["startedNs"] == 0, result
        neighbour.end()
        assert verdicts.count("succeeded") >= 8 and verdicts.count("internal") <= 1, verdicts
        listed = templates(daemon)["leaks"]
        assert listed["state"] == "unhealthy" and "memory cap of its zygote" in listed["stateText"], listed
        print(f"{len(verdicts)} tasks before the breaker opened, {neighbour.done} of the neighbour")
    finally:
        daemon.end()


SHARED = """
import culprit, mmap, sys
assert culprit.keep[:] == b'x' * len(culprit.keep)
culprit.keep.madvise(mmap.MADV_DONTNEED)
assert not any(culprit.keep[:])
# The interpreter's arenas, libc's heap, and the data from before anything was loaded.
shared = [[int(end, 16) for end in line.split()[0].split('-')] for line in open('/proc/self/maps') if 'zygote (deleted)' in line]
for each in (sys, culprit, culprit.DO, sys.modules['json'].loads.__code__):
    assert any(begin <= id(each) < end for begin, end in shared), each
print('shared')
"""


def test_a_librarys_own_memory_is_zero_where_it_counts_on_that(image, run_dir):
    """A zygote never shares memory with its clones that another allocator manages."""
    daemon = serve(image, run_dir, ["own-memory"], {})
    try:
        daemon.start()
        result = daemon.cli.run("-t", "own-memory", "-c", SHARED)
        assert result["stdout"] == "shared\n", result
    finally:
        daemon.end()
