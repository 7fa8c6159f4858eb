"""The benchmarks and their parts work; their figures are not checked here."""
import contextlib
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys

import pytest

import test_snapshot_walls
from test_lifecycle import comm, family

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench")]

import brokered_gets  # noqa: E402
import common  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MAYFLY_CLI", TOP / "build/bin/mayfly")).parents[1]


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-load").exists(), reason="this build has no benchmarks")
@pytest.mark.slow
@pytest.mark.parametrize("goals, lines", [("hit miss memory", 6), ("beside", 2)])
def test_goals_are_measured_and_told(tmp_path, goals, lines):
    done = subprocess.run([sys.executable, TOP / "bench/goals", "--quick", "--build", BUILD, "--out", tmp_path,
                           *goals.split()], capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    name = f"goals-{goals.replace(' ', '-')}-quick"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.{kind}" for kind in ("json", "txt")]
    report = tmp_path / f"{name}.json"
    written, table = json.loads(report.read_text()), report.with_suffix(".txt").read_text()
    assert len(written["goals"]) == lines
    assert done.returncode == (0 if all(goal["met"] for goal in written["goals"]) else 1)
    for goal in written["goals"]:
        end = "met" if goal["met"] else "SHORT: no figure" if goal["void"] else "SHORT"
        [row] = [line for line in table.splitlines() if line.startswith(goal["name"] + "  ")]
        assert goal["measured"] in row and row.endswith(end) and row in done.stdout
        assert ("met  " if goal["met"] else "SHORT") + "  " + goal["name"] in done.stdout
        assert goal["steps_ns"] or goal["name"].startswith("memory")
        assert not (goal["met"] and goal["void"]) and all(f"NO FIGURE: {why}" in done.stdout for why in goal["void"])
    if goals == "beside":
        [renewals], fills = written["reports"]["neighbour's renewals"], written["reports"]["filler"]
        assert renewals > 0 or any("never renewed" in why for goal in written["goals"] for why in goal["void"])
        assert fills and all(fill["errors"] == {} for fill in fills)
        return
    [hit], [miss] = written["reports"]["hit"], written["reports"]["miss"]
    assert hit["errors"] == {} and hit["recorded"] == 20 and hit["first_byte"]["p50_ns"] > 0
    assert hit["claim"]["count"] == 20 and hit["steps"]["claimed"]["p50_ns"] > 0
    assert hit["parked"] + hit["stocked"] <= 20 and miss["parked"] == 0 and miss["stocked"] > 0


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-http").exists(), reason="this build has no benchmarks")
@pytest.mark.slow
def test_the_brokers_cost_is_measured_and_told(tmp_path):
    done = subprocess.run([TOP / "bench/broker", "--quick", "--build", BUILD, "--out", tmp_path], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0 or (done.returncode == 1 and "NOT met" in done.stdout), done.stdout + done.stderr
    written, table = json.loads((tmp_path / "broker-quick.json").read_text()), (tmp_path / "broker-quick.txt").read_text()
    assert written["met"] == (done.returncode == 0) == all(ratio <= written["goal"] for ratio in written["ratios"].values())
    gets = written["gets"]
    assert sorted(gets) == sorted(f"{kind}, {side}" for kind in ("curl", "kept", "new", "stream", "saturated")
                                  for side in ("direct", "relays", "tcp", "unix"))
    for name, [report] in gets.items():
        if name.startswith("curl"):  # which tells a failed GET by the benchmark's end
            assert 0 < report["whole"]["p50_ns"] <= report["whole"]["p99_ns"]
            continue
        assert report["failed"] == 0 and report["count"] > 0, name
        assert name.startswith("saturated") or report["count"] == (3 if name.startswith("stream") else 20)
        assert 0 < report["first"]["p50_ns"] <= report["whole"]["p50_ns"]
        assert ("event" in report) == name.startswith("stream")
    assert set(written["ungranted"]) == {f"{kind}, {name}" for kind in ("hit", "cycles") for name in ("plain", "policy")}
    assert all(report["errors"] == {} for reports in written["ungranted"].values() for report in reports)
    mean, low, high = written["doors_us"]["added"]
    assert low <= mean <= high and min(written["doors_us"]["spawner_answer"]) > 0
    assert all(row in table for row in ("kept connection, p50", "first streamed byte, p50", "parked: first byte, p50"))
    assert table.partition("\n\n")[2] in done.stdout


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-load").exists(), reason="this build has no benchmarks")
@pytest.mark.slow
def test_the_cost_of_metrics_is_measured_and_told(tmp_path):
    done = subprocess.run([TOP / "bench/metrics", "--quick", "--listeners", "50", "--build", BUILD, "--out", tmp_path], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    written = json.loads((tmp_path / "metrics-quick.json").read_text())
    assert written["failures"] == [] and written["scrapes"] > 0
    assert len(written["lines"]) == 6
    for line in written["lines"]:
        low, high = line["interval"]
        assert 0 < low <= line["ratio"] <= high and line["figure"] in done.stdout
    goals = [line["interval"] for line in written["lines"] if "p99" not in line["figure"] and "cpu" not in line["figure"]]
    verdict = ("MISSED" if any(low > 1.03 for low, _ in goals) else "met" if all(high < 1.03 for _, high in goals) else "open")
    assert written["goal"] == verdict and (done.returncode == 0) == (verdict == "met")


def test_an_interval_is_students():
    for values, ends in (((1, 2, 3, 4, 5), (1.037, 4.963)), ((10, 12, 11, 13, 9, 10, 12, 11, 13, 9), (9.934, 12.066))):
        mean, low, high = brokered_gets.interval(values)
        assert (low, high) == pytest.approx(ends, abs=0.02) and mean == pytest.approx(sum(values) / len(values))
    assert brokered_gets.ratio_interval([2, 4], [1, 2])[:2] == pytest.approx((2, 2))


def test_a_report_is_stamped():
    now = common.Environment(BUILD).stamp()
    commit = subprocess.run(["git", "-C", TOP, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert now["commit"] == (commit or "no git") and now["dirty"] in (True, False)
    assert now["kernel"] == os.uname().release and now["cores"] == os.cpu_count() and now["cgroups"] in ("v1", "v2", "hybrid")
    assert now["time"] <= now["ended"] and len(now["load_before"]) == len(now["load_after"]) == 3
    assert "?" not in now["compiler"] and now["build"] in ("Release", "Debug", "RelWithDebInfo")


def test_a_figure_of_other_tasks_is_none(capsys):
    """All of hit's tasks must find a parked clone, except one in a hundred."""
    goals = runpy.run_path(str(TOP / "bench/goals"), run_name="goals")
    bench = goals["Bench"](BUILD, 1, True)
    for parked, good in ((200, True), (198, True), (197, False)):
        bench.reports = {"hit": [{"recorded": 200, "parked": parked}]}
        said, void = bench.otherwise("hit", "parked", "found no parked clone")
        assert said == f"{200 - parked} of 200 tasks found no parked clone" and (void is None) == good
        bench.goal("speed", "1 ms", "2 ms", True, void=[void])
    assert [line["met"] for line in bench.lines] == [True, True, False]
    assert "NO FIGURE: 3 of 200 tasks" in capsys.readouterr().out
    assert [line.split()[-1] for line in bench.table().splitlines()[1:]] == ["met", "met", "figure"]


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


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-floods").exists(), reason="this build has no benchmarks")
def test_what_a_client_notices_of_others_is_measured():
    socket = os.environ["MAYFLY_SOCKET"]
    done = subprocess.run([BUILD / "bin/mayfly-bench-floods", socket, "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for figure in ("decided_late_ms", "dead_late_ms", "print_ms"):
        assert said[figure]["count"] > 0 and said[figure]["p50"] <= said[figure]["p99"] <= said[figure]["max"]
    # Nothing is killed before its time is over, and nothing is dead before it is killed.
    assert 0 <= said["decided_late_ms"]["p50"] <= said["dead_late_ms"]["p50"]


@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-criu").exists(), reason="this build has no benchmarks")
def test_restores_that_fail_are_counted_and_too_many_end_the_run(tmp_path):
    place = test_snapshot_walls.put(tmp_path / "place", "")
    assert test_snapshot_walls.snapshot(place, "build", "packed").returncode == 0
    with place.root("packed", tmp_path / "root") as root:
        for kills, outcome in ((5, 0), (1_000, 1)):
            bench = subprocess.Popen([BUILD / "bin/mayfly-bench-criu", "--snapshot", test_snapshot_walls.folder_of(place), "--root", root, "--count", "60"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            seen, killed = set(), set()
            while len(killed) < kills and bench.poll() is None:
                criu = {pid for pid in family(bench.pid) if comm(pid) == "criu"}
                seen |= criu
                for pid in [pid for pid in criu - killed if len(seen) > 12][:1]:  # the first restore, which is not counted, has ended
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.add(pid)
            out, err = bench.communicate(timeout=120)
            assert bench.returncode == outcome, (out, err)
            if outcome == 0:
                report = json.loads(out)
                assert report["restores"] == 60 and 1 <= report["failed"] <= kills and report["said"], report
                assert 0 < report["restore"]["p50_ns"] <= report["cycle"]["p50_ns"] and report["per_s"] > 0, report
            else:
                assert re.search(r"7 of 60 restores failed; the first: .|cannot restore the snapshot here: .", err), err


def test_failed_restores_stand_in_the_report_with_crius_words(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["restore"])
    bench = runpy.run_path(str(TOP / "bench/restore"))["Bench"]()
    for failed, said in ((0, ""), (1, "Error (criu/x.c:1): no"), (2, "Error (criu/y.c:2): no")):
        bench.keep("criu, kernel file kept", {"restores": 24, "failed": failed, "said": said})
    bench.keep("criu, no kernel file", {"restores": 24, "failed": 0, "said": ""})
    bench.keep("node parked", {"errors": {}})
    assert bench.failures() == [{"name": "criu, kernel file kept", "failed": 3, "of": 72, "said": "Error (criu/x.c:1): no"}]
    assert bench.told_failures() == "FAILED  criu, kernel file kept: 3 of 72 restores, which no figure counts: Error (criu/x.c:1): no\n"


@pytest.mark.slow
@pytest.mark.skipif(not (BUILD / "bin/mayfly-bench-criu").exists(), reason="this build has no benchmarks")
def test_restored_clones_are_measured_beside_crius_command_line(tmp_path):
    done = subprocess.run([TOP / "bench/restore", "--quick", "--rounds", "1", "--build", BUILD, "--out", tmp_path], capture_output=True, text=True,
                          timeout=500)
    assert done.returncode in (0, 1), done.stderr[-3000:]  # 1: a goal is short
    said = json.loads((tmp_path / "restore-quick.json").read_text())
    assert len(said["goals"]) == 4 and all(goal["measured"] > 0 for goal in said["goals"]), said["goals"]
    rungs = {row["name"]: row for row in said["rungs"]}
    assert {"node parked", "node restored, box stocked", "node restored, box made", "node cold, bwrap", "python cold, bwrap", "python forked, parked",
            "python restored, parked", "python forked, made", "python restored, made"} <= set(rungs), list(rungs)
    assert all(report["errors"] == {} for name in rungs for report in said["reports"][name])
    assert rungs["node parked"]["memory"] > 0 and rungs["node parked"]["snapshot"] > 0 and rungs["python restored, made"]["snapshot"] > 0
    # A measurement leaves the snapshot as it was.
    checked = subprocess.run([BUILD / "bin/mayfly", "snapshot", "check", "--state-dir", os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly")],
                             capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0 and "sound" in checked.stdout, checked.stdout + checked.stderr
