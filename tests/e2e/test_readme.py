"""README.md is run: every command in it, its Python and its TypeScript, in the reader's order, in a copy of the checkout.

What the README shows as a command's output must come out. In a line of a verdict, `mayfly: ... | ...`, the figures after
the first bar may be others; `...` stands for any lines.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

import pytest

from support import RUN
from template_place import registries  # noqa: F401 (a fixture)

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = TOP / "build/bin"
README = (TOP / "README.md").read_text()
STATE_DIR = os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly")
SECONDS_MAX = 540
LINES_MAX, COLUMNS_MAX = 220, 122  # read in five minutes; the tables of links may be wider

# Commands that these tests do not run, each with the reason.
NOT_RUN = {
    "./dev demo": "it installs and builds; test_dev.py runs that with stand-ins, test_demo.py the demo itself",
    "./dev test": "it runs this test",
    "./dev setup": "it makes what this test needs; test_dev.py runs it with stand-ins",
    "./dev bench goals hit": "it measures for minutes; test_bench.py runs each goal quickly",
    "./dev bench goals beside": "the same",
    "./dev bench goals burst": "the same",
    "./dev bench goals memory": "the same",
    "mayfly bench ladder": "it measures for a minute; test_bench_verbs.py runs it quickly",
    "mayfly top": "it needs a terminal; test_top.py gives it one",
    "bwrap --unshare-all": "the rival in a table, nothing to type",
}
# Which session plays the commands below a heading; the others may hold commands of NOT_RUN only.
SESSION_OF = {"The first task": "shell", "Four promises": "shell", "A task that needs a key": "shop",
              "Keep a daemon running": "service", "Your own template": "template"}


@dataclass
class Step:
    heading: str
    command: str  # without its comment
    shown: list[str] = field(default_factory=list)

    def __str__(self):
        return re.sub(r"\W+", "-", self.command)[:48].strip("-")

    @property
    def exit_code(self):
        return 137 if self.shown and self.shown[-1].startswith("mayfly: memory: ") else 0


def blocks():
    """[(heading, language, lines)] of all fenced blocks."""
    found, heading, language = [], "", None
    for line in README.splitlines():
        if line.startswith("```"):
            language = None if language is not None else line[3:]
            if language is not None:
                found.append((heading, language, []))
        elif language is not None:
            found[-1][2].append(line)
        elif line.startswith("## "):
            heading = line[3:]
    return found


def steps():
    found = []
    for heading, language, lines in blocks():
        for line in lines if language == "console" else []:
            if line.startswith("$ "):
                found.append(Step(heading, re.sub(r"\s+# .*$", "", line[2:])))
            else:
                found[-1].shown.append(line)
    return found


def words_in_the_text():
    """Commands within sentences and tables: what begins with a program and goes on, and `./dev`."""
    text = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", text)
    return sorted({span for span in spans if span.startswith("./") or " " in span and (
        span.split()[0] in ("mayfly", "mayflyd") or shutil.which(span.split()[0]))})


ALL = steps()
IN_TEXT = words_in_the_text()
PLAYED = {name: [step for step in ALL if SESSION_OF.get(step.heading) == name and step.command not in NOT_RUN]
          for name in dict.fromkeys(SESSION_OF.values())}
# Those in the text are run at the end of the first session, before its shell's daemon ends.
PLAYED["shell"] += [Step("in the text", command) for command in IN_TEXT if command not in NOT_RUN]


# --- what the README may hold -------------------------------------------------------------------

def test_no_command_is_left_out():
    assert {language for _, language, _ in blocks()} == {"text", "console", "python", "toml", "ts"}
    outside = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    assert not re.search(r"^(    |\t)", outside, re.M), "an indented block: nobody runs it"
    for step in ALL:
        assert step.heading in SESSION_OF or step.command in NOT_RUN, f"nobody runs `{step.command}`"
    assert sum(map(len, PLAYED.values())) > 20


def test_commands_that_are_not_run_exist_and_are_in_the_readme():
    dev = (TOP / "dev").read_text()
    goals = re.findall(r"\w+", re.search(r"^GOALS = .* in \(([\w\s,]+)\)\}$", (TOP / "bench/goals").read_text(), re.M)[1])
    for command in NOT_RUN:
        assert command in IN_TEXT or command in [step.command for step in ALL], f"{command}: no longer in the README"
        words = command.split()
        if words[0] == "./dev":
            assert re.search(rf"^    {words[1]}\) ", dev, re.M) and re.search(rf"^  {words[1]} ", dev, re.M), command
        if words[1:3] == ["bench", "goals"]:
            assert words[3] in goals, command


def test_files_of_the_checkout_are_shown_as_they_are():
    shown = 0
    for _, language, lines in blocks():
        named = re.fullmatch(r"# (docs/[\w./-]+?)(, in part)?", lines[0]) if language in ("python", "toml") else None
        if named:
            file = (TOP / named[1]).read_text().splitlines()
            rest = iter(file)
            assert all(line in rest for line in lines[1:]) if named[2] else lines[1:] == file, named[1]
            shown += 1
    assert shown == 2


def test_it_is_short():
    lines = README.splitlines()
    assert len(lines) <= LINES_MAX
    assert [line for line in lines if len(line) > COLUMNS_MAX and not line.startswith("|")] == []
    picture = next(lines for _, language, lines in blocks() if language == "text")
    assert all(line.isascii() and len(line) <= 108 for line in picture)


def test_its_figures_are_those_of_the_decisions():
    rows = re.findall(r"^\| (.+) \| `(\./dev bench [^`]+)` \| \[\d+\]\(([^)]+)\) \|$", README.split("## Figures")[1], re.M)
    assert len(rows) >= 4
    for figures, command, decision in rows:
        text = (TOP / decision).read_text()
        told = re.findall(r"\b([\d.]+) (?:ms|MB|s)\b", figures)
        assert told and "./dev bench goals" in text, (figures, command)
        for figure in told:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text), f"{figure}: not in {decision}"


# --- the sessions -----------------------------------------------------------------------------

def pattern_of(shown):
    lines = []
    for line in shown:
        if line == "...":
            lines.append(r"[\s\S]+")
            continue
        head, *rest = line.split(" | ") if line.startswith("mayfly: ") else [line]
        parts = [re.escape(head)]
        for part in rest:
            words = [r"[\d.]+" if re.fullmatch(r"[\d.]+", word) else
                     f"(?:[num]?s|[KMG]?i?B){',' if word[-1] == ',' else ''}" if re.fullmatch(r"([num]?s|[KMG]?i?B),?", word)
                     else re.escape(word) for word in part.split()]
            parts.append(" ".join(words))
        lines.append(r" \| ".join(parts))
    return "\n".join(lines)


def test_the_comparison_tells_other_outputs_apart():
    line = "mayfly: memory: killed at its memory cap of 64 MiB | 21.4 ms, cpu 20.1 ms, peak 64 MiB | box 23 is gone"
    good = "mayfly: memory: killed at its memory cap of 64 MiB | 1.02 s, cpu 999.1 us, peak 640 KiB | box 7 is gone"
    assert re.fullmatch(pattern_of([line]), good)
    for wrong in (good.replace("64 MiB", "65 MiB"), good.replace("is gone", "is there"), good + " | new runtime",
                  good.replace("cpu ", ""), "x" + good, good.replace(" | box 7 is gone", "")):
        assert not re.fullmatch(pattern_of([line]), wrong), wrong
    assert re.fullmatch(pattern_of(["a", "...", "b"]), "a\nx\ny\nb")
    assert not re.fullmatch(pattern_of(["[]"]), "['x']") and not re.fullmatch(pattern_of(["42"]), "43")


class Place:
    """A copy of the checkout with the build of this one, a home for the reader, and a folder for the service."""

    def __init__(self, folder):
        self.folder = folder
        self.checkout, self.home = folder / "mayfly", folder / "home"
        self.home.mkdir()
        (self.checkout / "build").mkdir(parents=True)
        shutil.copy(TOP / "dev", self.checkout)
        unwanted = shutil.ignore_patterns("node_modules", "dist*", "build", "*.egg-info", "__pycache__", "*cache")
        for name in ("templates", "docs", "clients", "include"):
            shutil.copytree(TOP / name, self.checkout / name, symlinks=True, ignore=unwanted)
        for path in (TOP / "build").iterdir():
            (self.checkout / "build" / path.name).symlink_to(path)
        for _, language, lines in blocks():
            named = re.fullmatch(r"(?:#|//) ~/(\S+)", lines[0]) if language in ("python", "ts") else None
            if named:
                file = self.home / named[1]
                file.parent.mkdir(exist_ok=True)
                file.write_text("\n".join(lines) + "\n")
        # Of the daemon around this test, the reader sees nothing; of the machine, pip's and npm's settings.
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("MAYFLY") and not name.startswith("PYTHON")}
        path = [part for part in os.environ["PATH"].split(":") if part and pathlib.Path(part).resolve() != BIN.resolve()]
        self.environment |= {"HOME": str(self.home), "PATH": ":".join(path), "MAYFLY_STATE_DIR": STATE_DIR}
        real = pathlib.Path.home()
        for name, file in (("NPM_CONFIG_USERCONFIG", ".npmrc"), ("PIP_CONFIG_FILE", ".config/pip/pip.conf")):
            if name not in os.environ and (real / file).exists():
                self.environment[name] = str(real / file)
        self.environment.setdefault("NPM_CONFIG_CACHE", str(real / ".npm"))

    def play(self, shell, session, **environment):
        """What each command of a session printed, and its exit code."""
        script = "".join(f"{{ {step.command}\n}} </dev/null\nprintf '\\n@@ %d\\n' $?\n" for step in session)
        with subprocess.Popen(shell, cwd=self.checkout, env=self.environment | environment, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                said, _ = process.communicate(script, timeout=SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.terminate()
                said, _ = process.communicate(timeout=60)
        parts = re.split(r"\n@@ (\d+)\n", said)
        return [(parts[at].strip("\n"), int(parts[at + 1])) for at in range(0, len(parts) - 1, 2)], said


@pytest.fixture(scope="module")
def place():
    if os.geteuid() != 0:
        pytest.skip("the README's reader is root")
    if not (TOP / "build/typescript/dist").exists():
        pytest.skip("`./dev setup` has not built the TypeScript client")
    with tempfile.TemporaryDirectory(prefix="mayfly-readme-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # another user runs what the service installs
        yield Place(pathlib.Path(folder))


def compare(step, played):
    outputs, said = played
    at = next(at for at, each in enumerate(PLAYED[SESSION_OF.get(step.heading, "shell")]) if each is step)
    assert at < len(outputs), f"the session ended before `{step.command}`: {said[-2000:]}"
    output, code = outputs[at]
    assert code == step.exit_code, f"$ {step.command}\n{output[-3000:]}"
    if step.shown:
        assert re.fullmatch(pattern_of(step.shown), output.rstrip()), f"$ {step.command}\n{output[-3000:]}"


@pytest.fixture(scope="module")
def shell(place, registries):  # noqa: F811
    """The first command gives the shell in which all others are typed."""
    first, *others = PLAYED["shell"]
    assert first.command == "./dev with-daemon bash"
    outputs, said = place.play(shlex.split(first.command), others,
                               MAYFLYD_FLAGS="--template python --template python-data")
    return [("", 0), *outputs], said


@pytest.mark.parametrize("step", PLAYED["shell"], ids=str)
def test_the_first_task_and_the_promises(step, shell):
    compare(step, shell)


@pytest.fixture(scope="module")
def shop(place):
    first, *others = PLAYED["shop"]
    assert first.command == "docs/demo/with-shop bash"
    outputs, said = place.play(shlex.split(first.command), others, MAYFLYD_FLAGS="--template python")
    return [("", 0), *outputs], said


@pytest.mark.parametrize("step", PLAYED["shop"], ids=str)
def test_a_task_that_needs_a_key(step, shop):
    compare(step, shop)


@pytest.fixture(scope="module")
def template(place, registries):  # noqa: F811
    return place.play(["bash"], PLAYED["template"], PATH=f"{BIN}:{place.environment['PATH']}",
                      MAYFLY_STATE_DIR=str(place.folder / "state"))


@pytest.mark.parametrize("step", PLAYED["template"], ids=str)
def test_an_own_template(step, template):
    compare(step, template)


# The mounts and files of a service's host are this session's own: /etc, /usr/local, /run/mayfly. `systemctl` is ours,
# because no systemd runs here: it checks the unit with systemd-analyze, then does what the unit says.
PRIVATE = """
mount --bind "$PLACE/etc" /etc && mkdir -p /run/mayfly && mount -t tmpfs tmpfs /run/mayfly || exit
groupdel mayfly 2>/dev/null
id alice >/dev/null 2>&1 || useradd --no-create-home alice || exit
exec bash
"""
SYSTEMCTL = '''#!/usr/bin/python3
import configparser, os, resource, shlex, shutil, socket, subprocess, sys
place = os.environ["PLACE"]
assert sys.argv[1:] == ["enable", "--now", "mayfly"], sys.argv
subprocess.run(["mount", "--bind", os.environ["DESTDIR"] + "/usr/local", "/usr/local"], check=True)
unit = "/usr/local/lib/systemd/system/mayfly.service"
if shutil.which("systemd-analyze"):
    units = [unit, unit.replace(".service", "-snapshots.service"), unit.replace(".service", "-snapshots.timer")]
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert checked.returncode == 0 and "mayfly" not in checked.stderr, checked
parsed = configparser.ConfigParser(interpolation=None)
parsed.optionxform = str
parsed.read(unit)
service = parsed["Service"]
assert service["Type"] == "notify" and service["KillMode"] == "mixed"
files = min(int(service["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(place + "/notify")
manager.settimeout(120)
with open(place + "/log", "ab") as log:
    daemon = subprocess.Popen(
        [*shlex.split(service["ExecStart"]), *shlex.split(os.environ["FLAGS"])], cwd="/", stdin=subprocess.DEVNULL,
        stdout=log, stderr=log, start_new_session=True, env={"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": place + "/notify"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
with open(place + "/pid", "w") as file:
    file.write(str(daemon.pid))
assert manager.recv(64) == b"READY=1"
'''


@pytest.fixture(scope="module")
def service(place):
    folder = place.folder / "service"
    (folder / "bin").mkdir(parents=True)
    subprocess.run(["cp", "-a", "/etc", folder / "etc"], check=True)
    (folder / "bin/systemctl").write_text(SYSTEMCTL)
    (folder / "bin/systemctl").chmod(0o755)
    try:
        yield place.play(["unshare", "--mount", "--propagation", "private", "bash", "-c", PRIVATE], PLAYED["service"],
                         PLACE=str(folder), DESTDIR=str(folder / "installed"),
                         PATH=f"{folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                         FLAGS=f"--instance t-{RUN}-readme --socket /run/mayfly/default.sock --state-dir {STATE_DIR} "
                               "--template python")
    finally:
        if (folder / "pid").exists():
            end((folder / "pid").read_text(), folder / "log")


def end(pid, log):
    """Stops the service as its unit says, and sees that it ends well."""
    os.kill(int(pid), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while pathlib.Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    said = log.read_text()
    assert said.splitlines()[-1].endswith(" info stopped"), said[-3000:]


@pytest.mark.parametrize("step", PLAYED["service"], ids=str)
def test_a_daemon_is_kept_running(step, service):
    compare(step, service)


def test_its_typescript_is_typed(place):
    """The example compiles as TypeScript, with the settings that the client's README gives."""
    (example,) = (place.home / "first").glob("*.mjs")
    project = place.folder / "typed"
    (project / "node_modules").mkdir(parents=True)
    (project / "example.mts").write_text(example.read_text())
    settings = re.search(r"^```json\n(.*?)^```$", (TOP / "clients/typescript/README.md").read_text(), re.M | re.S)[1]
    (project / "tsconfig.json").write_text(settings)
    built = TOP / "build/typescript"
    (project / "node_modules/mayfly").symlink_to(built)
    for name in ("@types", "undici-types"):
        (project / "node_modules" / name).symlink_to(built / "node_modules" / name)
    done = subprocess.run(["node", built / "node_modules/typescript/bin/tsc", "-p", project], capture_output=True,
                          text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stdout
    assert (project / "example.mjs").exists()
