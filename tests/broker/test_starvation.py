"""A hostile session against another one: whatever it does, the other's calls are answered.

Nothing here is timed: each attack runs until the other session has its answers.
"""
import contextlib
import json
import resource
import socket
import threading
import time

import pytest

from harness import await_true
from policies import CANARY, SECRETS, http

HOSTS = {"api.test": "127.0.0.1"}
CALLS = 15  # of the session that must be served
CONNECTIONS = 10_000
LINE = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
UPLOAD = "POST /cap/{}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Attack:
    """Threads against one session's doors. A refused or reset connection is made again."""

    def __init__(self, session):
        self.session, self.stop, self.rounds = session, threading.Event(), 0

    def connect(self):
        s = socket.socket()
        s.settimeout(5)
        s.connect(("127.0.0.1", self.session.port))
        return s

    def again(self, attack):
        while not self.stop.is_set():
            with contextlib.suppress(OSError), contextlib.closing(self.connect()) as s:
                attack(s)
            self.rounds += 1

    def send_while(self, s, data, pause=0.0):
        """Until the broker takes no more, or the attack is over."""
        while not self.stop.is_set():
            s.sendall(data)
            if pause:
                self.stop.wait(pause)

    # --- one round each, on one connection

    def slow_read(self, s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(LINE.format("/cap/api/big").encode())
        while not self.stop.wait(0.2):
            if not s.recv(1):
                return

    def endless_header(self, s):
        s.sendall(b"GET / HTTP/1.1\r\nX: ")
        self.send_while(s, b"a" * 100, 0.05)

    def many_headers(self, s):
        s.sendall(b"GET / HTTP/1.1\r\n")
        self.send_while(s, b"X: y\r\n", 0.01)

    def pipeline(self, s):
        s.settimeout(1)
        self.send_while(s, LINE.format("/cap/api/good").encode() * 200)

    def pipeline_refused(self, s):
        s.settimeout(1)
        self.send_while(s, LINE.format("/cap/nothing").encode() * 200)

    def what_it_has(self, s):
        s.settimeout(1)
        self.send_while(s, LINE.format("/").encode() * 200)

    def drip(self, s):
        s.sendall(UPLOAD.format("api").encode())
        self.send_while(s, b"1\r\nx\r\n", 0.05)

    def flood_up(self, s):
        s.sendall(UPLOAD.format("api").encode())
        self.send_while(s, b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def hold_body(self, s):
        """A write is held until its end, which never comes."""
        s.sendall(UPLOAD.format("record").encode())
        for _ in range(60):
            s.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        self.stop.wait(10)

    def reset(self, s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.sendall(LINE.format("/cap/api/big").encode())

    def storm(self):
        """10,000 connections, as many of them at a time as this process may have."""
        held, most = [], min(2_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        for _ in range(CONNECTIONS):
            if self.stop.is_set():
                break
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.session.port))
            held.append(s)
            self.rounds += 1
            if len(held) > most:
                held.pop(0).close()
        self.stop.wait(60)
        for s in held:
            s.close()

    @contextlib.contextmanager
    def run(self, kinds):
        threads = []
        for kind, count in kinds:
            if kind == "storm":
                threads.append(threading.Thread(target=self.storm))
            else:
                threads += [threading.Thread(target=self.again, args=(getattr(self, kind),)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(60)


KINDS = [("slow_read", 30), ("endless_header", 30), ("many_headers", 20), ("pipeline", 4), ("pipeline_refused", 4),
         ("what_it_has", 4), ("drip", 20), ("flood_up", 4), ("hold_body", 6), ("reset", 4), ("storm", 1)]


@pytest.fixture
def broker(make_broker, serve):
    big = b"x" * (4 << 20)

    def answer(request):
        request.reply(body=big if request.path.endswith("/big") else b"hello")
    api = serve(answer)
    # The upstream shares this process with the attackers, so it may be slow to accept.
    patient = {"connect_time": '"2m"'}
    actions = (http("api", "api.test", api.port, **patient)
               + http("record", "api.test", api.port, write='["POST"]', **patient))
    return make_broker('[bounds]\nheld_max = "8MiB"\n' + SECRETS + actions, {"key": CANARY}, HOSTS)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS], ids=[*(name for name, _ in KINDS), "all_at_once"])
def test_a_hostile_session_does_not_keep_another_from_its_answers(broker, kinds):
    attack = Attack(broker.session("api", "record", uid=2000, tenant="bad"))
    good = broker.session("api", "record")
    with attack.run(kinds):
        begun = time.monotonic()
        while attack.rounds < len(kinds) and time.monotonic() < begun + 3:
            time.sleep(0.02)
        for _ in range(CALLS):
            assert good.ask("GET", "/cap/api/good", timeout=120)[0::2] == (200, b"hello")
        assert good.ask("GET", "/", timeout=120)[0] == 200
        status, _, body = good.ask("POST", "/cap/record/x", b"y" * (1 << 20), timeout=120)
        assert (status, body) == (200, b"hello"), (status, body)
    # The hostile session's own end takes no longer for it.
    attack.session.revoke()
    assert attack.session.close_door()
    # The end of an answer may be seen a moment before its line is written.
    await_true(lambda: sum(line["task"] == good.task for line in broker.audit()) > CALLS)
    lines = broker.audit()
    mine = [line["outcome"] for line in lines if line["task"] == good.task]
    assert mine == ["allowed"] * (CALLS + 1)
    refused = [line for line in lines if line["task"] == attack.session.task and line["outcome"] == "refused"]
    assert len(refused) < 2_000, json.dumps(refused[-1])
