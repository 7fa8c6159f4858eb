"""Probes in the places of Mayfly's own processes: even they reach nothing of the host.

As the init: a process that enters a living box from outside with the init's ids
and namespaces. It holds every capability of the box's user namespace and none of
the filters that the real init puts up: more than a taken-over init would have.
As the zygote: a template whose zygote program is the probes. Root of its
template's user namespace, started by the spawner like any zygote; what it found
is printed by a task, for a clone has its zygote's memory.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

import cases
import stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entering a box from outside needs root")
SECONDS_MAX = 300


def unexpected(report, allowed):
    return {label: report["evidence"][label] for label in report["reached"] if label not in allowed}


# --- as the init ---------------------------------------------------------------------

def has_params(pid, params):
    """Whether the box has these parameters in /task: the daemon runs others' tasks as well."""
    try:
        return json.loads(pathlib.Path(f"/proc/{pid}/root/task/params.json").read_text()) == params
    except OSError:
        return False


@pytest.fixture(scope="module")
def living_box(mayfly, host, tmp_path_factory):
    """The host's pid of a living box's init; every probe lies in the box's /task."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "params.json").write_text(json.dumps(host.params))
    files = [word for path in [*stage.PROBES.glob("*.py"), folder / "params.json"] for word in ("--file", path)]
    with stage.hold_box(mayfly, files) as server:
        tasks = json.loads(mayfly("ps", "--json").stdout)["tasks"]
        ours = [t["pidHost"] for t in tasks if t["state"] == "running" and has_params(t["pidHost"], host.params)]
        assert len(ours) == 1, tasks
        yield ours[0]
        assert server.poll() is None, "the box ended before its probes did"


@pytest.mark.parametrize("wall", [w for w in cases.WALLS if w.init], ids=lambda w: w.probe)
def test_init_reaches_nothing(living_box, host, wall):
    enter = ["nsenter", "--target", str(living_box), "--user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup",
             "--setuid", "0", "--setgid", "0", "--", "/usr/bin/env", "-C", "/task"]
    done = subprocess.run([*enter, "/usr/bin/python3", "-u", f"/task/{wall.probe}.py"], capture_output=True, timeout=SECONDS_MAX,
                          stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"})
    report = stage.report_of(done.stdout)
    assert report, done.stderr.decode()
    assert not unexpected(report, wall.init_may)


# --- as the zygote ---------------------------------------------------------------------

MANIFEST = """
name = "escape-zygote"
description = "The probes as a zygote"
mechanism = "fork"
[image]
suite = "trixie"
packages = ["python3", "tzdata"]
[image.files]
{files}
[zygote]
argv = ["/usr/bin/python3", "-I", "/usr/lib/mayfly/probes/as_zygote.py"]
memory = "512MiB"
start_time = "60s"
without_trial = true
"""


@pytest.fixture(scope="module")
def zygote_reports(host, tmp_path_factory):
    """What every probe found as a zygote, by name."""
    folder = tmp_path_factory.mktemp("templates") / "escape-zygote"
    folder.mkdir()
    names = [w.probe for w in cases.WALLS if w.zygote]
    (folder / "params.json").write_text(json.dumps({**host.params, "probes": names}))
    shutil.copy(stage.PROBES.parent / "as_zygote.py", folder)
    for name in ["escapekit", *names]:
        shutil.copy(stage.PROBES / f"{name}.py", folder)
    sources = sorted(path.name for path in folder.iterdir())
    (folder / "manifest.toml").write_text(MANIFEST.format(files="\n".join(
        f'"/usr/lib/mayfly/probes/{name}" = "{name}"' for name in sources)))
    top = stage.PROBES.parents[2]
    build = top / os.environ.get("MAYFLY_BUILD", "build")
    state = tmp_path_factory.mktemp("state")
    # The token is in the environment of the daemon here, not of a client.
    environment = {**os.environ, "MAYFLY_STATE_DIR": str(state), "MFTOKEN": host.token,
                   "MAYFLYD_FLAGS": f"--templates {folder.parent} --template escape-zygote"}
    built = subprocess.run([build / "bin/mayfly", "image", "build", "escape-zygote", "--templates", folder.parent,
                            "--runtime-dir", build / "bin"], env=environment, capture_output=True, timeout=SECONDS_MAX)
    assert built.returncode == 0, built.stderr.decode()
    done = subprocess.run([top / "dev", "with-daemon", build / "bin/mayfly", "run", "--json", "-t", "escape-zygote", "-c", "0"],
                          env=environment, capture_output=True, timeout=SECONDS_MAX)
    result = json.loads(done.stdout)
    assert result.get("verdict") == "succeeded", (done.stdout, done.stderr)
    return json.loads(result["stdout"])


@pytest.mark.parametrize("wall", [w for w in cases.WALLS if w.zygote], ids=lambda w: w.probe)
def test_zygote_reaches_nothing(zygote_reports, wall):
    report = zygote_reports[wall.probe]
    assert "reached" in report, report
    assert not unexpected(report, wall.zygote_may)
