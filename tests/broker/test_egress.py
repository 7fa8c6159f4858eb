"""Egress: http:// upgraded to https, and CONNECT to listed hosts."""
import json
import ssl
import threading
import time

import pytest

from harness import await_true
from policies import SECRETS

HOSTS = {"api.test": "127.0.0.1", "other.test": "127.0.0.1"}


def egress(name, host, modes, **more):
    lines = {"hosts": f'["{host}"]', "modes": modes, "users": '["*"]', "ca": '"ca"', "allow_addresses": '["127.0.0.1"]',
             "paths": '["/**"]', "query": '["*"]'}
    lines.update(more)
    return f"[egress.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value)


@pytest.fixture
def api(serve):
    return serve(lambda r: r.reply(body=b"hello"))


def connect(session, target):
    """A tunnel's socket, and the answer's status."""
    connection = session.connection()
    connection.connect()
    connection.sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.sock.recv(1)
        if not piece:
            break
        head += piece
    return connection.sock, int(head.split()[1])


def tls(sock, certificates, name):
    context = ssl.create_default_context(cafile=certificates.ca)
    return context.wrap_socket(sock, server_hostname=name)


def get(sock, host):
    sock.sendall(f"GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    text = b""
    while piece := sock.recv(65536):
        text += piece
    return text


def test_plain_http_is_sent_as_https(make_broker, api):
    broker = make_broker(SECRETS + egress("out", f"api.test:{api.port}", '["upgrade"]'), {"key": "unused"}, HOSTS)
    session = broker.session("out")
    status, _, body = session.ask("GET", f"http://api.test:{api.port}/x?y=1")
    assert (status, body) == (200, b"hello")
    assert api.requests[0].path == "/x?y=1" and api.requests[0].headers["authorization"] is None
    for url in ("http://other.test/x", f"http://127.0.0.1:{api.port}/x", "http://169.254.169.254/latest/meta-data"):
        status, error = session.refusal("GET", url)
        assert status in (400, 403) and error["advice"], url
    assert connect(session, f"api.test:{api.port}")[1] == 403
    line = broker.last_line(1)
    assert (line["kind"], line["action"], line["outcome"]) == ("proxy", "out", "allowed")


def test_a_tunnel_goes_to_the_listed_host_alone(make_broker, api, certificates):
    broker = make_broker(SECRETS + egress("out", f"api.test:{api.port}", '["connect"]'), {"key": "unused"}, HOSTS)
    session = broker.session("out")
    sock, status = connect(session, f"api.test:{api.port}")
    assert status == 200 and api.connections == 0  # nothing before the greeting
    assert b"hello" in get(tls(sock, certificates, "api.test"), "api.test")
    line = broker.last_line(1)
    assert (line["kind"], line["outcome"]) == ("tunnel", "allowed") and line["answer_bytes"] > 500
    # A greeting for another name, and no greeting at all.
    sock, status = connect(session, f"api.test:{api.port}")
    with pytest.raises((ssl.SSLError, OSError)):
        tls(sock, certificates, "other.test")
    sock, status = connect(session, f"api.test:{api.port}")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
    sock.settimeout(10)
    try:
        while sock.recv(1000):
            pass
    except OSError:
        pass
    assert api.connections == 1
    for target in (f"other.test:{api.port}", "api.test:443", f"127.0.0.1:{api.port}"):
        assert connect(session, target)[1] in (400, 403), target
    assert session.refusal("GET", f"http://api.test:{api.port}/")[0] == 403


def test_a_tunnels_address_is_checked(make_broker, api, certificates):
    broker = make_broker(SECRETS + egress("out", f"api.test:{api.port}", '["connect"]', allow_addresses=""),
                         {"key": "unused"}, HOSTS)
    sock, _ = connect(broker.session("out"), f"api.test:{api.port}")
    with pytest.raises((ssl.SSLError, OSError)):
        tls(sock, certificates, "api.test")
    assert api.connections == 0
    assert broker.last_line(1)["rule"] == "egress.out.address"


def test_revocation_cuts_an_open_tunnel(make_broker, serve, certificates):
    hold = threading.Event()
    api = serve(lambda r: hold.wait(20))
    broker = make_broker(SECRETS + egress("out", f"api.test:{api.port}", '["connect"]'), {"key": "unused"}, HOSTS)
    session = broker.session("out")
    sock = tls(connect(session, f"api.test:{api.port}")[0], certificates, "api.test")
    sock.sendall(b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
    await_true(lambda: api.requests)
    session.revoke()
    sock.settimeout(5)
    began = time.monotonic()
    try:
        assert sock.recv(1) == b""
    except OSError:
        pass
    assert time.monotonic() - began < 3
    hold.set()
    assert json.dumps(broker.audit()).count('"revoked"') == 1
