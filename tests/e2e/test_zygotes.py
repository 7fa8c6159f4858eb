"""Zygotes that are replaced by younger ones, and zygotes that serve one tenant each."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from light import light
from pool_view import boxes
from shared_pages import COUNT
from test_lifecycle import SECONDS_MAX, STATE_DIR, TOP, await_that, comm, daemons, family, read  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")

BOXES = 100  # killed while another zygote hangs at its start
# The zygote's address layout, as its clones see it.
LAYOUT = "import json\nprint(json.dumps([id(json), id(len)]))"


WHOLE = {"state_dir": STATE_DIR, "template_dirs": (TOP / "templates",)}


def with_keys(daemons, table, keys, templates=None, **options):
    """A daemon whose template `python` (light by default) has these keys in a table of its manifest."""
    folder, templates = daemons.folder / "templates", templates or light()
    shutil.copytree(templates["template_dirs"][0] / "python", folder / "python")
    manifest = folder / "python/manifest.toml"
    text = manifest.read_text()
    if f"[{table}]" not in text:
        text += f"\n[{table}]\n"
    for key in re.findall(r"^\w+", keys, re.M):
        text = re.sub(rf"(?m)(?<=^\[{table}\]\n)((?:(?!\[).*\n)*?){key} = .*\n", r"\1", text)
    manifest.write_text(text.replace(f"[{table}]\n", f"[{table}]\n{keys}\n", 1))
    return daemons(**{**templates, "template_dirs": (folder,)}, templates=("python",), **options)


def info(daemon):
    return json.loads(daemon.cli("templates", "--json").stdout)["templates"][0]


def zygotes(daemon):
    return [pid for pid in family(daemon.pid) if b"/usr/lib/mayfly/zygote.py" in
            read(f"/proc/{pid}/cmdline").encode() and read(f"/proc/{pid}/status").count("NSpid") and
            len(re.search(r"NSpid:(.*)", read(f"/proc/{pid}/status"))[1].split()) == 2]


def layout(daemon, *flags):
    task = daemon.cli.run("-t", "python", *flags, "-c", LAYOUT)
    assert task["verdict"] == "succeeded", task
    return task["stdout"]


def test_a_zygote_is_followed_by_a_younger_one_and_no_task_is_lost(daemons):
    daemon = with_keys(daemons, "zygote", "renew_clones = 8")
    [old] = zygotes(daemon)
    long = daemon.cli.start("run", "-t", "python", "-c", "print(1, flush=True)\nprint(input())", "--stdin")
    assert long.stdout.readline() == b"1\n"
    layouts = set()
    while info(daemon)["renewals"] < 2:
        layouts.add(layout(daemon))
    layouts.add(layout(daemon))
    assert len(layouts) >= 2, "the address layout is still the first zygote's"
    assert old in zygotes(daemon), "its task runs still"
    out, err = long.communicate(b"done\n", timeout=SECONDS_MAX)
    assert (long.returncode, out) == (0, b"done\n"), err
    await_that(lambda: old not in zygotes(daemon), "the end of the first zygote")
    # The zygotes in between have no box left; the serving one may itself be about to be replaced.
    await_that(lambda: len(zygotes(daemon)) <= 2, "the end of the others")
    assert "unhealthy" not in daemon.said()


def test_a_zygote_that_nobody_used_stays(daemons):
    daemon = with_keys(daemons, "zygote", 'renew_after = "100ms"', config="parked_max = 0\nstocked_max = 0\n")
    before = zygotes(daemon)
    assert len(before) == 1
    layout(daemon)  # of its first clone
    await_that(lambda: info(daemon)["renewals"] >= 1, "the renewal")
    await_that(lambda: before[0] not in zygotes(daemon), "the end of the first zygote")
    [unused] = await_that(lambda: len(zygotes(daemon)) == 1 and zygotes(daemon), "one zygote")
    renewals = info(daemon)["renewals"]
    for _ in range(20):
        assert info(daemon)["renewals"] == renewals
    assert zygotes(daemon) == [unused]


def test_a_successor_that_fails_costs_nothing_but_a_word(daemons):
    daemon = with_keys(daemons, "zygote", "renew_clones = 4")
    [serving] = zygotes(daemon)
    # Successors are killed as they appear.
    renewed = 0
    for _ in range(40):
        layout(daemon)
        for pid in zygotes(daemon):
            if pid != serving:
                os.kill(pid, signal.SIGKILL)
                renewed += 1
        if renewed and info(daemon)["stateText"]:
            break
    assert "still serves" in info(daemon)["stateText"]
    assert info(daemon)["state"] == "ready"
    assert zygotes(daemon) == [serving]
    layout(daemon)


def test_tenants_have_zygotes_of_their_own(daemons):
    daemon = with_keys(daemons, "zygote", "tenants_max = 2")
    a, b = layout(daemon, "--tenant", "a"), layout(daemon, "--tenant", "b")
    assert a != b
    assert layout(daemon, "--tenant", "a") == a, "a's next task is served by a's zygote"
    await_that(lambda: len(zygotes(daemon)) == 3, "a spare zygote")
    holding = [daemon.cli.start("run", "-t", "python", "--stdin", "--tenant", tenant, "-c",
                                "print(1, flush=True)\ninput()") for tenant in "ab"]
    for each in holding:
        assert each.stdout.readline() == b"1\n"
    refused = daemon.cli("run", "-t", "python", "--tenant", "c", "-c", "1")
    assert refused.returncode == 125
    assert b"tenants" in refused.stderr and b"tenants_max" in refused.stderr
    for each in holding:
        each.communicate(b"\n", timeout=SECONDS_MAX)
    # A second later it takes the place of the zygote that is idle longest.
    await_that(lambda: daemon.cli("run", "-t", "python", "--tenant", "c", "-c", "1").returncode == 0, "a place for c")
    assert layout(daemon, "--tenant", "c") not in (a, b)
    await_that(lambda: len(zygotes(daemon)) == 3, "the end of that one's zygote")
    too_long = daemon.cli("run", "-t", "python", "--tenant", "x" * 65, "-c", "1")
    assert too_long.returncode == 125 and b"tenant" in too_long.stderr
    unprintable = daemon.cli("run", "-t", "python", "--tenant", "a\nb", "-c", "1")
    assert unprintable.returncode == 125 and b"printable" in unprintable.stderr


def test_what_a_zygote_shares_is_private(daemons):
    """The shared memory belongs to a file that no clone can reach or write to."""
    daemon = daemons(templates=("python",), **WHOLE)
    code = """
import ctypes, glob, json, os
lines = [line for line in open('/proc/self/maps') if 'zygote (deleted)' in line]
assert lines and all(line.split()[1] == 'rw-p' for line in lines), lines
assert not [fd for fd in os.listdir('/proc/self/fd') if 'zygote' in (os.path.exists('/proc/self/fd/' + fd) and os.readlink('/proc/self/fd/' + fd) or '')]
for line in lines:
    try:
        os.open('/proc/self/map_files/' + line.split()[0], os.O_RDWR)
        raise SystemExit('opened ' + line)
    except OSError:
        pass
import decimal
print(decimal.MAX_EMAX, json.__doc__ == 'written')
json.__doc__ = 'written'
"""
    for _ in range(3):
        task = daemon.cli.run("-t", "python", "-c", code)
        assert task["stdout"].split()[1:] == ["False"], task
    [zygote] = zygotes(daemon)
    assert not [fd for fd in os.listdir(f"/proc/{zygote}/fd") if "zygote (deleted)" in os.readlink(f"/proc/{zygote}/fd/{fd}")]


def test_no_clone_sees_which_pages_others_touched(daemons):
    """No shared page is the clone's alone, although no other clone lives."""
    daemon = daemons(templates=("python",), config="parked_max = 0\nstocked_max = 0\n", **WHOLE)
    task = daemon.cli.run("-t", "python", "-c", COUNT + "print(shared > 1000, alone)")
    assert task["stdout"] == "True 0\n", task


def test_the_zygotes_memory_cap_is_not_used_up_by_its_clones(daemons):
    """The kernel charges a fork's page tables to the process that forks."""
    daemon = with_keys(daemons, "zygote", 'memory = "80MiB"', WHOLE, config="parked_max = 256\nparked_memory = \"2GiB\"\n")
    manifest = daemons.folder / "templates/python/manifest.toml"
    daemon.end()
    manifest.write_text(manifest.read_text() + "\n[pool]\nmin = 256\nmax = 256\n")
    daemon.start()
    await_that(lambda: info(daemon)["parked"] == 256, "256 parked clones")
    assert "memory cap" not in daemon.said(), daemon.said()


def test_the_state_of_the_pool_is_told(daemons):
    daemon = with_keys(daemons, "pool", "min = 3\nmax = 3")
    await_that(lambda: info(daemon)["parked"] == 3 and info(daemon)["stocked"] == 1, "a full pool")
    before = info(daemon)
    assert (before["parkedTarget"], before["stockedTarget"], before["zygotes"]) == (3, 1, 1)
    layout(daemon)
    assert info(daemon)["hits"] == before["hits"] + 1
    assert info(daemon)["misses"] == before["misses"]
    table = daemon.cli("templates").stdout.decode()
    assert "PARKED" in table and "/3" in table


def test_a_publish_that_hangs_delays_no_kill(daemons):
    """A new zygote's processes are frozen; meanwhile 100 boxes of another template end."""
    daemon = daemons(config="parked_max = 4\nstocked_max = 0\n")
    clients = [daemon.cli.start("run", "-t", "shell", "--memory", "32MiB", "--", "sh", "-c", "echo; exec sleep 1000") for _ in range(BOXES)]
    for client in clients:
        assert client.stdout.readline() == b"\n", (client.stderr.read(), daemon.said())
    running = await_that(lambda: all_sleep(daemon), "each shell has executed its sleep")
    folder = freeze_next_zygote(daemon)
    began = time.monotonic()
    for client in clients:
        client.kill()
    await_that(lambda: not running & set(boxes(daemon)), "their boxes are gone")
    took = time.monotonic() - began
    assert "did not start" not in daemon.said(), f"the publish came to its end before the kills, which took {took} s"
    assert comm_of_frozen(folder) & {"mayfly-spawner"}, "it hangs before an exec still"
    # Each of its processes has 10 s; then the start is tried again.
    await_that(lambda: "did not start within 10000 ms" in read(daemon.log), "it fails in its time")
    await_that(lambda: not folder.exists(), "nothing of it is left")
    await_that(lambda: info(daemon)["state"] == "ready", "it serves again")
    assert daemon.cli.run("-t", "python", "-c", "print(6*7)")["stdout"] == "42\n"
    for client in clients:
        client.communicate()


def all_sleep(daemon):
    """The ids of the boxes that sleep, once there are BOXES of them: a shell's newline comes before its exec."""
    found = {b.id for b in boxes(daemon).values() if comm(b.clone) == "sleep"}
    return found if len(found) == BOXES else None


def comm_of_frozen(folder):
    return {comm(pid) for file in folder.rglob("cgroup.procs") for pid in read(file).split()}


def freeze_next_zygote(daemon):
    """Ends python's zygote, and freezes the next one before all its processes have executed their programs."""
    [top] = [p for p in daemon.cgroups() if (p / "cgroup.events").exists()]
    for _ in range(3):
        known = set(top.iterdir())
        [zygote] = await_that(lambda: zygotes(daemon), "its zygote")
        os.kill(zygote, signal.SIGKILL)
        while not (new := [p for p in set(top.iterdir()) - known if p.is_dir()]):
            pass  # its processes follow within a millisecond
        (new[0] / "cgroup.freeze").write_text("1")
        await_that(lambda: comm_of_frozen(new[0]), "a process of it")
        if "mayfly-spawner" in comm_of_frozen(new[0]):
            return new[0]
        (new[0] / "cgroup.freeze").write_text("0")  # too late: it has started
        await_that(lambda: info(daemon)["state"] == "ready", "it serves")
    raise AssertionError("no zygote was frozen at its start")
