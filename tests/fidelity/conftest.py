"""One image, one daemon and one mount for all comparisons."""

import os

import pytest

import sides


@pytest.fixture(scope="session")
def both_sides(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("building an image needs root")
    with sides.both(tmp_path_factory.mktemp("fidelity")) as pair:
        yield pair
