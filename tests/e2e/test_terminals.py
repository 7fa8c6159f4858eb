"""Pseudo-terminals in a box: programs use them as on any machine, and get no more than the template grants."""

import json
import os
import re
import shutil

import pytest

from light import light
from test_lifecycle import Daemon, read
from template_place import Place, registries  # noqa: F401 (a fixture)

PTYS = 8  # of a task: docs/templates.md, terminal.ptys


def python(mayfly, code, *flags, template="python"):
    result = mayfly.run("-t", template, *flags, "-c", code)
    assert result["verdict"] == "succeeded", (result["verdict"], result["reason"], result["stdout"], result["stderr"])
    assert result["receipt"]["complete"], result["receipt"]
    return result["stdout"]


def found(mayfly, code, *flags, template="python"):
    """The value that the code leaves in `see`."""
    return json.loads(python(mayfly, f"import json\nsee = {{}}\n{code}\nprint(json.dumps(see))", *flags, template=template))


def test_openpty_gives_a_terminal_of_the_task(mayfly):
    see = found(mayfly, """
import fcntl, os, stat, struct, termios
outer, inner = os.openpty()
see['isatty'] = [os.isatty(outer), os.isatty(inner)]
see['name'] = [os.ttyname(inner), os.ptsname(outer)]
fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 100, 0, 0))
see['size'] = os.get_terminal_size(outer)
os.write(outer, b'typed\\n')
see['read'] = os.read(inner, 99).decode()
see['echo'] = os.read(outer, 99).decode()
os.write(inner, b'said\\n')
see['said'] = os.read(outer, 99).decode()
s = os.stat(os.ttyname(inner))
see['owner'] = [s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode)]
see['same'] = os.path.sameopenfile(inner, os.open(os.ttyname(inner), os.O_RDWR | os.O_NOCTTY))
see['peer'] = os.ttyname(fcntl.ioctl(outer, 0x5441, os.O_RDWR | os.O_NOCTTY))
see['ptmx'] = [os.readlink('/dev/ptmx'), stat.S_IMODE(os.stat('/dev/ptmx').st_mode)]
old = termios.tcgetattr(inner)
termios.tcsetattr(inner, termios.TCSADRAIN, old[:3] + [old[3] & ~termios.ECHO] + old[4:])
os.write(outer, b'secret\\n')
see['silent'] = [os.read(inner, 99).decode(), os.get_blocking(outer) and fcntl.ioctl(outer, termios.FIONREAD, b'0000') == bytes(4)]
""")
    assert see == {"isatty": [True, True], "name": ["/dev/pts/0", "/dev/pts/0"], "size": [100, 40], "read": "typed\n",
                   "echo": "typed\r\n", "said": "said\r\n", "owner": [1000, 1000, 0o620], "same": True,
                   "peer": "/dev/pts/0", "ptmx": ["pts/ptmx", 0o666], "silent": ["secret\n", True]}


def test_the_steps_of_libc_work_one_by_one(mayfly):
    assert found(mayfly, """
import os
outer = os.posix_openpt(os.O_RDWR | os.O_NOCTTY)
os.grantpt(outer)
os.unlockpt(outer)
inner = os.open(os.ptsname(outer), os.O_RDWR | os.O_NOCTTY)
see['isatty'] = os.isatty(inner)
""") == {"isatty": True}


def test_pty_spawn_runs_a_program_on_a_terminal(mayfly):
    out = python(mayfly, """
import os, pty
code = pty.spawn(['sh', '-c', 'test -t 0 && test -t 1 && test -t 2 && tty && exit 3'])
print(os.waitstatus_to_exitcode(code))
""")
    assert out.replace("\r", "") == "/dev/pts/0\n3\n"


FORKED = """
import os, pty, signal, termios
def until(fd, what):
    data = b''
    while what not in data:
        data += os.read(fd, 999)
    return data
pid, outer = pty.fork()
if pid == 0:
    try:
        child()
    finally:
        os._exit(99)
"""


def test_a_forked_child_has_it_as_its_controlling_terminal(mayfly):
    see = found(mayfly, """
def child():
    tty = os.open('/dev/tty', os.O_RDWR)
    os.write(tty, json.dumps([os.ttyname(0), os.tcgetpgrp(0) == os.getpgrp() == os.getsid(0) == os.getpid(),
                              os.get_terminal_size(tty).columns, os.ctermid()]).encode() + b'!')
    assert os.read(tty, 99) == b'go\\n'
    os._exit(7)
""" + FORKED + """
see['child'] = json.loads(until(outer, b'!').decode().rstrip('!'))
os.write(outer, b'go\\n')
see['code'] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
try:
    while os.read(outer, 99): pass
except OSError as e:
    see['end'] = e.strerror
try:
    os.open('/dev/tty', os.O_RDWR)
except OSError as e:
    see['own'] = e.strerror
""")
    assert see == {"child": ["/dev/pts/0", True, 0, "/dev/tty"], "code": 7, "end": "Input/output error",
                   "own": "No such device or address"}


def test_control_c_reaches_the_foreground_group_and_only_it(mayfly):
    see = found(mayfly, """
def child():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    back = os.fork()
    if back == 0:
        os.setpgid(0, 0)
        signal.pause()
    fore = os.fork()
    if fore == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(1, b'ready!')
        signal.pause()
    end = os.waitstatus_to_exitcode(os.waitpid(fore, 0)[1])
    os.tcsetpgrp(0, os.getpgrp())
    os.write(1, b'<%d %d>' % (end, os.waitpid(back, os.WNOHANG)[0]))
    os.kill(back, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it may come before the wait
    os.write(1, b'again!')
    signal.sigwait({signal.SIGINT})
    os._exit(5)
""" + FORKED + """
until(outer, b'ready!')
os.write(outer, b'\\x03')
# Both words may come at once.
see['ends'] = until(outer, b'again!').decode().partition('<')[2].partition('>')[0]
os.write(outer, b'\\x03')
see['leader'] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
""")
    assert see == {"ends": "-2 0", "leader": 5}


def test_control_z_stops_and_continues_the_foreground_group(mayfly):
    see = found(mayfly, """
def child():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    fore = os.fork()
    if fore == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        os.write(1, b'ready!')
        os.read(0, 99)
        os._exit(4)
    stopped = os.waitpid(fore, os.WUNTRACED)[1]
    os.write(1, b'<%d>' % (os.WSTOPSIG(stopped) if os.WIFSTOPPED(stopped) else -1))
    os.killpg(fore, signal.SIGCONT)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(fore, 0)[1]))
""" + FORKED + """
until(outer, b'ready!')
os.write(outer, b'\\x1a')
see['signal'] = until(outer, b'>').decode().partition('<')[2]
os.write(outer, b'on\\n')
see['code'] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
""")
    assert see == {"signal": "20>", "code": 4}


def test_hang_up_ends_the_session(mayfly):
    see = found(mayfly, """
def child():
    os.write(1, b'ready!')
    signal.pause()
""" + FORKED + """
until(outer, b'ready!')
os.close(outer)
see['code'] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
""")
    assert see == {"code": -1}


def test_a_changed_window_is_signalled(mayfly):
    see = found(mayfly, """
import fcntl, struct
def child():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})  # it may come before the wait
    os.write(1, b'ready!')
    signal.sigwait({signal.SIGWINCH})
    os.write(1, b'<%d>' % os.get_terminal_size(0).columns)
    os._exit(0)
""" + FORKED + """
until(outer, b'ready!')
fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 77, 0, 0))
see['size'] = until(outer, b'>').decode().partition('<')[2]
os.waitpid(pid, 0)
""")
    assert see == {"size": "77>"}


def test_asyncio_reads_from_a_terminal(mayfly):
    see = found(mayfly, """
import asyncio, os
async def main():
    outer, inner = os.openpty()
    program = await asyncio.create_subprocess_exec('sh', '-c', 'tty; read line; echo "got $line"', stdin=inner,
                                                   stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(outer, 'rb', 0))
    see['tty'] = (await reader.readline()).decode()
    os.write(outer, b'line\\n')
    see['echo'] = (await reader.readline()).decode()
    see['got'] = (await reader.readline()).decode()
    see['code'] = await program.wait()
    transport.close()
asyncio.run(main())
""")
    assert see == {"tty": "/dev/pts/0\r\n", "echo": "line\r\n", "got": "got line\r\n", "code": 0}


def test_script_runs_a_command_on_a_terminal(mayfly):
    result = mayfly.run("-t", "shell", "--", "script", "-qec", "tty; stty size; exit 6", "/dev/null")
    assert (result["verdict"], result["exitCode"]) == ("failed", 6), result
    assert result["stdout"].replace("\r", "") == "/dev/pts/0\n0 0\n"


def test_a_shell_on_a_terminal_controls_jobs(mayfly):
    typed = "set -m; sleep 1000 & jobs; kill %1; wait %1; echo left $?"
    result = mayfly.run("-t", "shell", "--", "script", "-qec", f"bash --norc -ic '{typed}'", "/dev/null")
    assert result["verdict"] == "succeeded", result
    lines = result["stdout"].replace("\r", "")
    assert "no job control" not in lines and "Running" in lines and "left 143" in lines, lines


TAKE = """
import errno, os
held = []
try:
    while True:
        held.append(os.openpty())
except OSError as e:
    see['refused'] = errno.errorcode[e.errno]
see['held'] = len(held)
"""


def test_the_ninth_is_refused_and_the_eight_work(mayfly):
    see = found(mayfly, TAKE + """
see['work'] = []
for outer, inner in held:
    os.write(outer, b'x\\n')
    see['work'].append(os.read(inner, 9).decode())
see['listed'] = sorted(os.listdir('/dev/pts'))
os.close(held[3][0]); os.close(held[3][1])
see['again'] = os.ttyname(os.openpty()[1])
""")
    assert see == {"refused": "ENOSPC", "held": PTYS, "work": ["x\n"] * PTYS, "again": "/dev/pts/3",
                   "listed": sorted([*map(str, range(PTYS)), "ptmx"])}


def test_who_has_all_of_his_own_takes_none_of_anothers(mayfly):
    hold = f"see = {{}}\n{TAKE}\nprint(see['held'], flush=True)\nimport sys; sys.stdin.read()"
    holder = mayfly.start("run", "-t", "python", "-q", "--stdin", "-c", hold)
    try:
        assert holder.stdout.readline() == b"%d\n" % PTYS
        assert found(mayfly, TAKE) == {"refused": "ENOSPC", "held": PTYS}
        assert holder.poll() is None
    finally:
        holder.communicate(timeout=60)
    assert holder.returncode == 0


def test_a_box_that_ends_with_open_terminals_gives_them_back(mayfly):
    """Killed with readers and a session on its terminals: twice as many in all as one pool of the host could hold."""
    code = TAKE + "import sys\nif os.fork() == 0:\n  os.login_tty(held[0][1])\n  os.read(0, 1)\nprint(len(held), flush=True)\nos.read(held[1][1], 1)"
    for _ in range(3):
        before = pool_used()
        result = mayfly.run("-t", "python", "--timeout", "300ms", "-c", f"see = {{}}\n{code}")
        assert (result["verdict"], result["stdout"]) == ("wallTime", f"{PTYS}\n"), result
        assert result["receipt"]["complete"], result["receipt"]
        if pool_used() <= before:
            break  # other programs on this machine may have opened some meanwhile
    else:
        raise AssertionError("pseudo-terminals of an ended box are still counted")


def pool_used():
    return int(read("/proc/sys/kernel/pty/nr"))


# --- who grants less, or none ------------------------------------------------------------

@pytest.fixture
def daemon_of(tmp_path):
    started = []

    def start(**options):
        os.chmod(tmp_path, 0o755)
        started.append(Daemon(tmp_path, **light(), **options))
        return started[-1].start()

    yield start
    for one in started:
        one.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
def test_a_small_pool_gives_each_task_fewer_and_says_so(daemon_of):
    daemon = daemon_of(config="ptys_max = 40\n", templates=("python",))
    assert re.search(r"'python' has at most 2 pseudo-terminals, not 8: all tasks share 40; raise", read(daemon.log))
    assert found(daemon.cli, TAKE) == {"refused": "ENOSPC", "held": 2}


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
def test_a_pool_too_small_for_one_each_gives_none(daemon_of):
    daemon = daemon_of(config="ptys_max = 15\n", templates=("python",))
    assert "'python' has at most 0 pseudo-terminals" in read(daemon.log)
    assert_none(daemon.cli, "python")


def assert_none(mayfly, template):
    assert found(mayfly, TAKE + "see['dev'] = sorted(os.listdir('/dev'))", template=template) == {
        "refused": "ENOENT", "held": 0,
        "dev": ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]}


# --- own templates -----------------------------------------------------------------------

@pytest.fixture(scope="module")
def own(tmp_path_factory, registries):  # noqa: F811
    place = Place(tmp_path_factory.mktemp("terminals"))
    place.put("expecting", '[image]\npip = ["pexpect"]\n[terminal]\nptys = 3\n')
    place.put("blind", "[terminal]\nptys = 0\n", base="expecting")
    place.put("blind-too", "", base="blind")
    place.put("nodes", '[image]\npackages = ["nodejs"]\nnpm = ["@lydell/node-pty"]\n', base="shell")
    names = ("expecting", "blind", "blind-too", "nodes")
    for name in names:
        if name.startswith("blind"):  # the same packages: nothing is looked up again
            shutil.copy(place.dir / "expecting/manifest.lock", place.dir / name)
        place.build(name)
    folder = tmp_path_factory.mktemp("run")
    os.chmod(folder, 0o755)
    daemon = Daemon(folder, templates=names, state_dir=str(place.state), template_dirs=[place.dir])
    yield daemon.start().cli
    daemon.end()


def test_pexpect_drives_a_program(own):
    assert found(own, """
import pexpect, sys
python = pexpect.spawn(sys.executable, ['-q', '-i'], encoding='utf-8', timeout=60)
python.expect('>>> ')
python.sendline('6*7')
python.expect('42')
python.expect('>>> ')
python.sendline('import getpass; len(getpass.getpass())')
python.expect('Password: ')
python.waitnoecho()
python.sendline('secret')
python.expect(r'\\b6\\b')
see['hidden'] = 'secret' not in python.before
python.expect('>>> ')  # before it the terminal is still cooked, and readline would read the EOF as a NUL
python.sendeof()
python.expect(pexpect.EOF)
python.close()
see['code'] = python.exitstatus
""", template="expecting") == {"hidden": True, "code": 0}


NODE = """
const pty = require('@lydell/node-pty');
const shell = pty.spawn('bash', ['--norc', '-c', 'tty; stty size; read line; echo got $line; exit 5'],
                        {cols: 90, rows: 20});
let said = '', asked = false;
shell.onData(data => {
  said += data;
  if (!asked && said.includes('20 90')) { asked = true; shell.resize(70, 10); shell.write('line\\r'); }
});
shell.onExit(end => console.log(JSON.stringify({code: end.exitCode, said: said.replaceAll('\\r', '')})));
"""


def test_node_pty_drives_a_program(own):
    result = own.run("-t", "nodes", "--", "node", "-e", NODE)
    assert result["verdict"] == "succeeded", result
    assert json.loads(result["stdout"]) == {"code": 5, "said": "/dev/pts/0\n20 90\nline\ngot line\n"}


def test_a_manifest_says_how_many(own):
    assert found(own, TAKE, template="expecting") == {"refused": "ENOSPC", "held": 3}


@pytest.mark.parametrize("template", ("blind", "blind-too"))
def test_a_manifest_turns_them_off_for_those_that_stand_upon_it_too(own, template):
    assert_none(own, template)
