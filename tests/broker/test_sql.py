"""Statements against a real PostgreSQL, which these tests start as an unprivileged user, with TLS."""
import csv
import io
import json
import pathlib
import shutil
import threading
import time

import pytest

from policies import SECRETS
from shared import PASSWORD, Postgres, await_true


@pytest.fixture(scope="module")
def postgres(certificates):
    folder = pathlib.Path(f"/var/tmp/mayfly-broker-pg-{time.monotonic_ns()}")
    folder.mkdir(mode=0o700)
    server = Postgres(folder, certificates)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


POLICY = SECRETS + """
[databases.main]
host = "db.test"
port = {port}
database = "postgres"
user = "reader"
password = "key"
ca = "ca"
allow_addresses = ["127.0.0.1"]
connections_max = 2
{more}
"""


def action(name, statement, params=(), **more):
    text = f'[sql.{name}]\ndatabase = "main"\nusers = ["*"]\nstatement = """{statement}"""\n'
    text += "".join(f"{key} = {value}\n" for key, value in more.items())
    for param in params:
        text += f"[[sql.{name}.params]]\n" + "".join(f"{key} = {value}\n" for key, value in param.items())
    return text


ID = {"name": '"id"', "type": '"integer"', "min": 1, "max": 100}
OWN = {"name": '"tenant"', "type": '"text"', "fixed": '"tenant"'}
TEXT = {"name": '"text"', "type": '"text"'}
ACTIONS = [
    action("orders", "select id, tenant, total, tags, data, at, raw, null::int8 as n from orders where tenant = $1 and id <= $2 order by id",
           [OWN, ID], rows_max=20),
    action("echo", "select $1 as text", [TEXT]),
    action("slow", "select pg_sleep(30)", time='"1s"'),
    action("long", "select pg_sleep(60)", time='"50s"'),
    action("many", "select i, repeat('x', 1000) as text from generate_series(1, 20000) i", rows_max=100000, bytes_max='"64MiB"'),
    action("sneaky", "insert into log values ($1) returning text", [TEXT]),
    action("add", "insert into log values ($1) returning text", [TEXT], read_only="false"),
    action("twice", "select 1 as a, 2 as a"),
    action("large", "select repeat('x', $1::int4) as text", [{"name": '"bytes"', "type": '"integer"'}], bytes_max='"1MiB"',
           time='"60s"'),
    action("leak", "select set_config('app.task', $1, false)", [TEXT]),
    action("leaked", "select coalesce(current_setting('app.task', true), '') as text"),
]


@pytest.fixture
def broker(make_broker, postgres):
    return make_broker(POLICY.format(port=postgres.port, more="") + "".join(ACTIONS), {"key": PASSWORD}, {"db.test": "127.0.0.1"})


def ask(session, name, params=None, **headers):
    status, head, body = session.ask("POST", f"/sql/{name}", json.dumps(params or {}),
                                     {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}})
    return status, head, body


def test_rows_come_with_their_types_and_only_the_tenants_own(broker):
    session = broker.session("orders")
    status, head, body = ask(session, "orders", {"id": 4})
    assert status == 200 and head["content-type"] == "application/json"
    rows = json.loads(body, parse_float=str)
    assert [row["id"] for row in rows] == [2, 4]
    assert rows[0] == {"id": 2, "tenant": "red", "total": "2.10", "tags": ["a", None, 'b"c'], "data": {"k": [1, None]},
                       "at": rows[0]["at"], "raw": "\\x0001", "n": None}
    status, _, body = session.ask("GET", "/sql/orders?id=4", headers={"Accept": "text/csv"})
    assert status == 200 and [row["id"] for row in csv.DictReader(io.StringIO(body.decode()))] == ["2", "4"]
    for widened in ({"id": 4, "tenant": "blue"}, {"id": 101}, {"id": "1 or 1=1"}, {}, {"id": 4, "other": 1}):
        assert ask(session, "orders", widened)[0] in (400, 403), widened
    assert ask(session, "orders", {"id": 100})[0] == 413  # more rows than allowed
    assert json.loads(ask(broker.session("orders", tenant="green"), "orders", {"id": 9})[2]) == []
    assert ask(broker.session("orders", tenant=""), "orders", {"id": 9})[0] in (400, 403)
    line = broker.audit()[0]
    assert (line["kind"], line["action"], line["outcome"]) == ("sql", "orders", "allowed")


@pytest.mark.parametrize("text", ["", "x", "'; drop table orders; --", "\\", "$1", "é\U0001f600\n\t\"", "x" * 900])
def test_texts_are_values_and_nothing_else(broker, text):
    status, _, body = ask(broker.session("echo"), "echo", {"text": text})
    assert status == 200 and json.loads(body) == [{"text": text}]


def test_a_nul_is_refused(broker):
    assert ask(broker.session("echo"), "echo", {"text": "a\0b"})[0] == 400


def test_a_reading_statement_cannot_write(broker, postgres):
    session = broker.session("sneaky")
    status, error = session.refusal("POST", "/sql/sneaky", b'{"text": "sneaked"}')
    assert status == 409 and "25006" in error["message"]
    assert postgres.sql("select count(*) from log where text = 'sneaked'") == "0"


def test_a_write_is_done_once(broker, postgres):
    session = broker.session("add")
    assert ask(session, "add", {"text": "once"})[::2] == (200, b'[{"text":"once"}]\n')
    assert ask(session, "add", {"text": "once"})[::2] == (200, b'[{"text":"once"}]\n')
    assert postgres.sql("select count(*) from log where text = 'once'") == "1"
    # Another step is another write, and the database has its own opinion of it.
    status, _, body = ask(session, "add", {"text": "once"}, Idempotency_Key="2")
    assert status == 400 and "23505" in json.loads(body)["error"]["message"]
    assert [line["outcome"] for line in broker.audit()][:2] == ["allowed", "replayed"]


def sleeping(postgres):
    """The statements that sleep in the database."""
    return int(postgres.sql("select count(*) from pg_stat_activity where query like '%pg_sleep%' "
                            "and pid <> pg_backend_pid() and state = 'active'"))


def test_a_slow_statement_ends_at_its_time(broker, postgres):
    began = time.monotonic()
    status, error = broker.session("slow").refusal("POST", "/sql/slow")
    assert status == 504 and time.monotonic() - began < 5
    await_true(lambda: sleeping(postgres) == 0)


def test_a_row_takes_no_more_memory_than_the_answer_may_have(broker):
    def peak_bytes():
        status = pathlib.Path(f"/proc/{broker.pids['vault']}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    session = broker.session("large")
    status, _, body = ask(session, "large", {"bytes": 1_048_000})
    assert status == 200 and len(json.loads(body)[0]["text"]) == 1_048_000
    before = peak_bytes()
    status, error = session.refusal("POST", "/sql/large", b'{"bytes": 200000000}')
    assert (status, error["rule"]) == (413, "sql.large.bytes_max")
    assert peak_bytes() - before < 16 << 20
    assert ask(session, "large", {"bytes": 3})[::2] == (200, b'[{"text":"xxx"}]\n')


def test_many_rows_flow(broker):
    status, _, body = ask(broker.session("many"), "many")
    assert status == 200 and len(json.loads(body)) == 20_000


def test_a_revoked_statement_ends_in_the_database_too(broker, postgres):
    session = broker.session("long")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(session, "long")[0]))
    thread.start()
    await_true(lambda: sleeping(postgres) == 1)
    session.revoke()
    thread.join(10)
    assert answers == [403]
    await_true(lambda: sleeping(postgres) == 0)


def test_a_tasks_state_in_a_connection_is_none_of_the_next_ones(broker):
    first, second = broker.session("leak"), broker.session("leaked")
    for _ in range(6):
        assert ask(first, "leak", {"text": "mine"})[0] == 200
        assert json.loads(ask(second, "leaked")[2]) == [{"text": ""}]


def test_connections_are_bounded_and_shared(broker, postgres):
    sessions = [broker.session("echo") for _ in range(8)]
    done = []
    threads = [threading.Thread(target=lambda s=s: done.append(ask(s, "echo", {"text": "x"})[0])) for s in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == [200] * 8
    assert int(postgres.sql("select count(*) from pg_stat_activity where usename = 'reader'")) <= 2


def test_two_columns_of_one_name_are_an_error_not_a_guess(broker):
    assert ask(broker.session("twice"), "twice")[0] == 409


def test_the_password_is_rotated_and_never_shown(broker, postgres):
    session = broker.session("echo")
    broker.secret("key", "wrong")

    def refused():
        status, _, body = ask(session, "echo", {"text": "x"})
        return status == 503 and b"wrong" not in body and b"reader" not in body
    await_true(refused)
    broker.secret("key", PASSWORD)
    await_true(lambda: ask(session, "echo", {"text": "x"})[0] == 200)
    assert "CANARY" not in broker.log.read_text() + json.dumps(broker.audit())


def test_the_server_is_verified(make_broker, postgres):
    policy = POLICY.format(port=postgres.port, more="").replace('ca = "ca"\n', "") + ACTIONS[1]
    broker = make_broker(policy, {"key": PASSWORD}, {"db.test": "127.0.0.1"})
    assert ask(broker.session("echo"), "echo", {"text": "x"})[0] == 503


def test_the_databases_address_is_checked(make_broker, postgres):
    policy = POLICY.format(port=postgres.port, more="").replace('allow_addresses = ["127.0.0.1"]', "") + ACTIONS[1]
    broker = make_broker(policy, {"key": PASSWORD}, {"db.test": "127.0.0.1"})
    assert ask(broker.session("echo"), "echo", {"text": "x"})[0] == 403
