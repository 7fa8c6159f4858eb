"""/metrics, /healthz and /readyz of a real daemon; rules and dashboards by a real promtool and Prometheus."""

import contextlib
import ctypes
import http.client
import json
import math
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import threading
import urllib.parse
import urllib.request

import pytest

from support import many_files
from test_lifecycle import await_that, daemons, read  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a daemon needs root")

TOP = pathlib.Path(__file__).resolve().parents[2]
MONITORING = TOP / "docs/monitoring"
HTTP = '[http]\nlisten = "127.0.0.1:0"\n'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECONDS_MAX = 60
CLIENTS = 1_000
STRANGER = 64001  # a uid
# A message of Cap'n Proto's RPC of a kind that Mayfly does not speak: obsoleteSave. One segment of 3 words: the root, a
# struct of one word (the kind, 7) and one pointer (null).
UNSPOKEN = struct.pack("<IIQQQ", 0, 3, 0x0001_0001_0000_0000, 7, 0)


def url_of(daemon):
    return re.findall(r"http: metrics on (http://\S+/)metrics", read(daemon.log))[-1]


class Web:
    """A daemon's pages."""

    def __init__(self, daemon):
        parts = urllib.parse.urlsplit(url_of(daemon))
        self.host, self.port = parts.hostname, parts.port

    def get(self, path, headers=None, method="GET"):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS_MAX)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers

    def text(self):
        status, text, headers = self.get("/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), (status, text)
        return text

    def figures(self):
        """{(name, labels as a sorted tuple of pairs): value}"""
        found = {}
        for line in self.text().splitlines():
            if match := re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line):
                labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")))
                found[match[1], labels] = float(match[3])
        return found

    def sum(self, name, **labels):
        return sum(value for (its, have), value in self.figures().items()
                   if its == name and labels.items() <= dict(have).items())


def promtool(*words, **more):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=SECONDS_MAX, **more)
    return done.returncode, done.stdout + done.stderr


def listed():
    told = subprocess.run([TOP / "build/bin/mayflyd", "--list-metrics"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\| `(\w+)` \|", told, re.M)


@pytest.fixture
def served(daemons):  # noqa: F811
    daemon = daemons(config=HTTP, templates=("shell",))
    return daemon, Web(daemon)


def shell(daemon, script, *flags):
    return daemon.cli.run("-t", "shell", *flags, "--", "sh", "-c", script)


def test_all_metrics_are_there_and_clean(served):
    daemon, web = served
    shell(daemon, "echo x")
    known = {name for name in listed() if not name.startswith("mayfly_broker_")}
    # The share of recent misses is counted by whole ticks of two seconds.
    await_that(lambda: known <= set(re.findall(r"^# TYPE (\w+) ", web.text(), re.M)), "every metric is there")
    text = web.text()
    code, said = promtool("check", "metrics", input=text)
    assert (code, said) == (0, ""), said
    families = re.findall(r"^# TYPE (\w+) ", text, re.M)
    assert sorted(families) == sorted(known)


def test_tasks_are_counted_as_they_ended(served):
    daemon, web = served
    shell(daemon, "echo x")
    shell(daemon, "exit 3")
    shell(daemon, "sleep 60", "--wall-time", "50ms")
    daemon.cli("run", "-t", "nonesuch", "--", "true")
    daemon.cli("run", "-t", "shell", "--memory", "1", "--", "true")
    daemon.cli("run", "-t", "shell", "--traceparent", "x", "--", "true")
    figures = web.figures()
    ended = {dict(labels)["verdict"]: value for (name, labels), value in figures.items()
             if name == "mayfly_tasks_ended_total" and value}
    assert ended == {"succeeded": 1, "failed": 1, "wallTime": 1}
    assert web.sum("mayfly_tasks_accepted_total", template="shell") == 3
    assert web.sum("mayfly_claims_total") == 3
    assert web.sum("mayfly_task_launches_total", launch="none") == 0
    assert web.sum("mayfly_tasks_refused_total", template="other", code="notFound",
                   reason="unknownTemplate") == 1
    assert web.sum("mayfly_tasks_refused_total", template="shell", code="invalidArgument", reason="request") == 1
    assert web.sum("mayfly_rpc_calls_refused_total", code="invalidArgument") == 2, "one of them never met the core"
    phases = {dict(labels)["phase"] for (name, labels), _ in figures.items() if name == "mayfly_task_phase_seconds_count"}
    assert phases == {"queue", "claim", "start", "first_byte", "run", "kill", "reap", "receipt", "whole"}
    assert web.sum("mayfly_task_phase_seconds_count", phase="kill") == 1
    assert web.sum("mayfly_receipts_total", result="incomplete") == 0
    assert 0.05 < web.sum("mayfly_task_phase_seconds_sum", phase="run", outcome="capped") < 30
    assert web.sum("mayfly_process_cpu_seconds_total") > 0 and web.sum("mayfly_spawner_cpu_seconds_total") > 0
    assert web.sum("mayfly_process_open_fds") > 10 and web.sum("mayfly_process_resident_memory_bytes") > 1e6


def test_what_runs_now_is_seen_and_the_budget_with_it(served):
    daemon, web = served
    task = daemon.cli.start("run", "-t", "shell", "--stdin", "--memory", "64m", "--", "sh", "-c", "echo up; cat")
    assert task.stdout.readline() == b"up\n"
    assert web.sum("mayfly_tasks_running", template="shell") == 1
    assert web.sum("mayfly_memory_committed_bytes") >= 64 << 20
    assert web.sum("mayfly_budget_used", resource="boxes") == 1
    assert web.sum("mayfly_tenant_tasks", state="running", user="uid:0") == 1
    assert web.sum("mayfly_clones", state="running") == 1
    task.communicate()
    await_that(lambda: web.sum("mayfly_clones", state="running") + web.sum("mayfly_clones", state="dying") == 0, "it is gone")
    assert web.sum("mayfly_memory_committed_bytes") == 0


def test_invented_tenants_make_no_more_series_than_there_are_places(daemons):  # noqa: F811
    daemon = daemons(config=HTTP + "tenants_max = 3\n", templates=("shell",))
    web = Web(daemon)
    for i in range(12):
        shell(daemon, ":", "--tenant", f"name-{i}")
        daemon.cli("run", "-t", f"template-{i}", "--", "true")
    tenants = {dict(labels)["tenant"]: value for (name, labels), value in web.figures().items()
               if name == "mayfly_tenant_tasks_accepted_total"}
    assert tenants == {"name-0": 1, "name-1": 1, "name-2": 1, "other": 9}
    assert "template-" not in web.text()


def test_a_stranger_and_a_malformed_message_are_counted(daemons):  # noqa: F811
    daemon = daemons(config=f"uids_allowed = [{STRANGER + 1}]\n" + HTTP, templates=("shell",))
    web = Web(daemon)
    as_a_stranger(daemon)
    assert web.sum("mayfly_rpc_connections_refused_total", code="permissionDenied") == 1
    assert web.sum("mayfly_rpc_connections_opened_total") == 0
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(daemon.socket)
            s.sendall(UNSPOKEN)
            while s.recv(4_096):  # it says why, and ends the connection
                pass
    await_that(lambda: web.sum("mayfly_rpc_messages_refused_total") == 3, "they are counted")


def test_the_throw_away_daemon_says_where_its_pages_are(daemon):
    with urllib.request.urlopen(os.environ["MAYFLY_HTTP"] + "readyz", timeout=SECONDS_MAX) as answer:
        assert answer.read().startswith(b"ready\n")


def test_health_and_readiness(served):
    _, web = served
    assert web.get("/healthz")[:2] == (200, "ok\n")
    assert web.get("/readyz")[:2] == (200, "ready\n")
    assert web.get("/nonesuch")[0] == 404
    assert web.get("/metrics", method="POST")[0] == 405
    status, body, headers = web.get("/metrics", method="HEAD")
    assert (status, body) == (200, "") and int(headers["Content-Length"]) > 1_000
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert web.get("/metrics", {"Host": "evil.example"})[0] == 421


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


@contextlib.contextmanager
def stopped(thread):
    """Stops one thread of a process, and no other."""
    libc = ctypes.CDLL(None, use_errno=True)

    def trace(request):
        done = libc.ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None)
        assert done == 0, os.strerror(ctypes.get_errno())

    trace(PTRACE_SEIZE)
    trace(PTRACE_INTERRUPT)
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        trace(PTRACE_DETACH)


def test_a_stuck_core_is_told_by_the_thread_that_is_not(served):
    daemon, web = served
    web.text()
    with stopped(daemon.pid), socket.create_connection((web.host, web.port), timeout=SECONDS_MAX) as health:
        await_that(lambda: web.sum("mayfly_snapshot_age_seconds") >= 2, "a scrape gets the latest figures")
        health.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert health.recv(1_000).startswith(b"HTTP/1.1 503 ")
    await_that(lambda: attempt(web) == 200 and web.sum("mayfly_snapshot_age_seconds") < 2, "it goes on")


def test_each_template_has_one_state(served):
    _, web = served
    states = {dict(labels)["state"]: value for (name, labels), value in web.figures().items()
              if name == "mayfly_template_state"}
    assert states == {"ready": 1, "starting": 0, "unhealthy": 0, "missingImage": 0}


def said_at_its_end(daemons, config):  # noqa: F811
    with pytest.raises(AssertionError):
        daemons(config=config, templates=("shell",))
    daemon = daemons.made[-1]
    assert daemon.process.wait(SECONDS_MAX) != 0
    return daemon.said()


def test_beyond_loopback_the_token_is_wanted(daemons, tmp_path):  # noqa: F811
    open_to_all = '[http]\nlisten = "0.0.0.0:0"\n'
    assert "http.token_file names no token" in said_at_its_end(daemons, open_to_all)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o644)
    assert "may be read by others" in said_at_its_end(daemons, open_to_all + f'token_file = "{token}"\n')
    token.chmod(0o600)
    web = Web(daemons(config=open_to_all + f'token_file = "{token}"\n', templates=("shell",)))
    web.host = "127.0.0.1"
    assert web.get("/metrics")[0] == 401
    assert web.get("/metrics", {"Authorization": "Bearer wrong"})[0] == 401
    assert web.get("/metrics", {"Authorization": "Bearer 0123456789abcdef0123"})[0] == 200
    assert web.get("/healthz")[0] == 200


def test_its_thread_stands_behind_the_same_walls(served):
    daemon, web = served
    web.text()
    filtered = "0" if "libasan" in read(f"/proc/{daemon.pid}/maps") else "2"
    threads = list(pathlib.Path(f"/proc/{daemon.pid}/task").iterdir())
    names = {read(thread / "comm").strip() for thread in threads}
    assert names == {"mayflyd", "mayfly-http"}
    for thread in threads:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", read(thread / "status"), re.M))
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", filtered)
        assert all(int(status[kind], 16) == 0 for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert status["Uid"].split() == [status["Uid"].split()[0]] * 4 and status["Uid"].split()[0] != "0"


def test_a_slow_task_has_a_line_with_its_phases_and_trace(daemons):  # noqa: F811
    daemon = daemons(config='slow_task = "200ms"\n' + HTTP, templates=("shell",))
    shell(daemon, ":", "--traceparent", TRACE)
    shell(daemon, "sleep 0.3", "--traceparent", TRACE)
    [line] = await_that(lambda: re.findall(r"^.* warn(?:ing)? (slow task id=.*)$", read(daemon.log), re.M), "it is told")
    assert f"trace={TRACE}" in line and "launch=" in line
    steps = dict(re.findall(r"(\w+)_ms=([\d.]+)", line))
    assert {"queue", "claim", "run", "reap", "receipt", "whole", "cpu"} <= steps.keys()
    assert float(steps["whole"]) > 300 and float(steps["run"]) > 290
    assert Web(daemon).sum("mayfly_slow_tasks_total") == 1


def test_a_thousand_clients_that_do_not_read_delay_no_task(daemons):  # noqa: F811
    daemon = daemons(config=HTTP + "connections_max = 64\n", templates=("shell",))  # 32 of one address
    web = Web(daemon)
    with many_files(2 * CLIENTS), contextlib.ExitStack() as all_end:
        for i in range(CLIENTS):
            s = all_end.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            s.connect((web.host, web.port))
            with contextlib.suppress(OSError):  # it may be refused already
                if i % 2:
                    s.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
                else:
                    s.sendall(b"GET /metrics HT")
        for _ in range(5):
            assert shell(daemon, "echo x")["stdout"] == "x\n"
    await_that(lambda: attempt(web) == 200, "places are free again")
    assert web.sum("mayfly_http_connections_refused_total") > CLIENTS / 2
    await_that(lambda: web.sum("mayfly_tasks_ended_total", verdict="succeeded") == 5, "they are counted")


def attempt(web):
    try:
        return web.get("/healthz")[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_it_stops_with_clients_and_counts_to_the_end(served):
    daemon, web = served
    with socket.create_connection((web.host, web.port)) as idle:
        idle.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        daemon.process.terminate()
        assert daemon.process.wait(SECONDS_MAX) == 0, daemon.said()
    assert "stuck" not in daemon.said() and daemon.said().rstrip().endswith("stopped")


# --- rules and dashboards -----------------------------------------------------------------------


def test_the_rules_do_what_their_tests_say():
    code, said = promtool("check", "rules", MONITORING / "mayfly.rules.yml")
    assert code == 0, said
    code, said = promtool("test", "rules", "mayfly.rules.test.yml", cwd=MONITORING)
    assert code == 0, said


def test_every_alert_is_tested():
    rules, tests = ((MONITORING / name).read_text() for name in ("mayfly.rules.yml", "mayfly.rules.test.yml"))
    fires = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n\s+- exp_labels", tests)
    assert set(re.findall(r"alert: (\w+)", rules)) == set(fires)


def test_the_configuration_for_prometheus_is_right(tmp_path):
    for name in ("prometheus.yml", "mayfly.rules.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    code, said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert code == 0, said


class Prometheus:
    """A real one that scrapes the daemon every second; `with` ends it."""

    def __init__(self, folder, target):
        self.folder = folder
        shutil.copy(MONITORING / "mayfly.rules.yml", folder)
        text = (MONITORING / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:9464", target).replace("15s", "1s")
        (folder / "prometheus.yml").write_text(text)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def __enter__(self):
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            await_that(self.ready, "Prometheus is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(SECONDS_MAX)

    def ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.ask("/api/v1/query", query="vector(1)")
        except OSError:
            return None

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression):
        return self.ask("/api/v1/query", query=expression)["result"]


def queries(dashboard):
    """(panel, expression), with Grafana's variables as it fills them in."""
    told = json.loads(dashboard.read_text())
    for panel in told["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("[$__rate_interval]", "[15s]").replace("[1h]", "[15s]")
            for name in ("instance", "template"):
                text = text.replace(f"${name}", ".*")
            assert "$" not in text, text
            yield panel["title"], text
    for variable in told["templating"]["list"]:
        if variable["type"] == "query":
            [(metric, label)] = re.findall(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            yield variable["name"], f"group by ({label}) ({metric.replace('$instance', '.*')})"


# No template of the test is unready.
MAY_BE_EMPTY = re.compile(r'mayfly_template_state\{.*state!="ready"')
TICKET = """
[mint.ticket]
audience = "files.example.org"
scope = "get"
users = ["*"]
[introspection]
listen = "127.0.0.1:{port}"
secret = "asker"
[secrets.asker]
file = "{asker}"
"""
MINT = """
import http.client
tcp = http.client.HTTPConnection("127.0.0.1", timeout=20)
tcp.request("POST", "/mint/ticket")
print(tcp.getresponse().status)
"""


def has_value(result):
    """A quantile of no event at all is NaN: a panel shows nothing of it."""
    return any(not math.isnan(float(series["value"][1])) for series in result)


def as_a_stranger(daemon):
    done = subprocess.run(daemon.cli.command("ps"), env=daemon.cli.environment, capture_output=True, user=STRANGER,
                          group=STRANGER, extra_groups=[], timeout=SECONDS_MAX)
    assert done.returncode != 0 and b"may not use" in done.stderr


@contextlib.contextmanager
def busy(*works):
    """Does each of the works again and again, in a thread of its own."""
    over = threading.Event()

    def again(work):
        for i in range(100_000):
            if over.is_set():
                return
            work(i)

    users = [threading.Thread(target=again, args=(work,)) for work in works]
    for user in users:
        user.start()
    try:
        yield
    finally:
        over.set()
        for user in users:
            user.join()


def policy_of_a_ticket(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, text in (("asker", "asker-token"), ("policy.toml", TICKET.format(port=port, asker=folder / "asker"))):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return folder / "policy.toml"


@pytest.mark.slow
def test_every_query_of_the_dashboards_finds_the_daemon_under_load(daemons, tmp_path):  # noqa: F811
    config = f'broker_policy = "{policy_of_a_ticket(daemons.folder)}"\nuids_allowed = [{STRANGER + 1}]\nslow_task = "1ms"\n'
    daemon = daemons(config=config + HTTP, templates=("python", "shell"))
    target = urllib.parse.urlsplit(url_of(daemon)).netloc
    # A success, a failure, a wait, output, a cap, and a refusal.
    scripts = (("echo x",), ("exit 1",), ("sleep 0.01; echo y",), ("head -c 100000 /dev/zero",),
               ("sleep 60", "--wall-time", "50ms"), ("true", "--memory", "1"))

    def shells(number):
        def work(i):
            script, *flags = scripts[i % len(scripts)]
            daemon.cli("run", "-q", "-t", "shell", "--tenant", f"tenant-{number}", *flags, "--", "sh", "-c", script)
        return work

    def grants(_):
        daemon.cli("run", "-q", "--grant", "ticket", "-c", MINT)

    with busy(*(shells(number) for number in range(3)), grants), Prometheus(tmp_path, target) as prometheus:
        await_that(lambda: prometheus.query("up{job='mayfly'} == 1"), "it is scraped")
        # Rates need several scrapes with events between them.
        await_that(lambda: prometheus.query("count_over_time(mayfly_ready[1m]) > 8"), "it is scraped again and again")
        for name in ("mayfly_tasks_ended_total", 'mayfly_broker_decisions_total{outcome="allowed"}',
                     'mayfly_tasks_refused_total{reason="request"}', 'mayfly_tasks_ended_total{verdict="wallTime"}'):
            await_that(lambda name=name: prometheus.query(f"sum(rate({name}[15s])) > 0"), f"{name} rises")
        as_a_stranger(daemon)
        await_that(lambda: prometheus.query("sum(rate(mayfly_rpc_connections_refused_total[15s])) > 0"), "the stranger is counted")
        wrong = []
        for dashboard in sorted(MONITORING.glob("*.json")):
            for panel, expression in queries(dashboard):
                if not has_value(prometheus.query(expression)) and not MAY_BE_EMPTY.search(expression):
                    wrong.append(f"{dashboard.name}: {panel}: {expression}")
        assert not wrong, "\n".join(wrong)
        groups = prometheus.ask("/api/v1/rules")["groups"]
        rules = await_that(lambda: [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]
                                    if rule["health"] != "unknown"], "rules are evaluated")
        assert groups and all(rule["health"] == "ok" for rule in rules), rules
        firing = {alert["labels"]["alertname"] for alert in prometheus.ask("/api/v1/alerts")["alerts"]
                  if alert["state"] == "firing"}
        assert not firing
        for record in ("template:mayfly_start_seconds:p99_5m", "template:mayfly_claims:miss_ratio5m"):
            assert await_that(lambda: prometheus.query(record), record)
