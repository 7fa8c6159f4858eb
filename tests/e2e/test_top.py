"""mayfly top on a real terminal: it draws, follows keys, sizes and signals, and leaves the terminal as it was."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from made_up_daemon import MadeUpDaemon
from support import CLI
from test_dashboard import load, real_daemon, url_of

SECONDS_MAX = 60
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A pseudo-terminal with `mayfly top` in it; `screen` has its lines."""

    def __init__(self, *args, rows=24, columns=100, **environment):
        self.main, self.other = pty.openpty()
        self.rows, self.columns = rows, columns
        self.resize(rows, columns, tell=False)
        self.before = termios.tcgetattr(self.other)
        self.bytes = b""
        outside = {name: value for name, value in os.environ.items() if name not in ("MAYFLY_HTTP", "NO_COLOR")}
        self.process = subprocess.Popen([CLI, "top", *map(str, args)], stdin=self.other, stdout=self.other, stderr=self.other,
                                        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                                        env={**outside, "TERM": "xterm-256color", **environment})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS_MAX)
        os.close(self.main)
        os.close(self.other)

    def resize(self, rows, columns, tell=True):
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.rows, self.columns = rows, columns
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def take(self, deadline):
        assert select.select([self.main], [], [], max(0, deadline - time.monotonic()))[0], f"nothing came; {self.bytes[-2000:]!r}"
        self.bytes += os.read(self.main, 1 << 16)

    def wait(self, condition, what):
        """Until condition(lines of the last whole drawing)."""
        deadline = time.monotonic() + SECONDS_MAX
        while not condition(self.lines()):
            try:
                self.take(deadline)
            except AssertionError as late:
                raise AssertionError(f"{what}: {late}\n" + "\n".join(self.lines())) from None
        return self.lines()

    def lines(self):
        """Each drawing begins at home and ends with the erasure of what is below."""
        drawings = self.bytes.split(b"\x1b[H")[1:]
        whole = next((each for each in reversed(drawings) if b"\x1b[J" in each), b"").split(b"\x1b[J")[0]
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", whole).decode()
        return re.split(r"\r+\n", text) if text else []  # the terminal adds one more \r

    def keys(self, text):
        os.write(self.main, text.encode())

    def end(self):
        """Its exit code; the terminal is as before, and the last bytes bring the first screen back."""
        code = self.process.wait(SECONDS_MAX)
        while select.select([self.main], [], [], 0)[0]:
            self.bytes += os.read(self.main, 1 << 16)
        assert termios.tcgetattr(self.other) == self.before
        assert self.bytes.count(ENTER) == self.bytes.count(LEAVE), self.bytes[-200:]
        return code


@pytest.fixture
def made_up():
    with MadeUpDaemon() as daemon:
        yield daemon


def has(word):
    return lambda lines: any(word in line for line in lines)


def run(*args, **environment):
    outside = {name: value for name, value in os.environ.items() if name != "MAYFLY_HTTP"}
    return subprocess.run([CLI, "top", *map(str, args)], capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL,
                          env={**outside, **environment})


def test_screen_follows_messages_keys_and_sizes(made_up):
    with Terminal(made_up.place) as top:
        lines = top.wait(has("r-data"), "the pools")
        assert len(lines) == 24 and max(map(len, lines)) <= 100 and ENTER in top.bytes
        made_up.tell(lambda message: message["tasks"].update(running=77))
        top.wait(has("running 77"), "the next message")
        top.keys("2")
        top.wait(has("first byte"), "the phases")
        top.keys("\t")
        top.wait(has("all others"), "the tenants")
        top.keys("1>>>>")
        top.wait(has("MAKINGv"), "sorted")
        top.keys("r")
        lines = top.wait(has("MAKING^"), "turned")
        assert lines[6].startswith("r-data") and lines[7].startswith("python")
        top.keys("?")
        top.wait(has("the other direction"), "the help")
        top.keys("?")
        top.wait(has("MAKING^"), "no help")
        top.resize(10, 60)
        lines = top.wait(lambda lines: len(lines) == 10, "smaller")
        assert max(map(len, lines)) <= 60
        top.resize(5, 20)
        top.wait(has("needs 40 x 8"), "too small")
        top.resize(24, 160)
        top.wait(has("PREDICTED"), "wider")
        top.keys("q")
        assert top.end() == 0


def test_pause_holds_the_numbers(made_up):
    with Terminal(made_up.place) as top:
        top.wait(has("running 3"), "the first message")
        top.keys("p")
        top.wait(has("paused"), "paused")
        made_up.tell(lambda message: message["tasks"].update(running=77))
        top.keys("3")
        assert not has("running 77")(top.wait(has("all others"), "the tenants"))
        top.keys("p")
        made_up.tell()
        top.wait(has("running 77"), "it goes on")
        top.keys("q")
        assert top.end() == 0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGABRT, -signal.SIGABRT),
                                          (signal.SIGSEGV, -signal.SIGSEGV), (signal.SIGQUIT, -signal.SIGQUIT)])
def test_terminal_is_given_back_at_every_signal(made_up, number, code):
    with Terminal(made_up.place) as top:
        top.wait(has("python"), "the pools")
        assert termios.tcgetattr(top.other) != top.before
        top.process.send_signal(number)
        assert top.end() == code


def test_terminal_is_given_back_while_it_is_stopped(made_up):
    with Terminal(made_up.place) as top:
        top.wait(has("python"), "the pools")
        top.process.send_signal(signal.SIGTSTP)
        os.waitpid(top.process.pid, os.WUNTRACED)
        while LEAVE not in top.bytes:
            top.take(time.monotonic() + SECONDS_MAX)
        assert termios.tcgetattr(top.other) == top.before
        top.bytes = b""
        top.process.send_signal(signal.SIGCONT)
        top.wait(has("python"), "it draws again")
        top.keys("q")
        assert top.end() == 0


def test_a_terminal_that_goes_away_ends_it(made_up):
    with Terminal(made_up.place) as top:
        top.wait(has("python"), "the pools")
        os.close(top.other)
        os.close(top.main)
        try:
            assert top.process.wait(SECONDS_MAX) in (0, 129, 141)
        finally:
            top.main, top.other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)


def test_a_lost_stream_is_told_and_found_again(made_up):
    with Terminal(made_up.place) as top:
        top.wait(has("python"), "the pools")
        made_up.asked.get(timeout=SECONDS_MAX)
        made_up.drop()
        top.wait(has("waiting: "), "the loss")
        made_up.asked.get(timeout=SECONDS_MAX)
        made_up.tell()
        top.wait(lambda lines: lines and not has("waiting")(lines) and has("python")(lines), "found again")
        top.keys("q")
        assert top.end() == 0


def test_hostile_names_send_the_terminal_nothing(made_up):
    made_up.tell(lambda message: message["templates"][0].update(name="a\x1b[2Jb\x9bc\x07"))
    with Terminal(made_up.place) as top:
        top.wait(has("a\\x1b[2Jb"), "the name")
        assert b"\x07" not in top.bytes and b"\x1b[2Jb" not in top.bytes
        top.keys("q")
        top.end()


def test_without_colours_the_words_are_the_same(made_up):
    def words(**environment):
        with Terminal(made_up.place, **environment) as top:
            lines = top.wait(has("r-data"), "the pools")
            top.keys("q")
            top.end()
            return [line.rstrip() for line in lines], b"\x1b[0;" in top.bytes

    coloured, plain = words(), words(NO_COLOR="1")
    assert coloured[1] and not plain[1]
    assert coloured[0] == plain[0]
    assert words(TERM="dumb")[0] == plain[0]


def test_once_and_json_need_no_terminal(made_up):
    done = run("--once", made_up.place)
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    for each in ("python", "first byte", "all others", "wall time", "8231"):
        assert each in done.stdout
    done = run("--json", MAYFLY_HTTP=made_up.address)
    assert json.loads(done.stdout)["serial"] == 42 and done.stderr == ""
    done = run(made_up.place)
    assert done.returncode == 125 and "--once" in done.stderr


@pytest.mark.parametrize("args, words", [([], "http.listen"), (["127.0.0.1:1"], "cannot connect to 127.0.0.1:1"), (["localhost"], "HOST:PORT"),
                                         (["https://h:1"], "TLS"), (["--config", "/no/such/file"], "/no/such/file"),
                                         (["127.0.0.1:1", "--token-file", "/no/such/token"], "/no/such/token")])
def test_what_is_wrong_is_said(args, words):
    done = run("--once", *args)
    assert done.returncode == 125 and words in done.stderr and done.stdout == ""
    done = run("--json", *args)
    assert words in json.loads(done.stdout)["error"]["message"] + json.loads(done.stdout)["error"].get("advice", "")


def test_token_comes_from_a_file(tmp_path):
    (tmp_path / "token").write_text("correct-horse-battery\n")
    with MadeUpDaemon(token="correct-horse-battery") as daemon:
        assert "wants a token" in run("--once", daemon.place).stderr
        assert run("--once", daemon.place, "--token-file", tmp_path / "token").returncode == 0
        (tmp_path / "token").write_text("wrong-horse-battery")
        assert "does not take this token" in run("--once", daemon.place, "--token-file", tmp_path / "token").stderr
        (tmp_path / "token").write_text("two words")
        assert "holds no token" in run("--once", daemon.place, "--token-file", tmp_path / "token").stderr


def test_real_daemon_by_its_settings(tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test\n")
    token.chmod(0o600)
    with real_daemon(tmp_path, f'listen = "127.0.0.1:0"\ntoken_file = "{token}"') as daemon, contextlib.ExitStack() as stack:
        place = url_of(daemon)
        stack.enter_context(load(daemon))
        top = stack.enter_context(Terminal(place, "--token-file", token))
        top.wait(has("python"), "the pools")
        top.keys("5")
        top.wait(has("succeeded"), "a verdict")
        top.keys("3")
        top.wait(has("red (uid:0)"), "a tenant")
        first = json.loads(run("--json", place, "--token-file", token).stdout)
        assert first["daemon"]["instance"] == daemon.instance
        top.keys("q")
        assert top.end() == 0
