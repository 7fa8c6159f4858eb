"""What a package can do before its zygote is dumped, and whoever restores afterwards: no clone has less walls for it, and no
snapshot loses its lease."""

import ast
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import subprocess

import pytest

from support import CLI
from template_place import SITE, Place
from test_lifecycle import TOP, await_that, comm, daemons, family, read  # noqa: F401 (a fixture)

SECONDS_MAX = 180
PIDFD_OPEN, PIDFD_GETFD = 434, 438

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots need root")


def put(folder, preload, env=""):
    """A template that restores clones of a Python that preloaded this."""
    place = Place(folder)
    place.put_light("packed", f'mechanism = "restore"\n[image.files]\n"{SITE}/packed.py" = "packed.py"\n[zygote]\npreload = ["packed"]\n{env}', packed__py=preload)
    done = subprocess.run([CLI, "image", "build", "packed", *of(place)], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stderr
    return place


def of(place):
    return ["--templates", str(place.dir), "--state-dir", str(place.state), "--runtime-dir", str(pathlib.Path(CLI).parent)]


def snapshot(place, verb, *args):
    where = of(place) if verb in ("build", "refresh") else ["--state-dir", str(place.state)]
    return subprocess.run([CLI, "snapshot", verb, *map(str, args), *where], capture_output=True, text=True, timeout=SECONDS_MAX)


def served(place, daemons, config=""):  # noqa: F811
    return daemons(state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"), templates=("packed",), config=config)


# --- what a package changes before the dump --------------------------------------------

# The gate judges the process that it runs in: a package can have it judge by what it finds afterwards.
FORGETS = "\nimport ctypes\nctypes.PyDLL('/usr/lib/mayfly/libmayfly-zygote.so').mayfly_zygote_preloaded(None)\n"
LEAVES_USER = "import os\nos.unshare(os.CLONE_NEWUSER)\n"
# It is somebody in it: criu 4.1 dumps such a process, and then restores none.
MAPS = "open('/proc/self/setgroups', 'w').write('deny')\nfor kind in 'ug': open(f'/proc/self/{kind}id_map', 'w').write('0 1000 1')\n"
LEAVES_ALL = LEAVES_USER + MAPS + "os.unshare(os.CLONE_NEWNS | os.CLONE_NEWNET | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP)\n"
# Beside others of the host that have a higher one, it is spared when the memory is short.
LATER = "open('/proc/self/oom_score_adj', 'w').write('300')\n"
# All is allowed but one call that nobody makes: swapon.
FILTERS = """
import ctypes, struct
code = ctypes.create_string_buffer(struct.pack('HBBI' * 4, 0x20, 0, 0, 0, 0x15, 0, 1, 167, 6, 0, 0, 0x50001, 6, 0, 0, 0x7fff0000))
assert ctypes.CDLL(None).prctl(22, 2, ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(code))), 0, 0) == 0
"""
STAYS = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        os.closerange(0, 64)
        time.sleep(600)
    os._exit(0)
os.wait()
"""
REFUSED = {
    "a user namespace": (LEAVES_USER, "preload 'packed' left its user namespace"),
    "all namespaces": (LEAVES_ALL, "preload 'packed' left its user namespace"),
    "the order": (LATER, "preload 'packed' changed its oom_score_adj from 1000 to 300"),
    "a filter": (FILTERS, "preload 'packed' installed a filter of system calls"),
    "a user namespace, hidden": (LEAVES_USER + MAPS + FORGETS, "Error: the zygote left its user namespace"),
    "all namespaces, hidden": (LEAVES_ALL + FORGETS, "Error: the zygote left its user namespace"),
    "the order, hidden": (LATER + FORGETS, "Error: the zygote changed its oom_score_adj from 1000 to 300"),
    "a process": (STAYS, "Error: the zygote left a process in its box"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_zygote_that_has_other_surroundings_than_its_box_is_not_dumped(tmp_path, change):
    preload, words = REFUSED[change]
    place = put(tmp_path / "place", preload)
    built = snapshot(place, "build", "packed")
    assert built.returncode == 1 and f"the zygote was not dumped: {words}" in built.stderr, built.stderr
    assert not [each for each in (place.state / "snapshots").iterdir() if each.name != "build.lock"]


# umask, PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER
CHANGES = """
import ctypes, os
prctl = ctypes.CDLL(None).prctl
os.umask(0)
for what, value in ((1, 0), (4, 0), (36, 1)): assert prctl(what, value, 0, 0, 0) == 0
"""
LOOK = """
import ctypes, json, os
prctl, told = ctypes.CDLL(None).prctl, ctypes.c_int(-1)
def asked(what): return told.value if prctl(what, ctypes.byref(told), 0, 0, 0) == 0 else None
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({'umask': os.umask(0), 'parent-death signal': asked(2), 'dumpable': prctl(3, 0, 0, 0, 0), 'subreaper': asked(37),
                  'no new privileges': prctl(39, 0, 0, 0, 0), 'seccomp': status['Seccomp'],
                  'capabilities': [status[kind] for kind in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')],
                  'order': open('/proc/self/oom_score_adj').read().strip()}))
"""


def test_a_restored_clone_is_as_a_forked_one_whatever_its_preloads_set(tmp_path, daemons):  # noqa: F811
    place = put(tmp_path / "place", CHANGES)
    daemon = served(place, daemons)
    found = json.loads(daemon.cli.run("-t", "packed", "-c", LOOK)["stdout"])
    assert found == {"umask": 0o022, "parent-death signal": 9, "dumpable": 1, "subreaper": 0, "no new privileges": 1, "seccomp": "2",
                     "capabilities": ["0000000000000000"] * 5, "order": "1000"}, found


# --- what whoever restores can do with its descriptor ----------------------------------


def descriptors_of(pid, folder):
    """Of a process, those of this folder: number -> whether its open file description has the lease."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.path.samefile(f"/proc/{pid}/fd/{number}", folder):
                found[int(number)] = "FLOCK" in read(f"/proc/{pid}/fdinfo/{number}")
    return found


def taken(pid, number):
    """The same open file description, in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = libc.syscall(PIDFD_OPEN, pid, 0)
    fd = libc.syscall(PIDFD_GETFD, process, number, 0)
    assert process >= 0 and fd >= 0, os.strerror(ctypes.get_errno())
    os.close(process)
    return fd


def folder_of(place):
    [folder] = [each for each in (place.state / "snapshots").iterdir() if len(each.name) == 64]
    return folder


def in_use(place):
    [listed] = json.loads(snapshot(place, "list", "--json").stdout)
    return listed["in_use"]


def test_whoever_restores_cannot_end_the_lease(tmp_path, daemons):  # noqa: F811
    place = put(tmp_path / "place", "")
    daemon = served(place, daemons)
    assert daemon.cli.run("-t", "packed", "-c", "print(6*7)")["stdout"] == "42\n"
    by_name = {comm(pid): pid for pid in sorted(family(daemon.pid), reverse=True)}  # children have its name for a moment
    held = {name: descriptors_of(by_name[name], folder_of(place)) for name in ("mayflyd", "mayfly-spawner", "mayfly-restorer")}
    assert {name: list(fds.values()) for name, fds in held.items()} == {
        "mayflyd": [True], "mayfly-spawner": [True], "mayfly-restorer": [False]}, held
    [number] = held["mayfly-restorer"]
    of_restorer = taken(by_name["mayfly-restorer"], number)
    fcntl.flock(of_restorer, fcntl.LOCK_UN)
    os.close(of_restorer)
    assert in_use(place) and "is in use" in snapshot(place, "remove", "packed").stderr
    daemon.end()
    assert not in_use(place) and snapshot(place, "remove", "packed").returncode == 0


def test_a_replaced_snapshot_is_leased_until_the_last_box_of_its_zygote_has_gone(tmp_path, daemons):  # noqa: F811
    place = put(tmp_path / "place", "")
    daemon = served(place, daemons)
    held = daemon.cli.start("run", "-q", "-t", "packed", "--stdin", "-c", "import sys; print('READY', flush=True); print(sys.stdin.read())")
    assert held.stdout.readline() == b"READY\n"
    first = folder_of(place).stat().st_ino
    refreshed = snapshot(place, "refresh", "packed", "--run-dir", daemon.run_dir, "--drain-time", "0s")
    assert refreshed.returncode == 0, refreshed.stderr
    [old] = [each for each in (place.state / "snapshots").iterdir() if each.name.startswith(".old-")]
    assert old.stat().st_ino == first
    assert descriptors_of(spawner_of(daemon), old), "its zygote drains"
    out, err = held.communicate(b"42", timeout=SECONDS_MAX)
    assert (held.returncode, out) == (0, b"42\n"), (out, err)
    await_that(lambda: not descriptors_of(spawner_of(daemon), old), "the lease ends with the last box")
    swept = snapshot(place, "refresh", "packed", "--run-dir", daemon.run_dir)
    assert swept.returncode == 0 and not old.exists(), swept.stderr


def spawner_of(daemon):
    [spawner] = [pid for pid in family(daemon.pid) if comm(pid) == "mayfly-spawner" and read(f"/proc/{pid}/status").split("PPid:\t")[1].split()[0] == str(daemon.pid)]
    return spawner


# --- which libraries a Python clone seeds ----------------------------------------------


def test_openssl_is_known_by_the_name_of_its_file():
    source = ast.parse((TOP / "templates/python/zygote.py").read_text())
    [function] = [each for each in source.body if isinstance(each, ast.FunctionDef) and each.name == "is_openssl"]
    names = {}
    exec(compile(ast.Module([function], []), "zygote.py", "exec"), names)
    folders = ("/usr/lib/x86_64-linux-gnu/", f"{SITE}/psycopg2_binary.libs/")
    for folder in folders:
        for name in ("libcrypto.so", "libcrypto.so.3", "libcrypto.so.1.1", "libcrypto-6e26a6b5.so.3", "libcrypto-3-x64.so", "libcrypto3.so"):
            assert names["is_openssl"](folder + name), name
        for name in ("libcryptopp.so.8", "libcrypto++.so.8.7", "libcryptsetup.so.12", "libcryptominisat5.so.5.11", "libcrypto-docs/libother.so", "libcrypto.txt", "libcrypto"):
            assert not names["is_openssl"](folder + name), name
