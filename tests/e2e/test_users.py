"""P17: who may connect: root, the users and the groups that the settings name; and the socket's mode."""

import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys

import pytest
from light import light
from test_lifecycle import BINARIES, Daemon, daemons  # noqa: F401 (a fixture)

USER, OTHER = 64_021, 64_022
GROUP, ANOTHER = 64_031, 64_032

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


def run_as(daemon, uid, gid, groups=()):
    """`mayfly run` as that user: (exit code, JSON)."""
    done = subprocess.run([BINARIES / "mayfly", "--socket", daemon.socket, "run", "--json", "-c", "print(6*7)"],
                          user=uid, group=gid, extra_groups=list(groups), capture_output=True, text=True,
                          timeout=120, cwd="/")
    return done.returncode, json.loads(done.stdout)


def mode_of(daemon):
    found = os.stat(daemon.socket)
    assert stat.S_ISSOCK(found.st_mode) and found.st_uid == 0
    return stat.S_IMODE(found.st_mode), found.st_gid


def is_refused(code, said, words):
    assert code == 125 and said["error"]["code"] == "permissionDenied", said
    assert words in said["error"]["message"] and "uids_allowed" in said["error"]["advice"], said


def test_by_default_only_root_may_connect_and_the_kernel_keeps_others_out(daemons):  # noqa: F811
    daemon = daemons(templates=("python",))
    assert mode_of(daemon) == (0o600, 0)
    assert run_as(daemon, 0, 0)[1]["stdout"] == "42\n"
    is_refused(*run_as(daemon, USER, GROUP), "Permission denied")


def test_a_user_of_the_list_runs_tasks_and_no_other(daemons):  # noqa: F811
    daemon = daemons(templates=("python",), config=f"uids_allowed = [{USER}]\n")
    assert mode_of(daemon)[0] == 0o666
    assert run_as(daemon, USER, GROUP)[1]["stdout"] == "42\n"
    is_refused(*run_as(daemon, OTHER, GROUP), f"uid {OTHER} may not use this daemon")


def test_a_group_lets_its_members_in_by_whichever_of_their_groups_it_is(daemons):  # noqa: F811
    daemon = daemons(templates=("python",), config=f"gids_allowed = [{GROUP}]\n")
    assert mode_of(daemon) == (0o660, GROUP)
    assert run_as(daemon, USER, GROUP)[1]["stdout"] == "42\n"
    assert run_as(daemon, USER, ANOTHER, [GROUP])[1]["stdout"] == "42\n"
    is_refused(*run_as(daemon, USER, ANOTHER), "Permission denied")


def test_beside_a_user_a_group_is_checked_at_accept(daemons):  # noqa: F811
    daemon = daemons(templates=("python",), config=f"uids_allowed = [{USER}]\ngids_allowed = [{GROUP}, {ANOTHER}]\n")
    assert mode_of(daemon)[0] == 0o666
    many = list(range(70_000, 70_200))
    for uid, gid, groups in ((USER, 1, ()), (OTHER, GROUP, ()), (OTHER, 1, [ANOTHER]), (OTHER, 1, [*many, ANOTHER])):
        assert run_as(daemon, uid, gid, groups)[1]["stdout"] == "42\n", (uid, gid)
    is_refused(*run_as(daemon, OTHER, 1, many), f"uid {OTHER} may not use this daemon")


def test_members_of_one_group_are_users_of_their_own(daemons):  # noqa: F811
    daemon = daemons(templates=("python",), config=f"gids_allowed = [{GROUP}]\n")
    base = [BINARIES / "mayfly", "--socket", daemon.socket]
    who = {"group": GROUP, "extra_groups": [], "text": True, "timeout": 120, "cwd": "/"}
    held = subprocess.check_output([*base, "run", "--detach", "-c", "import time; time.sleep(600)"], user=USER, **who)
    for uid, sees in ((USER, True), (OTHER, False), (0, True)):
        tasks = json.loads(subprocess.check_output([*base, "ps", "--json"], user=uid, **who))
        listed = [str(task["id"]) for task in (tasks["tasks"] if isinstance(tasks, dict) else tasks)]
        assert (held.strip() in listed) == sees, (uid, tasks)
    kill = subprocess.run([*base, "kill", held.strip()], user=OTHER, capture_output=True, **who)
    assert kill.returncode != 0 and "no task" in kill.stderr


def test_names_are_looked_up_at_the_start_and_an_unknown_one_refuses_it(daemons):  # noqa: F811
    daemon = daemons(templates=("python",), config='uids_allowed = ["nobody"]\ngids_allowed = ["daemon"]\n')
    nobody = pwd.getpwnam("nobody").pw_uid
    assert run_as(daemon, nobody, 1_234)[1]["stdout"] == "42\n"
    assert run_as(daemon, USER, grp.getgrnam("daemon").gr_gid)[1]["stdout"] == "42\n"
    unknown = Daemon(daemons.folder, config='gids_allowed = ["no-such-group"]\n', templates=("python",), **light())
    ready, theirs = os.pipe()
    process = unknown.spawn(theirs)
    os.close(theirs)
    os.close(ready)
    assert process.wait(60) == 1
    assert "gids_allowed names 'no-such-group'" in unknown.said()


def test_the_sockets_mode_stands_before_anybody_can_connect(daemons):  # noqa: F811
    """Another user tries all through the daemon's start: it is refused, or finds no daemon, and never served."""
    tries = """
import errno, os, socket, sys, time
os.setgroups([]); os.setgid(64021); os.setuid(64021)
end = time.monotonic() + 60
while time.monotonic() < end:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
        print("connected"); break
    except OSError as error:
        if error.errno == errno.EACCES: print("refused"); break
        if error.errno not in (errno.ENOENT, errno.ECONNREFUSED): print(error); break
"""
    path = str(daemons.folder / "early.sock")
    with subprocess.Popen([sys.executable, "-c", tries, path], stdout=subprocess.PIPE, text=True) as peer:
        daemon = Daemon(daemons.folder, templates=("python",), **light())
        daemons.made.append(daemon)
        daemon.socket = path
        daemon.start()
        assert peer.communicate(timeout=60)[0] == "refused\n"
    with socket.socket(socket.AF_UNIX) as root:
        root.connect(path)
