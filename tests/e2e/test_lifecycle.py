"""The ends of daemon, spawner, zygote and client: nothing is left behind, nothing else is touched.

Each test starts its own daemons (own instance, own run directory).
"""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time
import uuid

import pytest

from light import light
from support import CLI, Mayfly, RUN

TOP = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(CLI).parent
STATE_DIR = os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly")
SECONDS_MAX = 60  # of a wait for an event
LOOKS_APART_SECONDS_MAX = 0.3
# docs/SPECIFICATION.md: everything that a killed daemon or spawner leaves is gone within a second.
GONE_SECONDS_MAX = 1
UIDS_OF_A_SLOT = 64 * 65536

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


def read(path):
    """The content of a file, with the fewest calls: it reads /proc thousands of times."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    parts = []
    try:
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="replace")


def parent_of(pid):
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def family(pid):
    parents = {each: parent_of(each) for each in all_pids()}
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        ahead += [child for child, parent in parents.items() if parent == one]
    return found


def comm(pid):
    return read(f"/proc/{pid}/comm").strip()


def await_that(condition, what, seconds_max=SECONDS_MAX, pause_s=0.01):
    deadline = time.monotonic() + seconds_max
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        assert now < deadline, f"{what}: not within {seconds_max} s"
        # A look that takes long, such as one at every process, leaves the processors to the daemon for twice that time.
        select.select([], [], [], max(pause_s, min(2 * (now - began), LOOKS_APART_SECONDS_MAX)))
        pause_s = min(pause_s * 1.2, max(pause_s, 0.05))  # an event that takes long is not polled all the time


def slow():
    """The factor for time limits while the machine is busy with other work."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


class Daemon:
    """A mayflyd of the test's own, seen from outside."""

    def __init__(self, folder, instance=None, config="", templates=("python", "shell"), state_dir=STATE_DIR,
                 template_dirs=(TOP / "templates",), prefix=(), **popen):
        self.instance = instance or f"t-{RUN}-{uuid.uuid4().hex[:6]}"
        self.run_dir = pathlib.Path(folder)
        self.socket = str(self.run_dir / (self.instance + ".sock"))
        self.log = self.run_dir / (self.instance + ".log")
        self.config = self.run_dir / (self.instance + ".toml")
        self.config.write_text(config)
        self.templates = templates
        self.state_dir = state_dir
        self.template_dirs = template_dirs
        self.prefix = prefix  # a command that executes the daemon
        self.popen = popen
        self.process = None
        self.cli = Mayfly(self.socket)

    def spawn(self, ready_fd, pass_fds=()):
        command = [*self.prefix, str(BINARIES / "mayflyd"), "--config", str(self.config), "--instance", self.instance,
                   "--socket", self.socket, "--run-dir", str(self.run_dir), "--state-dir", self.state_dir,
                   "--ready-fd", str(ready_fd)]
        for folder in self.template_dirs:
            command += ["--templates", str(folder)]
        for template in self.templates:
            command += ["--template", template]
        options = dict(self.popen)
        pass_fds = (ready_fd, *pass_fds, *options.pop("pass_fds", ()))
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    pass_fds=pass_fds, **options)

    def start(self):
        ready, theirs = os.pipe()
        self.process = self.spawn(theirs)
        os.close(theirs)
        with open(ready, "rb", buffering=0) as pipe:
            assert select.select([pipe], [], [], SECONDS_MAX)[0], self.said()
            assert pipe.read(16) == b"ready\n", self.said()
        self.pid = self.process.pid
        return self

    def said(self):
        return read(self.log)[-4000:]

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process and self.process.returncode != 0:
            self.sweep()
        refused = re.findall("^.*refused itself the system call.*$", read(self.log), re.M)
        assert not refused, f"the list in src/app/system_calls.cc lacks a call: {refused}"

    def sweep(self):
        """What the next start of the name would do after a killed spawner: removes empty cgroups."""
        for top in self.cgroups():
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    @property
    def instance_state(self):
        """What the instance keeps across its runs."""
        return pathlib.Path(self.state_dir) / "instances" / self.instance

    @property
    def spawner(self):
        [pid] = [p for p in family(self.pid) if comm(p) == "mayfly-spawner"]
        return pid

    def cgroups(self):
        found = []
        for line in read("/proc/self/mountinfo").splitlines():
            fields = line.split()
            if fields[fields.index("-") + 1] in ("cgroup", "cgroup2"):
                top = pathlib.Path(fields[4]) / "mayfly" / self.instance
                if top.is_dir():
                    found.append(top)
        return found

    def box_cgroups(self):
        return [p for top in self.cgroups() for p in top.glob("t*/b*")]

    def box_inodes(self):
        """Identifies boxes: the numbers of boxes start again with each daemon."""
        return {p.stat().st_ino for p in self.box_cgroups()}

    def uids(self):
        """This daemon's uids on the host; its own is the first of the last range."""
        own = int(re.findall(r"as uid (\d+)", read(self.log))[-1])
        return range(own - UIDS_OF_A_SLOT + 65536, own + 65536)

    def processes_by_uid(self):
        """Without those of other daemons: once this one has ended, its uids are free for them."""
        mine, found = self.uids(), []
        for pid in all_pids():
            status = re.search(r"^State:\s+(\S).*^Uid:\s+(\d+)", read(f"/proc/{pid}/status"), re.M | re.S)
            if status and status[1] != "Z" and int(status[2]) in mine:
                found.append((pid, comm(pid)))
        # Looked up after the processes, because a daemon may start in between.
        return [(pid, name) for pid, name in found if not self.is_anothers(pid) and comm(pid)]

    def is_anothers(self, pid):
        while pid > 1:
            if pid != self.pid and comm(pid) == "mayflyd":
                return True
            pid = parent_of(pid)
        return False


@pytest.fixture
def daemons(tmp_path_factory):
    """A function that starts daemons, with light templates by default; they end with the test."""
    made = []
    folder = pathlib.Path("/run") / ("mayfly-test-" + uuid.uuid4().hex[:8])
    folder.mkdir(mode=0o755)

    def start(**options):
        daemon = Daemon(folder, **({} if "state_dir" in options or "template_dirs" in options else light()), **options)
        made.append(daemon)
        return daemon.start()

    start.folder = folder
    start.made = made
    yield start
    with contextlib.ExitStack() as all_end:
        all_end.callback(subprocess.run, ["rm", "-rf", str(folder)], check=True)
        for daemon in made:
            all_end.callback(subprocess.run, ["rm", "-rf", str(daemon.instance_state)], check=True)
            all_end.callback(daemon.end)


# A task that does everything to stay alive; it prints "up" when all of that is in place.
CLINGING = r"""
import os, signal, time
def ignore():
    for s in range(1, 65):
        try: signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError): pass
r, w = os.pipe()
if os.fork() == 0:                       # daemonised, deaf, in its own session
    os.setsid()
    if os.fork() == 0:
        ignore()
        if os.fork() == 0:               # and a stopped one below it
            os.write(w, b'1')
            os.kill(os.getpid(), signal.SIGSTOP)
        os.write(w, b'1')
        while True: time.sleep(600)
    os._exit(0)
if os.fork() == 0:                       # one that is busy
    os.write(w, b'1')
    while True: pass
n = 0
while n < 3: n += len(os.read(r, 3))
ignore()
print('up', flush=True)
while True: time.sleep(600)
"""
WAITING = "import sys\nprint('up', flush=True)\nprint('got', sys.stdin.readline())"


def begin(daemon, code, *flags, up=b"up\n"):
    """Starts a task with the command line and waits until it runs."""
    client = daemon.cli.start("run", "-t", "python", *flags, "-c", code)
    line = client.stdout.readline()
    if line != up:
        client.kill()
        raise AssertionError((line, client.communicate()[1][-2000:], daemon.said()))
    return client


def abandon(*clients):
    for client in clients:
        client.kill()
        client.communicate()


def await_ends(pids_and_fds, began):
    """Seconds until every process is gone; pidfds keep their pids from being confused with new ones."""
    poll = select.poll()
    waiting = {}
    for pid, fd in pids_and_fds:
        poll.register(fd, select.POLLIN)
        waiting[fd] = pid
    while waiting:
        ended = poll.poll(SECONDS_MAX * 1000)
        assert ended, [(pid, comm(pid), read(f"/proc/{pid}/status")[:200]) for pid in waiting.values()]
        for fd, _ in ended:
            poll.unregister(fd)
            os.close(fd)
            del waiting[fd]
    return time.monotonic() - began


def hold(pids):
    held = []
    for pid in pids:
        try:
            held.append((pid, os.pidfd_open(pid)))
        except ProcessLookupError:
            pass
    return held


def kill_and_watch(daemon, victim):
    held = hold(family(daemon.pid))
    assert len(held) > 12, [comm(pid) for pid, _ in held]
    bound = GONE_SECONDS_MAX * slow()
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    took = await_ends(held, began)
    assert took <= bound, f"{took:.2f} s"
    # Nor any process that was made meanwhile.
    assert daemon.processes_by_uid() == []


def test_killed_daemon_leaves_nothing(daemons):
    daemon = daemons()
    clients = [begin(daemon, CLINGING) for _ in range(3)]
    assert len(daemon.processes_by_uid()) >= 15
    assert daemon.cgroups()
    kill_and_watch(daemon, daemon.pid)
    assert daemon.process.wait(SECONDS_MAX) == -signal.SIGKILL
    await_that(lambda: daemon.cgroups() == [], "the instance's cgroups are removed")
    for client in clients:
        out, err = client.communicate(timeout=SECONDS_MAX)
        assert client.returncode == 125 and err.startswith(b"mayfly: "), err
    # The name, the socket and the uids can be used again at once.
    assert Daemon.start(daemon).cli.run("-c", "print(6*7)")["stdout"] == "42\n"


def test_killed_spawner_leaves_nothing_and_ends_the_daemon(daemons):
    daemon = daemons()
    clients = [begin(daemon, CLINGING) for _ in range(3)]
    kill_and_watch(daemon, daemon.spawner)
    assert daemon.process.wait(SECONDS_MAX) not in (0, None)
    last = daemon.said().strip().splitlines()[-1]
    assert "critical" in last and "spawner" in last, daemon.said()
    for client in clients:
        out, err = client.communicate(timeout=SECONDS_MAX)
        assert client.returncode == 125 and b"mayfly: " in err, err
    # The daemon may not touch cgroups, so the next start removes them.
    left = daemon.box_inodes()
    Daemon.start(daemon)
    assert not left & daemon.box_inodes()
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"
    daemon.end()
    assert daemon.cgroups() == []


@pytest.mark.parametrize("moment", range(4))
def test_killed_daemon_leaves_nothing_at_any_moment(daemons, moment):
    """The kill comes after `moment` results, while boxes are made and ended."""
    daemon = daemons()
    script = f"i=0; while :; do {daemon.cli.command()[0]} run -q -t shell -- true || exit; echo $i; i=$((i+1)); done"
    clients = [subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                env=daemon.cli.environment) for _ in range(3)]
    for _ in range(moment * 2 + 1):
        for client in clients:
            assert client.stdout.readline(), daemon.said()
    victim = daemon.spawner if moment % 2 else daemon.pid
    held = hold([daemon.pid, daemon.spawner])
    bound, began = GONE_SECONDS_MAX * slow(), time.monotonic()
    os.kill(victim, signal.SIGKILL)
    await_ends(held, began)
    await_that(lambda: daemon.processes_by_uid() == [], "no process with a uid of the instance")
    took = time.monotonic() - began
    assert took <= bound, f"{took:.2f} s"
    for client in clients:
        client.communicate(timeout=SECONDS_MAX)
    daemon.process.wait(SECONDS_MAX)
    left = daemon.box_inodes()
    Daemon.start(daemon)
    assert not left & daemon.box_inodes()
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"


@pytest.mark.parametrize("who", ["daemon", "spawner"])
def test_two_daemons_never_touch_each_other(daemons, who):
    one, other = daemons(), daemons()
    task = begin(other, WAITING, "--stdin")
    doomed = begin(one, CLINGING)
    assert one.uids().stop <= other.uids().start or other.uids().stop <= one.uids().start
    before = {pid for pid, _ in other.processes_by_uid()}
    kill_and_watch(one, one.pid if who == "daemon" else one.spawner)
    one.process.wait(SECONDS_MAX)
    abandon(doomed)
    # A third daemon with the dead one's name removes its leftovers, not the neighbour's.
    Daemon.start(one)
    assert before <= {pid for pid, _ in other.processes_by_uid()}
    assert len(other.box_cgroups()) >= 1
    out, err = task.communicate(b"word\n", timeout=SECONDS_MAX)
    assert (task.returncode, out) == (0, b"got word\n\n"), err
    assert other.process.poll() is None


def test_a_tasks_end_is_one_line_of_the_log_without_its_input_and_output(daemons):
    daemon = daemons()
    result = daemon.cli.run("--tenant", 'a"b', "--env", "WORD=secret-input", "-c",
                            "import os\nprint(os.environ['WORD'][::-1])\nraise SystemExit(3)")
    assert result["stdout"] == "tupni-terces\n" and result["exitCode"] == 3
    [line] = await_that(lambda: re.findall(r"^.* info (task id=.*)$", read(daemon.log), re.M), "it is told")
    told = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line))
    assert {key: told[key] for key in ("id", "template", "mechanism", "user", "tenant", "verdict", "stdout", "stderr")} == {
        "id": str(result["id"]), "template": "python", "mechanism": "fork", "user": "uid:0", "tenant": r'"a\"b"',
        "verdict": "failed", "stdout": "13", "stderr": "0"}
    assert float(told["whole_ms"]) >= float(told["run_ms"]) > 0 and int(told["memory_peak"]) > 0, line
    assert "secret" not in read(daemon.log) and "terces" not in read(daemon.log)


WITHIN = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
words = [word.encode() or None for word in sys.argv[2:]]
fd = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
def must(result):
    if result != 0: raise OSError(ctypes.get_errno(), sys.argv)
must(libc.setns(fd, 0x20000))
if len(words) == 1:
    must(libc.umount2(words[0], 0))
    if words[0].startswith(b"/img/"): os.rmdir(words[0])
else:
    os.makedirs(words[1], exist_ok=True)
    must(libc.mount(words[0], words[1], words[2], 0 if words[2] else 4096, None))
"""


def in_namespace_of(pid, *words):
    """Mounts (source, target, type; no type: a bind mount) or unmounts (target) there."""
    subprocess.run([sys.executable, "-c", WITHIN, str(pid), *words], check=True)


@pytest.fixture
def other_mounts():
    """A process in a mount namespace of its own."""
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"\n"
        yield process.pid


def test_the_audit_finds_a_planted_cgroup_process_and_mount(daemons, other_mounts):
    """Each planted leftover is reported once; proper objects are not reported."""
    # Every daemon on the host would find a mount that is planted there.
    daemon = daemons(templates=("python",), config='audit_time = "50ms"\nlog_level = "debug"\n',
                     prefix=("nsenter", f"--mount=/proc/{other_mounts}/ns/mnt", "--"))
    task = begin(daemon, WAITING, "--stdin")

    def walks():
        return len(re.findall(r"audit: \d+ cgroups, \d+ processes, \d+ mounts", read(daemon.log)))

    def walk_on():
        seen = walks()
        await_that(lambda: walks() > seen + 1, "a whole walk more")

    walk_on()
    assert "audit: stray" not in read(daemon.log) and "; 0 findings" in read(daemon.log), daemon.said()
    uid = daemon.uids()[5 * 65536]
    places = [next(iter(top.glob("t[0-9]*"))) / "b999999" for top in daemon.cgroups()]
    point = daemon.run_dir / "planted"
    planted = {"/src": ("disk", "/src", "tmpfs"), "/img/t999999": ("/img/t1", "/img/t999999", "")}  # in the spawner's
    process = subprocess.Popen(["/bin/sleep", "600"], user=uid, group=uid)
    try:
        for place in places:
            place.mkdir()
        point.mkdir()
        in_namespace_of(other_mounts, "disk", str(point), "tmpfs")
        for words in planted.values():
            in_namespace_of(daemon.spawner, *words)
        for words in [f"audit: box 999999 has a cgroup, and the ledger says that it is gone: '{place}'" for place in places] + [
                f"audit: stray process {process.pid} of uid {uid} (sleep) is in no cgroup of this daemon's",
                "audit: stray mount ", f"at '{point}' (tmpfs, disk)", "at '/src' (tmpfs, disk) in the spawner's namespace",
                "at '/img/t999999' (erofs, image) in the spawner's namespace"]:
            await_that(lambda: words in read(daemon.log), words)
        walk_on()
        assert read(daemon.log).count(f"audit: stray process {process.pid} ") == 1
        assert len(re.findall("audit: stray", read(daemon.log))) == 4, daemon.said()
    finally:
        process.kill()
        process.wait()
        in_namespace_of(other_mounts, str(point))
        for target in planted:
            in_namespace_of(daemon.spawner, target)
        for place in places:
            if place.is_dir():
                place.rmdir()
    out, err = task.communicate(b"word\n", timeout=SECONDS_MAX)
    assert (task.returncode, out) == (0, b"got word\n\n"), err
    await_that(lambda: re.search(r"; 0 findings\n[^;]*$", read(daemon.log)[-2000:]) or
               read(daemon.log).rstrip().endswith("; 0 findings"), "nothing is found any more")


def test_sigterm_ends_running_tasks_with_a_receipt(daemons):
    daemon = daemons()
    clients = [daemon.cli.start("run", "--json", "-t", "python", "-c", CLINGING) for _ in range(2)]
    live = begin(daemon, WAITING, "--stdin")
    await_that(lambda: [t["state"] for t in tasks(daemon)] == ["running"] * 3, "three tasks run")
    held = hold(family(daemon.pid))
    daemon.process.terminate()
    for client in clients:
        out, err = client.communicate(timeout=SECONDS_MAX)
        result = json.loads(out)
        assert result["verdict"] == "daemonStopping" and client.returncode == 125
        assert result["receipt"]["complete"], result["receipt"]
    out, err = live.communicate(timeout=SECONDS_MAX)
    assert live.returncode == 125 and b"daemonStopping" in err, err
    assert daemon.process.wait(SECONDS_MAX) == 0, daemon.said()
    await_ends(held, time.monotonic())
    assert daemon.processes_by_uid() == [] and daemon.cgroups() == []


def test_sigterm_delivers_what_has_ended(daemons, tmp_path):
    daemon = daemons(templates=("python",))
    # The client cannot print: the task's last output is on its way, and its verdict waits behind it.
    lines = 40_000
    slow_client = daemon.cli.start("run", "-t", "python", "--out", tmp_path, "-c",
                                   f"open('/task/out/f', 'w').write('kept')\nfor n in range({lines}): print(n)")
    await_that(lambda: "verdict=succeeded" in daemon.said(), "it has ended")
    running = daemon.cli.start("run", "--json", "-t", "python", "-c", CLINGING)
    await_that(lambda: [t["state"] for t in tasks(daemon)] == ["running"], "another one runs")
    daemon.process.terminate()
    out, _ = running.communicate(timeout=SECONDS_MAX)
    assert json.loads(out)["verdict"] == "daemonStopping"
    assert daemon.process.poll() is None, "it waits for the client"
    out, err = slow_client.communicate(timeout=SECONDS_MAX)
    assert slow_client.returncode == 0, err
    assert out.split() == [b"%d" % n for n in range(lines)]
    assert (tmp_path / "f").read_text() == "kept"
    assert daemon.process.wait(SECONDS_MAX) == 0, daemon.said()


def test_a_client_that_does_not_read_delays_sigterm_by_two_seconds_at_most(daemons):
    daemon = daemons(templates=("python",))
    client = daemon.cli.start("run", "-t", "python", "-c", "for n in range(40_000): print(n)")
    await_that(lambda: client.poll() is None and not tasks(daemon) and "verdict=succeeded" in daemon.said(), "it has ended")
    began = time.monotonic()
    daemon.process.terminate()
    assert daemon.process.wait(SECONDS_MAX) == 0, daemon.said()
    assert time.monotonic() - began < 2 + 3 * slow()
    abandon(client)


def kill_collector(daemon, until):
    """Kills the first collector of a task's files, which is a child of the spawner with the uid of a box."""
    children = f"/proc/{daemon.spawner}/task/{daemon.spawner}/children"
    before = set(read(children).split())
    while until.poll() is None:
        for pid in set(read(children).split()) - before:
            status = read(f"/proc/{pid}/status")
            if status.startswith("Name:\tmayfly-helper\n") and "\nUid:\t0\t" not in status:
                os.kill(int(pid), signal.SIGKILL)
                return


def test_output_files_that_were_lost_are_an_error_of_those_who_asked_for_them(daemons, tmp_path):
    daemon = daemons(templates=("python",))
    code = "for n in range(40): open(f'/task/out/{n}', 'wb').write(bytes(1 << 20))"
    for how in (["--json", "--out", tmp_path], ["--out", tmp_path]):
        for _ in range(20):  # the collector lives for some milliseconds
            client = daemon.cli.start("run", "-t", "python", "--memory", "512MiB", "--disk", "256MiB", *how, "-c", code)
            kill_collector(daemon, client)
            out, err = client.communicate(timeout=SECONDS_MAX)
            if client.returncode != 0:
                break
        assert client.returncode == 125, (out, err)
        if "--json" in how:
            result = json.loads(out)
            assert (result["verdict"], result["exitCode"], result["filesLost"]) == ("succeeded", 0, True)
            assert result["filesNote"] and result["receipt"]["complete"]
        else:
            assert b"output files were lost: " in err and b"Run the task again." in err, err
    whole = daemon.cli.run("-t", "python", "--memory", "512MiB", "--disk", "256MiB", "--out", tmp_path, "-c", code)
    assert len(whole["files"]) == 40 and not whole["filesLost"]


def starting(daemons):
    """A daemon whose template will soon make its trial clones."""
    daemon = Daemon(daemons.folder, templates=("python",), **light())
    daemons.made.append(daemon)
    with open(os.devnull, "wb") as null:
        daemon.process = daemon.spawn(null.fileno())
    daemon.pid = daemon.process.pid
    return daemon


def ends_at_once(daemon):
    held = hold(family(daemon.pid))
    daemon.process.terminate()
    assert daemon.process.wait(SECONDS_MAX) == 0, daemon.said()
    await_ends(held, time.monotonic())
    assert "quarantine" not in daemon.said() and "has not ended" not in daemon.said(), daemon.said()
    assert daemon.processes_by_uid() == [] and daemon.cgroups() == []


@pytest.mark.parametrize("word", ["/usr/lib/mayfly/zygote.py", "mayfly-maker"])
def test_sigterm_amid_a_templates_start_ends_it_at_once(daemons, word):
    """A box that the stopped maker or zygote never finishes delays nothing."""
    daemon = starting(daemons)
    if "zygote" in word:  # it stops within its trial, at any point
        await_that(daemon.box_cgroups, "the trial clones are asked for")
    helper = await_that(lambda: helpers(daemon, word), "it is there")[0]
    os.kill(helper, signal.SIGSTOP)
    await_that(daemon.box_cgroups, "the trial clones are asked for")
    ends_at_once(daemon)


def test_sigterm_at_any_moment_of_a_templates_start_ends_it_at_once(daemons):
    """A process of a box may be forked but not yet reported: it is reaped like all others."""
    for ms in range(0, 36, 3):
        daemon = starting(daemons)
        await_that(daemon.box_cgroups, "the trial clones are asked for", pause_s=0.001)
        time.sleep(ms / 1000)  # no event marks these moments
        ends_at_once(daemon)


def test_second_daemon_of_an_instance_is_refused(daemons):
    daemon = daemons()
    task = begin(daemon, WAITING, "--stdin")
    second = Daemon(daemon.run_dir, instance=daemon.instance, **light())
    second.log = daemon.run_dir / "second.log"
    with open(os.devnull, "wb") as null:
        process = second.spawn(null.fileno())
    assert process.wait(SECONDS_MAX) == 1
    assert f"instance '{daemon.instance}' is in use" in second.said(), second.said()
    out, err = task.communicate(b"word\n", timeout=SECONDS_MAX)
    assert (task.returncode, out) == (0, b"got word\n\n"), err


def test_a_second_instance_does_not_take_a_living_daemons_socket(daemons):
    first = daemons(templates=("shell",))
    second = Daemon(daemons.folder, templates=("shell",), **light())
    second.socket = first.socket
    read_end, theirs = os.pipe()
    process = second.spawn(theirs)
    os.close(theirs)
    os.close(read_end)
    assert process.wait(SECONDS_MAX) == 1
    assert "another daemon serves the socket" in second.said(), second.said()
    assert first.cli.run("-t", "shell", "--", "echo", "fine")["stdout"] == "fine\n"


def test_signals_without_a_meaning_end_nothing(daemons):
    daemon = daemons(templates=("shell",))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        for pid in (daemon.pid, daemon.spawner):
            os.kill(pid, number)
        assert daemon.cli.run("-t", "shell", "--", "echo", "fine")["stdout"] == "fine\n", number



def tasks(daemon):
    done = daemon.cli("ps", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["tasks"]


def test_killed_clients_tasks_end_and_their_slot_is_free(daemons):
    daemon = daemons(config="boxes_max = 1\n")
    client = begin(daemon, CLINGING)
    [task] = tasks(daemon)
    assert task["pidHost"] in family(daemon.pid)
    held = hold([task["pidHost"]])
    client.kill()
    client.communicate()
    await_ends(held, time.monotonic())
    # There is one slot: this task runs once it is free, and not before.
    assert daemon.cli.run("-c", "print(6*7)")["stdout"] == "42\n"
    assert tasks(daemon) == []
    assert daemon.box_cgroups() == []


def test_one_slot_is_used_again_and_again_whatever_ends(daemons):
    daemon = daemons(config="boxes_max = 1\n")
    for code, verdict in ((CLINGING, "wallTime"), ("1/0", "failed"), ("import os; os.abort()", "signaled")):
        result = daemon.cli.run("--timeout", "500ms", "-c", code)
        assert result["verdict"] == verdict and result["receipt"]["complete"]
    first = begin(daemon, WAITING, "--stdin")
    second = daemon.cli.start("run", "--json", "-c", "print(1)")
    await_that(lambda: sorted(t["state"] for t in tasks(daemon)) == ["queued", "running"], "the second task waits")
    first.communicate(b"x\n", timeout=SECONDS_MAX)
    result = json.loads(second.communicate(timeout=SECONDS_MAX)[0])
    assert result["verdict"] == "succeeded"
    assert result["phases"]["boxNs"] > result["phases"]["queuedNs"]


def test_a_task_waits_for_a_box_no_longer_than_its_queue_time(daemons):
    daemon = daemons(config="boxes_max = 1\n")
    first = begin(daemon, WAITING, "--stdin")
    late = daemon.cli.start("run", "--json", "--queue-time", "200ms", "-c", "print(1)")
    patient = daemon.cli.start("run", "--json", "-c", "print(2)")
    out, _ = late.communicate(timeout=SECONDS_MAX)
    result = json.loads(out)
    assert (late.returncode, result["verdict"], result["capValue"]) == (125, "queueTime", 200), result
    assert "200 ms" in result["reason"] and result["phases"]["startedNs"] == 0
    waited_ns = result["phases"]["receiptNs"] - result["phases"]["queuedNs"]
    assert waited_ns >= 200e6 and result["receipt"]["complete"], result
    assert [task["state"] for task in tasks(daemon)] == ["running", "queued"]
    first.communicate(b"x\n", timeout=SECONDS_MAX)
    assert json.loads(patient.communicate(timeout=SECONDS_MAX)[0])["stdout"] == "2\n"


def pids_inside(pid):
    """Its pids from the host's namespace inwards: a template's process has two, a box's three."""
    found = re.search(r"^NSpid:\s+(.*)$", read(f"/proc/{pid}/status"), re.M)
    return found[1].split() if found else []


def helpers(daemon, word, number_1=False):
    """A template's processes whose command line has `word`: its pid 1, or those with another pid."""
    return [p for p in family(daemon.pid) if word in read(f"/proc/{p}/cmdline")
            and len(pids_inside(p)) == 2 and (pids_inside(p)[1] == "1") == number_1]


def template_process(daemon, word, number_1=False):
    """The template's process whose command line has `word`: its pid 1, or one with another pid."""
    [pid] = helpers(daemon, word, number_1)
    return pid


def test_a_stocked_box_found_dead_costs_a_task_nothing(daemons):
    daemon = daemons(templates=("python",), config="parked_max = 0\nstocked_max = 1\n")

    def stocked(*before):
        """The only box, once it is stocked and none of those before."""
        [template] = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
        boxes = daemon.box_inodes()
        return template["stocked"] == template["boxes"] == 1 and all(boxes.isdisjoint(b) for b in before) and boxes

    first = await_that(stocked, "a box is stocked")
    [init] = [p for p in family(daemon.pid) if pids_inside(p)[2:] == ["1"]]
    held = hold([init])
    os.kill(init, signal.SIGKILL)
    await_ends(held, time.monotonic())
    result = daemon.cli.run("-c", "print(6*7)")
    assert result["stdout"] == "42\n" and result["receipt"]["complete"]
    second = await_that(lambda: stocked(first), "another is stocked")
    result = daemon.cli.run("-c", "print(6*7)")
    assert result["stdout"] == "42\n" and result["receipt"]["complete"]
    await_that(lambda: stocked(first, second), "that one is gone, and a third is stocked")


def test_killed_zygote_spares_running_tasks_and_is_replaced(daemons):
    daemon = daemons(templates=("python",))
    task = begin(daemon, WAITING, "--stdin")
    old = template_process(daemon, "/usr/lib/mayfly/zygote.py")
    held = hold([old])
    os.kill(old, signal.SIGKILL)
    await_ends(held, time.monotonic())
    result = await_that(lambda: attempt(daemon), "a task on the new zygote")
    assert result["stdout"] == "42\n" and result["receipt"]["complete"]
    out, err = task.communicate(b"word\n", timeout=SECONDS_MAX)
    assert (task.returncode, out) == (0, b"got word\n\n"), err
    assert "zygote" in daemon.said() and "signal 9" in daemon.said(), daemon.said()


def attempt(daemon):
    """A result, or None if the template is not ready yet or died while it made the box."""
    result = json.loads(daemon.cli("run", "--json", "-c", "print(6*7)").stdout)
    if "error" in result:
        assert result["error"]["code"] == "unavailable", result
        return None
    return result


@pytest.mark.parametrize("parked_max", [pytest.param(0, marks=pytest.mark.slow), 64])
@pytest.mark.parametrize("word", ["/usr/lib/mayfly/zygote.py", "mayfly-maker maker", "mayfly-maker pid1"])
def test_tasks_whose_box_was_in_the_making_lose_only_time(daemons, word, parked_max):
    """Killed while boxes for a crowd of tasks are being made: a task that did not run yet gets another box."""
    daemon = daemons(templates=("python",), config=f"parked_max = {parked_max}\n")
    for held in (True, False):
        await_that(lambda: attempt(daemon), "the template is ready")
        victim = template_process(daemon, word.split()[0], number_1="pid1" in word)
        makers = hold([template_process(daemon, name) for name in ("/usr/lib/mayfly/zygote.py", "mayfly-maker")])
        if held:
            for _, fd in makers:
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
        crowd = [daemon.cli.start("run", "--json", "-c", "print(6*7)") for _ in range(12)]
        if held and not parked_max:
            await_that(lambda: any(t["state"] == "making" for t in tasks(daemon)), "a box is in the making")
        else:
            await_that(lambda: tasks(daemon) or any(c.poll() is not None for c in crowd), "the crowd is there")
        os.kill(victim, signal.SIGKILL)
        for _, fd in makers:
            try:
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            except ProcessLookupError:
                pass
            os.close(fd)
        for task in crowd:
            result = json.loads(task.communicate(timeout=SECONDS_MAX)[0])
            shown = json.dumps(result) + daemon.said()
            assert "error" not in result, shown
            ran = result["phases"]["startedNs"] != 0
            assert (result["verdict"], result["stdout"]) == ("succeeded", "42\n") or ran and "pid1" in word, shown
            assert result["receipt"]["complete"], result


def test_an_image_of_another_build_is_refused_with_what_to_do(daemons, tmp_path):
    state = tmp_path / "state"
    (state / "index").mkdir(parents=True)
    (state / "images").mkdir()
    index = json.loads(pathlib.Path(STATE_DIR, "index/python.json").read_text())
    image = f"images/{index['digest']}.erofs"
    (state / image).symlink_to(f"{STATE_DIR}/{image}")
    index["runtime"] = "0" * 64
    (state / "index/python.json").write_text(json.dumps(index))
    daemon = daemons(templates=("python",), state_dir=str(state))
    done = daemon.cli("run", "-c", "print(1)")
    assert done.returncode == 125
    said = done.stderr.decode()
    assert "another build of Mayfly" in said and "mayfly image build python" in said, said


@pytest.mark.parametrize("who", ["mayfly-maker", "pid 1"])
def test_killed_maker_or_pid_1_is_replaced(daemons, who):
    daemon = daemons(templates=("python",))
    victim = template_process(daemon, "mayfly-maker", number_1=who == "pid 1")
    held = hold([victim])
    os.kill(victim, signal.SIGKILL)
    await_ends(held, time.monotonic())
    assert await_that(lambda: attempt(daemon), "a task after it")["stdout"] == "42\n"


def test_a_task_that_mayflys_own_end_takes_along_is_internal(daemons):
    """If the template's pid 1 or the box's init dies, the kernel kills the box: not a failure of the task."""
    daemon = daemons(templates=("python",))
    for victim in (lambda: template_process(daemon, "mayfly-maker", number_1=True),
                   lambda: tasks(daemon)[0]["pidHost"]) * 2:
        await_that(lambda: attempt(daemon), "the template is ready")
        task = begin(daemon, CLINGING)
        os.kill(victim(), signal.SIGKILL)
        out, err = task.communicate(timeout=SECONDS_MAX)
        assert task.returncode == 125 and b"mayfly: internal" in err, err


@pytest.mark.parametrize("holder", [
    "time.sleep(600)",
    "os.setsid(); [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 13, 15)]; time.sleep(600)",
    "os.kill(os.getpid(), signal.SIGSTOP)",
    "exec('while True: pass')",
])
def test_descendants_that_hold_the_pipes_delay_no_result(daemons, holder):
    daemon = daemons(templates=("python",))
    code = f"import os, signal, time\nif os.fork() == 0: {holder}\nprint('done')"
    result = daemon.cli.run("-c", code)
    assert (result["verdict"], result["stdout"]) == ("succeeded", "done\n")
    phases = result["phases"]
    assert phases["receiptNs"] - phases["exitedNs"] < 2e9 * slow()
    assert result["receipt"]["complete"]


# Everything from which a task could learn about the daemon.
LOOK = r"""
import os
def take(path):
    try:
        with open(path, 'rb') as f: return f.read(1 << 20)
    except OSError as e: return b''
seen = [os.getcwd().encode()]
for pid in [p for p in os.listdir('/proc') if p.isdigit()] + ['self']:
    for name in ('environ', 'cmdline', 'maps', 'mountinfo', 'mounts', 'cgroup', 'comm', 'auxv', 'status', 'stat'):
        seen.append(take(f'/proc/{pid}/{name}'))
    for kind in ('fd', 'ns'):
        try: names = os.listdir(f'/proc/{pid}/{kind}')
        except OSError: names = []
        for name in names:
            try: seen.append(os.readlink(f'/proc/{pid}/{kind}/{name}').encode())
            except OSError: pass
    for name in ('cwd', 'exe', 'root'):
        try: seen.append(os.readlink(f'/proc/{pid}/{name}').encode())
        except OSError: pass
# And all of its own memory that it may read.
for line in take('/proc/self/maps').decode().splitlines():
    span, rights = line.split()[:2]
    if 'r' not in rights or '[v' in line: continue
    low, high = (int(x, 16) for x in span.split('-'))
    try:
        with open('/proc/self/mem', 'rb') as f:
            f.seek(low); seen.append(f.read(min(high - low, 64 << 20)))
    except (OSError, ValueError): pass
import hashlib
half = CANARY
whole = half[::-1]
own = os.environb[b'OWN_WORD']
print(sum(own in s for s in seen) >= 2, sum(len(s) for s in seen) > 1 << 20, [s[max(0, s.find(whole) - 60):][:120] for s in seen if whole in s][:3])
"""


def test_nothing_of_the_daemon_reaches_its_descendants(daemons):
    canary = "canary" + uuid.uuid4().hex[:12]
    folder = daemons.folder / canary
    folder.mkdir()
    (folder / "file").write_text(canary)
    inherited = os.open(folder / "file", os.O_RDONLY)
    control = os.dup2(inherited, 137)
    daemon = daemons(instance="c-" + canary, cwd=str(folder), pass_fds=(137,),
                     env={**os.environ, "CANARY_TOKEN": canary, "LD_LIBRARY_PATH": "/nonexistent/" + canary})
    os.close(control)
    os.close(inherited)
    # The control: the daemon itself holds the word; else the look would prove nothing.
    assert canary in read(f"/proc/{daemon.pid}/environ")
    assert canary in read(f"/proc/{daemon.pid}/cmdline")
    for template in ("python", "shell"):
        task = WAITING if template == "python" else "echo up; read line; echo got $line"
        command = ["-c", task] if template == "python" else ["--", "sh", "-c", task]
        client = daemon.cli.start("run", "-t", template, "--stdin", *command)
        assert client.stdout.readline() == b"up\n", (template, client.stderr.read(), daemon.said())
        look_at_descendants(daemon, canary)
        client.communicate(b"x\n", timeout=SECONDS_MAX)
    # The word stands reversed in the task's own code, so that the code is no find.
    result = daemon.cli.run("--memory", "1GiB", "--env", "OWN_WORD=" + uuid.uuid4().hex, "-c", LOOK.replace("CANARY", repr(canary[::-1].encode())))
    assert result["verdict"] == "succeeded", result["stderr"]
    # The controls: it finds a word of its own, and has read its memory.
    assert result["stdout"] == "True True []\n"


def links_to(pid, word):
    try:
        return [fd for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir() if word in os.readlink(fd)]
    except OSError:  # the process ended
        return []


def look_at_descendants(daemon, canary):
    """Looks while no box is being made, because maker and zygote hold its cgroups meanwhile."""
    making = lambda: any(links_to(pid, "/cgroup") for pid in family(daemon.pid)
                         if comm(pid) not in ("mayflyd", "mayfly-spawner"))
    for _ in range(20):
        await_that(lambda: not making(), "no box is in the making")
        try:
            return see_descendants(daemon, canary)
        except AssertionError:
            if not making():
                raise
    raise AssertionError("a box is in the making at each look")


def see_descendants(daemon, canary):
    spawner = daemon.spawner
    seen = 0
    for pid in family(daemon.pid):
        if pid == daemon.pid:
            continue
        environ, cmdline = read(f"/proc/{pid}/environ"), read(f"/proc/{pid}/cmdline")
        assert canary not in environ, (comm(pid), environ)
        links = [os.readlink(f"/proc/{pid}/cwd")]
        for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.append(os.readlink(each))
        if pid == spawner:
            # It knows its instance's name, and holds the two locks and its log.
            assert links[0] == "/"
            known = (str(daemon.run_dir / (daemon.instance + ".lock")), str(daemon.log))
            links = [link for link in links if link not in known and "/cgroup" not in link]
        else:
            assert canary not in cmdline, (comm(pid), cmdline)
            seen += 1
        if comm(pid) == "mayfly-maker":  # while it makes a box, it holds that box's cgroup
            links = [link for link in links if not re.match(r"/sys/fs/cgroup/.*/t\d+/b\d+$", link)]
        assert not [link for link in links if canary in link], (comm(pid), links)
    assert seen >= 5  # pid 1, maker, zygote, init and clone
