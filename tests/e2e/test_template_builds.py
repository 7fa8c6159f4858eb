"""Builds of own templates: locks, errors, indices, walls of the steps; check and init."""

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

import pytest
from support import CLI
from template_place import CACHE, RUNTIME, SECONDS_MAX, SITE, make_wheel, place, registries  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
              pytest.mark.usefixtures("registries")]


# --- locks ------------------------------------------------------------------------------

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
    for name in ("apt", "resolved", "trees"):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_pip_may_be_a_package_of_an_image(place, tmp_path):
    place.put("has-pip", '[image]\npip = ["pip"]\n')
    assert place.build("has-pip")["packages"]["pip"] == 1, "the builder's own pip is not the image's"
    with place.root("has-pip", tmp_path / "root") as root:
        assert (root / SITE[1:] / "pip/__init__.py").exists()


# --- libraries that an image lacks ----------------------------------------------------------

def library_needing(folder, soname):
    """A shared library that needs another one, which is not there."""
    (folder / "empty.c").write_text("")
    subprocess.run(["cc", "-shared", f"-Wl,-soname,{soname}", "-o", folder / soname, folder / "empty.c"], check=True)
    subprocess.run(["cc", "-shared", "-Wl,--no-as-needed", "-o", folder / "needing.so", folder / "empty.c", folder / soname],
                   check=True)
    return (folder / "needing.so").read_bytes()


@pytest.mark.slow
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


@pytest.mark.slow
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
    place.put_light(name, f"""
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
    place.put_light("bad", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n',
                    culprit__py=CULPRITS["thread"][0])
    said = place("check", "bad", "--clones", 1, check=1).stdout
    assert "refused    preload 'culprit' started a thread" in said, said


def test_an_exceptions_last_line_is_kept(place):
    """numpy's error begins with advice; its cause is the last line."""
    last = "Original error was: libgone.so.7: cannot open shared object file: No such file or directory"
    code = f"raise ImportError('\\n\\nPLEASE READ THIS\\n\\n' + 'advice, ' * 100 + '\\n\\n{last}\\n')"
    place.put_light("cut", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n', culprit__py=code)
    report = place.check("cut", expect=1)
    assert report["refused"] == f"preload 'culprit' failed: ImportError: PLEASE READ THIS ... {last}", report
    assert report["said"][-1] == last and report["said"][0].startswith("Traceback "), report
    assert f"  | {last}\n" in place("check", "cut", "--clones", 1, check=1).stdout


def test_the_last_line_of_a_task_that_fails_is_kept(place):
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(9_999)]; import no_such_module"
    place.put_light("fails", f'[check]\nwait = "{code}"\n')
    report = place.check("fails", expect=1)
    last = "ModuleNotFoundError: No module named 'no_such_module'"
    assert report["refused"].startswith("a task that does nothing ends as ") and report["refused"].endswith(f": {last}"), report
    assert report["said"][-1] == last and len(report["said"]) == 20, report


def test_a_thread_of_pythons_own_is_told_by_its_name_and_module(place):
    place.put_light("threads", f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n',
                    culprit__py="import threading\nthreading.Thread(target=lambda: threading.Event().wait(), name='of-culprit', daemon=True).start()\n")
    refused = place.check("threads", expect=1)["refused"]
    assert refused == ("preload 'culprit' started a thread 'of-culprit', in module culprit; take it out of zygote.preload: "
                       'the task loads it; or set mechanism = "restore"'), refused


@pytest.mark.slow
def test_restore_is_proposed_for_a_thread_and_takes_it_along(place):
    """The check knows a template that restores, too: its snapshot, a clone's time and memory, and why it is refused."""
    files = f'[image.files]\n"{SITE}/culprit.py" = "culprit.py"\n[zygote]\npreload = ["culprit"]\n'
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, name='of-culprit', daemon=True).start()\n"
    place.put_light("worker", files, culprit__py=thread)
    refused = place.check("worker", expect=1)["refused"]
    assert "started a thread 'of-culprit'" in refused and 'set mechanism = "restore"' in refused, refused
    place.put_light("worker", 'mechanism = "restore"\n' + files, culprit__py=thread)
    report = place.check("worker")
    assert report["fit"] and report["cloneNs"]["count"] == 3 and report["uniqueBytes"] > 1 << 20, report
    assert report["preload"]["count"] == 1, report
    assert place.check("worker")["fit"]  # from the snapshot that is there
    place.put_light("worker", 'mechanism = "restore"\n' + files, culprit__py="print('hello')\n" + CULPRITS["socket"][0])
    report = place.check("worker", expect=1)
    assert report["refused"].startswith("preload 'culprit' opened a socket"), report
    assert "hello" in report["said"], report


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
