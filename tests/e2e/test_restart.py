"""What a restart of the daemon takes along, and what it keeps: ids, keys, and the words about both.

Each test starts its own daemon.
"""

import json
import os
import signal

import pytest

from test_lifecycle import SECONDS_MAX, Daemon, await_that, daemons, tasks  # noqa: F401  (a fixture)
from light import light

JS_INTEGER_MAX = 2**53 - 1

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


def detach(daemon, *words, key=None, code="print('ran')"):
    """The id, or the error."""
    flags = ("--key", key) if key else ()
    said = json.loads(daemon.cli("run", "--json", "--detach", *flags, "-t", "python", *words, "-c", code).stdout)
    return said["error"] if "error" in said else said["id"]


def error_of(done):
    assert done.returncode in (1, 125), done
    return json.loads(done.stdout)["error"] if done.stdout else {"message": done.stderr.decode()}


def restart(daemon, number=signal.SIGKILL):
    os.kill(daemon.pid, number)
    daemon.process.wait(SECONDS_MAX)
    return daemon.start()


def test_ids_do_not_repeat_and_do_not_count(daemons):  # noqa: F811
    daemon = daemons()
    ids = []
    for _ in range(3):
        ids += [daemon.cli.run("-t", "shell", "--", "true")["id"] for _ in range(4)]
        restart(daemon)
    assert len(set(ids)) == len(ids) and all(0 < each <= JS_INTEGER_MAX for each in ids)
    # By chance 1 of 2**24 runs of this test has two ids so near to each other.
    gaps = [b - a for a, b in zip(sorted(ids), sorted(ids)[1:])]
    assert min(gaps) > 2**22, sorted(ids)
    state = daemon.instance_state
    assert state.stat().st_mode & 0o7777 == 0o700
    assert sorted((f.name, f.stat().st_mode & 0o7777) for f in state.iterdir()) == [("ids", 0o600), ("keys", 0o600)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_id_of_an_earlier_run_finds_and_kills_nothing_and_says_so(daemons, number):  # noqa: F811
    daemon = daemons(templates=("python",))
    ended, running = detach(daemon), detach(daemon, code="import time; time.sleep(600)")
    assert daemon.cli("task", "wait", ended).stdout == b"ran\n"
    await_that(lambda: [t["id"] for t in tasks(daemon)] == [running], "one of them runs")
    restart(daemon, number)
    others = [detach(daemon, code="import time; time.sleep(600)") for _ in range(3)]
    for old in ended, running:
        for words in (("task", "wait", old), ("task", "info", old), ("task", "close", old), ("kill", old)):
            error = error_of(daemon.cli(*words))
            assert "restarted at 2" in error["message"], error
    # A number that never was an id looks like another account's task: there is none.
    error = error_of(daemon.cli("kill", others[0] ^ 1))
    assert "no task" in error["message"] and "restarted" not in error["message"], error
    assert {t["id"] for t in tasks(daemon)} == set(others), "none of them was touched"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_repeated_key_of_an_earlier_run_runs_nothing(daemons, number):  # noqa: F811
    daemon = daemons(templates=("python",))
    first = detach(daemon, key="job", code="import time; time.sleep(600)")
    assert detach(daemon, key="job", code="import time; time.sleep(600)") == first
    closed = detach(daemon, key="closed")
    assert daemon.cli("task", "close", closed).returncode == 0
    restart(daemon, number)
    for _ in range(2):
        error = detach(daemon, key="job", code="import time; time.sleep(600)")
        assert error["code"] == "alreadyExists" and not error["retryable"], error
        assert "restarted at 2" in error["message"] and "may have run" in error["message"], error
        assert "another key" in error["advice"], error
        error = error_of(daemon.cli("task", "wait", "--json", "--key", "job"))
        assert error["code"] == "notFound" and "restarted at 2" in error["message"], error
        assert tasks(daemon) == []
        restart(daemon, number)
    for key in "job-2", "closed":  # another key, and one whose task was closed
        task = detach(daemon, key=key)
        assert daemon.cli("task", "wait", task).stdout == b"ran\n"


def test_a_damaged_state_is_refused_in_words_and_a_deleted_one_begins_anew(daemons):  # noqa: F811
    daemon = daemons(templates=("shell",))
    before = daemon.cli.run("-t", "shell", "--", "true")["id"]
    daemon.end()
    state = daemon.instance_state
    for name, damage in (("ids", b""), ("ids", b"x" * 1536), ("keys", b"x" * 64)):
        whole = (state / name).read_bytes()
        (state / name).write_bytes(damage)
        with open(os.devnull, "wb") as null:
            process = daemon.spawn(null.fileno())
        assert process.wait(SECONDS_MAX) == 1
        assert f"'{state / name}' is damaged" in daemon.said() and "Delete it" in daemon.said(), daemon.said()
        (state / name).write_bytes(whole)
    (state / "ids").unlink()
    daemon.start()
    assert daemon.cli.run("-t", "shell", "--", "true")["id"] != before
    error = error_of(daemon.cli("kill", before))
    assert "restarted" not in error["message"], "under the new key it is a number like any other"


def test_two_daemons_with_one_state_are_refused(daemons, tmp_path):  # noqa: F811
    daemon = daemons(templates=("shell",))
    second = Daemon(tmp_path, instance=daemon.instance, templates=("shell",), **light())
    with open(os.devnull, "wb") as null:
        process = second.spawn(null.fileno())
    assert process.wait(SECONDS_MAX) == 1
    assert "another daemon of the name" in second.said(), second.said()
