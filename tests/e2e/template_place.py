"""A folder of templates with its own images, and what a test puts into it."""

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import zipfile

import pytest
from light import light
from pool_view import mounted
from support import CLI
from test_lifecycle import BINARIES

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

    def put_light(self, name, text, **files):
        """Upon a Python that preloads nothing: for a test of a template's own preloads."""
        base = self.dir / "light"
        if not base.exists():
            shutil.copytree(light()["template_dirs"][0] / "python", base)
            manifest = base / "manifest.toml"
            manifest.write_text(manifest.read_text().replace('name = "python"', 'name = "light"'))
        return self.put(name, text, base="light", **files)

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
