"""HTTP actions against real TLS upstreams."""
import base64
import datetime
import json
import socket
import threading
import time
import urllib.parse

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from harness import await_true
from policies import CANARY, SECRETS, http

HOSTS = {"api.test": "127.0.0.1", "other.test": "127.0.0.1"}


@pytest.fixture
def start(make_broker, serve):
    """A broker with one action, `api`, at an upstream with this answer."""

    def start(answer=lambda r: r.reply(body=b"hello"), secret=CANARY, hosts=None, more="", **action):
        api = serve(answer)
        broker = make_broker(SECRETS + http("api", "api.test", api.port, **action) + more, {"key": secret},
                             HOSTS if hosts is None else hosts)
        return api, broker, broker.session("api")

    return start


def test_the_secret_is_added_outside_and_what_the_task_sends_as_credential_is_dropped(start):
    api, broker, session = start()
    status, headers, body = session.ask("GET", "/cap/api/models?limit=2", headers={
        "Authorization": "Bearer stolen", "Cookie": "a=b", "X-Own": "kept", "Proxy-Authorization": "x"})
    assert (status, body) == (200, b"hello")
    (request,) = api.requests
    assert request.path == "/v1/models?limit=2"
    assert request.headers["authorization"] == "Bearer " + CANARY
    assert request.headers["host"] == f"api.test:{api.port}"
    assert request.headers["x-own"] == "kept"
    assert request.headers["cookie"] is None and request.headers["proxy-authorization"] is None
    line = broker.last_line(1)
    assert (line["kind"], line["action"], line["outcome"], line["status"]) == ("http", "api", "allowed", 200)
    assert line["task"] == session.task and line["tenant"] == "red" and line["answer_bytes"] == 5
    assert "limit" not in line["target"]


@pytest.mark.parametrize("auth", ["query", "basic"])
def test_each_kind_of_credential_arrives(start, auth):
    api, _, session = start(auth=auth)
    assert session.ask("GET", "/cap/api/x?a=1")[0] == 200
    (request,) = api.requests
    if auth == "query":
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        assert query == {"a": ["1"], "key": [CANARY]}
    else:
        kind, text = request.headers["authorization"].split()
        assert kind == "Basic" and base64.b64decode(text).decode() == "me:" + CANARY


@pytest.mark.parametrize("path,body", [
    ("/", None), ("/a/b.txt?b=2&a=1&empty=", None), ("/x%20y/%C3%A9?prefix=a%2Fb%20c", None),
    ("/put.bin", b"\x00\x01body"), ("/q?a=1&a=0&A=2", None),
])
@pytest.mark.parametrize("service", ["s3", "sts"])
def test_signatures_are_those_of_botocore(start, service, path, body):
    api, _, session = start(auth=service)
    headers = {"Content-Type": "application/octet-stream"} if body else {}
    status, _, answer = session.ask("PUT" if body else "GET", "/cap/api" + path, body, headers)
    assert status == 200, answer
    (request,) = api.requests
    sent = request.headers
    signed = sent["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    again = botocore.awsrequest.AWSRequest(
        request.command, f"https://{sent['host']}{request.path}", {h: sent[h] for h in signed if h != "host"},
        request.body or None)
    time_of = datetime.datetime.strptime(sent["x-amz-date"], "%Y%m%dT%H%M%SZ")
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    signer = kind(botocore.credentials.Credentials("AKIDEXAMPLE", CANARY), service, "eu-west-1")
    again.context["timestamp"] = sent["x-amz-date"]
    again.context["payload_signing_enabled"] = False
    again.headers["host"] = sent["host"]
    assert abs((datetime.datetime.utcnow() - time_of).total_seconds()) < 120
    canonical = signer.canonical_request(again)
    text = signer.string_to_sign(again, canonical)
    assert sent["authorization"].endswith("Signature=" + signer.signature(text, again)), canonical
    if service == "sts" or not body:
        assert sent["x-amz-content-sha256"] != "" and request.body == (body or b"")


def test_a_redirect_is_given_back_and_never_carries_the_secret_elsewhere(start, serve):
    other = serve(lambda r: r.reply(body=b"other"))
    api, _, session = start(lambda r: r.reply(302, Location=f"https://other.test:{other.port}/x"), redirects='"follow"')
    status, headers, _ = session.ask("GET", "/cap/api/x")
    assert status == 302 and headers["location"].startswith("https://other.test")
    assert len(api.requests) == 1 and other.connections == 0


def test_a_redirect_within_the_rule_is_followed_if_the_policy_says_so(start):
    def answer(r):
        if r.path == "/v1/old":
            return r.reply(302, b"moved", Location="/v1/new")
        return r.reply(302, b"", Location="/v1/old") if r.path == "/v1/loop" else r.reply(body=r.path.encode())

    api, _, session = start(answer, redirects='"follow"')
    assert session.ask("GET", "/cap/api/old")[::2] == (200, b"/v1/new")
    assert [r.headers["authorization"] for r in api.requests] == ["Bearer " + CANARY] * 2
    assert session.ask("GET", "/cap/api/outside")[0] == 200


def forms():
    encoded = base64.b64encode(b"x" + CANARY.encode()).decode().strip("=")
    return [CANARY, base64.b64encode(CANARY.encode()).decode(), encoded, urllib.parse.quote(CANARY, safe=""),
            json.dumps(CANARY).strip('"'), CANARY.encode().hex()]


def test_an_upstream_that_echoes_gets_nothing_into_the_box(start):
    def answer(r):
        text = "\n".join(forms()).encode()
        r.send_response(200)
        r.send_header("X-Echo", r.headers["authorization"])
        r.send_header("Content-Type", "text/plain")
        r.send_header("Transfer-Encoding", "chunked")
        r.end_headers()
        for i in range(len(text)):  # split everywhere
            r.wfile.write(b"1\r\n" + text[i:i + 1] + b"\r\n")
        r.wfile.write(b"0\r\n\r\n")

    _, broker, session = start(answer)
    status, headers, body = session.ask("GET", "/cap/api/echo")
    assert status == 200 and b"*" in body and len(body) == len("\n".join(forms()))
    for form in forms():
        assert form.encode() not in body and form not in headers["x-echo"]
    assert CANARY[:12] not in headers["x-echo"]
    assert CANARY not in json.dumps(broker.audit())


def test_a_compressed_echo_is_refused(start):
    _, _, session = start(lambda r: r.reply(body=b"\x1f\x8b", Content_Encoding="gzip"))
    status, error = session.refusal("GET", "/cap/api/x")
    assert status == 502 and error["rule"] == "http.api.scrub"


@pytest.mark.parametrize("addresses,hosts,refused", [
    ("[]", "127.0.0.1", True), ('["127.0.0.1"]', "127.0.0.1", False), ('["127.0.0.2"]', "127.0.0.1", True),
    ('["127.0.0.1"]', "127.0.0.2 127.0.0.1", False), ('["10.0.0.0/8"]', "127.0.0.2 127.0.0.1", True),
])
def test_every_address_is_checked(start, serve, addresses, hosts, refused):
    api, broker, session = start(allow_addresses=addresses, hosts={"api.test": hosts})
    second = serve(lambda r: r.reply(body=b"second"), address="127.0.0.2", port=api.port)
    status, _, body = session.ask("GET", "/cap/api/x")
    assert second.connections == 0
    if refused:
        assert status == 403 and json.loads(body)["error"]["rule"] == "http.api.addresses"
        assert api.connections == 0
        assert broker.last_line(1)["outcome"] == "failed"
    else:
        assert status == 200


def test_a_name_that_moves_to_a_forbidden_address_gains_nothing(start, serve):
    api, broker, session = start(lambda r: r.reply(Connection="close"))
    second = serve(lambda r: r.reply(body=b"second"), address="127.0.0.2", port=api.port)
    assert session.ask("GET", "/cap/api/x")[0] == 200
    broker.set_hosts({"api.test": "127.0.0.2"})
    await_true(lambda: "127.0.0.2" in (broker.state / "etc/hosts").read_text())
    await_true(lambda: session.ask("GET", "/cap/api/x")[0] == 403, 20)  # names are kept for seconds
    assert second.connections == 0


def test_a_kept_connection_of_another_action_is_checked_again(start):
    api, broker, session = start(more="")
    broker.write_policy((SECRETS + http("api", "api.test", api.port) + http("strict", "api.test", api.port,
                                        allow_addresses="[]")).replace("@SECRETS@", str(broker.secrets)))
    broker.await_events(5)
    both = broker.session("api", "strict")
    assert both.ask("GET", "/cap/api/x")[0] == 200
    assert both.ask("GET", "/cap/strict/x")[0] == 403
    assert len(api.requests) == 1


def test_tls_is_verified_and_never_falls_back(start, serve, certificates):
    plain = serve(lambda r: r.reply(body=b"plain"), tls=False)
    api, broker, session = start(hosts={"wrong.test": "127.0.0.1", "api.test": "127.0.0.1"})
    broker.write_policy((SECRETS + http("wrong", "wrong.test", api.port) + http("none", "api.test", api.port, ca="")
                         + http("plain", "api.test", plain.port)).replace("@SECRETS@", str(broker.secrets)))
    broker.await_events(5)
    session = broker.session("wrong", "none", "plain")
    for name in ("wrong", "none", "plain"):
        status, error = session.refusal("GET", f"/cap/{name}/x")
        assert status == 502 and CANARY not in json.dumps(error), name
    assert not api.requests and not plain.requests


def test_events_of_a_model_flow_token_by_token(start):
    ready = threading.Semaphore(0)

    def answer(r):
        r.send_response(200)
        r.send_header("Content-Type", "text/event-stream")
        r.send_header("Transfer-Encoding", "chunked")
        r.end_headers()
        for i in range(3):
            ready.acquire()
            data = b"data: token%d\n\n" % i
            r.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        r.wfile.write(b"0\r\n\r\n")

    _, _, session = start(answer)
    connection = session.connection()
    connection.request("POST", "/cap/api/chat", b"{}")
    ready.release()
    answer = connection.getresponse()
    for i in range(3):
        assert answer.readline() == b"data: token%d\n" % i
        assert answer.readline() == b"\n"
        ready.release()
    assert answer.read() == b""


def test_large_bodies_flow_both_ways_and_a_reader_that_stops_holds_the_upstream(start):
    size, sent = 40 << 20, []

    def answer(r):
        r.send_response(200)
        r.send_header("Content-Length", str(size))
        r.end_headers()
        for _ in range(size // 65536):
            r.wfile.write(b"x" * 65536)
            sent.append(65536)

    _, broker, session = start(answer, request_max='"64MiB"')
    connection = session.connection()
    connection.request("POST", "/cap/api/x", b"y" * (8 << 20))
    response = connection.getresponse()
    time.sleep(1)
    assert sum(sent) < 30 << 20  # sockets' buffers and windows, not the whole
    assert memory_of(broker.pids["vault"]) < 200 << 20
    total = 0
    while piece := response.read(1 << 20):
        total += len(piece)
    assert total == size


def memory_of(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_bodies_beyond_their_bounds_are_refused(start):
    def answer(r):
        r.send_response(200)
        r.end_headers()  # until close
        for _ in range(64):
            r.wfile.write(b"x" * 65536)
        r.close_connection = True

    api, _, session = start(answer, request_max='"1KiB"', response_max='"1MiB"')
    assert session.refusal("POST", "/cap/api/x", b"x" * 2048)[0] == 413
    assert not api.requests
    connection = session.connection()
    connection.request("POST", "/cap/api/x", iter([b"x" * 600] * 3))  # chunked
    assert connection.getresponse().status == 413
    connection = session.connection()
    connection.request("GET", "/cap/api/x")
    with pytest.raises(Exception):
        connection.getresponse().read()


def test_an_upstream_that_lies_about_its_length_resets_the_box(start):
    def answer(r):
        r.send_response(200)
        r.send_header("Content-Length", "1000")
        r.end_headers()
        r.wfile.write(b"short")
        r.close_connection = True

    _, broker, session = start(answer)
    connection = session.connection()
    connection.request("GET", "/cap/api/x")
    with pytest.raises(Exception):
        connection.getresponse().read()
    line = broker.last_line(1)
    assert line["outcome"] == "failed"


def test_a_slow_upstream_and_one_that_is_down_have_their_own_errors(start):
    api, broker, session = start(lambda r: time.sleep(5), answer_time='"1s"')
    began = time.monotonic()
    status, error = session.refusal("GET", "/cap/api/x")
    assert (status, error["rule"]) == (504, "http.api.answer_time") and time.monotonic() - began < 4
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broker.write_policy((SECRETS + http("down", "api.test", port)).replace("@SECRETS@", str(broker.secrets)))
    broker.await_events(5)
    status, error = broker.session("down").refusal("GET", "/cap/down/x")
    assert (status, error["rule"]) == (502, "http.down.connect")


def test_a_write_is_done_once_and_its_repeat_has_the_recorded_answer(start):
    api, broker, session = start(lambda r: r.reply(201, b"made %d" % len(api_requests)), write='["POST"]')
    api_requests = api.requests
    first = session.ask("POST", "/cap/api/orders", b"{}")
    again = session.ask("POST", "/cap/api/orders", b"{}")
    assert first[0] == again[0] == 201 and first[2] == again[2] and again[1]["mayfly-replayed"] == "1"
    assert len(api.requests) == 1
    assert session.ask("POST", "/cap/api/orders", b"{}", {"Idempotency-Key": "2"})[2] != first[2]
    assert session.ask("POST", "/cap/api/orders", b"[]")[2] != first[2]
    assert len(api.requests) == 3
    other = broker.session("api")
    assert other.ask("POST", "/cap/api/orders", b"{}")[0] == 201
    assert len(api.requests) == 4
    assert [line["outcome"] for line in broker.audit()][:2] == ["allowed", "replayed"]


def test_a_write_whose_outcome_is_lost_is_never_sent_again(start):
    arrived = threading.Event()

    def answer(r):
        arrived.set()
        time.sleep(3)

    api, broker, session = start(answer, write='["POST"]')
    threading.Thread(target=lambda: swallow(lambda: session.ask("POST", "/cap/api/pay", b"1"))).start()
    assert arrived.wait(10)
    broker.kill_vault()
    next_one = broker.session("api", epoch=2, task=session.task)
    status, error = next_one.refusal("POST", "/cap/api/pay", b"1")
    assert status == 409 and "unknown" in error["message"]
    assert len(api.requests) == 1


def swallow(action):
    try:
        action()
    except Exception:  # the box's connection is reset, or answered with an error
        pass
