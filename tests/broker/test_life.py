"""Sessions, revocation, rotation, deaths; and where a secret is not."""
import json
import os
import signal
import socket
import threading

import pytest

from harness import FRONT_DOWN, FRONT_UP, POLICY_LOADED, POLICY_REFUSED, VAULT_UP
from policies import CANARY, SECRETS, http
from shared import await_true, links_of, memory_holds

HOSTS = {"api.test": "127.0.0.1"}
MINT = """
[introspection]
listen = "127.0.0.1:{port}"
secret = "asker"
[secrets.asker]
file = "@SECRETS@/asker"
[mint.deploy]
audience = "https://deploy.test"
scope = "read"
users = ["*"]
time = "2m"
live_max = 2
"""


@pytest.fixture
def api(serve):
    return serve(lambda r: r.reply(body=b"hello"))


@pytest.fixture
def broker(make_broker, api):
    return make_broker(SECRETS + http("api", "api.test", api.port), {"key": CANARY}, HOSTS)


def test_nothing_is_allowed_that_was_not_granted(broker, api):
    session = broker.session("api:methods=GET")
    assert session.ask("GET", "/cap/api/x")[0] == 200
    assert session.refusal("POST", "/cap/api/x")[0] == 403
    assert session.refusal("GET", "/cap/other/x")[0] == 404
    assert session.refusal("POST", "/sql/api")[0] == 404
    assert session.refusal("POST", "/mint/api")[0] == 404
    assert session.refusal("POST", "/tools/api", b"{}")[0] == 404
    assert len(api.requests) == 1
    assert [line["outcome"] for line in broker.audit()] == ["allowed"] + ["refused"] * 5
    for wish, code in (("nothing", 2), ("api:calls=1000000000", 1), ("api:what=1", 1)):
        assert broker.try_open(wish).code == code


def test_a_session_tells_what_it_has(broker):
    session = broker.session("api", tools={"lookup": lambda text: text})
    status, _, body = session.ask("GET", "/")
    told = json.loads(body)
    assert status == 200 and CANARY not in body.decode()
    assert "api" in json.dumps(told) and "lookup" in json.dumps(told)


def test_a_call_before_the_activation_and_after_the_expiry_is_refused(broker):
    session = broker.session("api", expires_ms=1_500)
    assert session.ask("GET", "/cap/api/x")[0] == 200

    def refused():
        try:
            return session.ask("GET", "/cap/api/x")[0] == 403
        except OSError:  # in flight at that moment
            return False
    await_true(refused)
    await_true(lambda: broker.status().sessions == 0)


def test_dropping_the_session_ends_it(broker):
    session = broker.session("api")
    session.drop()
    await_true(lambda: session.ask("GET", "/cap/api/x")[0] == 403)
    assert broker.status().sessions == 0


@pytest.mark.parametrize("streaming", [False, True])
def test_revocation_ends_a_call_in_flight_before_it_is_answered(make_broker, serve, streaming):
    arrived, ended = threading.Event(), threading.Event()

    def answer(r):
        if streaming:
            r.send_response(200)
            r.send_header("Transfer-Encoding", "chunked")
            r.end_headers()
            r.wfile.write(b"1\r\nx\r\n")
        arrived.set()
        r.connection.settimeout(10)
        try:
            while r.connection.recv(1):
                pass
        except OSError:
            pass
        ended.set()

    api = serve(answer)
    broker = make_broker(SECRETS + http("api", "api.test", api.port), {"key": CANARY}, HOSTS)
    session = broker.session("api")
    connection = session.connection()
    connection.request("GET", "/cap/api/x")
    assert arrived.wait(10)
    if streaming:
        response = connection.getresponse()
        assert response.read(1) == b"x"
    session.revoke()
    assert ended.wait(0.5), "the upstream's connection outlived the answer"
    if streaming:
        with pytest.raises(Exception):
            response.read()
    else:
        assert connection.getresponse().status == 403
    line = broker.last_line(1)
    assert line["outcome"] == "revoked"
    assert broker.status().calls == 0


def test_one_grant_can_be_revoked_alone(make_broker, api):
    broker = make_broker(SECRETS + http("api", "api.test", api.port) + http("b", "api.test", api.port),
                         {"key": CANARY}, HOSTS)
    session = broker.session("api", "b")
    session.revoke("api")
    assert session.ask("GET", "/cap/api/x")[0] == 404
    assert session.ask("GET", "/cap/b/x")[0] == 200


def test_a_rotated_secret_is_used_without_a_restart(broker, api):
    session = broker.session("api")
    session.ask("GET", "/cap/api/x")
    broker.secret("key", "second-value\n")

    def uses_second():
        session.ask("GET", "/cap/api/x")
        return api.requests[-1].headers["authorization"] == "Bearer second-value"
    await_true(uses_second)
    broker.secret("key", "third-value", mode=0o644)  # others may read it: the old value stays
    await_true(lambda: "mode 0644" in broker.log.read_text())
    assert uses_second()
    assert "third-value" not in broker.log.read_text()


def test_a_secret_may_come_from_a_command(make_broker, api):
    policy = SECRETS.replace('file = "@SECRETS@/key"', 'command = ["/bin/sh", "-c", "echo uid-$(id -u)"]\nrefresh = "1s"')
    broker = make_broker(policy + http("api", "api.test", api.port), {}, HOSTS)
    session = broker.session("api")
    await_true(lambda: session.ask("GET", "/cap/api/x")[0] == 200)
    assert api.requests[-1].headers["authorization"] == "Bearer uid-1879048002"


def test_a_missing_secret_is_an_error_that_says_nothing_of_its_place(make_broker, api):
    broker = make_broker(SECRETS + http("api", "api.test", api.port), {}, HOSTS)
    session = broker.session("api")
    status, error = session.refusal("GET", "/cap/api/x")
    assert status == 503 and str(broker.secrets) not in json.dumps(error) and not api.requests


def test_a_policy_is_reloaded_and_a_wrong_one_changes_nothing(broker, api):
    session = broker.session("api")
    broker.write_policy("[http.api]\nnonsense = 1\n")
    text = broker.await_events(POLICY_REFUSED)
    assert "policy.toml:1" in text and "http.api" in text
    assert session.ask("GET", "/cap/api/x")[0] == 200
    policy = SECRETS + http("api", "api.test", api.port, paths='["/allowed"]')
    broker.write_policy(policy.replace("@SECRETS@", str(broker.secrets)))
    broker.await_events(POLICY_LOADED)
    assert session.ask("GET", "/cap/api/x")[0] == 403
    assert session.ask("GET", "/cap/api/allowed")[0] == 200


def test_a_killed_vault_is_replaced_and_its_sessions_are_gone(broker, api):
    session = broker.session("api")
    broker.kill_vault()
    assert session.ask("GET", "/cap/api/x")[0] in (403, 502)
    again = broker.session("api", epoch=2, task=session.task)
    await_true(lambda: again.ask("GET", "/cap/api/x")[0] == 200)


def test_a_killed_front_is_replaced(broker):
    session = broker.session("api")
    os.kill(broker.pids["front"], signal.SIGKILL)
    broker.await_events(FRONT_DOWN, FRONT_UP)
    session.open_door()
    assert session.ask("GET", "/cap/api/x")[0] == 200


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR], ids=["read", "write", "both"])
def test_a_link_of_front_and_vault_that_breaks_is_made_anew_and_both_live(make_broker, serve, how):
    arrived, go_on = threading.Event(), threading.Event()

    def answer(r):
        if r.path.endswith("/held"):
            arrived.set()
            go_on.wait(20)
        r.reply(body=b"hello")

    api = serve(answer)
    broker = make_broker(SECRETS + http("api", "api.test", api.port), {"key": CANARY}, HOSTS)
    session = broker.session("api")
    held = session.connection()
    held.request("GET", "/cap/api/held")
    assert arrived.wait(10)
    [link] = links_of(broker.pids["front"])[socket.SOCK_STREAM]
    link.shutdown(how)
    answered = held.getresponse()
    assert answered.status == 502 and json.loads(answered.read())["error"]["rule"] == "front.vault"
    await_true(lambda: session.ask("GET", "/cap/api/x")[0] == 200, 5)
    go_on.set()
    assert session.ask("GET", "/cap/api/x")[0] == 200
    await_true(lambda: broker.status().calls == 0)
    assert all(os.path.exists(f"/proc/{pid}") for pid in broker.pids.values())
    assert [kind for kind, _ in broker.events].count(FRONT_UP) == 1
    broker.link.setblocking(False)
    with pytest.raises(BlockingIOError):
        broker.take_event()


def test_front_and_vault_die_with_their_supervisor(broker):
    os.kill(broker.process.pid, signal.SIGKILL)
    for pid in broker.pids.values():
        await_true(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))


def test_the_processes_have_no_privilege_and_no_file(broker):
    def status_of(pid):
        return dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)

    for name, pid in broker.pids.items():
        uid = str({"vault": 1879048000, "front": 1879048001}[name])
        await_true(lambda pid=pid: status_of(pid)["Seccomp"] == "2")  # its last wall
        status = status_of(pid)
        assert status["Uid"].split() == [uid] * 4
        assert {status[k] for k in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        root = sorted(os.listdir(f"/proc/{pid}/root"))
        assert root == (["etc", "journal"] if name == "vault" else [])
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0  # not dumpable
    same = [os.readlink(f"/proc/{p}/ns/net") == os.readlink("/proc/self/ns/net") for p in broker.pids.values()]
    assert dict(zip(broker.pids, same)) == {"vault": True, "front": False}


def test_the_secret_is_in_the_vault_alone(broker, api):
    session = broker.session("api")
    for _ in range(20):
        assert session.ask("GET", "/cap/api/x")[0] == 200
    session.refusal("PATCH", "/cap/api/x")
    needles = [CANARY.encode(), CANARY[:14].encode()]
    assert memory_holds(broker.pids["vault"], needles), "the search itself finds nothing"
    for pid in (broker.process.pid, broker.pids["front"]):
        assert not memory_holds(pid, needles)
    for pid in (broker.process.pid, *broker.pids.values()):
        for file in ("environ", "cmdline"):
            assert CANARY.encode() not in open(f"/proc/{pid}/{file}", "rb").read()
    texts = broker.log.read_text() + json.dumps(broker.audit()) + json.dumps(broker.events)
    for path in broker.state.rglob("*"):
        if path.is_file():
            texts += path.read_bytes().decode("latin-1")
    assert CANARY not in texts


def test_a_minted_credential_is_active_while_its_session_lives(make_broker):
    import http.client
    import socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broker = make_broker(MINT.format(port=port), {"asker": "asker-token"})

    def introspect(token, shown="asker-token"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/introspect", "token=" + token, {
            "Authorization": "Bearer " + shown, "Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    session = broker.session("deploy")
    status, _, body = session.ask("POST", "/mint/deploy")
    assert status == 200
    minted = json.loads(body)
    status, told = introspect(minted["credential"])
    assert status == 200 and told["active"] and told["aud"] == "https://deploy.test" and told["scope"] == "read"
    assert told["sub"] == f"task-{session.task}" and told["exp"] - told["iat"] <= 120
    assert introspect(minted["credential"], "wrong")[0] == 401
    assert introspect("mayfly_nonsense") == (200, {"active": False})
    assert session.ask("POST", "/mint/deploy")[0] == 200
    assert session.refusal("POST", "/mint/deploy")[0] == 429
    session.revoke()
    assert introspect(minted["credential"]) == (200, {"active": False})
    assert minted["credential"] not in json.dumps(broker.audit()) + broker.log.read_text()


def test_a_tool_calls_the_clients_function(broker):
    session = broker.session("api", tools={"double": lambda text: json.dumps(2 * json.loads(text)["n"])})
    assert session.ask("POST", "/tools/double", b'{"n": 21}')[::2] == (200, b"42")
    assert session.refusal("POST", "/tools/other", b"{}")[0] == 404


def test_quotas_are_kept(make_broker, api):
    broker = make_broker(SECRETS + http("api", "api.test", api.port, task="{calls = 3}"), {"key": CANARY}, HOSTS)
    session = broker.session("api")
    assert [session.ask("GET", "/cap/api/x")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert broker.session("api").ask("GET", "/cap/api/x")[0] == 200
    assert broker.session("api:calls=1").ask("GET", "/cap/api/x")[0] == 200


def test_the_audit_file_is_rotated(make_broker, api):
    broker = make_broker(SECRETS + http("api", "api.test", api.port), {"key": CANARY}, HOSTS,
                         ["--audit-bytes", "2000", "--audit-files", "2"])
    session = broker.session("api")

    def rotated():
        session.ask("GET", "/cap/api/x")
        return (broker.state / "audit.log.2").exists()
    await_true(rotated, 30)
    assert not (broker.state / "audit.log.3").exists()
    assert [kind for kind, _ in broker.events].count(VAULT_UP) == 1
