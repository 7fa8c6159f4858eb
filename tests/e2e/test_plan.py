"""A real daemon is measured, its load recorded from its log, and planned for. Figures are not checked here."""

import csv
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tomllib
import xml.dom.minidom

import pytest

from support import CLI
from test_lifecycle import daemons, read  # noqa: F401

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(CLI).parents[1]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")


def good(done):
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


@pytest.fixture
def measured(daemons, tmp_path):  # noqa: F811
    """A daemon, and the file of its host."""
    daemon = daemons(templates=("python",))
    host = tmp_path / "host.toml"
    good(daemon.cli("plan", "calibrate", "--seconds", "1", "--tasks", "8", "--out", host))
    return daemon, host


def test_a_daemon_is_measured_its_load_recorded_and_planned_for(measured, tmp_path):
    daemon, host = measured
    said = tomllib.loads(host.read_text())
    assert said["host"]["processors"] == os.cpu_count() and said["host"]["open_files"] > 64
    python = said["templates"]["python"]
    [listed] = json.loads(good(daemon.cli("templates", "--json")))["templates"]
    assert python["mechanism"] == listed["mechanism"] == "fork"
    manifest = tomllib.loads((TOP / "templates/python/manifest.toml").read_text())
    assert {key: python["limits"][key] for key in ("memory", "processes", "wall_time")} == {
        "memory": manifest["limits"]["default"]["memory"], "processes": manifest["limits"]["default"]["processes"],
        "wall_time": "1m"}
    make, task = python["make"], python["task"]
    assert 0 < make["box_us"] <= make["time_us"] < 5_000_000
    assert all(task[key] > 0 for key in ("claim_us", "run_us", "end_us", "box_cpu_us", "client_us"))
    assert 0 < task["first_us"] <= task["run_us"]
    # The daemon's and the spawner's own time was seen, and so were the parked boxes.
    assert make["spawner_us"] + task["spawner_us"] > 0 and make["daemon_us"] + task["daemon_us"] > 0
    assert "were not seen" not in host.read_text() and python["clone_memory"] != "2MiB"

    for tenant in ("acme", "acme", "other"):
        daemon.cli.run("--tenant", tenant, "-c", "print(6*7)")
    log = daemon.log.read_bytes()
    trace = tmp_path / "load.csv"
    done = daemon.cli("trace", "record", "--out", trace, input=log)
    good(done)
    lines = re.findall(rb" task id=(\d+) .* tenant=", log)
    with open(trace, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(re.findall(rb" task id=", log)) and len(lines) == 3
    assert f"{len(rows)} tasks" in done.stderr.decode()
    assert [row["tenant"] for row in rows[-3:]] == ["t1", "t1", "t2"]
    assert {row["template"] for row in rows} == {"python"} and {row["user"] for row in rows} == {"u1"}
    assert all(float(row["run_seconds"]) > 0 and float(row["cpu_seconds"]) > 0 and int(row["memory_bytes"]) > 0
               for row in rows)
    told = trace.read_text()
    assert "acme" not in told and all(task_id.decode() not in told for task_id in lines)

    # Replayed, the tasks are for the trace's tenants again, as the log has them.
    again = tmp_path / "again.csv"
    again.write_text("0,python,0.01,,,u1,t7\n0.1,python,0.01,,,u2,t7\n0.2,python,0.01,,,u2,\n")
    good(daemon.cli("bench", "run", "--arrivals", "trace", "--trace", again, "--rounds", "1", "-q"))
    assert sorted(re.findall(rb' tenant="(u[^"]*)"', daemon.log.read_bytes())) == [b"u1/t7", b"u2", b"u2/t7"]

    scenario = tmp_path / "scenario.toml"
    scenario.write_text(f'host = "{host.name}"\ntrace = "{trace.name}"\nwarm_up = "0ms"\n'
                        '[goal]\nfirst_byte_p99 = "30s"\nmissed = 1\n')
    answer = json.loads(good(daemon.cli("plan", scenario, "--json", "--svg", tmp_path / "plan.svg", "--settings",
                                        tmp_path / "mayflyd.toml")))
    assert answer["tasks"] == len(rows) and answer["hosts"] >= 1 and answer["hostsWithSpare"] == answer["hosts"] + 1
    assert answer["tenants"] == len({(row["user"], row["tenant"]) for row in rows})
    assert answer["oneHost"]["firstByteP99Ms"] > 0 and answer["bindsInWords"]
    assert {row["what"] for row in answer["whatIf"]} > {"twice the load", "half the memory", "nothing parked"}
    picture = xml.dom.minidom.parse(str(tmp_path / "plan.svg"))
    assert answer["hostsInWords"] in "".join(node.firstChild.data for node in picture.getElementsByTagName("text"))
    # A daemon takes the settings.
    assert tomllib.loads((tmp_path / "mayflyd.toml").read_text())["parked_max"] > 0
    assert daemon.cli("doctor", "--quick", "--config", tmp_path / "mayflyd.toml", "--json").returncode in (0, 1)


HOST = """[host]
processors = 4
memory = "8GiB"
open_files = 4096
processes = 32768
user_namespaces = 10000
[templates.python]
"""
LOAD = '\n[[load]]\nrate = 20\nrun = "1s"\ncpu = 0.01\n'


def planned(folder, scenario, *args):
    (folder / "host.toml").write_text(HOST)
    (folder / "scenario.toml").write_text('host = "host.toml"\ntime = "1m"\nwarm_up = "5s"\n' + scenario)
    return subprocess.run([CLI, "plan", folder / "scenario.toml", *args], capture_output=True, text=True, timeout=120)


def test_a_goal_that_no_host_meets_is_an_exit_code(tmp_path):
    done = planned(tmp_path, 'hosts_max = 2\n[goal]\nfirst_byte_p99 = "1ms"\n' + LOAD)
    assert done.returncode == 3 and "No number of hosts up to 2 meets the goal" in done.stdout
    assert planned(tmp_path, LOAD + "[goals]\n").stderr.startswith(
        f"mayfly: {tmp_path}/scenario.toml:9: unknown key 'goals'")


def test_doors_of_a_broker_take_descriptors(tmp_path):
    """With a policy, each box takes two descriptors more of the daemon's."""
    def descriptors(*args):
        answer = json.loads(planned(tmp_path, '[goal]\nfirst_byte_p99 = "1s"\n' + LOAD, "--json", *args).stdout)
        [found] = [each for each in answer["resources"] if each["name"].startswith("descriptors")]
        return found["most"]

    (tmp_path / "mayflyd.toml").write_text('broker_policy = "/etc/mayfly/broker.toml"\n')
    plain, brokered = descriptors(), descriptors("--config", str(tmp_path / "mayflyd.toml"))
    assert plain > 0 and brokered == pytest.approx(plain * 7 / 5)


def test_the_doctor_counts_doors_too(tmp_path):
    def fit(*args):
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))  # noqa: E731
        done = subprocess.run([CLI, "doctor", "--quick", "--json", *args], capture_output=True, timeout=60, preexec_fn=limit)
        parts = json.loads(done.stdout)["budget"]["parts"]
        [tasks] = [part["tasks"] for part in parts if part["what"] == "descriptors"]
        return tasks

    config = tmp_path / "mayflyd.toml"
    config.write_text('broker_policy = "/etc/mayfly/broker.toml"\n')
    assert 0 < fit("--config", str(config)) < fit()


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-replay").exists(), reason="this build has no benchmarks")
@pytest.mark.slow
def test_predicted_and_measured_stand_side_by_side(tmp_path):
    done = subprocess.run([sys.executable, TOP / "bench/plan", "Poisson", "two tenants", "--seconds", "15",
                           "--calibrate-seconds", "1", "--build", BUILD, "--out", tmp_path], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    written = json.loads((tmp_path / "plan-quick.json").read_text())
    table = (tmp_path / "plan-quick.txt").read_text()
    assert list(written["workloads"]) == ["Poisson", "two tenants"] and written["of"] == 12
    assert (written["within"] == written["of"]) == (done.returncode == 0)
    for name, each in written["workloads"].items():
        assert each["measured"]["tasks"] == each["predicted"]["tasks"] > 50 and each["measured"]["errors"] == {}
        for figure, error in each["errors"].items():
            off = each["predicted"][figure] - each["measured"][figure]
            assert error["error"] == pytest.approx(off if figure == "missed" else off / each["measured"][figure])
            assert error["within"] == (abs(error["error"]) <= written["bounds"][figure])
        assert name in table
