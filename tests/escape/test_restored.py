"""The probes in restored clones: not one reaches anything.

`python`: the restored process itself runs the probe. `node`: a restored node clone starts the probe, which has all of
the clone's walls. Both are templates of the tests' own, made upon ours by a manifest alone.
"""

import pathlib
import re
import sys

import pytest

import cases
import stage

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from template_place import Place  # noqa: E402
from test_lifecycle import TOP, Daemon  # noqa: E402

MANIFESTS = {
    "python": 'name = "restored"\ndescription = "python, restored"\nbase = "python"\nmechanism = "restore"\n',
    "node": 'name = "restored"\ndescription = "node, with Python for the probes"\nbase = "node"\n[image]\npackages = ["python3"]\n',
}


pytestmark = pytest.mark.slow  # each makes an image


@pytest.fixture(scope="module", params=["python", "node"])
def restored(request, tmp_path_factory):
    """A command line to a daemon that serves the template, and its runtime."""
    place = Place(tmp_path_factory.mktemp("restored"))
    folder = place.dir / "restored"
    folder.mkdir()
    (folder / "manifest.toml").write_text(MANIFESTS[request.param])
    place("build", "restored", check=0)
    run_dir = tmp_path_factory.mktemp("run")
    run_dir.chmod(0o755)
    daemon = Daemon(run_dir, templates=("restored",), state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"))
    try:
        yield daemon.start().cli, request.param
    finally:
        daemon.end()


# The probe in a node clone is a child of the task's own node, process 1000, which it may see and signal like any task its
# own processes: what each finding may name then, and nothing else.
OWN = {
    ("proc_others", "by_number"): r"\[(10\d\d(, )?)+\]",
    ("proc_others", "parents"): r"NSpid \d+, PPid 1000",
    ("proc_others", "session"): r"session 1000",
    ("signals_out", "by_number"): r"\[(10\d\d(, )?)+\]",
    ("signals_out", "group_0"): r"group 1000",
    ("signals_out", "parent"): r"sent",
    ("descriptor_smuggling", "descriptors_of_others"): r"\[('/proc/1000/fd/\d+'(, )?)+\]",
}


def is_own(probe, name, evidence):
    return (probe, name) in OWN and re.fullmatch(OWN[probe, name], evidence) is not None


def command(runtime, script, args):
    if runtime == "python":
        return [script, *args]
    start = "const r = require('child_process').spawnSync('python3', process.argv.slice(1), { stdio: 'inherit' }); process.exitCode = r.status ?? 128"
    return ["-c", start, f"/task/{script.name}", *args]


def run_probe(restored, tmp_path, host, probe, args=(), params=None):
    mayfly, runtime = restored
    folder = stage.copy_probe(tmp_path, probe, {**host.params, **(params or {})})
    script = folder / f"{probe}.py"
    brought = ("--file", script) if runtime == "node" else ()
    result = mayfly.run("-t", "restored", "--env", "PYTHONDONTWRITEBYTECODE=1", "--file", folder / "escapekit.py", "--file", folder / "params.json", *brought,
                        *command(runtime, script, args), env={**mayfly.environment, "MFTOKEN": host.token}, cwd=tmp_path)
    result["report"] = stage.report_of(stage.output_of(result))
    return result


@pytest.mark.parametrize("wall", cases.WALLS, ids=lambda w: w.probe)
def test_nothing_is_reached_from_a_restored_clone(restored, tmp_path, host, wall):
    result = run_probe(restored, tmp_path, host, wall.probe, params=wall.params)
    assert result["report"], (result["verdict"], result["reason"], result["stderr"][-2000:])
    report = result["report"]
    others = [name for name in report["reached"] if restored[1] != "node" or not is_own(wall.probe, name, report["evidence"][name])]
    assert others == [], report["evidence"]
    assert result["verdict"] == "succeeded", result["reason"]
    assert result["receipt"]["complete"], result["receipt"]
