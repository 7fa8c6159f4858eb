"""./dev: what the demo builds and what a set-up does, with other programs in the places of CMake and Mayfly. No daemon
is needed."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
SECONDS_MAX = 120
DEMO_TEMPLATES = ["python-data", "python"]
TEMPLATES = ["node", "perl", "python", "python-data", "shell"]

# Each program writes its name and arguments to `calls`. Images and the last build wait for each other: if one began
# after the other, it would fail.
MEET = """
meet() {
  : >"$1"
  for _ in $(seq 600); do [ ! -e "$2" ] || return 0; sleep 0.1; done
  echo "$1 is not made beside $2"
  exit 1
}
"""
PROGRAMS = {
    "bin/dpkg-query": 'printf "ii  %s\\n" "${@:4}"\n',
    "bin/cmake": MEET + """
echo "cmake $*" >>"$CALLS"
case "$*" in
  --preset*) exit 0 ;;
  *--target\\ mayfly\\ *) exit 0 ;;
esac
[ ! -e "$HERE/broken" ] || { echo "a mistake in a source"; exit 2; }
meet "$HERE/compiling" "$HERE/packing"
""",
    "build/bin/mayfly": MEET + """
echo "mayfly $*" >>"$CALLS"
[ ! -e "$HERE/broken" ] || exec sleep 300
meet "$HERE/packing" "$HERE/compiling"
""",
    "build/bin/mayflyd": """
echo "mayflyd $*" >>"$CALLS"
trap "exit 0" TERM
echo ready >&9
exec 9>&-
for _ in $(seq 600); do sleep 0.1; done
""",
    "docs/demo/with-shop": 'exec ./dev with-daemon "$@"\n',
    "docs/demo/run": 'echo "demo $*" >>"$CALLS"\n',
    "clients/typescript/scripts/build-into": 'echo typescript >>"$CALLS"\n',
    "clients/go/build-into": 'echo go >>"$CALLS"\n',
}


class Checkout:
    def __init__(self, folder):
        self.folder, self.calls = folder, folder / "calls"
        shutil.copy(TOP / "dev", folder / "dev")
        for name, text in PROGRAMS.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/bash\n" + text)
            path.chmod(0o755)
        for venv, needs in (("venv", "clients/python/tests/requirements.txt"),
                            ("broker-venv", "tests/broker/requirements.txt")):
            (folder / needs).parent.mkdir(parents=True)
            (folder / needs).write_text("pycapnp==1\n")
            (folder / "build" / venv).mkdir()
            key = subprocess.run(f"{{ /usr/bin/python3 -V; cat {needs}; }} | sha256sum", shell=True, cwd=folder, check=True,
                                 capture_output=True).stdout
            (folder / "build" / venv / "key").write_bytes(key)
        self.environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "CALLS": str(self.calls),
                            "HERE": str(folder), "MAYFLY_STATE_DIR": str(folder / "state"), "MAYFLY_JOBS": "2"}
        for name in ("MAYFLY_BUILD", "MAYFLYD_FLAGS", "MAYFLY_SOCKET", "MAYFLY_INSTANCE"):
            self.environment.pop(name, None)

    def dev(self, *words):
        return subprocess.run([self.folder / "dev", *words], env=self.environment, capture_output=True, text=True,
                              timeout=SECONDS_MAX)

    def called(self, program):
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == program]

    def targets(self):
        """The targets of each build in turn; all of them are []."""
        builds = [words for words in self.called("cmake") if words[0] == "--build"]
        return [words[words.index("--target") + 1:] if "--target" in words else [] for words in builds]

    def images(self):
        return [words[6:] for words in self.called("mayfly") if words[0] == "image"]


@pytest.fixture
def checkout(tmp_path):
    if os.getuid() != 0:
        pytest.skip("./dev makes images as root")
    return Checkout(tmp_path)


def test_the_demo_builds_only_its_programs_and_its_images_beside_the_daemon(checkout):
    done = checkout.dev("demo", "one")
    assert done.returncode == 0, done.stderr
    first, second = checkout.targets()
    assert first[0] == "mayfly" and second == ["mayflyd", "mayfly-spawner", "mayfly-broker", "mayfly-snapshot-program"]
    assert not [name for name in first + second if re.search("test|bench|probe|fuzz", name)]
    assert checkout.images() == [DEMO_TEMPLATES]
    assert not checkout.called("typescript") and checkout.calls.read_text().split().count("go") == 0
    (daemon,) = checkout.called("mayflyd")
    assert [daemon[at + 1] for at, word in enumerate(daemon) if word == "--template"] == DEMO_TEMPLATES
    assert checkout.called("demo") == [["one"]]


def test_the_demo_s_templates_are_those_that_it_uses():
    used = set(re.findall(r'(?:"-t", |submit\()"([a-z-]+)"', (TOP / "docs/demo/run").read_text()))
    assert used == set(DEMO_TEMPLATES)


def test_what_the_daemon_starts_is_installed_with_it():
    named = re.findall(r"^(?:image|daemon)_programs=\((.+)\)$", (TOP / "dev").read_text(), re.M)
    installed = re.findall(r"^install\(TARGETS (.+?) (?:RUNTIME|LIBRARY) ", (TOP / "CMakeLists.txt").read_text(), re.M)
    assert sorted(" ".join(named).split()) == sorted(" ".join(installed).split())


def test_a_set_up_makes_all_with_the_images_beside_the_build(checkout):
    done = checkout.dev("setup")
    assert done.returncode == 0, done.stderr
    first, second = checkout.targets()
    assert first[0] == "mayfly" and second == []
    assert checkout.images() == [[]]
    assert [words[:2] for words in checkout.called("mayfly")][-1] == ["snapshot", "build"]
    calls = checkout.calls.read_text().split()
    assert "typescript" in calls and "go" in calls


@pytest.mark.parametrize("verb", ["setup", "demo"])
def test_it_says_first_what_it_will_do_and_how_long(checkout, verb):
    for name in TEMPLATES[:2]:  # of both verbs, an image is missing
        (checkout.folder / "state/index").mkdir(parents=True, exist_ok=True)
        (checkout.folder / f"state/index/{name}.json").write_text("{}")
    said = checkout.dev(verb).stderr.splitlines()
    begun = next(at for at, line in enumerate(said) if line.startswith(("ok ", "   ")) and re.search(r"\d s( |$)", line)
                 and "about" not in line)
    planned = dict(re.fullmatch(r"   (.{22}) (about \d+ s|there: .*)", line).groups() for line in said[1:begun])
    planned = {name.strip(): when for name, when in planned.items()}
    finished = {line[3:25].strip() for line in said if line.startswith("ok ")}
    assert finished <= set(planned), finished - set(planned)
    assert planned["images"].startswith("about") and planned["packages"].startswith("there")
    assert planned["Python client"].startswith("there")


@pytest.mark.parametrize("verb", ["setup", "demo"])
def test_a_broken_build_ends_the_images_at_once(checkout, verb):
    (checkout.folder / "broken").touch()
    begun = time.monotonic()
    done = checkout.dev(verb)
    assert done.returncode == 1 and "a mistake in a source" in done.stderr
    assert time.monotonic() - begun < 100
    assert not checkout.called("mayflyd")
    assert running(checkout) == []


def test_a_signal_ends_every_step(checkout):
    (checkout.folder / "bin/cmake").write_text(
        '#!/bin/bash\necho "cmake $*" >>"$CALLS"\ncase "$*" in *--target\\ mayfly\\ *|--preset*) exit 0 ;; esac\nexec sleep 300\n')
    (checkout.folder / "broken").touch()
    dev = subprocess.Popen([checkout.folder / "dev", "demo"], env=checkout.environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS_MAX
        while len(running(checkout)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(running(checkout)) == 2
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(SECONDS_MAX) == 143
        while running(checkout) and time.monotonic() < deadline:  # killed, but not yet gone
            time.sleep(0.1)
        assert running(checkout) == []
    finally:
        dev.kill()


def running(checkout):
    """The sleeping programs of this checkout."""
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HERE={checkout.folder}\0".encode() in status.read_bytes() and (
                    b"sleep\x00300" in (status.parent / "cmdline").read_bytes()):
                found.append(status.parent.name)
        except OSError:
            pass
    return found
