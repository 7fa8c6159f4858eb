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
import threading
import time

import pytest

from support import CLI
from test_lifecycle import STATE_DIR, TOP, await_ends, await_that, comm, daemons, family, hold, read  # noqa: F401 (a fixture)

SECONDS_MAX = 180

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots need root")


def words_of(state, verb, *args):
    words = [CLI, "snapshot", verb, *map(str, args), "--state-dir", str(state)]
    if verb in ("build", "refresh"):
        words += ["--templates", str(TOP / "templates"), "--runtime-dir", str(pathlib.Path(CLI).parent)]
    return words


def snapshot(state, verb, *args, check=None):
    done = subprocess.run(words_of(state, verb, *args), capture_output=True, text=True, timeout=SECONDS_MAX)
    if check is not None:
        assert done.returncode == check, (done.stdout, done.stderr)
    return done


def folder_of(state):
    [folder] = [each for each in (state / "snapshots").iterdir() if len(each.name) == 64]
    return folder


def link_image(digest, state):
    image = digest + ".erofs"
    try:
        (state / "images" / image).hardlink_to(pathlib.Path(STATE_DIR, "images", image))
    except OSError:
        shutil.copy(pathlib.Path(STATE_DIR, "images", image), state / "images")


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
    link_image(json.loads(index.read_text())["digest"], state)
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


# --- the doctor ------------------------------------------------------------------------


def doctor(folder, state, templates, *args):
    """Its rows about restored clones, by name, and its exit code."""
    config = folder / "doctor.toml"
    config.write_text(f'state_dir = "{state}"\ntemplate_dirs = ["{TOP / "templates"}"]\ntemplates = {json.dumps(templates)}\n')
    done = subprocess.run([CLI, "doctor", "--json", "--config", str(config), *args], capture_output=True, text=True, timeout=SECONDS_MAX)
    report = json.loads(done.stdout)
    rows = {line["what"]: line for line in report["lines"] if line["group"].startswith("Restored clones")}
    assert done.returncode == (1 if report["lostPromises"] else 0) or "--restore" in args, done.stderr
    return rows, done.returncode


def test_the_doctor_dumps_and_restores_and_names_criu(made, tmp_path):
    rows, code = doctor(tmp_path, made, ["python", "node"], "--restore")
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?, /usr/sbin/criu in the image of 'node'", rows["criu"]["value"]), rows
    assert re.fullmatch(r"'node' dumped, and restored in 4 clones at once, in \d+ ms", rows["dump and restore"]["value"]), rows
    assert {row["verdict"] for row in rows.values()} == {"ok"}
    assert sorted(each.name[:4] for each in (made / "snapshots").iterdir()) == sorted([folder_of(made).name[:4], "buil"])  # it keeps nothing


def test_the_doctor_without_an_image_or_a_template_that_restores(tmp_path):
    rows, _ = doctor(tmp_path, tmp_path, ["node"])
    [row] = rows.values()
    assert row["verdict"] == "unknown" and "mayfly image build node" in row["note"], rows
    assert doctor(tmp_path, tmp_path, ["node"], "--restore")[1] == 1
    rows, _ = doctor(tmp_path, tmp_path, ["python", "shell"])
    [row] = rows.values()
    assert row["verdict"] == "ok" and row["value"] == "not tried: no template here restores", rows
    rows, _ = doctor(tmp_path, tmp_path, ["node"], "--quick")
    assert rows["dump and restore"]["value"] == "not tried: --quick", rows


def test_the_doctor_where_no_zygote_can_be_dumped(made, tmp_path):
    """The image is another template's: it has neither criu nor node."""
    (tmp_path / "index").mkdir()
    (tmp_path / "images").mkdir()
    shell = json.loads(pathlib.Path(STATE_DIR, "index/shell.json").read_text())
    node = json.loads((made / "index/node.json").read_text())
    (tmp_path / "index/node.json").write_text(json.dumps({**shell, "template": node.get("template", "node")}))
    link_image(shell["digest"], tmp_path)
    rows, _ = doctor(tmp_path, tmp_path, ["node"])
    [row] = rows.values()
    assert row["verdict"] == "degraded" and row["value"] == "does not work here, tried with 'node'" and row["costs"] == "", rows
    assert "was not dumped" in row["note"] and "all others work" in row["note"], rows


# --- damage ----------------------------------------------------------------------------


def of_node(state, daemons, config="", template_dirs=(TOP / "templates",)):  # noqa: F811
    return daemons(state_dir=str(state), template_dirs=template_dirs, templates=("node",), config=config)


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


def test_a_task_may_have_as_little_memory_as_its_clone_is_reckoned_to_take(made, daemons):  # noqa: F811
    [listed] = json.loads(snapshot(made, "list", "--json", check=0).stdout)
    least = listed["memory_least_bytes"]
    # Each is restored under this cap.
    daemon = of_node(made, daemons, ON_DEMAND)
    for _ in range(3):
        assert daemon.cli.run("-t", "node", "--memory", least, "-c", "console.log(6*7)")["stdout"] == "42\n"
    refused = daemon.cli("run", "-t", "node", "--memory", least - 1, "-c", "1")
    assert refused.returncode == 125 and b"is below what a clone of the template takes" in refused.stderr, refused.stderr


# --- kills -----------------------------------------------------------------------------

ON_DEMAND = "parked_max = 0\nstocked_max = 0\n"



@pytest.mark.parametrize("at", ["mayfly-restorer", "criu"])
def test_a_builder_killed_in_the_middle_leaves_no_process_and_no_half_snapshot(state, at):
    before = folder_of(state).name
    builder = subprocess.Popen(words_of(state, "build", "node", "--again"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def restoring(daemon):
    return [each for each in family(daemon.pid) if comm(each) == "criu"]


def caught(daemon, count, look):
    """(clients whose tasks are being restored, what `look` saw of it): a restore takes milliseconds, so it may take some tasks."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        clients = [daemon.cli.start("run", "-q", "-t", "node", "-c", f"console.log({n})") for n in range(count)]
        while any(client.poll() is None for client in clients):
            if seen := look(daemon):
                return clients, seen
        for number, client in enumerate(clients):
            out, err = client.communicate(timeout=SECONDS_MAX)
            assert (client.returncode, out) == (0, f"{number}\n".encode()), (out, err, daemon.said())
    raise AssertionError("no criu was seen at work: " + daemon.said())


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
    clients, _ = caught(daemon, 4, restoring)
    everybody = hold(family(daemon.pid))
    victim = min(pid for pid, _ in everybody if comm(pid) == who)  # its children have its name for a moment
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


def stop_restore(daemon):
    """Stops a criu that has made the clone and is not done. Returns the box's processes, or nothing."""
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
    return None


@pytest.mark.parametrize("end", ["the init's", "the daemon's"])
def test_a_box_that_ends_while_its_clone_is_restored_is_gone_at_once(state, daemons, end):  # noqa: F811
    """The clone is a child of the spawner's, and nobody can name it any more: its box cannot be entered."""
    daemon = daemons(state_dir=str(state), template_dirs=(TOP / "templates",), templates=("node",), config=ON_DEMAND)
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    [client], box = caught(daemon, 1, stop_restore)
    others = hold(box.values())
    if end == "the daemon's":
        daemon.end()
        assert daemon.process.returncode == 0, daemon.said()
        await_ends(others, time.monotonic())
        client.communicate(timeout=SECONDS_MAX)
    else:
        os.kill(box[1], signal.SIGKILL)
        out, err = client.communicate(timeout=SECONDS_MAX)
        assert (client.returncode, out) == (0, b"0\n"), (out, err, daemon.said())
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


# --- a new snapshot while the daemon runs ----------------------------------------------

# Where the C library is: the same in all clones of one snapshot.
LAYOUT = "console.log(require('fs').readFileSync('/proc/self/maps', 'utf8').match(/^.*libc\\.so\\.6$/m)[0].split('-')[0])"


def layout(daemon):
    result = daemon.cli.run("-t", "node", "-c", LAYOUT)
    assert result["verdict"] == "succeeded" and result["receipt"]["complete"], result
    return result["stdout"]


def old_ones(state):
    return [each.name for each in (state / "snapshots").iterdir() if each.name.startswith((".old", ".new"))]


class Stream(threading.Thread):
    """Tasks, one after the other, until the end; each says which snapshot its clone comes from."""

    def __init__(self, daemon):
        super().__init__()
        self.daemon, self.over, self.found, self.fault = daemon, threading.Event(), [], None
        self.start()

    def run(self):
        try:
            while not self.over.is_set():
                self.found.append(layout(self.daemon))
        except BaseException as fault:
            self.fault = fault

    def end(self):
        self.over.set()
        self.join()
        assert self.fault is None, self.fault
        return self.found


def test_a_running_daemon_takes_a_new_snapshot_and_no_task_fails(state, daemons):  # noqa: F811
    daemon = of_node(state, daemons)
    before = layout(daemon)
    held = daemon.cli.start("run", "-q", "--stdin", "-t", "node", "-c", f"process.stdin.on('data', () => {{ {LAYOUT}; process.exit(0); }}); console.log('here')")
    assert held.stdout.readline() == b"here\n"
    stream = Stream(daemon)
    refresh = subprocess.Popen(words_of(state, "refresh", "node", "--json", "--run-dir", daemon.run_dir, "--drain-time", "150s"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_that(lambda: "clones come from a new snapshot" in daemon.said(), "the daemon takes it", seconds_max=SECONDS_MAX)
    # The old one's parked clone serves until the first of the new one is ready.
    after = await_that(lambda: next((one for one in [layout(daemon)] if one != before), None), "tasks get new clones")
    # What runs since before it goes on, and its snapshot stays as long.
    assert refresh.poll() is None and len(old_ones(state)) == 1
    out, err = held.communicate(b"go\n", timeout=SECONDS_MAX)
    assert (held.returncode, out.decode()) == (0, before), (out, err)
    told, err = refresh.communicate(timeout=SECONDS_MAX)
    [said] = json.loads(told)
    assert refresh.returncode == 0 and said["stillUsed"] == 0 and said["daemons"] == [{"instance": daemon.instance, "serves": True, "why": ""}], (told, err)
    assert old_ones(state) == []
    found = stream.end()
    # A clone of the old one that was parked at last may still serve after a first one of the new.
    assert found[0] == before and found[-1] == after and set(found) == {before, after}, found
    [template] = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
    assert template["state"] == "ready" and template["stateText"] == "", template
    snapshot(state, "check", "node", check=0)
    # A restarted daemon serves it, too: one folder is left.
    daemon.end()
    assert layout(of_node(state, daemons, REFUSES)) == after


def test_a_daemon_goes_on_with_its_snapshot_while_others_are_made_and_the_refresh_is_killed(state, daemons):  # noqa: F811
    daemon = of_node(state, daemons)
    before = layout(daemon)
    for event, seen in (("criu runs", lambda pid: any(comm(each) == "criu" for each in family(pid))),
                        ("it is published", lambda pid: any(name.startswith(".old") for name in old_ones(state)))):
        refresh = subprocess.Popen(words_of(state, "refresh", "node", "--run-dir", daemon.run_dir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_that(lambda: seen(refresh.pid) or refresh.poll() is not None, event, pause_s=0.001, seconds_max=SECONDS_MAX)
        made_by_it = hold(family(refresh.pid)[1:])
        refresh.kill()
        refresh.wait()
        await_ends(made_by_it, time.monotonic())
        layout(daemon)
        snapshot(state, "check", "node", check=0)
    done = snapshot(state, "refresh", "node", "--run-dir", daemon.run_dir, check=0)
    assert f"instance '{daemon.instance}' makes its clones from it" in done.stderr, done.stderr
    assert layout(daemon) != before and old_ones(state) == []


@pytest.mark.slow
def test_a_daemon_killed_while_it_takes_a_new_snapshot_leaves_nothing(state, daemons):  # noqa: F811
    daemon = of_node(state, daemons)
    before = layout(daemon)
    refresh = subprocess.Popen(words_of(state, "refresh", "node", "--run-dir", daemon.run_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    restorers = lambda: [pid for pid in family(daemon.pid) if comm(pid) == "mayfly-restorer"]  # noqa: E731
    await_that(lambda: [name for name in old_ones(state) if name.startswith(".old")] and len(restorers()) >= 2, "the new zygote starts beside the old one",
               pause_s=0.001, seconds_max=SECONDS_MAX)
    everybody = hold(family(daemon.pid))
    os.kill(daemon.pid, signal.SIGKILL)
    await_ends(everybody, time.monotonic())
    out, err = refresh.communicate(timeout=SECONDS_MAX)
    # Killed in the short time between the answer and the look, the daemon had taken it.
    assert (refresh.returncode, "the daemon has ended" in err) in ((1, True), (0, False)), (out, err)
    assert old_ones(state) == []
    daemon.end()
    assert layout(of_node(state, daemons, REFUSES)) != before


@pytest.mark.slow
def test_a_refresh_without_a_daemon_and_with_one_that_serves_something_else(state, daemons, tmp_path):  # noqa: F811
    config = tmp_path / "mayfly.toml"
    config.write_text(f'state_dir = "{state}"\nrun_dir = "{tmp_path / "nowhere"}"\ntemplate_dirs = ["{TOP / "templates"}"]\ntemplates = ["shell", "node"]\n')
    done = subprocess.run([CLI, "snapshot", "refresh", "--json", "--config", str(config)], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert [(each["template"], each["daemons"]) for each in json.loads(done.stdout)] == [("node", [])], done.stdout
    assert "is no time" in snapshot(state, "refresh", "node", "--drain-time", "soon", check=1).stderr
    other = tmp_path / "templates"
    shutil.copytree(TOP / "templates/node", other / "node")
    manifest = other / "node/manifest.toml"
    manifest.write_text(manifest.read_text().replace('start.sh"]', 'start.sh", "other"]'))  # another key
    daemon = of_node(state, daemons, "make_snapshots = true\n", (other,))
    before = layout(daemon)
    done = snapshot(state, "refresh", "node", "--run-dir", daemon.run_dir, check=1)
    assert "serves another image, filter or build of template 'node'" in done.stderr and "Start the daemon again." in done.stderr, done.stderr
    assert layout(daemon) == before


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
