"""The life of a snapshot: made, listed, checked, damaged, served, removed; and what a kill leaves.

The tests use a copy of the state folder's node image and snapshot, so that they may damage it.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from support import CLI
from test_lifecycle import STATE_DIR, TOP, await_ends, await_that, comm, daemons, family, hold, read  # noqa: F401 (a fixture)

SECONDS_MAX = 180

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots need root")


def snapshot(state, verb, *args, check=None):
    words = [CLI, "snapshot", verb, *map(str, args), "--state-dir", str(state)]
    if verb == "build":
        words += ["--templates", str(TOP / "templates"), "--runtime-dir", str(pathlib.Path(CLI).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX)
    if check is not None:
        assert done.returncode == check, (done.stdout, done.stderr)
    return done


def folder_of(state):
    [folder] = [each for each in (state / "snapshots").iterdir() if len(each.name) == 64]
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A state folder with the node image and its snapshot."""
    state = tmp_path_factory.mktemp("state")
    index = pathlib.Path(STATE_DIR, "index/node.json")
    if not index.exists():
        pytest.skip("NO NODE IMAGE: mayfly image build node")
    (state / "index").mkdir()
    (state / "images").mkdir()
    shutil.copy(index, state / "index")
    image = json.loads(index.read_text())["digest"] + ".erofs"
    try:
        (state / "images" / image).hardlink_to(pathlib.Path(STATE_DIR, "images", image))
    except OSError:
        shutil.copy(pathlib.Path(STATE_DIR, "images", image), state / "images")
    snapshot(state, "build", "node", check=0)
    return state


@pytest.fixture
def state(made, tmp_path):
    """A copy of it, to be damaged."""
    copy = tmp_path / "state"
    (copy / "images").mkdir(parents=True)
    shutil.copytree(made / "index", copy / "index")
    for image in (made / "images").iterdir():
        (copy / "images" / image.name).hardlink_to(image)
    shutil.copytree(made / "snapshots", copy / "snapshots")
    return copy


def test_a_snapshot_is_made_once_listed_and_sound(made):
    [built] = json.loads(snapshot(made, "build", "node", "--json", check=0).stdout)
    assert built["built"] is False and built["files"] > 10 and built["bytes"] > 1 << 20, built
    [listed] = json.loads(snapshot(made, "list", "--json", check=0).stdout)
    assert listed["template"] == "node" and listed["key"] == built["key"] and not listed["in_use"], listed
    assert "sound" in snapshot(made, "check", "node", check=0).stdout
    assert (made / "snapshots").stat().st_mode & 0o777 == 0o700  # a descriptor of one folder leads to no other
    assert sorted(each.name[:5] for each in (made / "snapshots").iterdir()) == sorted([built["key"][:5], "build"])


def test_only_templates_that_restore_have_snapshots(made):
    refused = snapshot(made, "build", "shell", check=1)
    assert "mechanism \"exec\"" in refused.stderr, refused.stderr
    assert "there is no template 'nosuch'" in snapshot(made, "build", "nosuch", check=1).stderr


def truncate(folder):
    pages = folder / "pages-1.img"
    os.truncate(pages, pages.stat().st_size - 4096)
    return "pages-1.img"


def flip(folder):
    pages = folder / "pages-1.img"
    content = bytearray(pages.read_bytes())
    content[len(content) // 2] ^= 0x40
    pages.write_bytes(content)
    return "has another checksum"


def lose(folder):
    (folder / "pstree.img").unlink()
    return "'pstree.img' is missing"


def add(folder):
    (folder / "core-9999.img").write_bytes(b"foreign")
    return "core-9999.img"


def exchange(folder):
    info = json.loads((folder / "snapshot.json").read_text())
    info["template"] = "other"
    (folder / "snapshot.json").write_text(json.dumps(info))
    return "another snapshot"


REFUSES = "make_snapshots = false\n"


@pytest.mark.parametrize("damage", [truncate, flip, lose, add, exchange])
def test_a_damaged_snapshot_is_named_and_never_served(state, daemons, damage):  # noqa: F811
    words = damage(folder_of(state))
    if damage is not exchange:
        assert words in snapshot(state, "check", check=1).stderr
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=REFUSES)
    [template] = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
    assert template["state"] == "missingImage" and words in template["stateText"], template
    refused = daemon.cli("run", "-t", "node", "-c", "console.log(1)")
    assert refused.returncode == 125 and b"mayfly snapshot build node" in refused.stderr, refused.stderr
    daemon.end()
    if damage is not flip:
        return
    # The next build makes it anew.
    [built] = json.loads(snapshot(state, "build", "node", "--json", check=0).stdout)
    assert built["built"] is True
    snapshot(state, "check", check=0)


def test_without_a_snapshot_the_template_is_refused_with_the_remedy(state, daemons):  # noqa: F811
    assert snapshot(state, "remove", "node").returncode == 0
    assert snapshot(state, "remove", "node", check=1).stderr.startswith("mayfly: there is no snapshot 'node'")
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=REFUSES)
    refused = daemon.cli("run", "-t", "node", "-c", "console.log(1)")
    assert refused.returncode == 125 and b"has no snapshot for its present image" in refused.stderr, refused.stderr


@pytest.mark.parametrize("damage", [flip, pytest.param(None, marks=pytest.mark.slow)])
def test_a_daemon_makes_what_is_missing_at_its_start(state, daemons, damage):  # noqa: F811
    if damage:
        damage(folder_of(state))
    else:
        snapshot(state, "remove", "node", check=0)
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config="make_snapshots = true\n")
    assert "it is made now" in daemon.said()
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    snapshot(state, "check", check=0)


def test_a_served_snapshot_cannot_be_removed(state, daemons):  # noqa: F811
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",))
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    assert "is in use" in snapshot(state, "remove", "node", check=1).stderr
    [listed] = json.loads(snapshot(state, "list", "--json", check=0).stdout)
    assert listed["in_use"] is True
    daemon.end()
    assert snapshot(state, "remove", "node").returncode == 0


# --- kills -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["mayfly-restorer", "criu"])
def test_a_builder_killed_in_the_middle_leaves_no_process_and_no_half_snapshot(state, at):
    before = folder_of(state).name
    builder = subprocess.Popen([CLI, "snapshot", "build", "node", "--again", "--state-dir", str(state), "--templates", str(TOP / "templates"),
                                "--runtime-dir", str(pathlib.Path(CLI).parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    at = at[:15]
    await_that(lambda: [pid for pid in family(builder.pid) if comm(pid) == at] or builder.poll() is not None, f"{at} runs", pause_s=0.001)
    made = family(builder.pid)
    builder.kill()
    builder.wait()
    await_that(lambda: not [pid for pid in made if comm(pid) and read(f"/proc/{pid}/stat").split(") ")[-1][:1] != "Z"], "all its processes end")
    # What was there is there, sound; the half one is swept by the next build.
    assert folder_of(state).name == before
    snapshot(state, "check", check=0)
    snapshot(state, "build", "node", "--again", check=0)
    assert not [each for each in (state / "snapshots").iterdir() if each.name.startswith(".new")]
    snapshot(state, "check", check=0)


ON_DEMAND = "parked_max = 0\nstocked_max = 0\n"


def restoring(daemon):
    return [each for each in family(daemon.pid) if comm(each) == "criu"]


def test_a_killed_restore_costs_no_task(state, daemons):  # noqa: F811
    """Whoever kills criu: the box is ended, another is made, and the task runs. A task gets three boxes."""
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND)
    clients = [daemon.cli.start("run", "-q", "-t", "node", "-c", f"console.log({n})") for n in range(6)]
    killed, deadline = 0, time.monotonic() + 60
    while killed < 2 and time.monotonic() < deadline and any(client.poll() is None for client in clients):
        for pid in restoring(daemon)[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    for number, client in enumerate(clients):
        out, err = client.communicate(timeout=SECONDS_MAX)
        assert (client.returncode, out) == (0, f"{number}\n".encode()), (out, err, daemon.said())
    assert killed > 0
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    await_that(lambda: not restoring(daemon), "no criu is left")


@pytest.mark.parametrize("who", ["mayflyd", "mayfly-spawner", "mayfly-restorer"])
def test_a_kill_in_the_middle_of_a_restore_leaves_nothing_of_it(state, daemons, who):  # noqa: F811
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND)
    clients = [daemon.cli.start("run", "-q", "-t", "node", "-c", f"console.log({n})") for n in range(4)]
    await_that(lambda: restoring(daemon), "criu runs", pause_s=0.001)
    everybody = hold(family(daemon.pid))
    [victim] = [pid for pid, _ in everybody if comm(pid) == who]
    os.kill(victim, signal.SIGKILL)
    if who == "mayfly-restorer":
        for number, client in enumerate(clients):
            out, err = client.communicate(timeout=SECONDS_MAX)
            assert (client.returncode, out) == (0, f"{number}\n".encode()), (out, err, daemon.said())
        for _, fd in everybody:
            os.close(fd)
        assert "mayfly-restorer" in [comm(pid) for pid in family(daemon.pid)]
    else:
        await_ends(everybody, time.monotonic())
        for client in clients:
            out, err = client.communicate(timeout=SECONDS_MAX)
            assert client.returncode == 0 or (client.returncode == 125 and err.startswith(b"mayfly: ")), (out, err)
    # The snapshot is whole, and the next daemon serves it.
    snapshot(state, "check", check=0)
    daemon.end()
    again = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND + REFUSES)
    assert again.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"


def box_of(daemon, pid):
    """The processes of its pid namespace, by their numbers there."""
    def namespace(each):
        try:
            return os.readlink(f"/proc/{each}/ns/pid")
        except OSError:
            return None
    own, found = namespace(pid), {}
    for each in family(daemon.pid):
        numbers = re.search(r"^NSpid:\s+(.*)$", read(f"/proc/{each}/status"), re.M)
        if own and numbers and namespace(each) == own:
            found[int(numbers[1].split()[-1])] = each
    return found


CLONE = 1000  # its number in the box: kSnapshotPid


def stopped_restore(daemon):
    """Stops a criu that has made the clone and is not done. Returns the box's processes."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        for pid in restoring(daemon)[:1]:
            for _ in range(200):
                try:
                    os.kill(pid, signal.SIGSTOP)
                    box = box_of(daemon, pid)
                    if CLONE in box and box[CLONE] != pid and pid in box.values():
                        return box
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    break
    raise AssertionError("no criu was seen at work: " + daemon.said())


@pytest.mark.parametrize("end", ["the init's", "the daemon's"])
def test_a_box_that_ends_while_its_clone_is_restored_is_gone_at_once(state, daemons, end):  # noqa: F811
    """The clone is a child of the spawner's, and nobody can name it any more: its box cannot be entered."""
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND)
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    client = daemon.cli.start("run", "-q", "-t", "node", "-c", "console.log(42)")
    box = stopped_restore(daemon)
    others = hold(box.values())
    if end == "the daemon's":
        daemon.end()
        assert daemon.process.returncode == 0, daemon.said()
        await_ends(others, time.monotonic())
        client.communicate(timeout=SECONDS_MAX)
    else:
        os.kill(box[1], signal.SIGKILL)
        out, err = client.communicate(timeout=SECONDS_MAX)
        assert (client.returncode, out) == (0, b"42\n"), (out, err, daemon.said())
        await_that(lambda: daemon.box_cgroups() == [], "no box is left")
        for _, fd in others:
            os.close(fd)
    assert "not reaped" not in daemon.said()


def test_what_criu_says_is_told_whole(state, daemons):  # noqa: F811
    """A file that criu refuses, under a checksum that fits."""
    folder = folder_of(state)
    content = bytearray((folder / "pstree.img").read_bytes())
    content[:8] = bytes(8)
    (folder / "pstree.img").write_bytes(content)
    info = json.loads((folder / "snapshot.json").read_text())
    [entry] = [each for each in info["files"] if each["name"] == "pstree.img"]
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "snapshot.json").write_text(json.dumps(info))
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND + REFUSES)
    failed = daemon.cli("run", "-t", "node", "-c", "console.log(1)")
    assert failed.returncode == 125 and re.search(rb"Error \(criu/[\w.-]+:\d+\): .*pstree", failed.stderr), (failed.stderr, daemon.said())


def test_a_full_disk_during_the_dump_is_told_and_leaves_nothing(state, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "small", str(small)], check=True)
    shutil.rmtree(state / "snapshots")
    try:
        (state / "snapshots").symlink_to(small)
        failed = snapshot(state, "build", "node", check=1)
        assert "cannot make the snapshot of template 'node'" in failed.stderr, failed.stderr
        assert sorted(each.name for each in small.iterdir()) == ["build.lock"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- leaks -----------------------------------------------------------------------------


def restores(daemon, count):
    for _ in range(count):
        assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"


def held(daemon):
    processes = family(daemon.pid)
    return {comm(pid): len(os.listdir(f"/proc/{pid}/fd")) for pid in processes if comm(pid) in ("mayflyd", "mayfly-spawner", "mayfly-restorer"[:15])}


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_restores_leak_nothing(state, daemons, count):  # noqa: F811
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND)
    restores(daemon, 3)
    await_that(lambda: daemon.box_cgroups() == [], "no box is left")
    before, processes = held(daemon), len(family(daemon.pid))
    restores(daemon, count)
    await_that(lambda: daemon.box_cgroups() == [], "no box is left")
    await_that(lambda: held(daemon) == before, f"descriptors are as before: {before}")
    assert len(family(daemon.pid)) == processes
