"""The doors to the broker: a task reaches its own, only with grants, and can replace none.

Each probe has its control run outside, where a door listens and nothing guards it.
"""

import json
import os
import secrets
import subprocess
import sys

import pytest

import stage

sys.path.append(str(stage.PROBES.parents[1] / "e2e"))
from light import BINARIES  # noqa: E402
from test_controls import APART, SECONDS_MAX  # noqa: E402
from test_lifecycle import daemons  # noqa: E402, F401 (a fixture)
from test_walls import assert_gone, run_probe  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
POLICY = """
[egress.ticket]
hosts = ["files.example.org"]
modes = ["upgrade"]
users = ["*"]
"""


@pytest.fixture
def brokered(daemons, tmp_path):  # noqa: F811
    """A daemon with a broker, whose policy grants everybody `ticket`."""
    if not (BINARIES / "mayfly-broker").exists():
        pytest.skip("this build has no mayfly-broker")
    policy = daemons.folder / "policy.toml"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    daemon = daemons(config=f'broker_policy = "{policy}"\n', templates=("python",))
    return daemon.cli


def test_a_task_without_grants_reaches_no_door_and_makes_none(brokered, tmp_path, host):
    result = run_probe(brokered, tmp_path, host, "broker_doors", ("closed",))
    report = result["report"]
    assert report, (result["verdict"], result["reason"], result["stderr"][-2000:])
    assert report["facts"]["door"], "the box has no door: the probe proves nothing"
    assert report["reached"] == [], report["evidence"]
    for label in ("local", "tcp"):
        assert "refused" in report["refused"][label].lower(), report["refused"][label]
    assert result["receipt"]["revokedNs"] == result["receipt"]["brokerClosedNs"] == 0
    assert_gone(result)


def test_a_task_with_grants_can_replace_no_door(brokered, tmp_path, host):
    result = run_probe(brokered, tmp_path, host, "broker_doors", ("open",), flags=("--grant", "ticket"))
    assert result["report"], (result["verdict"], result["reason"], result["stderr"][-2000:])
    assert result["report"]["reached"] == [], result["report"]["evidence"]
    assert result["receipt"]["revokedNs"] > 0 and result["receipt"]["brokerClosedNs"] > 0
    assert_gone(result)


def test_a_task_with_grants_is_answered_at_both_of_its_doors(brokered):
    code = """
import http.client, os, socket
assert os.environ["MAYFLY_BROKER"].startswith("http://127.0.0.1")
tcp = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
tcp.request("GET", "/")
print(tcp.getresponse().status)
local = http.client.HTTPConnection("localhost", timeout=20)
local.sock = socket.socket(socket.AF_UNIX)
local.sock.connect("/run/broker.sock")
local.request("GET", "/")
print(local.getresponse().status)
"""
    result = brokered.run("-t", "python", "--grant", "ticket", "-c", code)
    assert stage.output_of(result).split() == [b"200", b"200"], result["stderr"]


def test_a_door_is_reached_from_no_other_box(brokered, tmp_path, host):
    code = "import os, sys; print('READY', flush=True); sys.stdin.read()"
    with stage.hold_box(brokered, ["--grant", "ticket"], "-c", code):
        result = run_probe(brokered, tmp_path, host, "broker_doors", ("closed",))
    assert result["report"] and result["report"]["reached"] == [], result
    assert_gone(result)


def test_a_grant_that_nobody_has_runs_nothing(brokered):
    done = brokered("run", "--json", "--grant", "nobodys", "-c", "print(1)")
    assert json.loads(done.stdout)["error"]["code"] == "notFound", done.stdout


def test_the_probe_sees_doors_that_are_open_and_unguarded(tmp_path):
    folder = stage.copy_probe(tmp_path, "broker_doors", {"token": secrets.token_hex(4)})
    done = subprocess.run([*APART, sys.executable, "-u", str(folder / "broker_doors.py"), "control"], cwd=folder,
                          timeout=SECONDS_MAX, capture_output=True, stdin=subprocess.DEVNULL)
    report = stage.report_of(done.stdout)
    assert report, done.stderr
    wanted = {"local", "tcp", "bind_127.0.0.1", "bind_127.0.0.1_reuse", "bind_0.0.0.0_reuse_port", "mode", "mode_of_folder",
              "low_ports", "exchange", "replace", "remove"}
    assert wanted <= set(report["reached"]), report["refused"]
