"""mayfly bench: real loads on a real daemon, short. Figures are not judged, except where a load is bound to show one."""

import json
import os
import pathlib
import re
import signal
import subprocess
import xml.etree.ElementTree as tree

import pytest

from support import CLI

TOP = pathlib.Path(__file__).resolve().parents[2]
VENV = TOP / "build/venv/bin/python"
INSTANT = pathlib.Path(CLI).parent / "mayfly-bench-instant"
QUICK = ("--time", "500ms", "--warm-up", "100ms", "-q")

MIX = """
[[task]]
name = "small"
weight = 6
code = "print(6*7)"
expect = "42\\n"
tenant = "web"

[[task]]
name = "reader"
weight = 3
script = "reader.py"
args = ["input"]
input_sizes = ["10kB", "2MiB"]
files = ["note.txt"]
env = { WHO = "bench" }
limits = { memory = "128MiB", wall_time = "10s" }

[[task]]
name = "command"
template = "shell"
command = ["sh", "-c", "echo hi"]
expect = "hi\\n"
"""
READER = """
import os, sys
size = os.path.getsize(sys.argv[1])
assert size in (10_000, 2 << 20), size
assert open("note.txt").read() == "kept" and os.environ["WHO"] == "bench"
print(size)
"""

# Reads a log by HdrHistogram's own library, and each row of a table by the log.
READ_HDR = """
import json, sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
log, table = sys.argv[1:]
new = lambda: HdrHistogram(1, 3_600_000_000_000, 3)
whole, lines, reader = new(), 0, HistogramLogReader(log, new())
while (each := reader.get_next_interval_histogram()):
    whole.add(each)
    lines += 1
rows = [line.split() for line in open(table) if line[:1] not in "#\\n" and "Value" not in line]
for value, share, count, *_ in rows:
    theirs = whole.get_value_at_percentile(100 * int(count) / whole.get_total_count()) / 1e6
    # The log has the rounds, each with an exact maximum; the table has their sum. Our bins grow by 0.2 %, theirs by 0.1 %.
    assert abs(theirs - float(value)) < 0.0006 + 0.0031 * theirs, (value, share, count, theirs)
print(json.dumps({"lines": lines, "count": whole.get_total_count(), "max_ns": whole.get_max_value(),
                  "rows": {share: float(value) for value, share, *_ in rows}}))
"""


def report(mayfly, *words, code=0):
    done = mayfly("bench", *words, "--json")
    assert done.returncode == code, (done.stdout[-2000:], done.stderr[-2000:])
    return json.loads(done.stdout)


def series(told, name):
    [found] = [each for each in told["series"] if each["name"] == name]
    return found


def test_a_run_is_told_as_table_json_plot_and_histograms(mayfly, tmp_path):
    out = tmp_path / "out"
    done = mayfly("bench", "run", "--rate", "30", "--rounds", "2", "--time", "1s", "--warm-up", "200ms", "--out", out)
    assert done.returncode == 0, done.stderr
    said, progress = done.stdout.decode(), done.stderr.decode()
    assert "print(6*7) on python\n30/s at random times (Poisson); 2 rounds of 1 s" in said
    assert re.search(r"^all +\d", said, re.M) and re.search("^stated 30.0/s, planned .*, achieved ", said, re.M)
    assert "round 1 of 2: " in progress and "round 2 of 2: " in progress
    assert {path.name for path in out.iterdir()} == {
        "report.json", "table.txt", "latency.svg", "receipt.hlog", "receipt-all.hgrm", "first-byte.hlog",
        "first-byte-all.hgrm"}
    assert (out / "table.txt").read_text() == said
    told = json.loads((out / "report.json").read_text())
    assert (told["format"], told["version"], told["verb"], told["interrupted"]) == ("mayfly-bench-report", 1, "run", False)
    whole = series(told, "all")
    assert len(whole["rounds"]) == 2 and whole["stated_per_s"] == 30 and whole["total"]["errors"] == {}
    for each in whole["rounds"]:
        assert each["errors"] == {} and 0 < each["recorded"] <= each["sent"] < 70
        # From the intended start: the wait until it was sent is in the latency.
        assert 0 < each["service"]["p50_ns"] <= each["latency"]["p50_ns"] * 1.01
        assert 0 < each["first_byte"]["p50_ns"] <= each["latency"]["p50_ns"]
    now, [daemon] = told["environment"], told["environment"]["daemons"].values()
    assert now["kernel"] == os.uname().release and now["cores"] == os.cpu_count() and now["time"] <= now["ended"]
    assert "?" not in now["compiler"] and daemon["version"] and daemon["templates"][0]["name"]
    assert "python" in [template["name"] for template in daemon["templates"]]
    plot = tree.parse(out / "latency.svg").getroot()
    assert plot.tag.endswith("svg") and plot[0].tag.endswith("title") and "receipt: median" in plot[1].text


def test_hdrhistograms_own_library_reads_the_histograms(mayfly, tmp_path):
    told = mayfly("bench", "run", "--arrivals", "closed", "--in-flight", "2", "--rounds", "2", "--time", "1500ms", "-q",
                  "--out", tmp_path)
    assert told.returncode == 0, told.stderr
    [whole] = json.loads((tmp_path / "report.json").read_text())["series"]
    for name, part in (("receipt", "latency"), ("first-byte", "first_byte")):
        done = subprocess.run([VENV, "-c", READ_HDR, tmp_path / f"{name}.hlog", tmp_path / f"{name}-all.hgrm"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        theirs, ours = json.loads(done.stdout), whole["total"][part]
        assert theirs["lines"] == 2 and theirs["count"] == ours["count"] > 10 and len(theirs["rows"]) > 10
        assert theirs["max_ns"] == pytest.approx(ours["max_ns"], rel=0.002)
        levels = {percent: value for percent, value in ours["distribution"]}
        for percent in (0, 50, 75):
            assert theirs["rows"][f"{percent / 100:.12f}"] * 1e6 == pytest.approx(levels[percent], rel=0.002)


def test_a_mix_has_figures_of_each_task(mayfly, tmp_path):
    (tmp_path / "mix.toml").write_text(MIX)
    (tmp_path / "reader.py").write_text(READER)
    (tmp_path / "note.txt").write_text("kept")
    told = report(mayfly, "run", "--mix", tmp_path / "mix.toml", "--rate", "40", "--rounds", "1", "--time", "1500ms", "-q")
    assert [each["name"] for each in told["series"]] == ["all", "small", "reader", "command"]
    parts = told["series"][1:]
    assert all(each["total"]["errors"] == {} for each in told["series"]), told["series"]
    sent = {each["name"]: each["total"]["sent"] for each in told["series"]}
    assert sent["all"] == sum(sent[each["name"]] for each in parts) and min(sent.values()) > 0
    assert sent["small"] > sent["command"]  # 6 of 10 and 1 of 10
    assert [each["stated_per_s"] for each in parts] == [24, 12, 4]


def test_what_a_mix_gets_wrong_is_named_with_file_and_line(mayfly, tmp_path):
    path = tmp_path / "mix.toml"
    for text, says in (("[[task]]\nname = 'a'\ncode = 'x'\nweigth = 2\n", "mix.toml:4: unknown key 'task.weigth'"),
                       ("[[task]]\nname = 'a'\n", "mix.toml:1: 'task' needs exactly one of code, script, command")):
        path.write_text(text)
        done = mayfly("bench", "run", "--mix", path)
        assert done.returncode == 2 and says in done.stderr.decode() and done.stdout == b"", done.stderr
    path.write_text("[[task]]\nname = 'a'\nscript = 'gone.py'\n")
    done = mayfly("bench", "run", "--mix", path)
    assert done.returncode == 125 and "gone.py" in done.stderr.decode()
    path.write_text("[[task]]\nname = 'a'\ncode = 'x'\ntemplate = 'nobody'\n")
    done = mayfly("bench", "run", "--mix", path)
    assert done.returncode == 125 and "task 'a': the daemon serves no template 'nobody'" in done.stderr.decode()


def test_a_trace_is_replayed_with_its_run_times(mayfly, tmp_path):
    trace, mix = tmp_path / "trace.csv", tmp_path / "mix.toml"
    trace.write_text("seconds,template,run_seconds\n0,python,0.3\n0.2,other,0.01\n0.4,python,0.3\n2,python,0\n")
    mix.write_text("[[task]]\nname = 'naps'\ncode = '''import os, time\ntime.sleep(float(os.environ['RUN_SECONDS']))'''\n"
                   "[[task]]\nname = 'other'\ncode = 'print(1)'\n")
    told = report(mayfly, "run", "--arrivals", "trace", "--trace", trace, "--mix", mix, "--speed", "2", "--rounds", "1", "-q")
    naps, other = series(told, "naps"), series(told, "other")
    assert told["series"][0]["total"]["errors"] == {} and told["series"][0]["stated_per_s"] == 4
    # 'python' is the template of both tasks of the mix; 'other' is one's name.
    assert naps["total"]["sent"] + other["total"]["sent"] == 4 and other["total"]["sent"] >= 1
    mix.write_text("[[task]]\nname = 'naps'\ncode = '''import os, time\ntime.sleep(float(os.environ['RUN_SECONDS']))'''\n")
    done = mayfly("bench", "run", "--arrivals", "trace", "--trace", trace, "--mix", mix)
    assert done.returncode == 125 and "the trace names 'other'" in done.stderr.decode()
    trace.write_text("0,python,0.3\n0.2,python,0.3\n")
    told = report(mayfly, "run", "--arrivals", "trace", "--trace", trace, "--rounds", "1", "-q")
    assert told["series"][0]["total"]["errors"] == {} and told["series"][0]["total"]["latency"]["min_ns"] >= 300_000_000
    mix.write_text("[[task]]\nname = 'tells'\nexpect = '0.250000 4096'\n"
                   'code = "import os; print(os.environ[\'CPU_SECONDS\'], os.environ[\'MEMORY_BYTES\'], end=\'\')"\n')
    trace.write_text("0,python,0.3,0.25,4096\n")
    told = report(mayfly, "run", "--arrivals", "trace", "--trace", trace, "--mix", mix, "--rounds", "1", "-q")
    assert told["series"][0]["total"]["errors"] == {}
    trace.write_text("0\nsoon\n")
    done = mayfly("bench", "run", "--arrivals", "trace", "--trace", trace)
    assert done.returncode == 2 and "trace.csv:2: 'soon' is not a number of seconds" in done.stderr.decode()


def test_bursts_come_at_once(mayfly):
    told = report(mayfly, "run", "--arrivals", "bursts", "--burst", "8", "--every", "500ms", "--time", "900ms",
                  "--warm-up", "0s", "--rounds", "1", "-q")
    [whole] = told["series"]
    assert whole["total"]["sent"] == 16 and whole["stated_per_s"] == 16 and whole["total"]["errors"] == {}


def test_a_load_that_is_too_much_is_bounded_and_said(mayfly):
    """200 a second of 100 ms each, one at a time: the plan's time ends long before its tasks."""
    told = report(mayfly, "run", "-c", "import time; time.sleep(0.1)", "--rate", "200", "--in-flight", "1", "--rounds", "1",
                  "--time", "500ms", "--warm-up", "0s", "-q")
    [whole] = told["series"]
    assert whole["total"]["unsent"] > 50 and whole["total"]["held"] > 0
    assert whole["total"]["sent"] < 40
    [generator] = told["generator"]
    assert not generator["limited"] and "the daemon was the limit" in generator["words"]
    # The latency counts from the intended start: the last task waited for all before it.
    assert whole["total"]["latency"]["max_ns"] > 2 * whole["total"]["service"]["p50_ns"]


def test_failures_are_counted_by_their_verdict(mayfly):
    told = report(mayfly, "run", "-c", "import sys; sys.exit(3)", "--rounds", "1", *QUICK, code=1)
    [whole] = told["series"]
    assert whole["total"]["errors"] == {"failed": whole["total"]["sent"]} and whole["total"]["sent"] > 0
    done = mayfly("bench", "run", "--expect", "43\n", "--rounds", "1", *QUICK)
    assert done.returncode == 1 and b"tasks ended as wrongOutput" in done.stdout


def test_ctrl_c_reports_what_was_measured_and_ends_the_tasks(mayfly):
    running = mayfly.start("bench", "run", "-c", "import time; time.sleep(600)", "--arrivals", "closed", "--time", "1h")
    assert b"6 rounds of -c on python" in running.stderr.readline()
    running.send_signal(signal.SIGINT)  # its four tasks would sleep for minutes
    out, _ = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    assert b"interrupted: this is what was measured until then" in out
    running = mayfly.start("bench", "run", "--rate", "20", "--time", "1s", "--warm-up", "0s", "--rounds", "50")
    assert b"50 rounds" in running.stderr.readline() and b"round 1 of 50" in running.stderr.readline()
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGTERM and re.search(rb"^all +\d", out, re.M)


@pytest.mark.skipif(not INSTANT.exists(), reason="this build has no benchmarks")
def test_a_daemon_that_stops_ends_the_measurement(mayfly, tmp_path):
    socket = tmp_path / "s"
    with subprocess.Popen([INSTANT, socket], stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout.readline() == b"ready\n"
            running = mayfly.start("bench", "run", "--socket", socket, "--arrivals", "closed", "--time", "1h")
            assert b"6 rounds of print(6*7) on python" in running.stderr.readline()
        finally:
            daemon.terminate()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 125 and b"the daemon did not take" in said, said


def test_a_sweep_ends_at_a_goal_that_holds_and_at_one_that_cannot(mayfly, tmp_path):
    words = ("--from", "10", "--to", "30", "--growth", "3", "--repeats", "1", "--time", "500ms", "--warm-up", "0s", "-q")
    told = report(mayfly, "sweep", "--goal", "p50=30s", "--out", tmp_path, *words)
    its = told["sweep"]
    if its["end"] != "generator":  # a machine that is too busy to send in time says so
        assert its["end"] == "allGood" and its["sustainable_per_s"] == 30 and its["lowest_bad_per_s"] is None
        assert [each["stated_per_s"] for each in told["series"]] == [10, 30]
    plot = tree.parse(tmp_path / "sweep.svg").getroot()
    assert its["verdict"] in plot[1].text
    slow = ("-c", "import time; time.sleep(0.02); print(1)")
    its = report(mayfly, "sweep", "--goal", "first-byte:p99=1ms", *slow, *words)["sweep"]
    assert its["sustainable_per_s"] == 0 and its["goal_ms"] == 1 and its["goal_of"] == "first byte"
    assert its["end"] == "generator" or "no rate keeps" in its["verdict"]


def test_isolation_pairs_a_quiet_with_a_noisy_phase(mayfly, tmp_path):
    told = report(mayfly, "isolation", "--pairs", "2", "--noise", "churn", "--noise-in-flight", "2", "--rate", "20", *QUICK,
                  "--out", tmp_path)
    assert [(each["name"], len(each["rounds"])) for each in told["series"]] == [("quiet", 2), ("noisy", 2), ("noise", 2)]
    assert series(told, "noise")["total"]["succeeded"] > 0
    figures = {each["figure"]: each for each in told["isolation"]}
    assert {"first byte p50", "receipt p50", "receipt p99"} <= set(figures)
    for each in figures.values():
        assert each["pairs"] == 2 and 0 < each["low"] <= each["ratio"] <= each["high"]
        assert each["effect"] in ("slower", "faster", "within noise")
    assert tree.parse(tmp_path / "isolation.svg").getroot()[0].text == "A tenant beside a noisy one"


def test_a_diff_finds_what_is_planted_and_nothing_else(mayfly, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    told = report(mayfly, "run", "--rate", "30", "--rounds", "6", "--time", "300ms", "--warm-up", "0s", "-q")
    a.write_text(json.dumps(told))
    done = mayfly("bench", "diff", a, a)
    assert done.returncode == 0 and b"no difference that is more than noise" in done.stdout, done.stdout
    # A hundred times slower: more than any moment of a busy machine.
    for each in told["series"][0]["rounds"]:
        for key in ("p50_ns", "p99_ns"):
            each["latency"][key] *= 100
    b.write_text(json.dumps(told))
    done = mayfly("bench", "diff", a, b)
    assert done.returncode == 1 and len(re.findall(rb"receipt p\d+, ms.* WORSE$", done.stdout, re.M)) == 2, done.stdout
    figures = json.loads(mayfly("bench", "diff", b, a, "--json").stdout)["figures"]
    assert {each["verdict"] for each in figures if "receipt" in each["name"]} == {"better"}
    assert {each["verdict"] for each in figures if "first byte" in each["name"]} == {"noise"}
    told["series"][0]["rounds"] = told["series"][0]["rounds"][:3]
    b.write_text(json.dumps(told))
    for words, says in (((a, b), "--rounds 5 or more"), ((a, tmp_path / "none.json"), "none.json"),
                        ((a, __file__), "is not a JSON object")):
        done = mayfly("bench", "diff", *words)
        assert done.returncode == 2 and says in done.stderr.decode(), done.stderr


@pytest.mark.skipif(not INSTANT.exists(), reason="this build has no benchmarks")
def test_two_daemons_take_turns_and_are_compared(mayfly, tmp_path):
    """A daemon without boxes is faster, whatever else the machine does meanwhile."""
    socket = tmp_path / "s"
    words = ("bench", "run", "--against", socket, "--rate", "30", "--time", "300ms", "--warm-up", "0s")
    with subprocess.Popen([INSTANT, socket], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"ready\n"
            done = mayfly(*words, "--out", tmp_path / "out")
            assert done.returncode == 1, done.stderr
            turns = re.findall(r"^mayfly bench: ([ab]), round (\d) of 6", done.stderr.decode(), re.M)
            assert len(turns) == 12 and [nth for _, nth in turns] == [str(nth) for nth in range(1, 7) for _ in "ab"]
            assert all({side for side, _ in turns[at:at + 2]} == {"a", "b"} for at in range(0, 12, 2))
            assert len({side for side, _ in turns[::2]}) == 2  # which one is first is drawn
            assert re.search(rb"^all: receipt p50, ms .* better$", done.stdout, re.M), done.stdout
            for side in "ab":
                told = json.loads((tmp_path / "out" / side / "report.json").read_text())
                assert len(series(told, "all")["rounds"]) == 6
            both = json.loads(mayfly(*words, "--rounds", "2", "-q", "--json").stdout)  # too few to tell
            sent = [[each["sent"] for each in series(both[side], "all")["rounds"]] for side in "ab"]
            assert sent[0] == sent[1] and both["diff"] is None
        finally:
            other.terminate()


def ladders():
    """What a ladder could leave: folders, daemons."""
    found = [str(path) for path in pathlib.Path("/run").glob("mayfly-ladder-*")]
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [b" ".join(words).decode() for word in words if word.startswith(b"ladder-")][:1]
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the ladder starts daemons")
@pytest.mark.timeout(300)
def test_the_ladder_has_a_rung_for_each_mechanism_and_rival(mayfly, tmp_path):
    before = ladders()
    done = mayfly("bench", "ladder", "--rounds", "2", "--tasks", "2", "--rest", "5ms", "--templates", TOP / "templates",
                  "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "report.json").read_text())
    rungs = {each["rung"]: each for each in told["ladder"]}
    assert list(rungs) == ["python, parked", "python, stocked box", "python, all made", "exec: sh, parked", "node, parked",
                           "node, stocked box", "node, all made", "bwrap, python3", "bwrap, sh", "bwrap, node", "runc, python3", "runsc, python3", "runc, node",
                           "runsc, node"]
    for name, each in rungs.items():
        if name.startswith("run"):
            said = each["missing"]
            assert said == "" or said == "not installed" or said.startswith("does not work here: "), said
        if each["missing"]:
            assert f"{each['missing'].splitlines()[0]}"[:40] in done.stdout.decode()
            continue
        assert each["missing"] == "" and 0 < each["first_byte_p50_ms"] <= each["end_p50_ms"], name
        assert not each["void"], (name, done.stdout)
    assert rungs["bwrap, python3"]["of_reference"] == 1
    assert set(told["environment"]["daemons"]) == {"parked", "stocked", "made"}
    made, parked = series(told, "python, all made")["total"], series(told, "python, parked")["total"]
    assert (made["parked"], made["stocked"]) == (0, 0) and parked["parked"] == parked["recorded"] == 4
    assert "python, parked: first byte" in tree.parse(tmp_path / "ladder.svg").getroot()[1].text
    assert ladders() == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the ladder starts daemons")
@pytest.mark.timeout(300)
def test_a_ladder_that_is_interrupted_leaves_nothing(mayfly):
    before = ladders()
    running = mayfly.start("bench", "ladder", "--rounds", "50", "--tasks", "1", "--rest", "0ms", "--templates", TOP / "templates")
    assert b"round 1 of 50" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == -signal.SIGINT and b"python, parked" in out and b"interrupted" in out
    assert ladders() == before


def test_wrong_use_says_what_is_right(mayfly):
    for words, says in ((["bench"], "mayfly bench: measures a daemon"), (["bench", "rum"], "the nearest is 'run'"),
                        (["bench", "run", "--rate", "fast"], "--rate: 'fast' is not a number"),
                        (["bench", "sweep", "--goal", "p99"], "'p99' is no goal")):
        done = mayfly(*words)
        assert done.returncode == 2 and says in done.stderr.decode(), done.stderr
    done = mayfly("bench", "run", "--socket", "/run/nobody.sock", "--rounds", "1")
    assert done.returncode == 125 and b"/run/nobody.sock" in done.stderr
