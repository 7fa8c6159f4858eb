"""`mayfly broker log` on the audit of a real broker."""
import json
import os
import subprocess

import pytest

from harness import BUILD, await_true
from policies import CANARY, SECRETS, http

MAYFLY = BUILD / "bin" / "mayfly"


@pytest.fixture
def follow():
    """Starts `mayfly broker log -f`; its lines come from `.stdout`."""
    running = []

    def start(*words):
        running.append(subprocess.Popen([MAYFLY, "broker", "log", "-f", *map(str, words)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.communicate()


def log(*words, **more):
    return subprocess.run([MAYFLY, "broker", "log", *map(str, words)], capture_output=True, text=True, timeout=60, **more)


@pytest.fixture
def start(make_broker, serve):
    def start(**more):
        api = serve(lambda r: r.reply(body=b"hello"))
        return make_broker(SECRETS + http("api", "api.test", api.port, paths='["/**"]'), {"key": CANARY},
                           {"api.test": "127.0.0.1"}, **more)
    return start


def test_decisions_are_shown_and_filtered(start):
    broker = start()
    red, blue = broker.session("api"), broker.session("api", tenant="blue")
    assert red.ask("GET", "/cap/api/x?secret=1")[0] == 200
    assert blue.ask("PATCH", "/cap/api/y")[0] == 403
    await_true(lambda: len(broker.audit()) == 2)
    file = broker.state / "audit.log"
    done = log("--file", file)
    head, first, second = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and head.split()[:3] == ["TIME", "TASK", "USER"]
    assert str(red.task) in first and " allowed " in first and "GET api.test/x" in first and "secret" not in first
    assert " blue " in second and " refused " in second and second.endswith("[http.api.methods]")
    lines = file.read_text().splitlines(True)
    assert log("--file", file, "--json").stdout == "".join(lines)
    assert log("--file", file, "--json", "--refused").stdout == lines[1]
    assert log("--file", file, "--json", "--task", red.task).stdout == lines[0]
    assert log("--file", file, "--json", "--tenant", "blue", "--outcome", "allowed").stdout == ""


def test_nothing_is_lost_or_doubled_over_rotations(start, follow):
    broker = start(arguments=("--audit-bytes", "2000"))
    session = broker.session("api")
    session.ask("GET", "/cap/api/0")
    file = broker.state / "audit.log"
    await_true(lambda: file.exists() and file.read_text().endswith("\n"))  # its line comes after the answer
    reader = follow("--file", file, "--json", "-n", 0)
    await_true(lambda: any(p.name == "audit.log" for p in map(_opened, _fds(reader.pid))))
    asked = 0
    while not (broker.state / "audit.log.4").exists():
        for _ in range(9):
            asked += 1
            assert session.ask("GET", f"/cap/api/{asked}")[0] == 200
        rotated = _inode(file)
        await_true(lambda: _inode(file) != rotated)
    session.ask("PATCH", "/cap/api/last")
    targets = []
    while not targets or not targets[-1].endswith("/last"):
        targets.append(json.loads(reader.stdout.readline())["target"])
    assert [t.rpartition("/")[2] for t in targets] == [*map(str, range(1, asked + 1)), "last"]
    whole = log("--file", file, "--json").stdout
    assert [json.loads(line) for line in whole.splitlines()] == broker.audit() and len(broker.audit()) == asked + 2


def test_a_follower_ends_with_its_reader(start, follow):
    broker = start()
    await_true((broker.state / "audit.log").exists)
    reader = follow("--file", broker.state / "audit.log")
    assert reader.stdout.readline().startswith("TIME")
    reader.stdout.close()
    assert reader.wait(15) == 141
    reader.stdout = None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_errors_name_the_file_and_the_way_out(folder):
    done = log("--state-dir", folder)
    assert done.returncode == 1 and f"{folder}/instances/default/broker/audit.log'" in done.stderr
    assert "No such file" in done.stderr and "--instance" in done.stderr
    (folder / "mayflyd.toml").write_text("instance = 'x'\n")
    done = log("--config", folder / "mayflyd.toml")
    assert done.returncode == 1 and "sets no broker_policy" in done.stderr
    file = folder / "audit.log"
    file.write_text("")
    file.chmod(0o640)
    done = log("--file", file, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 1 and "Permission denied" in done.stderr and "root and its group" in done.stderr
    done = log("--file", folder)
    assert done.returncode == 1 and "no regular file" in done.stderr


def _inode(path):
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _fds(pid):
    return [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]


def _opened(link):
    try:
        return type(BUILD)(os.readlink(link))
    except OSError:
        return BUILD
