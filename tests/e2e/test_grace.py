"""P2.19 to P2.24: a soft end. SIGTERM, a grace, the kill; compared with the plain interpreter under the same signals."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from test_lifecycle import BINARIES, await_that, daemons, slow  # noqa: F401 (a fixture)
from test_verdicts import check_sound

KEEPS = "import signal, sys, time, os\n"

# (template, name, program, whether it ends before the kill). Each ends only by SIGTERM or the kill. It prints "up" when
# it may be asked; the files are those of ./out.
PROGRAMS = [
    ("python", "the default action ends it", "print('up', flush=True)\ntime.sleep(600)", True),
    ("python", "saves its state and exits with a code",
     "def save(*_):\n    open('out/state', 'w').write('step 7')\n    print('saved')\n    sys.exit(3)\n"
     "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\nwhile True: time.sleep(600)", True),
    ("python", "exits with 0", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
     "print('up', flush=True)\nwhile True: time.sleep(600)", True),
    ("python", "raises, and finally runs",
     "def stop(*_): raise RuntimeError('asked to end')\nsignal.signal(signal.SIGTERM, stop)\n"
     "try:\n    print('up', flush=True)\n    while True: time.sleep(600)\nfinally:\n    print('finally', file=sys.stderr)",
     True),
    ("python", "SIGTERM is no KeyboardInterrupt, and atexit does not run",
     "import atexit\natexit.register(print, 'atexit')\ntry:\n    print('up', flush=True)\n    time.sleep(600)\n"
     "except KeyboardInterrupt:\n    print('interrupted')", True),
    ("python", "ignores it and is killed",
     "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True: time.sleep(600)", False),
    ("python", "blocks it and is killed",
     "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nprint('up', flush=True)\nwhile True: time.sleep(600)",
     False),
    ("python", "is busy, and its handler runs",
     "signal.signal(signal.SIGTERM, lambda *_: os._exit(9))\nprint('up', flush=True)\nwhile True: pass", True),
    ("python", "is stopped, and woken for it",
     "signal.signal(signal.SIGTERM, lambda *_: os._exit(4))\nprint('up', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
     "time.sleep(600)", True),
    ("python", "its children of the group are asked, too",
     "import subprocess\nsignal.signal(signal.SIGTERM, lambda *_: None)\n"
     "child = subprocess.Popen(['/usr/bin/python3', '-c', 'import time; time.sleep(600)'])\nprint('up', flush=True)\n"
     "print('child', child.wait())", True),
    ("python", "a child in a session of its own lives until its parent has ended",
     "import subprocess\ndef end(*_):\n    print('child', child.poll())\n    sys.exit(0)\n"
     "child = subprocess.Popen(['/usr/bin/python3', '-c', 'import time; time.sleep(600)'], start_new_session=True,\n"
     "                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
     "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(600)", True),
    ("python", "threads do not keep it",
     "import threading\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
     "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint('up', flush=True)\nwhile True: time.sleep(600)", True),
    ("shell", "the default action ends it", "echo up; sleep 600", True),
    ("shell", "its trap runs though it waits for a program",
     "trap 'echo saved > out/state; echo trapped; exit 7' TERM; echo up; sleep 600", True),
    ("shell", "its trap ignores it", "trap '' TERM; echo up; while :; do sleep 1; done", False),
    ("shell", "EXIT's trap runs", "trap 'echo bye' EXIT; trap 'exit 2' TERM; echo up; sleep 600", True),
    ("perl", "the default action ends it", "$| = 1; print \"up\\n\"; sleep 600", True),
    ("perl", "its handler saves and exits",
     "$SIG{TERM} = sub { open my $f, '>', 'out/state'; print $f 'step 7'; close $f; print \"saved\\n\"; exit 6 };"
     "$| = 1; print \"up\\n\"; sleep 600 while 1", True),
    ("perl", "dies in its handler, and END runs",
     "$SIG{TERM} = sub { die \"asked\\n\" }; END { print \"END\\n\" } $| = 1; print \"up\\n\"; sleep 600 while 1", True),
    ("perl", "ignores it", "$SIG{TERM} = 'IGNORE'; $| = 1; print \"up\\n\"; sleep 600 while 1", False),
]

SIDE_BY_SIDE = 8
WALL_S, GRACE_S, SHORT_GRACE_S = 2, 30, 2  # the short one for programs that use it up

# In a box of the same image: the plain program with a working folder of its own, and the signals of `timeout`. (Its own
# are not repeatable: it sends SIGTERM to the program and once more to the group, which may come in time for its exit.)
PLAIN = """
import json, os, signal, subprocess, sys
argv, wall, grace = json.load(sys.stdin)
os.makedirs('/tmp/plain/out'); os.chdir('/tmp/plain')
p = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, 'HOME': '/task'},
                     stdin=subprocess.DEVNULL, start_new_session=True)
def wait(seconds):
    try:
        return p.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
if wait(wall) is None:
    for each in (signal.SIGTERM, signal.SIGCONT):
        os.killpg(p.pid, each)
    if wait(grace) is None:
        os.killpg(p.pid, signal.SIGKILL)
out, err = p.communicate()
files = {name: open('out/' + name).read() for name in sorted(os.listdir('out'))}
print(json.dumps([p.returncode, out.decode(), err.decode(), files]))
"""

# The same where there is no Python. Both exit with 128 + the number of the signal that ended the program.
PLAIN_BASH = """
wall=$1 grace=$2; shift 2
mkdir -p /tmp/plain/out; cd /tmp/plain; exec 3>&2 2>/dev/null  # the driver's own "Killed" is not the program's
set -m; "$@" </dev/null 2>&3 3>&- & program=$!
(sleep $wall; kill -TERM -- -$program; kill -CONT -- -$program; sleep $grace; kill -KILL -- -$program) & timer=$!
wait $program; status=$?; kill -KILL -- -$timer
mkdir -p /task/out; cp -r out/. /task/out/; exit $status
"""
PLAIN_PERL = """
my ($wall, $grace, @argv) = @ARGV;
system 'mkdir', '-p', '/tmp/plain/out'; chdir '/tmp/plain';
my $program = fork;
if (!$program) { setpgrp; open STDIN, '<', '/dev/null'; exec @argv }
sub ended { my $end = time + shift; while (time < $end) { return 1 if waitpid($program, 1) == $program; select undef, undef, undef, 0.05 } 0 }
if (!ended($wall)) {
    kill '-TERM', $program; kill '-CONT', $program;
    if (!ended($grace)) { kill '-KILL', $program; waitpid $program, 0 }
}
my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
system 'mkdir', '-p', '/task/out'; system 'cp', '-r', 'out/.', '/task/out/';
exit $status;
"""

ARGV = {"python": lambda code: ["/usr/bin/python3", "-c", code], "shell": lambda code: ["bash", "-c", code],
        "perl": lambda code: ["/usr/bin/perl", "-e", code]}


def in_box(mayfly, tmp_path, template, code, *flags):
    out = tmp_path / "out"
    task = ["-c", code] if template != "shell" else ["--", "bash", "-c", code]
    result = mayfly.run("-t", template, "--out", str(out), *flags, *task)
    return result, {file.name: file.read_text() for file in sorted(out.iterdir())} if out.exists() else {}


@pytest.fixture(scope="module")
def runs(mayfly, tmp_path_factory, request):
    """Each selected program's (cap in seconds, result, files, outcome outside). They sleep most of the time: side by side."""
    wall = round(WALL_S * min(slow(), 2))  # the program has its handler by then
    chosen = [item.callspec.params["program"] for item in request.session.items
              if item.path == request.path and item.originalname == "test_it_ends_as_outside"]

    folder = tmp_path_factory.mktemp("grace")

    def run(program):
        template, name, code, ends = program
        place = folder / f"{template}-{name.split(',')[0]}"
        place.mkdir()
        code = KEEPS + code if template == "python" else code
        grace = GRACE_S if ends else SHORT_GRACE_S
        boxed = in_box(mayfly, place, template, code, "--timeout", f"{wall}s", "--grace", f"{grace}s")
        return wall, *boxed, plain(mayfly, template, ARGV[template](code), wall, grace)

    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return dict(zip([program[:2] for program in chosen], pool.map(run, chosen), strict=True))


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"{p[0]}: {p[1]}" for p in PROGRAMS])
def test_it_ends_as_outside(runs, program):
    ends = program[3]
    wall, result, files, host = runs[program[:2]]
    grace = GRACE_S if ends else SHORT_GRACE_S
    check_sound(result)
    assert result["verdict"] == "wallTime" and result["capValue"] == wall * 1000, result["reason"]
    assert "SIGTERM" in result["reason"]
    assert result["inGrace"] == ends, result["reason"]
    assert result["usage"]["wallNs"] < (wall + grace + 20) * 1e9
    if ends:
        assert result["usage"]["wallNs"] < (wall + GRACE_S) * 1e9, "it ends at once, not with its grace"
        # CPython's own exit status under subprocess: minus the signal.
        code_shown = -result["signal"] if result["signal"] is not None else result["exitCode"]
    else:
        assert result["exitCode"] is None and result["signal"] is None
        assert result["usage"]["wallNs"] >= (wall + SHORT_GRACE_S) * 1e9
        code_shown = -signal.SIGKILL
    assert [code_shown, result["stdout"], result["stderr"], files] == host


def plain(mayfly, template, argv, wall, grace):
    """[exit status, stdout, stderr, files] of the program outside, on the image of the template."""
    words = json.dumps([argv, wall, grace])
    if template == "python":
        done = mayfly.run("-t", "python", "--timeout", "100s", "--stdin", "--pids", "64", "-c", PLAIN, input=words.encode())
        assert done["verdict"] == "succeeded", done
        return json.loads(done["stdout"])
    out = pathlib.Path("/tmp") / f"mayfly-grace-{os.getpid()}-{time.monotonic_ns()}"
    driver = {"shell": ["--", "bash", "-c", PLAIN_BASH, "bash"], "perl": ["-c", PLAIN_PERL]}[template]
    try:
        done = mayfly.run("-t", template, "--timeout", "100s", "--out", str(out), *driver, str(wall), str(grace), *argv)
        files = {file.name: file.read_text() for file in sorted(out.iterdir())} if out.exists() else {}
        assert done["verdict"] in ("succeeded", "failed"), done
        status = done["exitCode"]
        return [status if status < 128 else 128 - status, done["stdout"], done["stderr"], files]
    finally:
        subprocess.run(["rm", "-rf", str(out)], check=True)


def test_without_a_grace_the_kill_comes_at_once(mayfly):
    code = KEEPS + "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\nwhile True: time.sleep(600)"
    result = mayfly.run("-t", "python", "--timeout", "500ms", "-c", code)
    assert (result["verdict"], result["stdout"], result["inGrace"]) == ("wallTime", "", False)
    assert result["reason"] == "killed at its wall time cap of 500 ms"
    assert result["limits"]["graceMs"] == 0


@pytest.mark.parametrize(("after", "flags", "words"), [
    ("while True: print('x' * 100_000)", ["--output", "1MiB"], "output cap"),
    ("x = []\nwhile True: x.append(bytearray(b'x') * 1_000_000)", ["--memory", "96MiB"], "memory cap"),
    ("open('/tmp/f', 'wb').write(bytes(64 << 20))\ntime.sleep(600)", ["--disk", "8MiB"], ""),
    ("while True: pass", ["--cpu-time", "1s"], "cpu time cap"),
], ids=["output", "memory", "disk", "cpu time"])
def test_every_other_cap_holds_within_the_grace_and_ends_it(mayfly, after, flags, words):
    code = (KEEPS + "asked = []\nsignal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
            "while not asked: time.sleep(0.05)\n"
            "try:\n" + "".join(f"    {line}\n" for line in after.splitlines()) +
            "except OSError:\n    time.sleep(600)\n")
    result = check_sound(mayfly.run("-t", "python", "--timeout", "1s", "--grace", "60s", *flags, "-c", code))
    assert result["verdict"] == "wallTime" and not result["inGrace"], result["reason"]
    assert words in result["reason"] and "within its grace" in result["reason"]
    assert result["usage"]["wallNs"] < 45e9 * slow()


def test_a_grace_above_the_templates_maximum_is_refused(mayfly):
    refused = mayfly.run("-t", "python", "--grace", "61s", "-c", "")
    assert refused["error"]["code"] == "invalidArgument" and "'grace'" in refused["error"]["message"]
    assert mayfly.run("-t", "python", "--grace", "0ms", "-c", "")["verdict"] == "succeeded"


# The signal may come during the print, where another print is an error, or just before a sleep, which it then does not end.
SAVES = (KEEPS + "def save(*_):\n    open('out/state', 'w').write('saved')\n    os.write(1, b'saved\\n')\n    sys.exit(3)\n"
         "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\nwhile True: time.sleep(0.05)")
DEAF = KEEPS + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\nwhile True: time.sleep(600)"


def started(socket, *words, **popen):
    """`mayfly run` of a task that has printed "up"."""
    process = subprocess.Popen([BINARIES / "mayfly", "--socket", socket, "run", *words], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, **popen)
    assert process.stdout.readline() == "up\n", process.stderr.read()
    return process


def test_ctrl_c_of_run_gives_the_grace_and_brings_the_files(mayfly, tmp_path):
    process = started(mayfly.socket, "--grace", "60s", "--out", str(tmp_path / "out"), "-c", SAVES)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "saved\n"), err
    assert "cancelled; sent SIGTERM; exited with code 3 within its grace" in err
    assert (tmp_path / "out/state").read_text() == "saved"


def test_a_second_ctrl_c_ends_the_grace_with_its_client(daemons):  # noqa: F811
    daemon = daemons(templates=("python",))
    process = started(daemon.socket, "--grace", "60s", "-c", DEAF)
    process.send_signal(signal.SIGINT)
    ps = [BINARIES / "mayfly", "--socket", daemon.socket, "ps", "--json"]
    await_that(lambda: [t["state"] for t in json.loads(subprocess.check_output(ps))["tasks"]] == ["ending"], "asked")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    await_that(lambda: json.loads(subprocess.check_output(ps))["tasks"] == [], "its end", seconds_max=30)
    await_that(lambda: "verdict=cancelled" in daemon.said(), "its log line")


def test_a_second_cancel_ends_the_grace_and_kill_gives_one(daemons):  # noqa: F811
    daemon = daemons(templates=("python",))
    base = [BINARIES / "mayfly", "--socket", daemon.socket]
    for code, calls, words in ((DEAF, 2, "; cancelled within its grace"), (SAVES, 1, "exited with code 3 within")):
        task = subprocess.check_output([*base, "run", "--detach", "--grace", "60s", "-c", code], text=True).strip()
        await_that(lambda: json.loads(subprocess.check_output([*base, "task", "info", "--json", task]))["state"] ==
                   "running", "running")
        time.sleep(1 * slow())  # until it has its handler: nobody sees a detached task's output before its end
        for _ in range(calls):
            subprocess.run([*base, "kill", task], check=True)
        done = subprocess.run([*base, "task", "wait", "--json", task], capture_output=True, text=True, timeout=60)
        result = json.loads(done.stdout)
        assert result["verdict"] == "cancelled" and words in result["reason"], result["reason"]


def test_a_client_that_goes_away_gives_no_grace(daemons):  # noqa: F811
    daemon = daemons(templates=("python",))
    process = started(daemon.socket, "--grace", "60s", "-c", DEAF)
    process.kill()
    process.wait()
    await_that(lambda: "verdict=clientGone" in daemon.said(), "its end", seconds_max=20 * slow())


@pytest.mark.parametrize(("code", "words", "in_grace"), [(SAVES, "exited with code 3 within its grace", True),
                                                         (DEAF, "did not end within its grace", False)],
                         ids=["saves", "deaf"])
def test_the_daemons_stop_gives_a_bounded_grace(daemons, code, words, in_grace):  # noqa: F811
    daemon = daemons(templates=("python",))
    process = subprocess.Popen([BINARIES / "mayfly", "--socket", daemon.socket, "run", "--json", "--grace", "60s", "-c",
                                code], stdout=subprocess.PIPE, text=True)
    ps = [BINARIES / "mayfly", "--socket", daemon.socket, "ps", "--json"]
    await_that(lambda: [t["state"] for t in json.loads(subprocess.check_output(ps))["tasks"]] == ["running"], "running")
    time.sleep(1 * slow())  # until it has its handler
    began = time.monotonic()
    daemon.process.terminate()
    assert daemon.process.wait(60) == 0, daemon.said()
    assert time.monotonic() - began < 12 * slow()
    result = json.loads(process.communicate(timeout=30)[0])
    assert result["verdict"] == "daemonStopping" and words in result["reason"], result["reason"]
    assert result["inGrace"] == in_grace and result["receipt"]["complete"]
