"""mayflyd's own walls, seen from outside: what it sees of the host, and which system calls it may make."""

import os
import pathlib
import re
import signal

import pytest

from test_lifecycle import await_that, begin, daemons, read, WAITING  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="looking into a daemon needs root")


def hierarchies():
    """The cgroup file systems that a daemon uses."""
    found = set()
    for line in read("/proc/self/mountinfo").splitlines():
        before, after = (part.split() for part in line.split(" - "))
        if before[3] == "/" and (after[0] == "cgroup2" or {"cpu", "memory", "pids"} & set(after[2].split(","))):
            found.add(before[4])
    return found


def test_it_has_no_new_privileges_and_a_filter(daemons):  # noqa: F811
    daemon = daemons(templates=("shell",))
    status = dict(re.findall(r"^(\w+):\s*(.*)$", read(f"/proc/{daemon.pid}/status"), re.M))
    filtered = "0" if "libasan" in read(f"/proc/{daemon.pid}/maps") else "2"  # a sanitizer makes calls of its own
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", filtered, "1")
    assert all(int(status[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), status


def test_it_sees_only_what_the_audit_reads_and_may_write_nothing(daemons):  # noqa: F811
    daemon = daemons(templates=("shell",))
    points = {}
    for line in read(f"/proc/{daemon.pid}/mountinfo").splitlines():
        fields = line.split()
        points[fields[4]] = set(fields[5].split(","))
    allowed = {"/", "/proc", "/sys/block", "/sys/devices/virtual/block"}
    assert allowed <= set(points) <= allowed | hierarchies(), points
    for point, options in points.items():
        assert {"ro", "nosuid", "nodev", "noexec"} <= options, (point, options)
    root = pathlib.Path(f"/proc/{daemon.pid}/root")
    assert {p.name for p in root.iterdir()} == {"proc", "sys"}
    assert {p.name for p in (root / "sys").iterdir()} <= {"block", "devices", "fs"}
    for there in (daemon.state_dir, "/etc/passwd", str(daemon.run_dir), daemon.socket):
        assert os.path.exists(there) and not (root / there.lstrip("/")).exists(), there
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
    assert os.stat(f"/proc/{daemon.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino


def test_it_serves_hears_signals_and_stops_within_them(daemons, tmp_path):  # noqa: F811
    """The fixture looks in the log for refused calls."""
    daemon = daemons(config='audit_time = "20ms"\n')
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 << 20))
    result = daemon.cli.run("-t", "shell", "--stdin", "--file", f"{big}:big", "--out", tmp_path / "out", "--", "sh", "-c",
                            "cp big out/copy; cat", input=b"words\n")
    assert (tmp_path / "out/copy").read_bytes() == big.read_bytes() and result["stdout"] == "words\n", result
    for number in (signal.SIGHUP, signal.SIGUSR1):
        os.kill(daemon.pid, number)
    task = begin(daemon, WAITING, "--stdin")
    await_that(lambda: "has no effect here" in read(daemon.log), "a signal is told of")
    daemon.process.terminate()
    task.communicate()
    assert daemon.process.wait(60) == 0, daemon.said()
    assert daemon.said().rstrip().endswith("stopped")
