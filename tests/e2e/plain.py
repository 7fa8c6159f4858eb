"""Runs programs as tasks and plain, and compares what each run showed.

Plain is the bare interpreter of the same image, in a box of the same template: one task
starts a row of programs there one after another (`plain_runner.py`, `.pl`, `.js`), each with what a task of its own finds: arguments, environment, pipes, files in /task.
"""

import base64
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re

HERE = pathlib.Path(__file__).parent
IN_FLIGHT = 4
PLAIN_ROW_MAX = {"python": 60, "python-data": 10, "perl": 60, "node": 60}  # programs of one plain task
PLAIN_SECONDS_MAX = 600
RUNNERS = {"python": "plain_runner.py", "python-data": "plain_runner.py", "perl": "plain_runner.pl", "node": "plain_runner.js"}
KEPT = pathlib.Path("/var/cache/mayfly/plain")
KEPT_ROWS_MAX = 200
FRESH = bool(os.environ.get("MAYFLY_PLAIN_ANEW"))  # `./dev check` keeps nothing
SCRIPTS = {"python": "script.py", "python-data": "script.py", "perl": "script.pl", "node": "script.js"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and how it is started; `kind` is one of file, string, stdin, module, folder.

    module: `script` is its name, the module is among `files`. folder: `script` is its name, `source` its
    __main__.py, and `files` below it come along with it.
    """

    name: str
    source: bytes
    kind: str = "file"
    args: tuple = ("one", "two words")
    env: tuple = ()  # of NAME=VALUE
    files: tuple = ()  # of (name below /task, content)
    template: str = "python"
    options: tuple = ()  # of `mayfly run`
    script: str = ""  # its file's name, if it matters
    masks: tuple = ()  # of (pattern, words): text that differs between two plain runs

    def __str__(self):
        return self.name

    @property
    def file(self):
        return self.script or SCRIPTS[self.template]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The visible outcome of a run. `code` is minus the signal if a signal ended it."""

    code: object
    stdout: str
    stderr: str
    files: dict

    def __str__(self):
        files = "".join(f"\n{name}: {content!r}" for name, content in self.files.items())
        return f"code: {self.code}\nstdout:\n{self.stdout}\nstderr:\n{self.stderr}{files}"


# Text that differs between two runs of one program: addresses, threads, processes, names of temporary files.
VOLATILE = ((re.compile(r"0x[0-9a-fA-F]{6,}|(?<=\bstarted )\d{9,}|(?<=\{)\d{12,}(?=:)"), "0x"), (re.compile(r"pid=\d+"), "pid=N"),
            (re.compile(r"\btmp[a-z0-9_]{8}\b"), "tmp-name"))
# A journal of SQLite begins with random bytes.
RANDOM_FILES = ("-journal", "-wal", "-shm")


def outcome(case, code, stdout, stderr, files):
    def text(content):
        content = content if isinstance(content, str) else content.decode("utf-8", "backslashreplace")
        for pattern, word in (*VOLATILE, *case.masks):
            content = re.sub(pattern, word, content)
        return content

    known = {text(name): len(content) if name.endswith(RANDOM_FILES) else text(content) for name, content in files.items()}
    return Outcome(code, text(stdout), text(stderr), known)


def stream(result, name):
    value = result[name]
    return base64.b64decode(value) if result[name + "Base64"] else value.encode()


def words(case, folder):
    """The end of the command line: the program and its arguments."""
    if case.kind in ("file", "folder"):
        return [folder / case.file, *case.args]
    if case.kind == "module":
        return ["-m", case.script, *case.args]
    return ["-c", case.source, *case.args] if case.kind == "string" else ["-", *case.args]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def run_as_task(mayfly, case, folder):
    """Runs the program as a task; if Mayfly itself refuses it, the outcome's code says so."""
    folder.mkdir(parents=True)
    if case.kind != "module":
        put(folder / case.file / "__main__.py" if case.kind == "folder" else folder / case.file, case.source)
    options = ["--json", "-t", case.template, "--output", "64MiB", "--out", folder / "out", *case.options]
    for entry in case.env:
        options += ["--env", entry]
    for number, (name, content) in enumerate(case.files):
        if case.kind == "folder" and name.startswith(case.script + "/"):
            put(folder / name, content)
            continue
        (folder / f"input-{number}").write_bytes(content)
        options += ["--file", f"{folder}/input-{number}:{name}"]
    given = case.source if case.kind == "stdin" else b""
    command = [word if isinstance(word, bytes) else str(word) for word in ("run", *options, *words(case, folder))]
    done = mayfly.raw(command, given)
    try:
        result = json.loads(done.stdout)
    except ValueError:
        return outcome(case, "refused", b"", done.stderr, {})
    code = -result["signal"] if result["verdict"] == "signaled" else result["exitCode"]
    if result["verdict"] not in ("succeeded", "failed", "signaled"):
        code = result["verdict"]
    out = folder / "out"
    files = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return outcome(case, code, stream(result, "stdout"), stream(result, "stderr"), files)


def encoded(content):
    return base64.b64encode(content).decode()


def kept(mayfly, template, *parts):
    """The file that keeps a plain row's outcomes; its name says all that they depend on."""
    info = next(each for each in json.loads(mayfly("templates", "--json").stdout)["templates"] if each["name"] == template)
    manifest = (HERE.parents[1] / "templates" / template / "manifest.toml").read_text()
    facts = [os.uname().release, info["imageDigest"], info["defaults"], manifest, (HERE / RUNNERS[template]).read_text(), *parts]
    return KEPT / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def keep(path, text):
    KEPT.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.rename(path)
    for old in sorted(KEPT.iterdir(), key=lambda each: each.stat().st_mtime)[:-KEPT_ROWS_MAX]:
        old.unlink(missing_ok=True)


def run_plain(mayfly, cases, folder):
    """Runs a row of programs of one template under the bare interpreter; returns the outcomes.

    The bare interpreter does not depend on Mayfly's code, so a row's outcomes are kept for the next session.
    """
    folder.mkdir(parents=True)
    row = [{"kind": case.kind, "script": case.file, "source": encoded(case.source), "args": list(case.args), "env": list(case.env),
            "files": [[name, encoded(content)] for name, content in case.files]} for case in cases]
    (folder / "row.json").write_text(json.dumps(row))
    template = cases[0].template
    file = kept(mayfly, template, row, [str(option) for option in cases[0].options])
    lines = file.read_text() if file.exists() and not FRESH else plain_lines(mayfly, cases, folder)
    found = [json.loads(line) for line in lines.splitlines()]
    assert len(found) == len(cases), lines
    # A program that a busy machine kept from its end may end the next time.
    if (FRESH or not file.exists()) and all(isinstance(each["code"], int) for each in found):
        keep(file, lines)
    return [outcome(case, each["code"], *(base64.b64decode(each[name]) for name in ("stdout", "stderr")),
                    {name: base64.b64decode(content) for name, content in sorted(each["files"].items())})
            for case, each in zip(cases, found, strict=True)]


def plain_lines(mayfly, cases, folder):
    """What the runner printed: a line of JSON for each program."""
    template = cases[0].template
    result = mayfly.run("-t", template, "--file", folder / "row.json", "--timeout", "10m", "--cpu-time", "10m",
                        "--output", "64MiB", *cases[0].options, HERE / RUNNERS[template], timeout=PLAIN_SECONDS_MAX)
    assert result["verdict"] == "succeeded", result
    return stream(result, "stdout").decode()


def rows(cases):
    """Groups of cases that one plain task may run: of one template, with the same options."""
    key = lambda case: (case.template, case.options)
    for _, group in itertools.groupby(sorted(cases, key=key), key):
        group = list(group)
        size = PLAIN_ROW_MAX[group[0].template]
        for begin in range(0, len(group), size):
            yield group[begin : begin + size]


def run_both(mayfly, cases, folder):
    """Each case's name -> (outcome as a task, outcome plain)."""
    with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
        plain = [(row, pool.submit(run_plain, mayfly, row, folder / f"plain-{number}"))
                 for number, row in enumerate(rows(cases))]
        tasks = {case.name: pool.submit(run_as_task, mayfly, case, folder / f"task-{number}")
                 for number, case in enumerate(cases)}
        expected = {case.name: each for row, future in plain for case, each in zip(row, future.result(), strict=True)}
        return {case.name: (tasks[case.name].result(), expected[case.name]) for case in cases}


def selected(request, name):
    """The cases that this run of pytest selected, so that a single case does not wait for all."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return [item.callspec.params[name] for item in items if name in item.callspec.params]
