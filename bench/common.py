# Code that the benchmarks share: the environment's stamp, a template's image as a folder, a
# throw-away daemon with pools of a chosen size, and the engines' reports.
import concurrent.futures
import contextlib
import datetime
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[1]
STATE_DIR = os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly")
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
ENGINE_SECONDS_MAX = 600


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def cpu_ticks():
    """(all ticks, the stolen ones)"""
    with open("/proc/stat") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]
    return sum(ticks), ticks[7]


def compiler(build):
    """The compiler and flags of the measured build."""
    said = "".join(path.read_text() for path in build.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"))
    found = dict(re.findall(r'set\(CMAKE_CXX_COMPILER_(ID|VERSION) "([^"]*)"\)', said))
    cache = dict(re.findall(r"(?m)^(CMAKE_[A-Z_]+):\w+=(.*)$", (build / "CMakeCache.txt").read_text()))
    kind = cache.get("CMAKE_BUILD_TYPE", "?")
    flags = f"{cache.get('CMAKE_CXX_FLAGS', '')} {cache.get(f'CMAKE_CXX_FLAGS_{kind.upper()}', '')}".strip()
    return {"compiler": f"{found.get('ID', '?')} {found.get('VERSION', '?')}", "build": kind, "flags": flags}


def cgroup_mode():
    with open("/proc/self/mountinfo") as mounts:
        kinds = {line.split(" - ")[1].split()[0] for line in mounts if " - cgroup" in line}
    return {frozenset(["cgroup2"]): "v2", frozenset(["cgroup"]): "v1"}.get(frozenset(kinds), "hybrid")


class Environment:
    """The stamp of a report. Created before the measurement; call `stamp` after it."""

    def __init__(self, build):
        git = lambda *words: subprocess.run(["git", "-C", TOP, *words], capture_output=True, text=True)  # noqa: E731
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                    if line.startswith("model name")), "?")
        release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
        changed = git("status", "--porcelain", "--untracked-files=no")
        self.began = {
            "time": self.now(), "commit": git("rev-parse", "HEAD").stdout.strip() or "no git",
            "dirty": changed.returncode != 0 or changed.stdout != "", **compiler(build),
            "kernel": platform.release(), "system": release.get("PRETTY_NAME", "?").strip('"'), "cpu": cpu,
            "cores": os.cpu_count(), "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "cgroups": cgroup_mode(), "bwrap": output("bwrap", "--version").strip(),
            "load_before": os.getloadavg(),
        }
        self.ticks = cpu_ticks()

    @staticmethod
    def now():
        return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    def stamp(self):
        ticks, stolen = (now - then for now, then in zip(cpu_ticks(), self.ticks))
        return {**self.began, "ended": self.now(), "load_after": os.getloadavg(),
                "stolen_share": round(stolen / max(1, ticks), 4)}


def in_private_mounts():
    """Restarts the program in a mount namespace of its own, so that its mounts never outlive it."""
    if "MAYFLY_BENCH_MOUNTS" not in os.environ:
        os.environ["MAYFLY_BENCH_MOUNTS"] = "private"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


@contextlib.contextmanager
def image_root(build, template):
    """The template's image, mounted read-only."""
    listed = json.loads(output(str(build / "bin/mayfly"), "image", "list", "--json", "--state-dir", STATE_DIR))
    found = [image["path"] for image in listed["images"] if image["template"] == template]
    if not found:
        raise SystemExit(f"bench: template '{template}' has no image; run ./dev setup")
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as folder:
        subprocess.run(["mount", "-t", "erofs", "-o", "ro,nosuid,nodev", found[0], folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


class Daemon:
    """mayflyd with its defaults, except for its templates, their pools' sizes (one for all, or by
    template), the age at which zygotes are renewed (by template), and settings. `with` ends it."""

    numbers = itertools.count()

    def __init__(self, build, templates, pool=None, loopback=True, settings="", renew_after=None,
                 beside=()):
        self.build, self.templates, self.pool = build, templates, pool
        self.renew_after = renew_after or {}
        self.loopback, self.settings = loopback, settings
        self.beside_templates = beside  # folders of templates that do not come with Mayfly

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-bench-", dir="/run"))
        self.folder.chmod(0o755)
        self.instance = f"bench-{os.getpid()}-{next(Daemon.numbers)}"
        self.socket = str(self.folder / "mayfly.sock")
        shutil.copytree(TOP / "templates", self.folder / "templates")
        for template in self.beside_templates:
            shutil.copytree(template, self.folder / "templates" / template.name)
        for name in self.templates:
            pool = self.pool.get(name) if isinstance(self.pool, dict) else self.pool
            self._change(self.folder / "templates" / name / "manifest.toml", pool, self.renew_after.get(name))
        (self.folder / "mayflyd.toml").write_text(self.settings)
        self.log = self.folder / "log"
        read, write = os.pipe()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [self.build / "bin/mayflyd", "--config", self.folder / "mayflyd.toml",
                 "--instance", self.instance, "--socket", self.socket, "--run-dir", self.folder,
                 "--state-dir", STATE_DIR, "--templates", self.folder / "templates",
                 "--ready-fd", str(write), *[f"--template={name}" for name in self.templates]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(write,))
        os.close(write)
        with open(read, "rb", buffering=0) as ready:
            if ready.read(6) != b"ready\n":  # the daemon's end closes the pipe
                said = self.log.read_text(errors="replace")
                self.__exit__()
                raise SystemExit(f"bench: mayflyd did not get ready:\n{said[-2000:]}")
        return self

    def _change(self, manifest, pool, renew_after):
        text = manifest.read_text()
        if pool is not None:
            text = re.sub(r"(?ms)^\[pool\]\n.*?(?=^\[|\Z)", "", text)
            text += f"\n[pool]\nmin = {pool}\nmax = {pool}\n"
        if renew_after is not None:
            text, count = re.subn(r"(?m)^\[zygote\]$", f"[zygote]\nrenew_after = \"{renew_after}\"", text)
            assert count == 1, manifest
        if not self.loopback:
            text, count = re.subn(r"(?m)^loopback = true", "loopback = false", text)
            assert count == 1, manifest
        manifest.write_text(text)

    def __exit__(self, *unused):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            print("bench: mayflyd did not stop", file=sys.stderr)
        shutil.rmtree(self.folder)
        shutil.rmtree(pathlib.Path(STATE_DIR) / "instances" / self.instance, ignore_errors=True)

    def load(self, *flags):
        return engine(self.build, "load", "--socket", self.socket, *flags)

    def template(self, name):
        """The daemon's report on a template."""
        told = output(str(self.build / "bin/mayfly"), "--socket", self.socket, "templates", "--json")
        return next(each for each in json.loads(told)["templates"] if each["name"] == name)

    @contextlib.contextmanager
    def beside(self, *loads):
        """Repeats each load as long as the block runs; yields their reports, by load."""
        over, reports = threading.Event(), [[] for _ in loads]

        def run(flags, to):
            while not over.is_set():
                to.append(self.load(*flags))

        with concurrent.futures.ThreadPoolExecutor(len(loads)) as pool:
            running = [pool.submit(run, *each) for each in zip(loads, reports)]
            try:
                yield reports
            finally:
                over.set()
            for each in running:
                each.result()

    def parked_memory_bytes(self):
        """The charge of each parked box's cgroup, the kernel's part included."""
        tops = [line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup" in line]
        found = []
        for top in tops:
            for name in ("memory.usage_in_bytes", "memory.current"):
                found += pathlib.Path(top).glob(f"mayfly/{self.instance}/t*/b*/{name}")
        return sorted(int(each.read_text()) for each in found)


@contextlib.contextmanager
def instant(build):
    """A daemon without boxes, in which every task succeeds at once; yields its socket."""
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-", dir="/run") as folder:
        path = pathlib.Path(folder) / "instant.sock"
        process = subprocess.Popen([build / "bin/mayfly-bench-instant", path], stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + READY_SECONDS_MAX
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("bench: mayfly-bench-instant did not get ready")
                time.sleep(0.01)
            yield path
        finally:
            process.terminate()
            process.wait(STOP_SECONDS_MAX)


def engine(build, name, *flags):
    """Runs mayfly-bench-NAME and returns its report."""
    done = subprocess.run([build / f"bin/mayfly-bench-{name}", *map(str, flags)], capture_output=True,
                          text=True, timeout=ENGINE_SECONDS_MAX)
    if done.returncode != 0:
        raise SystemExit(f"bench: mayfly-bench-{name} {' '.join(map(str, flags))} ended with "
                         f"{done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def aligned(rows, right=()):
    """Rows of text as a table; the columns in `right` are flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "".join("  ".join(f"{text:{'>' if i in right else '<'}{width}}"
                             for i, (text, width) in enumerate(zip(row, widths))).rstrip() + "\n" for row in rows)


def written(folder, name, environment, content, table):
    """Writes NAME.json, with the environment stamped, and NAME.txt; returns the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    stamp = environment.stamp()
    path.write_text(json.dumps({"environment": stamp, **content}, indent=1) + "\n")
    head = (f"{stamp['time']}, commit {stamp['commit'][:12]}{', dirty' if stamp['dirty'] else ''}, {stamp['build']} by "
            f"{stamp['compiler']}\n{stamp['cores']} cores, {stamp['cpu']}, kernel {stamp['kernel']}, cgroups "
            f"{stamp['cgroups']}, load {stamp['load_before'][0]:.1f} before and {stamp['load_after'][0]:.1f} after\n")
    (folder / f"{name}.txt").write_text(head + "\n" + table)
    return path
