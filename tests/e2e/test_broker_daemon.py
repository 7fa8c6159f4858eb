"""The daemon's life with a broker: its start, wrong policies, deaths, detached tasks."""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import sys

import pytest
from test_lifecycle import GONE_SECONDS_MAX, TOP, await_that, comm, daemons, family, slow  # noqa: F401 (a fixture)
from test_metrics import HTTP, TRACE, Web, listed

sys.path.append(str(TOP / "tests/broker"))
from shared import links_of  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
TICKET = """
[mint.ticket]
audience = "files.example.org"
scope = "get"
users = ["*"]
"""
HOLDING = "import sys; print('up', flush=True); sys.stdin.read()"
MINT = """
import http.client, json, time
def mint():
    tcp = http.client.HTTPConnection("127.0.0.1", timeout=20)
    tcp.request("POST", "/mint/ticket")
    print(json.loads(tcp.getresponse().read())["credential"], flush=True)
mint()
"""
# A credential for each line, however long the broker takes.
MINT_AGAIN = """
import http.client, sys, time
for line in sys.stdin:
    status = 0
    while status != 200:
        try:
            tcp = http.client.HTTPConnection("127.0.0.1", timeout=20)
            tcp.request("POST", "/mint/ticket")
            status = tcp.getresponse().status
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    print(status, flush=True)
"""


def put(path, text, mode=0o600):
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)
    return path


@pytest.fixture
def start(daemons):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asker = put(daemons.folder / "asker", "asker-token")

    def write(policy, mode=0o600):
        return put(daemons.folder / "policy.toml", policy + f"""
[introspection]
listen = "127.0.0.1:{port}"
secret = "asker"
[secrets.asker]
file = "{asker}"
""", mode)

    def is_active(token):
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        asked.request("POST", "/introspect", "token=" + token, {"Authorization": "Bearer asker-token",
                                                                "Content-Type": "application/x-www-form-urlencoded"})
        return json.loads(asked.getresponse().read())["active"]

    def start(policy, mode=0o600, more="", **options):
        daemon = daemons(config=f'broker_policy = "{write(policy, mode)}"\n{more}', templates=("python",), **options)
        daemon.write, daemon.is_active = write, is_active
        return daemon

    return start


def broker_of(daemon):
    return [pid for pid in family(daemon.pid) if comm(pid) == "mayfly-broker"]


def supervisor_of(daemon):
    [pid] = [pid for pid in broker_of(daemon) if b"supervise" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def refused(daemon, *words):
    """The code and the message of a submission with a grant."""
    error = json.loads(daemon.cli("run", "--json", *(words or ("--grant", "ticket")), "-c", "1").stdout)["error"]
    return error["code"], error["message"]


def works(daemon):
    done = json.loads(daemon.cli("run", "--json", "--grant", "ticket", "-c", MINT).stdout)
    return done.get("verdict") == "succeeded"


def test_a_daemon_that_is_ready_takes_tasks_with_grants_at_once(start):
    assert works(start(TICKET))


def test_decisions_are_counted_and_the_audit_has_the_trace(start):
    daemon = start(TICKET, more=HTTP)
    assert daemon.cli.run("--grant", "ticket", "--traceparent", TRACE, "-c", MINT)["verdict"] == "succeeded"
    assert works(daemon) and refused(daemon, "--grant", "nonesuch")[0] == "notFound"
    web = Web(daemon)
    await_that(lambda: web.sum("mayfly_broker_decisions_total", kind="mint", outcome="allowed") == 2, "they are counted")
    assert web.sum("mayfly_broker_up") == 2 and web.sum("mayfly_broker_call_seconds_count") >= 2
    assert web.sum("mayfly_broker_sessions_opened_total", result="opened") == 2
    assert web.sum("mayfly_broker_session_open_seconds_count") >= 2
    await_that(lambda: web.sum("mayfly_broker_session_end_seconds_count") == 2 and not web.sum("mayfly_broker_sessions"),
               "the sessions' ends are counted")
    families = set(re.findall(r"^# TYPE (\w+) ", web.text(), re.M))
    assert families == set(listed()), families ^ set(listed())
    [_, trace_id, *_] = TRACE.split("-")
    log = daemon.cli("broker", "log", "--json", "--trace", trace_id, "--instance", daemon.instance, "--state-dir", daemon.state_dir)
    lines = [json.loads(line) for line in log.stdout.splitlines()]
    assert {"mint"} <= {line["kind"] for line in lines} and {line["trace"] for line in lines} == {TRACE}, log


def test_a_wrong_policy_costs_grants_and_nothing_else(start):
    daemon = start(TICKET + 'skope = "x"\n')
    assert refused(daemon)[0] == "unavailable"
    assert "no task with grants is taken" in daemon.said() and "policy.toml:" in daemon.said() and "skope" in daemon.said()
    assert daemon.cli.run("-c", "print(1)")["stdout"] == "1\n"
    daemon.write(TICKET)
    await_that(lambda: works(daemon), "the corrected policy")
    daemon.write("nonsense = 1\n")
    os.kill(daemon.pid, signal.SIGHUP)
    await_that(lambda: "the old one stays in force" in daemon.said(), "the refusal")
    assert works(daemon)


def test_a_policy_that_others_may_write_is_none(start):
    daemon = start(TICKET, mode=0o666)
    assert refused(daemon)[0] == "unavailable" and "0666" in daemon.said()
    assert daemon.cli.run("-c", "print(1)")["stdout"] == "1\n"


def test_a_wish_that_the_policy_does_not_grant_runs_nothing(start):
    daemon = start(TICKET + '[mint.other]\naudience = "x"\nscope = "y"\nusers = [4000000]\n'
                            '[mint.theirs]\naudience = "x"\nscope = "y"\nusers = ["*"]\ntenants = ["red"]\n')
    for words, code, said in ((("nobodys",), "notFound", "nobodys"), (("ticket:calls=2000000",), "invalidArgument", "widened"),
                              (("ticket:what=1",), "invalidArgument", "what"), (("theirs",), "permissionDenied", "theirs"),
                              (("theirs", "--tenant", "blue"), "permissionDenied", "theirs")):
        got = refused(daemon, "--grant", *words)
        assert got[0] == code and said in got[1], (words, got)
    assert daemon.cli.run("--grant", "theirs", "--tenant", "red", "-c", "print(1)")["stdout"] == "1\n"


def test_without_the_supervisor_tasks_go_on_and_grants_are_unavailable(start):
    daemon = start(TICKET)
    task = daemon.cli.start("run", "--stdin", "--grant", "ticket", "-c", HOLDING)
    assert task.stdout.readline() == b"up\n"
    pids = broker_of(daemon)
    assert len(pids) == 3
    os.kill(supervisor_of(daemon), signal.SIGKILL)
    await_that(lambda: not any(comm(pid) == "mayfly-broker" and pid in family(daemon.pid) for pid in pids), "their end")
    assert refused(daemon)[0] == "unavailable"
    assert daemon.cli.run("-c", "print(1)")["stdout"] == "1\n"
    said, errors = task.communicate(timeout=60)
    assert task.returncode == 0 and b"is gone" in errors, (said, errors)


def test_a_link_of_the_broker_that_breaks_costs_calls_and_no_task(start):
    daemon = start(TICKET + "live_max = 1000\n")
    task = daemon.cli.start("run", "--stdin", "--grant", "ticket", "-c", MINT_AGAIN)

    def mints():
        task.stdin.write(b"\n")
        task.stdin.flush()
        return task.stdout.readline() == b"200\n"

    def links(verb):
        [pid] = [pid for pid in broker_of(daemon)
                 if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1] == verb]
        ends = links_of(pid)
        streams = ends[socket.SOCK_STREAM]  # between the vault's two are those by which libcurl wakes itself
        return [*streams[:1], *streams[1:][-1:], *ends[socket.SOCK_SEQPACKET]]

    assert mints()
    for verb in (b"front", b"vault"):
        for number in range(3):
            assert len(links(verb)) == 3
            links(verb)[number].shutdown(socket.SHUT_RDWR)
            assert mints(), (verb, number)
    task.stdin.close()
    assert task.wait(60) == 0
    await_that(lambda: works(daemon), "the next task")


def test_a_killed_daemon_takes_the_broker_along(start):
    daemon = start(TICKET)
    task = daemon.cli.start("run", "--stdin", "--grant", "ticket", "-c", HOLDING)
    assert task.stdout.readline() == b"up\n"
    pids = broker_of(daemon)
    daemon.process.kill()
    daemon.process.wait()
    await_that(lambda: not any(comm(pid) == "mayfly-broker" for pid in pids), "their end", GONE_SECONDS_MAX * slow())
    assert task.communicate(timeout=60) and task.returncode == 125
    assert works(daemon.start())


def test_a_detached_task_keeps_its_session_until_its_own_end(start):
    daemon = start(TICKET + "live_max = 1000\n")

    def minted():
        return [json.loads(text) for text in (daemon.instance_state / "broker/audit.log").read_text().splitlines()]

    task = daemon.cli("run", "--detach", "--grant", "ticket", "-c", MINT + "while True:\n    time.sleep(0.2)\n    mint()").stdout
    task = task.decode().split()[0]
    before = len(minted())  # the client has gone
    await_that(lambda: len(minted()) > before + 1, "two more credentials")
    assert daemon.cli("task", "cancel", task).returncode == 0
    tokens = daemon.cli("task", "wait", task).stdout.decode().split()
    assert len(tokens) > 1 and not any(map(daemon.is_active, tokens))
    assert {(line["outcome"], line["action"], str(line["task"])) for line in minted()} == {("allowed", "ticket", task)}
