# The measurements of the broker's cost that bench/broker and bench/goals share. The sides of each
# comparison take turns within one run; a ratio is the median of those of the rounds.
import contextlib
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile

import common

DIRECT, RELAYS = "direct", "relays"
DOORS = {"tcp": ("--port", 80), "unix": ("--local", "/run/broker.sock")}
SIDES = (DIRECT, RELAYS, *DOORS)
ACTION = "bench"
PARKED = 16
SATURATING = 16  # connections at a time
SECONDS_MAX = 300

POLICY = """
[bounds]
calls_max = 10000
calls_per_user_max = 10000
calls_per_task_max = 1000
connections_per_task_max = 1000

[secrets.key]
file = "{folder}/key"

[http.bench]
upstream = "http://127.0.0.1:{port}"
plaintext = true
paths = ["/**"]
users = ["*"]
allow_addresses = ["127.0.0.1"]
task = {{calls = 1000000000, bytes = "1TiB", calls_per_minute = 1000000000, parallel = 1000}}
tenant = {{calls_per_minute = 1000000000, parallel = 10000, bytes_per_minute = "1TiB"}}
all = {{calls_per_minute = 1000000000, parallel = 10000, bytes_per_minute = "1TiB"}}

[http.bench.auth]
kind = "header"
prefix = "Bearer "
secret = "key"
"""


@contextlib.contextmanager
def upstream(build, *words):
    """Yields the port on 127.0.0.1 of an upstream, or of what else mayfly-bench-http shall be."""
    process = subprocess.Popen([build / "bin/mayfly-bench-http", *map(str, words or ("serve",))], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def policy_file(port):
    """The settings' line that names a policy whose action leads to our upstream."""
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-", dir="/run") as folder:
        folder = pathlib.Path(folder)
        (folder / "key").write_text("no-key-of-any-upstream\n")
        (folder / "key").chmod(0o600)
        path = folder / "policy.toml"
        path.write_text(POLICY.format(folder=folder, port=port))
        yield f"broker_policy = '{path}'\n"


# `curl`, the goal's client: how many GETs on one connection, and how many before them. The others: the words of
# mayfly-bench-http, which does less for a GET than any HTTP client, and the path.
def kinds(quick):
    few = lambda words: (*words, "--count", 20, "--warm-up", 5)  # noqa: E731
    return {
        "curl": ((20, 5) if quick else (3_000, 300), "/hello"),
        "kept": (few(()) if quick else ("--count", 3_000, "--warm-up", 300), "/hello"),
        "new": (few(("--new",)) if quick else ("--new", "--count", 800, "--warm-up", 50), "/hello"),
        "stream": (("--count", 3 if quick else 20, "--warm-up", 1), "/stream"),
        "saturated": (("--connections", SATURATING, "--seconds", 0.5 if quick else 2), "/hello"),
    }


def curl_bundle(folder):
    """The host's curl with its libraries and their loader, for boxes whose images have none."""
    program = shutil.which("curl") or sys.exit("bench: no curl on this host")
    needed = [word for line in common.output("ldd", program).splitlines() for word in line.split() if word.startswith("/")]
    loader = next(path for path in needed if "/ld-linux" in path)
    with tarfile.open(folder / "curl.tar", "w", dereference=True) as tar:
        for path in needed:
            tar.add(path, "curl/" + pathlib.Path(path).name)
        tar.add(program, "curl/curl")
    with tarfile.open(folder / "curl.tar") as tar:
        tar.extractall(folder)
    return ["curl/" + pathlib.Path(loader).name, "--library-path", "curl", "curl/curl"]


class Gets:
    """The same GETs from the host straight to the upstream, from there through two processes that only pass bytes on,
    and from boxes through each door. `with` ends it."""

    def __init__(self, build):
        self.build, self.program = build, build / "bin/mayfly-bench-http"
        self.reports = {}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.port = stack.enter_context(upstream(self.build))
            second = stack.enter_context(upstream(self.build, "relay", "--to", self.port))
            first = stack.enter_context(upstream(self.build, "relay", "--to", second))
            self.ports = {DIRECT: self.port, RELAYS: first}
            self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mayfly-bench-")))
            self.curl = curl_bundle(self.folder)
            settings = stack.enter_context(policy_file(self.port))
            self.daemon = stack.enter_context(common.Daemon(self.build, ["shell"], pool=2, settings=settings))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *why):
        return self.stack.__exit__(*why)

    def in_box(self, file, name, prepare, words):
        return [self.build / "bin/mayfly", "--socket", self.daemon.socket, "run", "-q", "-t", "shell", "--grant", ACTION,
                "--wall-time", f"{SECONDS_MAX}s", "--cpu-time", f"{SECONDS_MAX}s", "--input", "64MiB", "--file", f"{file}:{name}",
                "--", "sh", "-c", f"{prepare} && exec \"$@\"", "sh", *words]

    def said(self, side, path, command, **more):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=SECONDS_MAX, **more)
        if done.returncode != 0:
            raise SystemExit(f"bench: {side} GETs of {path} ended with {done.returncode}:\n{done.stdout[-2000:]}"
                             f"{done.stderr[-2000:]}")
        return done.stdout

    def once(self, side, kind, words, path):
        if kind == "curl":
            return self.curl_once(side, *words, path)
        if side in self.ports:
            command = [self.program, "get", "--port", self.ports[side], "--path", path, *words]
        else:
            inner = ["./http", "get", *DOORS[side], "--path", f"/cap/{ACTION}{path}", *words]
            command = self.in_box(self.program, "http", "chmod +x http", inner)
        return json.loads(self.said(side, path, command))

    def curl_once(self, side, count, warm_up, path):
        place = {**{name: [f"http://127.0.0.1:{port}{path}"] for name, port in self.ports.items()}, "tcp": [f"http://127.0.0.1/cap/{ACTION}{path}"],
                 "unix": ["--unix-socket", DOORS["unix"][1], f"http://localhost/cap/{ACTION}{path}"]}[side]
        place[-1] += f"/[1-{warm_up + count}]"
        words = [*self.curl, "-q", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{num_connects} %{time_total}\\n", *place]
        if side in self.ports:
            said = self.said(side, path, words, cwd=self.folder)
        else:
            said = self.said(side, path, self.in_box(self.folder / "curl.tar", "curl.tar", "tar xf curl.tar", words))
        lines = [line.split() for line in said.splitlines()]
        if len(lines) != warm_up + count or [line[:2] for line in lines[1:]] != [["200", "0"]] * (len(lines) - 1):
            raise SystemExit(f"bench: {side} GETs of {path} by curl failed, or not on one connection:\n{said[-2000:]}")
        times = sorted(float(line[2]) * 1e9 for line in lines[warm_up:])
        return {"whole": {"p50_ns": times[len(times) // 2], "p99_ns": times[len(times) * 99 // 100]}}

    def measure(self, rounds, quick, only=None):
        for i in range(rounds):
            for kind, (words, path) in kinds(quick).items():
                if only is not None and kind not in only:
                    continue
                for side in SIDES[i % len(SIDES):] + SIDES[:i % len(SIDES)]:
                    self.reports.setdefault((kind, side), []).append(self.once(side, kind, words, path))
        return self

    def figure(self, kind, side, pick):
        return statistics.median(pick(report) for report in self.reports[kind, side])

    def ratio(self, kind, side, pick, to=DIRECT):
        return statistics.median(pick(a) / pick(b) for a, b in zip(self.reports[kind, side], self.reports[kind, to]))


def interval(values):
    """The mean, and the ends of its 95 % confidence interval by Student's t."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, -math.inf, math.inf
    free, z = count - 1, 1.959964
    t = (z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
         + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3))
    half = t * statistics.stdev(values) / math.sqrt(count)
    return mean, mean - half, mean + half


def ratio_interval(of, to):
    """The same for the ratio of pairs: the geometric mean of the pairs' own."""
    return tuple(math.exp(x) for x in interval([math.log(a / b) for a, b in zip(of, to)]))


class Ungranted:
    """Tasks without grants on two daemons, one of them with a policy; a rate of cycles and parked hits."""

    def __init__(self, build):
        self.build = build
        self.reports = {}

    def measure(self, rounds, quick):
        hits = ("--pool", PARKED, "--rate", 25, "--count", 12 if quick else 50, "--warm-up", 5)
        cycles = ("--captured", "--seconds", 0.5 if quick else 2, "--outstanding", 4, "--warm-up", 10)
        with upstream(self.build) as port, policy_file(port) as policy:
            for kind, words, pool, more in (("hit", hits, PARKED, ""), ("cycles", cycles, None, "parked_max = 0\n")):
                with common.Daemon(self.build, ["python"], pool=pool, settings=more) as plain, \
                        common.Daemon(self.build, ["python"], pool=pool, settings=more + policy) as broker:
                    for i in range(rounds):
                        turn = [("plain", plain), ("policy", broker)]
                        for name, daemon in turn if i % 2 == 0 else turn[::-1]:
                            self.reports.setdefault((kind, name), []).append(daemon.load(*words))
        return self

    def figure(self, kind, name, pick):
        return statistics.median(pick(report) for report in self.reports[kind, name])

    def ratio(self, kind, pick):
        return ratio_interval(*([pick(report) for report in self.reports[kind, name]] for name in ("policy", "plain")))


class Doors:
    """What the doors add to the making of a box, and what a message to the spawner and its answer take: both with the
    real spawner and without a daemon."""

    def __init__(self, build):
        self.build, self.with_us, self.without_us, self.ping_us = build, [], [], []

    def floor(self, *flags):
        return common.engine(self.build, "floor", "--templates", common.TOP / "templates", "--state-dir",
                             common.STATE_DIR, "--template", "python", *flags)

    def measure(self, rounds, quick):
        make = ("--mode", "make", "--count", 12 if quick else 110, "--warm-up", 2 if quick else 10)
        for i in range(rounds):
            for doors in (True, False) if i % 2 == 0 else (False, True):
                report = self.floor(*make, *(["--doors"] if doors else []))
                (self.with_us if doors else self.without_us).append(report["steps"]["boxReady"]["p50_ns"] / 1e3)
            ping = self.floor("--mode", "ping", "--count", 200 if quick else 2_000, "--warm-up", 100)
            self.ping_us.append(ping["service"]["p50_ns"] / 1e3)
        return self

    def added_us(self):
        return interval([a - b for a, b in zip(self.with_us, self.without_us)])
