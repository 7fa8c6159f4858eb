"""Own packages in a template, built and served.

What is right is built once per session and served by one daemon; root trees and
downloads stay in the cache of the machine, images do not.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess

import pytest
from template_place import CACHE, SITE, Place, make_wheel, place, registries  # noqa: F401 (fixtures)
from test_lifecycle import Daemon, await_that

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
              pytest.mark.usefixtures("registries")]

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


@pytest.mark.slow
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


def test_pip_is_compiled_once_for_a_tree_and_is_no_package_there(shop):
    log = (shop.state / "logs/build-pips-more.log").read_text()  # its Debian packages are those of `pips`
    assert "$ /usr/bin/python3 -I /run/build/pip/pip install " in log and "unpack.py" not in log
    kept = [*CACHE.glob("trees/*.pip/*")]
    assert kept
    for folder in kept:
        assert os.listdir(folder) == ["pip"]
        [pyc] = (folder / "pip/__pycache__").glob("__init__.*.pyc")
        assert pyc.read_bytes()[4] == 1  # flags: an unchecked hash


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


def test_mayflys_own_templates_lack_none(shop, served):
    assert all(built["missing"] == [] for built in shop.built.values()), shop.built
    assert result_of(served, "pips", "import ctypes; print(ctypes.CDLL('libstdc++.so.6')._name)") == "libstdc++.so.6\n"


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

    def used(trace):  # by the daemon of another test's check: ours has ended
        for each in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if trace.encode() in (each / "cmdline").read_bytes():
                    parent = re.search(r"^PPid:\s+(\d+)", (each / "status").read_text(), re.M)[1]
                    if pathlib.Path("/proc", parent, "comm").read_text() == "mayfly\n":
                        return True
        return False

    before = traces()
    shop.check("pips")
    # Another check's folder is there before its daemon is.
    await_that(lambda: all(used(trace) for trace in traces() - before), "no folder of the check is left")
