"""The built-in page in a real Chromium: first with a made-up daemon, whose states a real one seldom has, then with a real
daemon under load. Pictures of it are in build/pictures.
"""

import contextlib
import json
import pathlib
import re
import selectors
import socket
import threading
import urllib.error
import urllib.request

import pytest

from browser import Browser, program
from light import light
from made_up_daemon import MadeUpDaemon, policy
from support import CLI, many_files
from test_lifecycle import Daemon, await_that, read

TOP = pathlib.Path(__file__).resolve().parents[2]
PICTURES = TOP / "build/pictures"
SECONDS_MAX = 60
LISTENERS, UPDATE = 1_000, b"event: update\n"
HOSTILE = '<img src=x onerror="document.title=1">\x1b[31m\u202e&amp;'
CONTRAST_MIN = 4.5  # WCAG AA for text

# The least contrast of all visible texts against what is behind them: [[ratio, text], ...] below the bound.
CONTRAST = """(() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = (color) => numbers(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const out = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, noscript, .skip")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < %f) out.push([(a + 0.05) / (b + 0.05), walk.currentNode.data]);
  }
  return out;
})()""" % CONTRAST_MIN


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if program() is None:
        pytest.skip("no Chromium: `./dev setup` installs it")
    with Browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def made_up():
    with MadeUpDaemon() as daemon:
        yield daemon


@pytest.fixture
def page(browser, made_up):
    one = browser.open(made_up.address)
    one.wait("document.documentElement.dataset.serial === '42'")
    yield one
    one.close()


def shown(page, serial):
    page.wait(f"document.documentElement.dataset.serial === '{serial}'")


def check_clean(page, address):
    assert page.faults == [] and page.policy_faults() == []
    assert [url for url in page.requests if not url.startswith(address)] == []


# --- a made-up daemon ---------------------------------------------------------------------------


def test_page_shows_every_part_of_the_message(page, made_up):
    for selector, words in {
        "header": ["default", "ready", "live", "mayflyd 0.1.0", "60 min"],
        "#tiles": ["12/s", "24.9 ms", "16.7 %", "95 %", "of cpu committed"],
        "#pools": ["python", "6 / 8", "r-data", "unhealthy", "4 zygotes died within 60 s",
                   "python wants 8 parked: 6 by the forecast of arrivals, 2 by recent bursts",
                   "r-data wants 0 parked: no task for a long time"],
        "#phases-table": ["first byte", "5.97 ms", "24.9 ms", "720"],
        "#verdicts": ["succeeded", "1,100", "wall time", "invalid argument", "unknown template"],
        "#tenants": ["red (uid:1000)", "0, 7", "all others"],
        "#host": ["memory", "3 GiB", "8 GiB", "37.5 %"],
        "#daemon-use": ["120 of 20,000", "12.5 %", "CPU of the spawner, of one core", "6.25 %"],
        "#calls-table": ["Task.wait", "38.4 ms / 50.9 ms"],
        "#forecast": ["12.5/s", "13/s", "0.99 %", "16.7 %", "4.2 ms", "768 KiB"],
        "#broker": ["http", "310", "up, started 2 times"],
        "#receipts": ["1,199", "stray mount", "40 cgroups", "template 'r-data' is unhealthy"],
        "#slow": ["8231", "wall time", "5.05 s", "9 so far took longer than 1 s"],
    }.items():
        text = page.text(selector)
        assert [word for word in words if word not in text] == [], (selector, text)
    assert "default: 3 running" in page.value("document.title")
    check_clean(page, made_up.address)


def test_page_follows_each_message(page, made_up):
    def change(message):
        message["tasks"]["running"] = 77
        message["templates"][0]["parked"] = 5
        message["templates"].append({**message["templates"][1], "name": "tardy", "state": "starting"})
        row = json.loads(json.dumps(message["rows"][-1]))
        row[0] += 2000
        row[1][message["columns"]["all"].index("start.p99S")] = 0.123
        message["rows"] = [row]

    shown(page, made_up.tell(change))
    assert "77" in page.text("#tiles") and "5 / 8" in page.text("#pools") and "tardy" in page.text("#pools")
    assert "123 ms" in page.text("#latency"), "the latest row is in the chart's legend"
    assert page.value("document.querySelectorAll('#pools-table tbody tr').length") == 4  # three, and the hidden word for none
    shown(page, made_up.tell(lambda message: message["templates"].pop()))
    assert "tardy" not in page.text("#pools")
    check_clean(page, made_up.address)


def test_names_of_tenants_and_templates_stay_text(page, made_up):
    def change(message):
        message["templates"][0]["name"] = message["tenants"][0]["tenant"] = message["slow"][0]["template"] = HOSTILE
        message["templates"][1]["why"] = message["notices"][0]["text"] = message["daemon"]["instance"] = HOSTILE
        message["headroom"][0]["what"] = message["refusals"][0]["code"] = HOSTILE

    shown(page, made_up.tell(change))
    assert page.value("document.querySelectorAll('main img').length") == 0
    for section in ("#pools", "#tenants", "#slow", "#receipts", "header"):
        assert "<img src=x onerror=" in page.text(section), section
    assert page.value("document.title").startswith("<img")
    check_clean(page, made_up.address)


@pytest.mark.parametrize("name, how", [("light", {}), ("dark", {"dark": True}), ("phone-light", {"width": 390, "height": 844, "phone": True}),
                                       ("phone-dark", {"width": 390, "height": 844, "phone": True, "dark": True})])
def test_page_is_readable(browser, made_up, name, how):
    page = browser.open(made_up.address, **how)
    shown(page, 42)
    page.wait("document.querySelectorAll('.plot canvas').length === 5")
    page.picture(PICTURES / f"made-up-{name}.png")
    assert page.value("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    assert page.value(CONTRAST) == []
    if how.get("phone"):
        assert page.value("[...document.querySelectorAll('button, select')].filter((n) => n.checkVisibility() && n.getBoundingClientRect().height < 24).length") == 0
    check_clean(page, made_up.address)
    page.close()


def test_theme_can_be_chosen_and_stays(browser, made_up):
    page = browser.open(made_up.address)
    shown(page, 42)
    ground = "getComputedStyle(document.body).backgroundColor"
    bright = page.value(ground)
    page.value("const t = document.getElementById('theme'); t.value = 'dark'; t.dispatchEvent(new Event('change'))")
    page.wait(f"{ground} !== '{bright}'")
    page.call("Page.reload")
    page.wait(f"document.documentElement.dataset.serial === '42' && {ground} !== '{bright}'")
    page.value("localStorage.clear()")
    check_clean(page, made_up.address)
    page.close()


FOCUSED = """(() => {
  const node = document.activeElement, style = getComputedStyle(node), box = node.getBoundingClientRect();
  return {tag: node.tagName, id: node.id, seen: box.bottom > 0 && box.top < innerHeight && box.width > 0,
          ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, text: node.textContent.slice(0, 40)};
})()"""


def test_keyboard_reaches_everything_and_shows_where_it_is(page, made_up):
    order = []
    for _ in range(80):
        page.key("Tab")
        at = page.value(FOCUSED)
        if at["tag"] == "BODY" or (at["id"] or at["text"]) in order[:1]:
            break
        assert at["seen"] and at["ring"], at
        order.append(at["id"] or at["text"])
    assert order[0] == "Skip to the numbers" and order[1:3] == ["pause", "theme"]
    wanted = page.value("[...document.querySelectorAll('a, button, select, summary, [tabindex=\"0\"]')]"
                        ".filter((n) => n.checkVisibility()).map((n) => n.id || n.textContent.slice(0, 40))")
    assert [each for each in wanted if each not in order] == []

    page.value("document.querySelector('nav a[href=\"#tenants\"]').focus()")
    page.key("Enter", text="\r")
    page.wait("location.hash === '#tenants' && document.getElementById('tenants').getBoundingClientRect().top < innerHeight")
    page.value("document.querySelector('#latency summary').focus()")
    page.key("Enter", text="\r")
    page.wait("document.querySelectorAll('#latency details tbody tr').length === 15")
    page.value("document.getElementById('pause').focus()")
    page.key(" ", "Space", " ")
    page.wait("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
    check_clean(page, made_up.address)


def test_screen_reader_finds_landmarks_and_names(page):
    tree = page.tree()
    roles = {role for role, _ in tree}
    assert {"banner", "navigation", "main", "contentinfo"} <= roles
    headings = [name for role, name in tree if role == "heading"]
    assert headings[0].startswith("Mayfly") and {"Pools", "Latency", "Tenants", "Receipts"} <= set(headings)
    unnamed = [(role, name) for role, name in tree
               if role in ("button", "combobox", "image", "link", "region", "navigation", "columnheader", "textbox") and not name.strip()]
    assert [each for each in unnamed if each[0] != "columnheader"] == []
    charts = [name for role, name in tree if role == "image"]
    assert any(re.search(r"Latency of start; now p50 \S+ ms, p90 \S+ ms, p99 \S+ ms", name) for name in charts), charts
    assert page.value("document.querySelectorAll('[aria-live], [role=status]').length") == 2  # state and link, nothing that changes each second


def test_another_phase_and_template_can_be_chosen(page, made_up):
    page.value("const s = document.getElementById('latency-phase'); s.value = 'whole'; s.dispatchEvent(new Event('change'))")
    page.wait("document.querySelector('#latency .plot').getAttribute('aria-label').startsWith('Latency of whole')")
    assert "90.1 ms" in page.text("#latency")
    assert page.value("document.getElementById('forecast-template').selectedOptions[0].text") == "python", "the busiest"
    page.value("const f = document.getElementById('forecast-template'); f.selectedIndex = 1; f.dispatchEvent(new Event('change'))")
    page.wait("document.querySelector('#parked-chart .legend').innerText.includes('parked –')")
    shown(page, made_up.tell())
    assert page.value("document.getElementById('forecast-template').selectedIndex") == 1, "the choice stays"
    check_clean(page, made_up.address)


def test_pause_holds_the_numbers_and_goes_on_with_the_latest(page, made_up):
    page.value("document.getElementById('pause').click()")
    assert page.text("#link") == "paused"
    for running in (5, 6):
        made_up.tell(lambda message, n=running: message["tasks"].update(running=n))
    assert page.value("document.documentElement.dataset.serial") == "42"
    page.wait("document.documentElement.dataset.received === '44'")
    page.value("document.getElementById('pause').click()")
    shown(page, 44)
    assert page.text("#link") == "live"


def test_a_lost_stream_is_told_and_found_again(page, made_up):
    made_up.asked.get(timeout=SECONDS_MAX)
    made_up.drop()
    page.wait("document.getElementById('link').textContent.startsWith('waiting: the daemon ended the stream')")
    made_up.asked.get(timeout=SECONDS_MAX)
    shown(page, made_up.tell())
    page.wait("document.getElementById('link').textContent === 'live'")
    check_clean(page, made_up.address)


def test_a_restarted_daemon_begins_new_lines(page, made_up):
    def change(message):
        message["daemon"]["startedMs"] += 1
        message["rows"] = message["rows"][-1:]

    shown(page, made_up.tell(change))
    page.value("document.querySelector('#latency summary').click()")
    page.wait("document.querySelectorAll('#latency details tbody tr').length === 1")


def test_another_format_is_refused_in_words(page, made_up):
    made_up.tell(lambda message: message.update(format=2))
    page.wait("document.getElementById('link').textContent.includes('load the page again')")


def test_a_token_is_asked_for_and_kept_in_this_tab_only(browser):
    with MadeUpDaemon(token="correct-horse-battery") as daemon:
        page = browser.open(daemon.address)
        page.wait("!document.getElementById('login').hidden && document.activeElement.id === 'token'")
        page.type("wrong-horse-battery")
        page.key("Enter", text="\r")
        page.wait("document.getElementById('login-why').textContent === 'The daemon does not take this token.'")
        page.type("correct-horse-battery")
        page.key("Enter", text="\r")
        shown(page, 42)
        assert page.value("document.getElementById('login').hidden && document.getElementById('token').value === ''")
        assert page.value("Object.values(sessionStorage)") == ["correct-horse-battery"]
        assert page.value("Object.values(localStorage)") == [] and page.value("document.cookie") == ""
        assert all("horse" not in url for url in page.requests)
        page.call("Page.reload")
        shown(page, 42)
        # The browser itself tells each 401; there is nothing else.
        assert [each for each in page.faults if "401" not in each] == [] and page.policy_faults() == []
        other = browser.open(daemon.address)
        other.wait("!document.getElementById('login').hidden")
        other.close()
        page.close()


# --- a real daemon ------------------------------------------------------------------------------


def url_of(daemon):
    """Where the daemon answers, by its log."""
    found = await_that(lambda: re.search(r"http: \S+ on (http://\S+?/)(?:metrics)?\s", read(daemon.log)), "its address")
    return found[1]


def get(address, token=None, **headers):
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=SECONDS_MAX) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def now(daemon, token=None, rows=0):
    status, _, body = get(f"{url_of(daemon)}api/v1/now?rows={rows}", token)
    assert status == 200, (status, body)
    return json.loads(body)


@contextlib.contextmanager
def real_daemon(folder, config='listen = "127.0.0.1:0"', more=""):
    daemon = Daemon(folder, config=f'{more}\n[http]\n{config}\n', templates=("python", "shell"), **light())
    try:
        yield daemon.start()
    finally:
        daemon.end()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with real_daemon(tmp_path_factory.mktemp("real"), more='slow_task = "50ms"') as daemon:
        yield daemon


@contextlib.contextmanager
def load(daemon):
    """Tasks of several kinds, one after the other, until the end."""
    over, faults = threading.Event(), []
    kinds = [("--tenant", "red", "-c", "print(1)"), ("--tenant", "blue", "-c", "import sys; sys.exit(3)"),
             ("--tenant", "red", "--memory", "32m", "-c", "x = 'x' * 10**9"), ("-c", "import time; time.sleep(0.1)")]

    def run():
        nth = 0
        while not over.is_set():
            done = daemon.cli("run", "-q", *kinds[nth % len(kinds)])
            nth += 1
            if done.returncode not in (0, 3, 137):
                faults.append(done.stderr)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SECONDS_MAX)
    assert faults == []


def test_real_page_under_load(browser, real):
    with load(real):
        await_that(lambda: now(real)["tasks"]["ended"] >= 8, "eight tasks")
        page = browser.open(url_of(real), height=1000)
        page.wait("Number(document.documentElement.dataset.serial) > 0")
        before = page.value("document.documentElement.dataset.serial")
        page.wait(f"Number(document.documentElement.dataset.serial) >= {before} + 3")
        for words in ("python", "shell", "ready", "succeeded", "memory", "red (uid:0)", "blue (uid:0)"):
            page.wait(f"document.body.innerText.includes({json.dumps(words)})")
        page.wait("document.querySelectorAll('#slow-table tbody tr').length > 1")
        page.wait("document.querySelector('#rate-chart .plot').getAttribute('aria-label').match(/ended [1-9.]/)")
        for name, how in (("light", False), ("dark", True)):
            page.look(how)
            page.wait("document.querySelectorAll('.plot canvas').length === 5")
            page.picture(PICTURES / f"real-{name}.png")
        check_clean(page, url_of(real))
        page.close()


def test_real_message_counts_what_was_run(real):
    asked = now(real)["serial"]  # that message may be older than the last task's end, the next is not
    before = await_that(lambda: message if (message := now(real))["serial"] > asked else None, "a new message")
    for code in ("print(1)", "raise SystemExit(3)"):
        real.cli.run("-t", "python", "--tenant", "counted", "-c", code)
    assert real.cli.run("--memory", "32m", "-c", "x = 'x' * 10**9")["verdict"] == "memory"
    real.cli("run", "-t", "nowhere", "-c", "1")

    def all_counted():  # a message may be 300 ms old
        message = now(real)
        done = message["tasks"]["ended"] - before["tasks"]["ended"] >= 3 and message["tasks"]["refused"] > before["tasks"]["refused"]
        return message if done else None

    after = await_that(all_counted, "all is counted")

    def count(message, name):
        return next(v["count"] for v in message["verdicts"] if v["name"] == name)

    assert {name: count(after, name) - count(before, name) for name in ("succeeded", "failed", "memory", "internal")} == {
        "succeeded": 1, "failed": 1, "memory": 1, "internal": 0}
    assert after["tasks"]["ended"] - before["tasks"]["ended"] == 3
    assert next(t for t in after["tenants"] if t["tenant"] == "counted")["accepted"] == 2
    assert next(r["count"] for r in after["refusals"] if r["reason"] == "unknownTemplate") == 1
    python = next(t for t in after["templates"] if t["name"] == "python")
    assert python["claims"]["parked"] + python["claims"].get("waited", 0) + python["claims"].get("made", 0) == python["accepted"]
    assert after["broker"]["configured"] is False and after["daemon"]["state"] == "ready"
    rows = await_that(lambda: now(real, rows=450)["rows"], "a tick is over")
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})


def test_real_stream_begins_with_the_state_and_goes_on(real):
    with urllib.request.urlopen(f"{url_of(real)}api/v1/live", timeout=SECONDS_MAX) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        kinds, serials = [], []
        while len(kinds) < 3:
            line = stream.readline().decode()
            if line.startswith("event:"):
                kinds.append(line[6:].strip())
            elif line.startswith("data:"):
                serials.append(json.loads(line[5:])["serial"])
    assert kinds == ["state", "update", "update"] and serials == sorted(serials)  # one may repeat: it is the present state


def test_real_listeners_that_do_not_read_cost_little(real):
    host, port = re.search(r"//([\d.]+):(\d+)/", url_of(real)).groups()
    before = now(real)["daemon"]["residentBytes"]
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            one = stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS_MAX))
            one.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: " + f"{host}:{port}".encode() + b"\r\n\r\n")
        stream = stack.enter_context(urllib.request.urlopen(f"{url_of(real)}api/v1/live", timeout=SECONDS_MAX))
        updates = 0
        while updates < 4:  # in this time each of the hundred gets as much
            updates += stream.readline().startswith(b"event: update")
        assert real.cli.run("-c", "print(1)")["verdict"] == "succeeded"
        if "asan" not in CLI:  # its allocator gives nothing back
            assert now(real)["daemon"]["residentBytes"] - before < 32 << 20


def test_a_thousand_listeners_delay_no_task(tmp_path):
    """Half of them read nothing."""
    with (real_daemon(tmp_path, 'listen = "127.0.0.1:0"\nconnections_max = 4096') as daemon,
          many_files(2 * LISTENERS), contextlib.ExitStack() as stack):
        address = url_of(daemon)
        host, port = re.search(r"//([\d.]+):(\d+)/", address).groups()
        before = now(daemon)["daemon"]["residentBytes"]
        readers = stack.enter_context(selectors.DefaultSelector())
        for i in range(LISTENERS):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            one.connect((host, int(port)))
            one.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: " + f"{host}:{port}".encode() + b"\r\n\r\n")
            if i % 2:
                readers.register(one, selectors.EVENT_READ, bytearray())
        updates = dict.fromkeys(readers.get_map(), 0)
        while min(updates.values()) < 3:  # in this time each of those that do not read gets as much
            for key, _ in readers.select(SECONDS_MAX):
                got = key.fileobj.recv(65_536)
                assert got, "a listener that reads is sent away"
                key.data.extend(got)
                updates[key.fd] += key.data.count(UPDATE)
                del key.data[:max(0, len(key.data) - len(UPDATE) + 1)]
        for _ in range(5):
            assert daemon.cli.run("-c", "print(1)")["verdict"] == "succeeded"
        await_that(lambda: now(daemon)["tasks"]["ended"] == 5, "five tasks")
        after = now(daemon)
        assert after["daemon"]["state"] == "ready"
        streams = re.search(r"^mayfly_http_streams (\d+)", str(get(f"{address}metrics")[2], "utf-8"), re.M)[1]
        assert LISTENERS // 2 <= int(streams) <= LISTENERS
        if "asan" not in CLI:
            assert after["daemon"]["residentBytes"] - before < LISTENERS * 512 << 10
    assert "stuck" not in daemon.said()


def test_real_page_has_its_policy_and_is_not_fetched_twice(real):
    status, headers, body = get(url_of(real))
    assert status == 200 and headers["Content-Security-Policy"] == policy()
    assert headers["X-Content-Type-Options"] == "nosniff" and b"<script src=" in body
    etag = headers["ETag"]
    assert get(url_of(real), **{"If-None-Match": etag})[0] == 304
    assert get(f"{url_of(real)}page.js")[1]["Content-Type"] == "text/javascript; charset=utf-8"
    assert get(f"{url_of(real)}../../etc/passwd")[0] == 404 and get(f"{url_of(real)}nothing.js")[0] == 404


def test_real_messages_want_the_token_beyond_loopback(browser, tmp_path):
    token = "a-token-of-this-test"
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "token").chmod(0o600)
    with real_daemon(tmp_path, f'listen = "0.0.0.0:0"\ntoken_file = "{tmp_path / "token"}"') as daemon:
        address = url_of(daemon).replace("0.0.0.0", "127.0.0.1")
        assert get(address)[0] == 200, "the page itself says nothing"
        for path in ("api/v1/now", "api/v1/live"):
            assert get(address + path)[0] == 401 and get(address + path, token="wrong-wrong-wrong")[0] == 401
        assert json.loads(get(address + "api/v1/now", token)[2])["daemon"]["instance"] == daemon.instance
        page = browser.open(address)
        page.wait("document.activeElement.id === 'token'")
        page.type(token)
        page.key("Enter", text="\r")
        page.wait("Number(document.documentElement.dataset.serial) > 0")
        page.close()
