"""The benchmarks work, and what they are made of: what they measure is not looked at here."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("MAYFLY_CLI", TOP / "build/bin/mayfly")).parents[1]


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-load").exists(), reason="this build has no benchmarks")
def test_goals_are_measured_and_told():
    done = subprocess.run([sys.executable, TOP / "bench/goals", "--quick", "--build", BUILD, "hit", "memory"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    written = json.loads((BUILD / "bench/goals.json").read_text())
    assert len(written["goals"]) == 5 and written["environment"]["kernel"] == os.uname().release
    assert done.returncode == (0 if all(goal["met"] for goal in written["goals"]) else 1)
    for goal in written["goals"]:
        assert ("met  " if goal["met"] else "SHORT") + "  " + goal["name"] in done.stdout
    [hit] = written["reports"]["hit"]
    assert hit["errors"] == {} and hit["recorded"] == 20 and hit["first_byte"]["p50_ns"] > 0


def test_an_unknown_goal_is_named():
    done = subprocess.run([sys.executable, TOP / "bench/goals", "speed"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no goal 'speed'; there are hit, miss" in done.stderr


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-load").exists(), reason="this build has no benchmarks")
@pytest.mark.parametrize("output", [[], ["--captured"]], ids=["live", "captured"])
def test_500_tasks_of_one_cpp_client_are_in_flight(output):
    done = subprocess.run([BUILD / "bin/mayfly-bench-load", "--burst", "500", "--outstanding", "500", *output],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    report = json.loads(done.stdout)
    assert (report["sent"], report["succeeded"], report["errors"]) == (500, 500, {})
