"""Control runs: outside the box every probe reaches its target. Needs root, but no daemon.

What could change something runs in namespaces of its own, bombs a few units
only, budgets under a uid that nobody has.
"""

import json
import os
import pathlib
import secrets
import subprocess
import sys

import pytest

import cases
import stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control runs need root")
SECONDS_MAX = 120
NOBODYS_UID = 54321
APART = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "--cgroup", "sh", "-c", '"$@"; exit $?', "sh")  # the shell is pid 1


def run(tmp_path, host, probe, args=(), wrap=(), params=None, **kwargs):
    """The probe as root outside; its report."""
    folder = stage.copy_probe(tmp_path, probe, {**host.params, **(params or {})})
    done = subprocess.run([*wrap, sys.executable, "-u", str(folder / f"{probe}.py"), *args], cwd=folder, timeout=SECONDS_MAX,
                          capture_output=True, stdin=subprocess.DEVNULL, env={**os.environ, "MFTOKEN": host.token},
                          pass_fds=(host.leak,), **kwargs)
    report = stage.report_of(done.stdout)
    assert report, f"no report: {done.returncode} {done.stdout[-300:]!r} {done.stderr[-2000:].decode()}"
    return report


@pytest.mark.parametrize("wall", cases.WALLS, ids=lambda w: w.probe)
def test_probe_sees_a_breach(tmp_path, host, wall):
    if "walk" in wall.control_params:
        (tmp_path / "walk").mkdir()
        (tmp_path / "walk/file").write_text("x")
        wall = cases.dataclasses.replace(wall, control_params={"walk": str(tmp_path / "walk")})
    report = run(tmp_path, host, wall.probe, wrap=APART if wall.apart else (), params={**wall.params, **wall.control_params})
    missing = set(wall.control) - set(report["reached"])
    assert not missing, {label: report["refused"].get(label) for label in missing}


def test_shell_sees_a_breach(tmp_path, host):
    done = subprocess.run([*APART, *stage.tour(host)], cwd=stage.copy_probe(tmp_path, "shell_tour.sh", {}), capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=SECONDS_MAX)
    assert {"marker", "marker_deep", "marker_proc", "signal_init", "mount", "unshare", "unshare_root", "nsenter", "chroot",
            "mknod", "dmesg", "sysctl", "nice", "cgroup", "hook", "hostname", "gains"} <= set(
                stage.report_of(done.stdout)["reached"]), done


@pytest.mark.parametrize("bomb", cases.BOMBS, ids=lambda b: b.kind)
def test_bomb_goes_off(tmp_path, host, fence, bomb):
    report = run(tmp_path, host, "bombs", (bomb.kind, str(bomb.units)), preexec_fn=fence.enter)
    assert report["facts"]["count"] == bomb.units, report


@pytest.mark.parametrize("kind", cases.TWO_BOXES + cases.SHARED_BLOB + cases.KNOWN_CHANNELS)
def test_two_processes_meet(open_path, host, kind):
    token = secrets.token_hex(4)
    folder = stage.copy_probe(open_path, "two_boxes", {})
    stage.blob_file(folder)
    user = {"user": NOBODYS_UID} if kind in ("timers", "watches", "pipe_pages") else {}
    argv = [sys.executable, "-u", str(folder / "two_boxes.py")]
    if user:
        argv[0] = "/usr/bin/python3" if pathlib.Path("/usr/bin/python3").exists() else argv[0]
    with subprocess.Popen([*argv, "serve", kind, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, **user) as server:
        try:
            assert stage.wait_ready(server), "the server is not ready"
            done = subprocess.run([*argv, "reach", kind, token], cwd=folder, capture_output=True, timeout=SECONDS_MAX, **user)
            report = json.loads(done.stdout)
        finally:
            server.stdin.close()
            server.wait(timeout=SECONDS_MAX)
            stage.clean_ipc(token)
    assert report["reached"] == [kind], report


def test_the_host_tells_its_facts(tmp_path, host):
    assert set(run(tmp_path, host, "host_facts", params=stage.host_facts())["reached"]) == set(cases.HOST_FACTS)


def test_directory_events_show_the_neighbour(tmp_path, host):
    folder = stage.copy_probe(tmp_path, "two_boxes", {})
    argv = [sys.executable, "-u", str(folder / "two_boxes.py")]
    with subprocess.Popen([*argv, "serve", "directory_events", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert stage.wait_ready(server)
        subprocess.run([*argv, "reach", "directory_events", "1"], timeout=SECONDS_MAX, check=True, capture_output=True)
        assert stage.read_line(server) == b"EVENT\n"
        server.stdin.close()
        server.wait(timeout=SECONDS_MAX)


@pytest.mark.parametrize("kind", ("symlinks", "hardlinks", "special", "many", "sparse", "attributes", "names"))
def test_out_files_are_as_hostile_as_meant(tmp_path, host, kind):
    out = tmp_path / "out"
    run(tmp_path, host, "out_files", (kind, str(out)), wrap=APART)
    expect = {"symlinks": lambda: (out / "absolute").is_symlink(), "hardlinks": lambda: (out / "hard1").exists(),
              "special": lambda: (out / "fifo").is_fifo() and (out / "char").is_char_device(),
              "many": lambda: len(list(out.iterdir())) == 5001, "sparse": lambda: (out / "sparse").stat().st_size == 1 << 30,
              "attributes": lambda: os.getxattr(out / "good", "trusted.x") == b"1",
              "names": lambda: (os.fsencode(out) + b"/new\nline") and os.path.exists(os.fsencode(out) + b"/latin\xe9")}[kind]
    assert expect()
