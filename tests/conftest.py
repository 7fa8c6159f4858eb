"""Fixtures that all tests against a real daemon share.

A daemon is taken from MAYFLY_SOCKET (`./dev with-daemon` sets it); without one
the tests skip and say so. What is marked slow is left to `./dev check`.
"""

import contextlib
import os
import pathlib
import shutil

import pytest

from support import Mayfly, RUN

STATE_DIR = os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly")


# Files that take long begin first: with several side by side, none of them is what the others wait for at the end.
LONGEST = ("test_snapshots", "test_node", "test_template_builds", "test_templates", "test_broker_programs", "test_readme", "test_bad_input", "test_hangs", "test_pool_kills",
           "test_lifecycle", "test_python_starts", "test_image", "test_python_ends", "test_data_packages", "test_bad_templates", "test_terminals",
           "test_bombs", "test_shell", "test_bench_verbs")


def pytest_collection_modifyitems(items):
    place = {name: nth for nth, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: too slow for every change; `./dev check` runs it")


def left_on_the_host():
    """Of this run's daemons; those of other runs have other names."""
    name = f"t-{RUN}-"
    # Other daemons' cgroups go while this looks; os.walk passes over them.
    left = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"/mayfly/{name}" in folder]
    left += [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    for each in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            left += [f"{each.parent.name}: {words}"] if name in words else []
    return left


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    for state in (STATE_DIR, f"{STATE_DIR}-light/state"):
        for folder in pathlib.Path(state, "instances").glob(f"t-{RUN}-*"):
            shutil.rmtree(folder)
    if left := left_on_the_host():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("left on the host:", *left, sep="\n  ")


@pytest.fixture(scope="session")
def daemon():
    socket = os.environ.get("MAYFLY_SOCKET")
    if not socket:
        pytest.skip("no daemon: run this by `./dev with-daemon pytest ...`")
    return socket


@pytest.fixture(scope="session")
def mayfly(daemon):
    return Mayfly(daemon)
