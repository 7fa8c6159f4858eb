"""Own packages in a template: init, build, check.

What is right is built once per session and served by one daemon; root trees and
downloads stay in the cache of the machine, images do not.
"""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import secrets
import socket
import subprocess
import tempfile
import threading
import zipfile

import pytest

from pool_view import mounted
from support import CLI
from test_lifecycle import BINARIES, Daemon

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
              pytest.mark.usefixtures("registries")]

RUNTIME = BINARIES
CACHE = pathlib.Path("/var/cache/mayfly")
SECONDS_MAX = 900  # of a build with a bootstrap
SITE = "/usr/local/lib/python3.13/dist-packages"


def header(name, base="python"):
    return f'name = "{name}"\ndescription = "made by a test"\nbase = "{base}"\n'


class Place:
    """A folder of templates, with its own folder of images."""

    def __init__(self, folder):
        self.dir = folder / "templates"
        self.state = folder / "state"
        self.dir.mkdir(parents=True)

    def put(self, name, text, base="python", **files):
        folder = self.dir / name
        folder.mkdir(exist_ok=True)
        (folder / "manifest.toml").write_text(header(name, base) + text)
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    def __call__(self, verb, *args, prefix=(), check=None, **kwargs):
        words = [*prefix, CLI, "template", verb, *map(str, args), "--templates", str(self.dir)]
        if verb != "init":
            words += ["--state-dir", str(self.state), "--runtime-dir", str(RUNTIME)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX, **kwargs)
        if check is not None:
            assert done.returncode == check, (done.stdout, done.stderr)
        return done

    def build(self, name, *args, **kwargs):
        return json.loads(self("build", name, "--json", *args, check=0, **kwargs).stdout)

    def check(self, name, *args, expect=0):
        return json.loads(self("check", name, "--json", "--clones", 3, *args, check=expect).stdout)

    def refusal(self, name, *args, **kwargs):
        return self("build", name, *args, check=1, **kwargs).stderr

    def lock(self, name):
        return json.loads((self.dir / name / "manifest.lock").read_text())

    def image(self, name):
        listed = subprocess.run([CLI, "image", "list", "--json", "--state-dir", str(self.state)], capture_output=True,
                                check=True, timeout=60)
        return next(i for i in json.loads(listed.stdout)["images"] if i["template"] == name)

    def root(self, name, at):
        """The files of its image, as the kernel shows them to a box."""
        return mounted(self.image(name)["path"], at)


@pytest.fixture(scope="module")
def registries():
    """Whether at least one of this machine's package sources answers."""
    tried = []
    for ask in (["apt-get", "indextargets", "--format", "$(SITE)"], ["apt-config", "dump", "Acquire"], ["env"],
                ["pip3", "config", "list"], ["npm", "config", "get", "registry"]):
        with contextlib.suppress(OSError):
            said = subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout
            for scheme, host, port in set(re.findall(r"(https?)://(?:[^/@\s]*@)?([\w.-]+)(?::(\d+))?", said)) - set(tried):
                tried.append((scheme, host, port))
                with contextlib.suppress(OSError):
                    socket.create_connection((host, int(port or {"http": 80, "https": 443}[scheme])), 5).close()
                    return
    pytest.skip(f"NO PACKAGE REGISTRY CAN BE REACHED: templates' own packages are NOT TESTED ({len(tried)} were tried)")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def make_wheel(path, name, version, files):
    """A wheel as `pip wheel` would write it."""
    info = f"{name}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(zipfile.ZipInfo(file), text)


# --- valid templates ------------------------------------------------------------------

@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Built and locked templates, served by a daemon of their own."""
    place = Place(tmp_path_factory.mktemp("shop"))
    # Without native code and with it, a wheel of our own, a file, variables, a cap.
    folder = place.put("pips", """
[image]
pip = ["humanize", "msgpack", "own_words-1.0-py3-none-any.whl"]
run = ["echo made > /usr/local/share/made"]
[image.files]
"/usr/local/share/pips/data.txt" = "data.txt"
[zygote]
preload = ["humanize", "msgpack", "own_words"]
[task.env]
DATA = "/usr/local/share/pips/data.txt"
[limits.default]
memory = "300MiB"
""", data__txt="some data\n")
    make_wheel(folder / "own_words-1.0-py3-none-any.whl", "own_words", "1.0", {"own_words.py": "WORD = 'ours'\n"})
    place.put("apts", '[image]\npackages = ["bc", "python3-yaml"]\n[zygote]\npreload = ["yaml"]\n')
    # A template with another one as its base.
    place.put("pips-more", '[image]\npip = ["humanize<4"]\n[zygote]\npreload = ["calendar"]\n', base="pips")
    place.put("nodes", '[image]\npackages = ["nodejs"]\nnpm = ["is-odd@3.0.1", "nopt@7"]\n', base="shell")
    place.built = {name: place.build(name) for name in ("pips", "apts", "pips-more", "nodes")}
    place.locks = {name: (place.dir / name / "manifest.lock").read_bytes() for name in place.built}
    return place


@pytest.fixture(scope="module")
def served(shop):
    folder = pathlib.Path("/run") / f"mayfly-test-shop-{os.getpid()}"
    folder.mkdir(mode=0o755)
    daemon = Daemon(folder, templates=tuple(shop.built), state_dir=str(shop.state), template_dirs=[shop.dir])
    yield daemon.start().cli
    daemon.end()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def result_of(served, template, code, *flags):
    result = served.run("-t", template, *flags, "-c", code)
    assert result["verdict"] == "succeeded", result
    return result["stdout"]


def test_packages_of_pip_are_there_with_and_without_native_code(served):
    assert result_of(served, "pips", "import humanize, sys; print(humanize.intcomma(12345), 'humanize' in sys.modules)") == "12,345 True\n"
    assert result_of(served, "pips", """
import msgpack
print(msgpack.unpackb(msgpack.packb({'a': [1, 2]})), msgpack._cmsgpack.__file__.endswith('.so'))""") == "{'a': [1, 2]} True\n"


def test_they_are_loaded_before_the_task_comes(served):
    loaded = json.loads(result_of(served, "pips", "import sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert {"humanize", "msgpack", "own_words", "json", "sqlite3"} <= set(loaded), "its own preloads and the base's"


def test_a_wheel_of_the_folder_a_file_a_command_and_a_variable_are_there(served):
    assert result_of(served, "pips", """
import own_words, os
print(own_words.WORD, open(os.environ['DATA']).read().strip(), open('/usr/local/share/made').read().strip())""") == "ours some data made\n"


def test_what_the_template_does_not_say_its_base_says(served, mayfly):
    listed = {t["name"]: t for t in json.loads(served("templates", "--json").stdout)["templates"]}
    python = {t["name"]: t for t in json.loads(mayfly("templates", "--json").stdout)["templates"]}["python"]
    assert listed["pips"]["mechanism"] == "fork"
    assert listed["pips"]["defaults"]["memoryBytes"] == 300 << 20
    assert listed["pips"]["maximum"] == python["maximum"]
    assert {**listed["pips"]["defaults"], "memoryBytes": 0} == {**python["defaults"], "memoryBytes": 0}


def test_packages_of_debian_are_there(served):
    assert result_of(served, "apts", "import yaml; print(yaml.safe_load('a: [1]'))") == "{'a': [1]}\n"
    assert result_of(served, "apts", "import subprocess; print(subprocess.run(['bc'], input=b'6*7\\n', capture_output=True).stdout)") == "b'42\\n'\n"


def test_a_template_upon_a_template_overrides_what_it_names(served, shop):
    version = result_of(served, "pips-more", "import humanize; print(humanize.__version__)")
    assert version.startswith("3."), "its own requirement, not the base's"
    loaded = result_of(served, "pips-more", "import sys; print('calendar' in sys.modules, 'own_words' in sys.modules)")
    assert loaded == "True True\n"
    assert result_of(served, "pips-more", "import own_words; print(own_words.WORD)") == "ours\n"


def test_packages_of_npm_are_there(served, tmp_path):
    (tmp_path / "a.cjs").write_text("console.log(require('is-odd')(3))")
    (tmp_path / "b.mjs").write_text("import odd from 'is-odd'; console.log(odd(4))")
    result = served.run("-t", "nodes", "--file", tmp_path / "a.cjs", "--file", tmp_path / "b.mjs", "--", "sh", "-c",
                        "node a.cjs; node b.mjs; readlink -f $(command -v nopt)")
    assert result["stdout"].splitlines()[:2] == ["true", "false"], result
    assert result["stdout"].splitlines()[2].startswith("/node_modules/nopt/"), result


def test_the_caps_and_walls_are_those_of_every_template(served):
    result = served.run("-t", "pips", "--memory", "100MiB", "-c", "x = bytearray(1 << 30)")
    assert result["verdict"] == "memory" and result["receipt"]["complete"], result
    assert result_of(served, "pips", """
import socket
try:
    socket.create_connection(('192.0.2.1', 80), 1)
except OSError as e:
    print(type(e).__name__, e.errno)""").startswith("OSError 101"), "no network at run time"


# --- locks ------------------------------------------------------------------------------

def hosts_of_this_machine():
    """Names of the package hosts in the machine's configuration."""
    words = []
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True).stdout
    words += re.findall(r"://([^/\s:]+)", targets)
    for path in ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "/etc/npmrc", "/usr/etc/npmrc", os.path.expanduser("~/.npmrc"),
                 os.path.expanduser("~/.config/pip/pip.conf"), os.path.expanduser("~/.pip/pip.conf")):
        if os.path.exists(path):
            words += re.findall(r"://([^/\s:]+)", open(path).read())
    words += [w for name, value in os.environ.items() if name.lower().startswith(("pip_", "npm_config"))
              for w in re.findall(r"://([^/\s:]+)", value)]
    return {w.encode() for w in words} | {b"://registry.", b"pythonhosted"}


def test_a_lock_names_every_package_by_version_and_hash_and_no_host(shop):
    for name in shop.built:
        lock = shop.lock(name)
        packages = lock["debian"]["packages"] + lock["pip"]["packages"] + lock["npm"]["packages"]
        assert all(re.fullmatch("[0-9a-f]{64}", p["sha256"]) and p["version"] for p in packages)
        text = shop.locks[name]
        assert b"://" not in text and not any(host in text for host in hosts_of_this_machine())
    assert {p["name"] for p in shop.lock("pips")["pip"]["packages"]} == {"humanize", "msgpack", "own-words"}
    assert {p["name"] for p in shop.lock("nodes")["npm"]["packages"]} >= {"is-odd", "is-number", "nopt", "abbrev"}
    assert all(p["integrity"].startswith("sha512-") for p in shop.lock("nodes")["npm"]["packages"])
    assert {"bc", "python3-yaml", "python3", "libc6"} <= {p["name"] for p in shop.lock("apts")["debian"]["packages"]}
    counts = shop.built["pips"]["packages"]
    assert (counts["pip"], counts["npm"]) == (3, 0) and counts["debian"] > 50


@pytest.mark.parametrize("name", ["pips", pytest.param("nodes", marks=pytest.mark.slow)])
def test_neither_host_nor_credential_of_the_machine_is_in_the_image(shop, tmp_path, name):
    with shop.root(name, tmp_path / "root") as root:
        hosts = hosts_of_this_machine()
        for top in ("etc", "var", "root", "tmp", "run", "usr/local", "usr/lib/mayfly", "node_modules"):
            for folder, _, files in os.walk(root / top):
                for file in files:
                    path = pathlib.Path(folder, file)
                    if path.is_symlink():
                        continue
                    text = path.read_bytes()
                    if top in ("usr/local", "node_modules"):  # packages may name their own homes
                        assert b"_authToken" not in text or b"npm" in text, path
                    else:
                        assert not any(host in text for host in hosts), path
        for gone in ("etc/pip.conf", "etc/npmrc", "root/.npmrc", "root/.cache", "etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
            assert not os.path.lexists(root / gone), gone
        assert os.listdir(root / "tmp") == os.listdir(root / "run") == os.listdir(root / "root") == []


def test_a_second_build_uses_the_lock_and_changes_nothing(shop):
    again = shop.build("pips")
    assert (again["rebuilt"], again["lockedAnew"]) == (False, False)
    assert again["digest"] == shop.built["pips"]["digest"]
    assert (shop.dir / "pips/manifest.lock").read_bytes() == shop.locks["pips"]


@pytest.mark.parametrize("name", ["pips", pytest.param("nodes", marks=pytest.mark.slow)])
def test_with_the_lock_it_is_built_without_network_and_gives_the_same_image(shop, tmp_path, name):
    elsewhere = Place(tmp_path)
    for one in ("pips", "nodes"):
        subprocess.run(["cp", "-a", str(shop.dir / one), str(elsewhere.dir)], check=True)
    built = elsewhere.build(name, "--frozen", prefix=("unshare", "--net"))
    assert (built["rebuilt"], built["lockedAnew"]) == (True, False)
    assert built["digest"] == shop.built[name]["digest"]
    # A further command gives another tree: all packages are installed again.
    manifest = elsewhere.dir / name / "manifest.toml"
    old, new = ("echo made", "echo  made") if name == "pips" else ("npm =", 'run = ["true"]\nnpm =')
    manifest.write_text(manifest.read_text().replace(old, new))
    changed = elsewhere.build(name, "--frozen", prefix=("unshare", "--net"))
    assert changed["rebuilt"] and changed["packages"] == built["packages"]


@pytest.mark.slow
def test_a_lock_that_does_not_fit_is_renewed_or_with_frozen_refused(place):
    place.put("grows", '[image]\npip = ["humanize==4.9.0"]\n')
    assert "manifest.lock' does not exist" in place.refusal("grows", "--frozen")
    first = place.build("grows")
    assert first["lockedAnew"]
    place.put("grows", '[image]\npip = ["humanize==4.10.0"]\n')
    assert "does not match the manifest" in place.refusal("grows", "--frozen")
    second = place.build("grows")
    assert second["lockedAnew"] and second["digest"] != first["digest"]
    assert [p["version"] for p in place.lock("grows")["pip"]["packages"]] == ["4.10.0"]


@pytest.mark.slow
def test_update_takes_what_is_newest_now(place):
    place.put("ages", '[image]\npip = ["humanize<4.11"]\n')
    place.build("ages")
    lock = place.dir / "ages/manifest.lock"
    newest = lock.read_text()
    # Like an older lock.
    older = json.loads(newest)
    older["pip"]["packages"][0]["version"] = "4.9.0"
    lock.write_text(json.dumps(older))
    renewed = place.build("ages", "--update")
    assert renewed["lockedAnew"]
    assert place.lock("ages")["pip"] == json.loads(newest)["pip"]


def test_a_file_that_is_not_the_locked_one_is_refused(place, tmp_path):
    text = '[image]\npip = ["iniconfig==2.0.0"]\n'
    place.put("forged", text)
    place.build("forged")
    lock = place.dir / "forged/manifest.lock"
    good = lock.read_text()
    digest = json.loads(good)["pip"]["packages"][0]["sha256"]
    # A package that was right when it was downloaded, and is installed again for a new command.
    cache = tmp_path / "cache"
    (cache / "artifacts").mkdir(parents=True)
    for name in ("apt", "resolved", "tools", "trees"):
        (cache / name).symlink_to(CACHE / name)
    (cache / "artifacts" / digest).write_bytes((CACHE / "artifacts" / digest).read_bytes() + b"more")
    place.put("forged", text + f'run = ["true {secrets.token_hex(8)}"]\n')
    assert "is not the one that is locked" in place.refusal("forged", "--cache-dir", cache)
    # A package whose file at the index no longer has the locked hash.
    place.put("forged", text)
    lock.write_text(good.replace(digest, hashlib.sha256(b"another").hexdigest()))
    said = place.refusal("forged")
    assert "is not the one that is locked" in said and "build-forged.log" in said, said
    lock.write_text(good[:-40])
    assert "manifest.lock: is damaged" in place.refusal("forged")


# --- errors -----------------------------------------------------------------------------

ERRORS = {
    "pip_unknown": ('[image]\npip = ["mayfly-no-such-package-for-a-test"]\n', "python",
                    ["pip's index has no package 'mayfly-no-such-package-for-a-test'", "'image.pip'"]),
    "pip_version": ('[image]\npip = ["humanize==99.1"]\n', "python", ["no version for 'humanize==99.1'", "there are: "]),
    "pip_conflict": ('[image]\npip = ["requests==2.31.0", "urllib3==1.20"]\n', "python",
                     ["exclude each other", "requests 2.31.0 depends on urllib3"]),
    "pip_compiler": ('[image]\npip = ["docopt==0.6.2"]\n', "python", ["'docopt==0.6.2' as source code only", "needs a compiler"]),
    "pip_without_python": ('[image]\npip = ["humanize"]\n', "shell", ["no Python", "python3"]),
    "apt_unknown": ('[image]\npackages = ["mayfly-no-such-package"]\n', "python",
                    ["Debian trixie has no package 'mayfly-no-such-package'", "'image.packages'"]),
    "apt_conflict": ('[image]\npackages = ["exim4-daemon-light", "postfix"]\n', "python", ["exclude each other", "postfix"]),
    "apt_version": ('[image]\npackages = ["bc=0.0.1"]\n', "python", ["does not have version 0.0.1 of 'bc'"]),
    "npm_unknown": ('[image]\npackages = ["nodejs"]\nnpm = ["mayfly-no-such-package-for-a-test"]\n', "shell",
                    ["npm's registry has no package 'mayfly-no-such-package-for-a-test'", "'image.npm'"]),
    "npm_conflict": ('[image]\npackages = ["nodejs"]\nnpm = ["react@16.0.0", "react-dom@17.0.0"]\n', "shell",
                     ["exclude each other", "react@16.0.0"]),
    "npm_script": ('[image]\npackages = ["nodejs"]\nnpm = ["bcrypt@5.1.0"]\n', "shell",
                   ["'bcrypt' 5.1.0 runs a script", "npm_without_scripts"]),
    "npm_without_node": ('[image]\nnpm = ["is-odd"]\n', "shell", ["no Node.js", "nodejs"]),
    "file": ('[image.files]\n"/x" = "nothing"\n', "python", ["nothing' does not exist", "[image.files]"]),
    "link": ('[image.files]\n"/x" = "leads-out"\n', "python", ["leads-out' is a link that leads out", "[image.files]"]),
    "wheel_link": ('[image]\npip = ["leads_out-1-py3-none-any.whl"]\n', "python", ["is a link that leads out", "'image.pip'"]),
    "own": ('[image.files]\n"/usr/lib/mayfly/mayfly-maker" = "manifest.toml"\n', "python", ["belongs to Mayfly"]),
    "command": ('[image]\nrun = ["echo it breaks; exit 7"]\n', "python", ["a command of 'image.run'", "exit code 7", "it breaks"]),
    "base": ("", "pyhton", ["'base' is 'pyhton'", "There are: "]),
    "key": ('[image]\npackges = ["bc"]\n', "python", ["manifest.toml:5", "unknown key 'image.packges'", "allowed here"]),
}


# Every change tests one of each kind.
QUICK = ("pip_conflict", "pip_without_python", "apt_unknown", "npm_unknown", "npm_script", "file", "link", "wheel_link", "own", "base", "key")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ERRORS])
def test_an_error_names_what_is_wrong_and_what_to_do(place, name):
    text, base, words = ERRORS[name]
    template = name.replace("_", "-")
    folder = place.put(template, text, base=base)
    for link in ("leads-out", "leads_out-1-py3-none-any.whl"):
        (folder / link).symlink_to("/etc/shadow")
    said = place.refusal(template)
    for word in words:
        assert word in said, said
    if name.split("_")[0] in ("pip", "apt", "npm", "command") and "without" not in name:
        log = place.state / f"logs/build-{template}.log"
        assert str(log) in said and log.stat().st_size > 0, said
        assert log.stat().st_mode & 0o077 == 0, "a log may show what an index answered"
    assert not (place.dir / template / "manifest.lock").exists() or name in ("file", "command")


OFFLINE = {  # packages that no other test looks up
    "pip": ('pip = ["iniconfig==1.1.1"]', "python", "pip's package index"),
    "apt": ('packages = ["cowsay"]', "python", "the Debian archive"),
    "npm": ('packages = ["nodejs"]\nnpm = ["abbrev@1.0.4"]', "shell", "npm's registry"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_no_network_is_said_so(place, name):
    text, base, what = OFFLINE[name]
    place.put(f"off-{name}", f"[image]\n{text}\n", base=base)
    said = place.refusal(f"off-{name}", prefix=("unshare", "--net"), env={**os.environ, "PIP_RETRIES": "0"})
    assert f"{what} cannot be reached from this machine" in said, said


# --- pyc files ----------------------------------------------------------------------------

LONG = "l" * 250  # valid as a file name with .py, but too long with .cpython-313.pyc
NO_PYTHON = {  # each a file of a wheel, and its line in the log
    "bad_one.py": ("def f(:\n", "SyntaxError: invalid syntax (line 1)"),
    "odd 'näme'\x7f.py": ("print 1\n", "SyntaxError: "),
    "template-{{name}}.py": ("import {{name}}\n", "SyntaxError: "),
    "half/utf-8.py": (b"x = '\xff'\n", "SyntaxError: (unicode error)"),
    "half/nul.py": ("x = 1\0\n", "SyntaxError: source code string cannot contain null bytes"),
    "half/deep.py": ("(" * 5_000 + ")" * 5_000, "SyntaxError: too many nested parentheses"),
    f"half/{LONG}.py": ("x = 1\n", "OSError: [Errno 36] File name too long"),
}


def compiled(root, module):
    """The content of the module's pyc, which must be an unchecked one."""
    pycs = [*(root / module).parent.glob(f"__pycache__/{pathlib.Path(module).stem}.*")]
    assert len(pycs) < 2
    if not pycs:
        return None
    assert pycs[0].read_bytes()[4] == 1
    return pycs[0].read_bytes()


def test_a_file_that_is_no_python_is_a_note_in_the_log(place, tmp_path):
    wheel = "partly_bad-1.0-py3-none-any.whl"
    site, stdlib = SITE[1:], "usr/lib/python3.13"
    word = os.urandom(16).hex()
    run = [f"sed -i s/of_the_wheel/of_the_command/ {SITE}/changed.py", f"echo 'x = (' >> /{stdlib}/antigravity.py",
           f"sed -i 's/Hello world/of_the_command/' /{stdlib}/__hello__.py"]
    folder = place.put("partly-bad", f'[image]\npip = ["{wheel}"]\nrun = {json.dumps(run)}\n')
    make_wheel(folder / wheel, "partly_bad", "1.0",
               # Another wheel each time: a tree that an earlier run made would be taken as it is.
               {"good_one.py": f"WORD = 'good'  # {word}\n", "changed.py": "WORD = 'of_the_wheel'\n", "half/good.py": "x = 1\n",
                **{name: text for name, (text, _) in NO_PYTHON.items()}})
    said = place("build", "partly-bad", check=0)
    count = len(NO_PYTHON) + 1
    assert f"{count} Python files are not compiled: the log names each" in said.stdout + said.stderr
    log = (place.state / "logs/build-partly-bad.log").read_text()
    notes = [line for line in log.splitlines() if line.startswith("not compiled: ")]
    assert len(notes) == count, notes
    for name, (_, why) in NO_PYTHON.items():
        assert any(line.startswith(f"not compiled: {ascii(f'{SITE}/{name}')}: {why}") for line in notes), (name, notes)
    assert any(line.startswith(f"not compiled: '/{stdlib}/antigravity.py': SyntaxError: ") for line in notes), notes
    with place.root("partly-bad", tmp_path / "root") as root:
        assert b"good" in compiled(root, f"{site}/good_one.py")
        assert compiled(root, f"{site}/half/good.py")
        assert all(compiled(root, f"{site}/{name}") is None for name in NO_PYTHON)
        # A command may change a module after it was compiled, also in the base.
        assert b"of_the_command" in compiled(root, f"{site}/changed.py")
        assert b"of_the_command" in compiled(root, f"{stdlib}/__hello__.py")
        assert compiled(root, f"{stdlib}/antigravity.py") is None
    own = [tree for tree in (CACHE / "trees").iterdir() if (tree / site / "good_one.py").is_file()
           and word in (tree / site / "good_one.py").read_text()]
    assert len(own) == 1
    subprocess.run(["rm", "-rf", "--one-file-system", str(own[0]), f"{own[0]}.lock"], check=True)


@pytest.mark.slow
def test_a_package_of_debian_may_hold_files_that_are_no_python(place, tmp_path):
    new = f'run = ["true {secrets.token_hex(8)}"]\n'  # no earlier run left this tree
    place.put("suite", f'[image]\npackages = ["libpython3.13-testsuite"]\n{new}')
    place.build("suite")
    log = (place.state / "logs/build-suite.log").read_text()
    assert "not compiled: '/usr/lib/python3.13/test/tokenizedata/badsyntax_3131.py': SyntaxError: " in log
    with place.root("suite", tmp_path / "root") as root:
        assert compiled(root, "usr/lib/python3.13/test/test_array.py")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["python3", "python3-minimal"])
def test_python_is_compiled_whatever_template_brings_it(place, tmp_path, package):
    place.put("compiles", f'[image]\npackages = ["{package}"]\n', base="shell")
    place.build("compiles")
    with place.root("compiles", tmp_path / "root") as root:
        assert compiled(root, "usr/lib/python3.13/os.py")


# --- libraries that an image lacks ----------------------------------------------------------

def library_needing(folder, soname):
    """A shared library that needs another one, which is not there."""
    (folder / "empty.c").write_text("")
    subprocess.run(["cc", "-shared", f"-Wl,-soname,{soname}", "-o", folder / soname, folder / "empty.c"], check=True)
    subprocess.run(["cc", "-shared", "-Wl,--no-as-needed", "-o", folder / "needing.so", folder / "empty.c", folder / soname],
                   check=True)
    return (folder / "needing.so").read_bytes()


def test_a_library_that_a_wheel_needs_and_the_image_lacks_is_named(place, tmp_path):
    wheel = "lacks_it-1.0-py3-none-any.whl"
    folder = place.put("lacks", f'[image]\npip = ["{wheel}"]\n')
    make_wheel(folder / wheel, "lacks_it", "1.0", {"_lacks_it.so": library_needing(tmp_path, "libgomp.so.1"),
                                                 "_garbage.so": b"\x7fELF\x02\x01\x01" + os.urandom(4_096)})
    told = f"missing library: '{SITE}/_lacks_it.so' needs libgomp.so.1: add \"libgomp1\" to image.packages"
    assert told in place("build", "lacks", check=0).stderr
    # An image that is not built again still lacks it.
    assert told in place("build", "lacks", check=0).stderr
    missing = [{"library": "libgomp.so.1", "version": "", "file": f"{SITE}/_lacks_it.so", "files": 1, "package": "libgomp1"}]
    assert place.build("lacks")["missing"] == missing
    assert place.check("lacks")["missing"] == missing
    place.put("lacks", f'[image]\npackages = ["libgomp1"]\npip = ["{wheel}"]\n')
    built = place.build("lacks")
    assert built["rebuilt"] and built["missing"] == []


def test_mayflys_own_templates_lack_none(shop, served):
    assert all(built["missing"] == [] for built in shop.built.values()), shop.built
    assert result_of(served, "pips", "import ctypes; print(ctypes.CDLL('libstdc++.so.6')._name)") == "libstdc++.so.6\n"


# --- an index of the template's own -----------------------------------------------------------

@contextlib.contextmanager
def index_with(name, wheel):
    """A package index on this machine that has one wheel."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = {f"/simple/{name}/": f'<a href="/{wheel.name}#sha256={digest}">{wheel.name}</a>'.encode(),
                    f"/{wheel.name}": wheel.read_bytes()}.get(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Type", "application/octet-stream" if self.path.endswith(".whl") else "text/html")
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


DIRECT = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "PIP_RETRIES": "0"}


def test_a_package_of_another_index_is_found_beside_the_machines(place, tmp_path):
    name = f"elsewhere-{secrets.token_hex(4)}"
    wheel = tmp_path / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    make_wheel(wheel, name.replace("-", "_"), "1.0", {"elsewhere.py": "WORD = 'from afar'\n"})
    with index_with(name, wheel) as url:
        place.put("afar", f'[image]\npip = ["humanize", "{name}"]\npip_extra_index = ["{url}"]\n')
        assert place.build("afar", env=DIRECT)["packages"]["pip"] == 2, "one of each index"
        lock = place.lock("afar")
        text = (place.dir / "afar/manifest.lock").read_text()
        assert "://" not in text and "127.0.0.1" not in text and re.fullmatch("[0-9a-f]{64}", lock["pip"]["index"])
        assert {p["name"]: p["sha256"] for p in lock["pip"]["packages"]}[name] == hashlib.sha256(wheel.read_bytes()).hexdigest()
        with place.root("afar", tmp_path / "root") as root:
            assert (root / SITE[1:] / "elsewhere.py").exists()
            assert not list((root / "etc").glob("pip*"))
        again = place.build("afar", "--frozen", env=DIRECT)
        assert (again["rebuilt"], again["lockedAnew"]) == (False, False)
        # Another index: the lock does not fit any more.
        place.put("afar", f'[image]\npip = ["humanize", "{name}"]\npip_extra_index = ["{url}/"]\n')
        assert "does not match the manifest" in place.refusal("afar", "--frozen", env=DIRECT)
        assert place.build("afar", env=DIRECT)["lockedAnew"]
    place.put("afar", f'[image]\npip = ["{name}"]\npip_index = "{url}"\n')
    said = place.refusal("afar", env=DIRECT)
    assert "cannot be reached" in said and f"'image.pip_index' is {url}" in said, said


def test_a_password_in_an_index_is_refused_and_not_repeated(place):
    word = secrets.token_hex(8)
    place.put("secret", f'[image]\npip_index = "https://me:{word}@a.example/simple"\n')
    said = place.refusal("secret")
    assert "'image.pip_index' must hold no user name, password or token" in said and word not in said, said


# --- where the steps of a build run --------------------------------------------------------

PROBE = r"""
import json, os, socket, sys
see = {"mark": MARKER, "environment": dict(os.environ), "uid": os.getuid(), "host": socket.gethostname(), "marker": os.path.exists(MARKER),
       "processes": len([n for n in os.listdir("/proc") if n.isdigit()]), "top": sorted(os.listdir("/")),
       "interfaces": [n for _, n in socket.if_nameindex()]}
def can(name, action):
    try:
        action(); see[name] = True
    except OSError as e:
        see[name] = False
can("connect", lambda: socket.create_connection(ADDRESS, 2))
can("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\0" + ABSTRACT))
can("device", lambda: os.mknod("/tmp/mem", 0o20600, os.makedev(1, 1)))
can("mount", lambda: os.spawnv(os.P_WAIT, "/usr/bin/mount", ["mount", "-t", "tmpfs", "x", "/mnt"]) and os.stat(""))
can("chroot", lambda: os.chroot("/tmp"))
can("user_namespace", lambda: os.unshare(os.CLONE_NEWUSER))
can("kill", lambda: os.kill(HOST_PID, 0))
can("sysctl", lambda: open("/proc/sys/kernel/core_pattern", "w").close())
can("proc_root", lambda: open(f"/proc/1/root{MARKER}"))
can("write", lambda: open("/usr/local/share/written", "w").close())
can("chown", lambda: os.chown("/usr/local/share/written", 1000, 1000))
open(sys.argv[1], "w").write(json.dumps(see))
"""


# A command's leftovers are not trusted either: the tree's shell does the last step.
EVIL_SHELL = f"""#!/usr/bin/python3
import os, subprocess, sys
import uuid
subprocess.run([sys.executable, "{SITE}/probe_it.py", "/usr/local/share/shell.json"])
os.execv("/usr/bin/dash.real", ["sh", *sys.argv[1:]])
"""


def test_a_command_of_a_build_is_apart_from_the_host(place, tmp_path):
    marker = tmp_path / "marker"
    marker.write_text("x")
    with listeners() as (address, abstract), tempfile.TemporaryDirectory(prefix="mayfly-test-", dir="/opt") as outside:
        probe = f"MARKER, ADDRESS, ABSTRACT, HOST_PID = {str(marker)!r}, {address!r}, {abstract!r}, {os.getpid()}\n" + PROBE
        wheel = "probe_it-1.0-py3-none-any.whl"
        run = [f"python3 {SITE}/probe_it.py /usr/local/share/run.json", f"mkdir {outside}; ln -s {outside} /usr/local/share/leads-out",
               f"mv /usr/bin/dash /usr/bin/dash.real; cp -a {SITE}/evil_shell.py /usr/bin/dash; chmod +x /usr/bin/dash"]
        place.put("apart", f'[image]\npip = ["{wheel}"]\nrun = {json.dumps(run)}\n[image.files]\n'
                  '"/usr/local/share/leads-out/file" = "manifest.toml"\n')
        make_wheel(place.dir / "apart" / wheel, "probe_it", "1.0", {"probe_it.py": probe, "evil_shell.py": EVIL_SHELL})
        place.build("apart", env={**os.environ, "MFSECRET": "of-the-host"})
        assert os.listdir(outside) == [], "a link in the tree leads nowhere outside of it"
    # No other template uses its root tree.
    for tree in CACHE.glob("trees/*/usr/local/share/run.json"):
        if str(marker) in tree.read_text():
            subprocess.run(["rm", "-rf", str(tree.parents[3])], check=True)
    with place.root("apart", tmp_path / "root") as root:
        see = json.loads((root / "usr/local/share/run.json").read_text())
        assert "of-the-host" not in json.dumps(see["environment"])
        assert set(see["environment"]) <= {"PATH", "LC_ALL", "HOME", "LC_CTYPE", "SOURCE_DATE_EPOCH", "PYTHONHASHSEED", "PWD", "_", "SHLVL", "OLDPWD"}, see
        assert see["uid"] == 0 and see["write"] and see["chown"], "it may do in its tree what installing needs"
        shell = json.loads((root / "usr/local/share/shell.json").read_text())
        for what in ("marker", "connect", "abstract", "device", "mount", "chroot", "user_namespace", "kill", "sysctl", "proc_root"):
            assert see[what] is False and shell[what] is False, (what, see, shell)
        assert shell["processes"] == 0 and shell["interfaces"] == ["lo"] and "of-the-host" not in json.dumps(shell), shell
        assert (root / outside[1:] / "file").is_file()
        assert see["processes"] <= 3 and see["interfaces"] == ["lo"] and see["host"] == "mayfly", see


@contextlib.contextmanager
def listeners():
    """A server on the host that a step could reach if it had the host's network."""
    name = f"mayfly-build-{secrets.token_hex(8)}"
    with socket.create_server(("0.0.0.0", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        yield ("127.0.0.1", tcp.getsockname()[1]), name


# --- check and init --------------------------------------------------------------------------

def test_check_reports_size_preload_clone_and_memory(shop):
    report = shop.check("pips")
    assert report["fit"] and report["refused"] == ""
    assert report["image"]["bytes"] > 10 << 20 and report["image"]["digest"] == shop.built["pips"]["digest"]
    assert report["preload"]["count"] > 50 and 0 < report["preload"]["ms"] < 60_000
    assert report["preload"]["longest"][0]["ms"] >= report["preload"]["longest"][1]["ms"] > 0
    assert report["cloneNs"]["count"] == 3
    assert 0 < report["cloneNs"]["least"] <= report["cloneNs"]["median"] <= report["cloneNs"]["most"] < 10e9
    assert 100 << 10 < report["uniqueBytes"] < 100 << 20
    assert report["uniqueBytes"] % 4096 == 0


@pytest.mark.parametrize("name", ["nodes"])
def test_check_knows_templates_that_start_commands(shop, name):
    report = shop.check(name)
    assert report["fit"] and report["preload"] is None
    assert report["cloneNs"]["count"] == 3 and report["uniqueBytes"] > 0


def test_check_leaves_nothing_behind(shop):
    def traces():
        return {str(p) for p in pathlib.Path("/run").glob("mayfly-check-*")}

    before = traces()
    shop.check("pips")
    assert traces() == before


CULPRITS = {
    "thread": ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "started a thread"),
    "socket": ("import socket; keep = socket.socket()", "opened a socket"),
    "child": ("import subprocess; keep = subprocess.Popen(['sleep', '600'])", "left a child process"),
    "descriptor": ("keep = open('/etc/passwd')", "left descriptor 5 open: /etc/passwd"),
    "shared_memory": ("import mmap; keep = mmap.mmap(-1, 4096)", "left writable shared memory"),
    "missing": ("import no_such_module", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
    "error": ("1 / 0", "failed: ZeroDivisionError: division by zero"),
    "exit": ("raise SystemExit(3)", "failed: SystemExit: 3"),
}


@pytest.mark.parametrize("kind", [k if k in ("thread", "socket", "missing") else pytest.param(k, marks=pytest.mark.slow)
                                  for k in CULPRITS])
def test_a_preload_that_breaks_the_zygote_is_named(place, kind):
    code, fault = CULPRITS[kind]
    name = "bad-" + kind.replace("_", "-")
    place.put(name, f"""
[image.files]
"{SITE}/harmless.py" = "harmless.py"
"{SITE}/culprit.py" = "culprit.py"
[zygote]
preload = ["harmless", "culprit", "calendar"]
""", harmless__py="import json\n", culprit__py=code)
    report = place.check(name, expect=1)
    assert not report["fit"]
    assert report["refused"].startswith(f"preload 'culprit' {fault}"), report


@pytest.mark.slow
def test_the_word_refused_and_the_reason_are_in_the_text_too(place):
    place.put("bad", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n',
              culprit__py=CULPRITS["thread"][0])
    said = place("check", "bad", "--clones", 1, check=1).stdout
    assert "refused    preload 'culprit' started a thread" in said, said


def test_an_exceptions_last_line_is_kept(place):
    """numpy's error begins with advice; its cause is the last line."""
    last = "Original error was: libgone.so.7: cannot open shared object file: No such file or directory"
    code = f"raise ImportError('\\n\\nPLEASE READ THIS\\n\\n' + 'advice, ' * 100 + '\\n\\n{last}\\n')"
    place.put("cut", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n', culprit__py=code)
    report = place.check("cut", expect=1)
    assert report["refused"] == f"preload 'culprit' failed: ImportError: PLEASE READ THIS ... {last}", report
    assert report["said"][-1] == last and report["said"][0].startswith("Traceback "), report
    assert f"  | {last}\n" in place("check", "cut", "--clones", 1, check=1).stdout


def test_the_last_line_of_a_task_that_fails_is_kept(place):
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(9_999)]; import no_such_module"
    place.put("fails", f'[check]\nwait = "{code}"\n')
    report = place.check("fails", expect=1)
    last = "ModuleNotFoundError: No module named 'no_such_module'"
    assert report["refused"].startswith("a task that does nothing ends as ") and report["refused"].endswith(f": {last}"), report
    assert report["said"][-1] == last and len(report["said"]) == 20, report


def test_a_thread_of_pythons_own_is_told_by_its_name_and_module(place):
    place.put("threads", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n',
              culprit__py="import threading\nthreading.Thread(target=lambda: threading.Event().wait(), name='of-culprit', daemon=True).start()\n")
    refused = place.check("threads", expect=1)["refused"]
    assert refused == ("preload 'culprit' started a thread 'of-culprit', in module culprit; take it out of zygote.preload: "
                       "the task loads it"), refused


@pytest.mark.slow
def test_numpy_of_pip_can_be_preloaded_and_its_threads_are_told(place):
    text = '[image]\npip = ["numpy"]\n[zygote]\nmemory = "1GiB"\npreload = ["numpy"]\n'
    place.put("numpy-pip", text)
    assert place.check("numpy-pip")["fit"]
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("OpenBLAS starts no more threads than there are processors, and here is one")
    place.put("numpy-pip", text + '[zygote.env]\nOPENBLAS_NUM_THREADS = "2"\n')
    refused = place.check("numpy-pip", expect=1)["refused"]
    assert re.fullmatch(r"preload 'numpy' started a thread, in numpy\.libs/libscipy_openblas\S+; "
                        r'OPENBLAS_NUM_THREADS = "1" in \[zygote\.env\] prevents it', refused), refused


@pytest.mark.slow
def test_a_perl_preload_is_named_as_well(place):
    place.put("bad-perl", """
[image.files]
"/usr/share/perl5/Culprit.pm" = "Culprit.pm"
[zygote]
preload = ["Culprit"]
""", base="perl", Culprit__pm="package Culprit; use Socket; socket(our $s, PF_INET, SOCK_STREAM, 0) or die; 1;\n")
    assert place.check("bad-perl", expect=1)["refused"].startswith("preload 'Culprit' opened a socket")
    (place.dir / "bad-perl/Culprit.pm").write_text("package Culprit; die qq{early\\n};\n")
    assert place.check("bad-perl", expect=1)["refused"].startswith("preload 'Culprit' failed: early")


def test_init_writes_a_template_that_builds_as_it_is(place):
    done = place("init", "fresh", check=0)
    folder = place.dir / "fresh"
    assert done.stdout.strip() == str(folder / "manifest.toml")
    text = (folder / "manifest.toml").read_text()
    assert 'base = "python"' in text and text.count("#") > 15, "its keys are explained"
    again = place("init", "fresh", check=1)
    assert "File exists" in again.stderr
    assert place.check("fresh")["fit"]
    assert {"pyyaml", "requests"} <= {p["name"] for p in place.lock("fresh")["pip"]["packages"]}


@pytest.mark.slow
def test_init_knows_other_bases_and_refuses_what_is_none(place):
    place("init", "commands", "--base", "shell", check=0)
    assert place.check("commands")["fit"]
    assert "there is no template 'no-base'" in place("init", "x", "--base", "no-base", check=1).stderr
    place("init", "upon", "--base", "commands", check=0)
    assert 'base = "commands"' in (place.dir / "upon/manifest.toml").read_text()
    assert "is no template name" in place("init", "X", check=1).stderr
    assert not (place.dir / "x").exists() and not (place.dir / "X").exists()


@pytest.mark.slow
def test_a_template_is_named_by_its_folder_too(place):
    folder = place.put("by-path", "")
    done = subprocess.run([CLI, "template", "build", str(folder) + "/", "--state-dir", str(place.state), "--runtime-dir",
                           str(RUNTIME)], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0 and "by-path" in done.stdout, done.stderr


def test_wrong_use_is_said_so(place):
    for words in ([], ["frob"], ["build"], ["check", "a", "b"], ["build", "a", "--update", "--frozen"], ["check", "a", "--clones", "0"]):
        done = subprocess.run([CLI, "template", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr.startswith("mayfly template: "), (words, done)
    done = subprocess.run([CLI, "template", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "mayfly template init NAME" in done.stdout
