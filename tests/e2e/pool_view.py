"""What a daemon's pools are like, seen from outside; and templates that a test
makes out of an image that is there already, in no time.
"""

import contextlib
import json
import pathlib
import re
import subprocess

from light import light
from test_lifecycle import await_that, family, pids_inside, read

ZYGOTE, MAKER = "/usr/lib/mayfly/zygote.py", "mayfly-maker"


def make_templates(folder, manifests, base="python", image=None):
    """Arguments of a Daemon that serves templates of one image (light by default): {name: more of its manifest}."""
    image = image or pathlib.Path(light()["state_dir"]) / "index/python.json"
    index = json.loads(pathlib.Path(image).read_text())
    state, templates = folder / "state", folder / "templates"
    for each in (state / "index", templates):
        each.mkdir(parents=True, exist_ok=True)
    if not (state / "images").is_symlink():
        (state / "images").symlink_to(pathlib.Path(image).parents[1] / "images")
    for name, more in manifests.items():
        (templates / name).mkdir(exist_ok=True)
        (templates / name / "manifest.toml").write_text(
            f'name = "{name}"\ndescription = "of a test"\nbase = "{base}"\n{more}')
        (state / "index" / f"{name}.json").write_text(json.dumps({**index, "template": name}))
    return {"templates": tuple(manifests), "state_dir": str(state), "template_dirs": (templates,)}


@contextlib.contextmanager
def mounted(image, at):
    """Mounts an image at a folder, which is made."""
    at.mkdir()
    direct = subprocess.run(["mount", "-t", "erofs", "-o", "ro", image, str(at)], capture_output=True)
    if direct.returncode != 0:  # a kernel that can't mount a file
        subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", image, str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def tasks(daemon):
    done = daemon.cli("ps", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["tasks"]


def templates(daemon):
    done = daemon.cli("templates", "--json")
    assert done.returncode == 0, (done.stderr, daemon.said())
    return {t["name"]: t for t in json.loads(done.stdout)["templates"]}


def place_of(pid):
    """(template's key, box's id or None) of a process, by its v2 cgroup; None if no template has it."""
    found = re.search(r"^0::.*/(t\d+)(?:/b(\d+))?", read(f"/proc/{pid}/cgroup"), re.M)
    return (found[1], int(found[2]) if found[2] else None) if found else None


class Box:
    """A box that has its init; `clone` is 0 if it has none."""

    def __init__(self, template, number):
        self.template, self.id, self.init, self.clone = template, number, 0, 0

    def __repr__(self):
        return f"box {self.id} of {self.template}: init {self.init}, clone {self.clone}"


def boxes(daemon):
    """{id: Box}"""
    found = {}
    for pid in family(daemon.pid):
        inside, place = pids_inside(pid), place_of(pid)
        if len(inside) != 3 or place is None or place[1] is None:
            continue
        box = found.setdefault(place[1], Box(*place))
        if inside[2] == "1":
            box.init = pid
        elif inside[2] == "2":
            box.clone = pid
    return {number: box for number, box in found.items() if box.init}


def idle(daemon):
    """Boxes without a task: the parked ones, then the stocked ones."""
    its = {t["pidHost"] for t in tasks(daemon)}
    free = [b for _, b in sorted(boxes(daemon).items()) if b.init not in its]
    return [b for b in free if b.clone], [b for b in free if not b.clone]


def helpers(daemon, word, number_1=False):
    """Templates' processes whose command line has `word`: pid 1, or those with another pid."""
    return [p for p in family(daemon.pid) if word in read(f"/proc/{p}/cmdline")
            and len(pids_inside(p)) == 2 and (pids_inside(p)[1] == "1") == number_1]


def helper(daemon, which):
    """The zygote, maker or pid 1 of the only template."""
    return await_that(lambda: {"zygote": lambda: helpers(daemon, ZYGOTE),
                               "maker": lambda: helpers(daemon, MAKER),
                               "pid1": lambda: helpers(daemon, MAKER, number_1=True)}[which](), f"its {which}")[0]


def collectors(daemon, spawner):
    """The collectors of output files: of the spawner's helpers, those that became a task's user. The others look at locks,
    close disks and mount images."""
    pids = read(f"/proc/{spawner}/task/{spawner}/children").split()
    status = {int(p): read(f"/proc/{p}/status") for p in pids}
    return [p for p, text in status.items() if text.startswith("Name:\tmayfly-helper\n") and "\nUid:\t0\t" not in text]


class Rest:
    """The pools at rest; every test returns to this state."""

    def __init__(self, daemon, parked, stocked=0):
        self.daemon, self.parked, self.stocked = daemon, parked, stocked

    def await_full(self):
        """Parked and stocked boxes as expected, and no further box, cgroup or process."""
        last = []

        def full():
            last[:] = [self.state()]
            return last[0] == self.wanted()

        try:
            await_that(full, "the pools are full and nothing else is there")
        except AssertionError as late:
            raise AssertionError(f"{late}: {last[0]}, wanted {self.wanted()}\n{self.daemon.said()}") from None
        return self

    def wanted(self):
        count = len(self.daemon.templates)
        held = count * (self.parked + self.stocked)
        return {"parked": count * self.parked, "stocked": count * self.stocked, "boxes": held, "cgroups": {held},
                "processes": count * (3 + 2 * self.parked + self.stocked), "tasks": 0, "ready": count}

    def state(self):
        listed = templates(self.daemon).values()
        total = {key: sum(t[key] for t in listed) for key in ("parked", "stocked", "boxes")}
        return {**total, "cgroups": {len(list(top.glob("t*/b*"))) for top in self.daemon.cgroups()},
                "processes": len(self.daemon.processes_by_uid()) - 1, "tasks": len(tasks(self.daemon)),
                "ready": sum(t["state"] == "ready" for t in listed)}  # without the daemon itself

    def check_books(self):
        """The pools are full again, each receipt was complete, no cgroup is stray; nothing outlives the daemon."""
        self.await_full()
        said = read(self.daemon.log)
        assert not re.search("quarantine|audit: (?:box|stray)|has not ended|critical", said), said[-4000:]
        self.daemon.process.terminate()
        assert self.daemon.process.wait(60) == 0, self.daemon.said()
        assert self.daemon.processes_by_uid() == [] and self.daemon.cgroups() == []
