"""The package: one surface for both clients, typed, a wheel that stands alone, words that hold."""

import datetime
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import mayfly
from harness import TOP
from mayfly import _units

PYTHON = TOP / "clients/python"


def public(kind):
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize("blocking,waiting,only_async", [
    (mayfly.Client, mayfly.AsyncClient, {"connect"}), (mayfly.Task, mayfly.AsyncTask, set()),
    (mayfly.Stdin, mayfly.AsyncStdin, set())])
def test_both_clients_have_the_same_surface(blocking, waiting, only_async):
    ours, theirs = public(blocking), public(waiting)
    assert ours.keys() == theirs.keys() - only_async and len(ours) >= 2
    for name, value in ours.items():
        if not callable(value):
            continue
        mine, other = inspect.signature(value), inspect.signature(theirs[name])
        assert list(mine.parameters.values()) == list(other.parameters.values()), name
        assert inspect.getdoc(value) == inspect.getdoc(theirs[name]), name
        asynchronous = inspect.iscoroutinefunction(theirs[name]) or inspect.isasyncgenfunction(theirs[name])
        assert asynchronous != (name == "stream") and not inspect.iscoroutinefunction(value)


def test_all_names_are_there():
    assert sorted(mayfly.__all__, key=str) == sorted(set(mayfly.__all__))
    for name in mayfly.__all__:
        assert getattr(mayfly, name).__doc__ or name.isupper() or name == "errors", name


def test_types_are_clean():
    cache = pathlib.Path(os.environ.get("MAYFLY_PYTHON_CACHE", PYTHON / ".mypy_cache"))
    done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(cache)], cwd=PYTHON,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


USER = """
import mayfly
from typing import assert_type
def use(client: mayfly.Client) -> None:
    assert_type(client.run("python", "1", memory="1GiB", wall_time=3).stdout, str)
    with client.submit("python", "1", stream=True) as task:
        for stream, data in task.stream():
            assert_type((stream, data), tuple[mayfly.Stream, bytes])
        for _, text in task.stream(text=True):
            assert_type(text, str)
        assert_type(task.wait(), mayfly.TaskResult)
async def use_async(client: mayfly.AsyncClient) -> None:
    assert_type((await client.run("python", "1")).verdict, mayfly.Verdict)
    async with await client.submit("python", "1") as task:
        async for _, data in task.stream():
            assert_type(data, bytes)
def misuse(client: mayfly.Client) -> None:
    client.run("python", "1", memroy="1GiB")  # type: ignore[call-arg]
    client.run("python", 5)  # type: ignore[arg-type]
    client.submit("python", "1", processes="many")  # type: ignore[arg-type]
"""


def test_users_see_the_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    cache = pathlib.Path(os.environ.get("MAYFLY_PYTHON_CACHE", PYTHON / ".mypy_cache"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(PYTHON / "pyproject.toml"),
         "--cache-dir", str(cache) + "-user", str(tmp_path / "user.py")],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(PYTHON / "src")})
    assert done.returncode == 0, done.stdout + done.stderr


def build(folder, what):
    """A wheel or a source distribution, by the backend that pyproject.toml names, in a copy."""
    code = f"import sys; from setuptools.build_meta import build_{what}; print(build_{what}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True,
                          cwd=folder / "clients/python")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PYTHON, folder / "clients/python", symlinks=True,
                    ignore=shutil.ignore_patterns("tests", "*cache*", "*.egg-info", "build"))
    shutil.copytree(TOP / "include/mayfly", folder / "include/mayfly")
    return build(folder, "wheel")


def test_the_wheel_stands_alone(wheel, tmp_path, daemon):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    sources = {"mayfly/" + p.name for p in (PYTHON / "src/mayfly").iterdir() if p.suffix != "" and p.is_file()}
    assert sources == {n for n in names if n.startswith("mayfly/")} and "mayfly/py.typed" in names
    assert (tmp_path / "mayfly/mayfly.capnp").read_bytes() == (TOP / "include/mayfly/mayfly.capnp").read_bytes()
    assert re.search(r"^Requires-Dist: pycapnp", metadata, re.M) and f"Version: {mayfly.__version__}\n" in metadata
    assert "mayfly.connect()" in metadata  # the README
    code = "import mayfly; c = mayfly.connect(); print(mayfly.__file__); print(c.run('python', 'print(6*7)').stdout)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/",
                          env={**os.environ, "PYTHONPATH": str(tmp_path), "MAYFLY_SOCKET": daemon})
    assert done.stdout == f"{tmp_path}/mayfly/__init__.py\n42\n\n", done.stderr


def test_the_source_distribution_makes_the_same_wheel(wheel, tmp_path):
    archive = build(wheel.parent, "sdist")
    shutil.unpack_archive(archive, tmp_path)
    [folder] = tmp_path.iterdir()
    inner = folder / "src/mayfly/mayfly.capnp"
    assert inner.is_file() and not inner.is_symlink()
    code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=folder, capture_output=True, text=True)
    again = tmp_path / done.stdout.splitlines()[-1]
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        assert all(one.read(n) == other.read(n) for n in one.namelist() if n.startswith("mayfly/"))


@pytest.mark.parametrize("parse,given,wanted", [
    (_units.parse_bytes, 65536, 65536), (_units.parse_bytes, "512MiB", 512 << 20),
    (_units.parse_bytes, "1.5GiB", 3 << 29), (_units.parse_bytes, "1 kB", 1000), (_units.parse_bytes, "64K", 65536),
    (_units.parse_bytes, "64m", 64 << 20), (_units.parse_bytes, "64MB", 64 * 10**6), (_units.parse_ms, "30S", 30000),
    (_units.parse_ms, 30, 30000), (_units.parse_ms, 0.25, 250), (_units.parse_ms, "250ms", 250),
    (_units.parse_ms, "1.5m", 90000), (_units.parse_ms, "2h", 7_200_000), (_units.parse_ms, 1e-9, 1),
    (_units.parse_ms, datetime.timedelta(seconds=1.5), 1500), (_units.parse_ms, 0, 0),
    (_units.parse_cores_milli, 2, 2000), (_units.parse_cores_milli, 0.1, 100), (_units.parse_cores_milli, "0.5", 500),
    (_units.parse_cores_milli, 1 / 3, 333), (_units.parse_count, 12, 12)])
def test_units(parse, given, wanted):
    assert parse(given) == wanted


@pytest.mark.parametrize("parse,given", [
    (_units.parse_bytes, "lots"), (_units.parse_bytes, "1PiB"), (_units.parse_bytes, -1), (_units.parse_bytes, 1.5),
    (_units.parse_bytes, "0.1"), (_units.parse_bytes, True), (_units.parse_bytes, ""), (_units.parse_bytes, "1e3"),
    (_units.parse_bytes, "-5"), (_units.parse_bytes, None), (_units.parse_ms, "5 minutes"),
    (_units.parse_ms, -0.5), (_units.parse_ms, float("nan")), (_units.parse_ms, float("inf")), (_units.parse_ms, "1.5"),
    (_units.parse_cores_milli, "two"), (_units.parse_cores_milli, "0.0001"), (_units.parse_count, "12"),
    (_units.parse_count, 1.0), (_units.parse_count, -1)])
def test_what_is_no_quantity(parse, given):
    with pytest.raises(mayfly.InvalidArgument, match="Write it like"):
        parse(given)


README = (PYTHON / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_the_readmes_examples_run(daemon, tmp_path, block):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    (tmp_path / "report.py").write_text("import sys\nprint(sys.argv, open('data.csv').read())\nopen('out/r.txt', 'w').write('r')\n")
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "MAYFLY_SOCKET": daemon, "PYTHONPATH": str(PYTHON / "src")})
    assert done.returncode == 0, block + done.stderr


def test_the_readme_names_what_there_is():
    assert README.count("```python") >= 5
    words = set(re.findall(r"mayfly\.(\w+)", README)) - {"capnp", "sock"}
    assert words <= set(dir(mayfly)), words - set(dir(mayfly))
