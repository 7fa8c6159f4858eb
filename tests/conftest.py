"""Fixtures that all tests against a real daemon share.

A daemon is taken from MAYFLY_SOCKET (`./dev with-daemon` sets it); without one
the tests skip and say so. What is marked slow is left to `./dev check`.
"""

import os

import pytest

from support import Mayfly


# Files that take long begin first: with several side by side, none of them is what the others wait for at the end.
LONGEST = ("test_templates", "test_bad_input", "test_hangs", "test_pool_kills", "test_lifecycle", "test_python_ends",
           "test_data_packages", "test_bad_templates", "test_python_starts", "test_terminals", "test_bombs", "test_shell")


def pytest_collection_modifyitems(items):
    place = {name: nth for nth, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: too slow for every change; `./dev check` runs it")


@pytest.fixture(scope="session")
def daemon():
    socket = os.environ.get("MAYFLY_SOCKET")
    if not socket:
        pytest.skip("no daemon: run this by `./dev with-daemon pytest ...`")
    return socket


@pytest.fixture(scope="session")
def mayfly(daemon):
    return Mayfly(daemon)
