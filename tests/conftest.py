"""Fixtures that all tests against a real daemon share.

A daemon is taken from MAYFLY_SOCKET (`./dev with-daemon` sets it); without one
the tests skip and say so. What is marked slow is left to `./dev check`.
"""

import os

import pytest

from support import Mayfly


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
