"""The probes in restored clones: not one reaches anything.

`python`: the restored process itself runs the probe. `node`: a restored node clone starts the probe, which has all of
the clone's walls. Both are templates of the tests' own, made upon ours by a manifest alone.
"""

import pathlib
import re
import subprocess
import sys

import pytest

import cases
import stage

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from support import CLI  # noqa: E402
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


# A package of the template's that wants more than its own process: it takes the place where criu would keep what it
# knows of the kernel, and goes where the restorer's full /proc will be.
HOSTILE = """const fs = require('fs');
fs.mkdirSync('/run/criu.kdat/x', { recursive: true });
process.chdir('/proc');
"""
LOOK = """const fs = require('fs');
const found = [process.cwd()];
try { fs.writeFileSync('sys/kernel/ns_last_pid', '2000'); found.push('wrote'); } catch (error) { found.push(error.code); }
try { found.push(fs.readdirSync('/proc').includes('sys')); } catch (error) { found.push(error.code); }
console.log(JSON.stringify(found));
"""


def snapshot_of(tmp_path_factory, preload):
    """A template that preloads this, built upon `node`; and what `mayfly snapshot build` says of it."""
    place = Place(tmp_path_factory.mktemp("hostile"))
    folder = place.put("hostile", '[image.files]\n"/node_modules/hostile.js" = "hostile.js"\n[zygote]\npreload = ["hostile"]\n', base="node")
    (folder / "hostile.js").write_text(preload)
    place("build", "hostile", check=0)
    words = [CLI, "snapshot", "build", "hostile", "--state-dir", place.state, "--templates", place.dir, "--runtime-dir", pathlib.Path(CLI).parent]
    return place, subprocess.run(words, capture_output=True, text=True, timeout=180)


def test_a_package_chooses_neither_criu_s_file_nor_the_clones_working_folder(tmp_path_factory):
    place, built = snapshot_of(tmp_path_factory, HOSTILE)
    assert built.returncode == 0, built.stderr
    run_dir = tmp_path_factory.mktemp("run")
    run_dir.chmod(0o755)
    daemon = Daemon(run_dir, templates=("hostile",), state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"))
    try:
        found = daemon.start().cli("run", "-t", "hostile", "-c", LOOK)
        assert found.stdout == b'["/task","ENOENT",false]\n', (found, daemon.said())
    finally:
        daemon.end()


def test_a_package_that_holds_a_place_in_proc_gets_no_snapshot(tmp_path_factory):
    _, built = snapshot_of(tmp_path_factory, "require('fs').openSync('/proc/self', 'r');\n")
    assert built.returncode == 1 and re.search(r"has a file of /proc open \(descriptor \d+\)", built.stderr), built.stderr
