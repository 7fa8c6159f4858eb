"""The host side of the escape tests: the things that a probe would find if a wall had a hole."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import socket
import tempfile
import urllib.parse

import pytest

import stage


@dataclasses.dataclass
class Host:
    token: str    # a secret in the environment of the client (and of a daemon that the tests start)
    params: dict  # params.json of every probe
    leak: int     # a descriptor that the control runs inherit


@pytest.fixture(scope="session")
def fence():
    try:
        made = stage.Fence()
    except OSError as error:
        pytest.skip(f"bombs go off in a cgroup only, and none can be made: {error}")
    yield made
    made.remove()


@contextlib.contextmanager
def open_folder():
    """A folder that every uid can enter: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="mayfly-escape-") as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.fixture
def open_path():
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def host():
    with open_folder() as folder:
        yield from offer(folder)


def offer(folder):
    marker = folder / "marker"
    marker.write_text(f"MARKER {secrets.token_hex(16)}\n")
    secret = folder / "credentials"
    secret.write_text("x")
    listener = socket.create_server(("0.0.0.0", 0), backlog=128)
    name = f"mayfly-escape-{secrets.token_hex(8)}"
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind("\0" + name)
    abstract.listen(128)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind("\0" + name + "-dgram")
    path_socket = folder / "socket"
    by_path = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    by_path.bind(str(path_socket))
    by_path.listen(8)
    addresses = {"127.0.0.1"}
    try:
        addresses.add(socket.gethostbyname(socket.gethostname()))
    except OSError:
        pass
    params = {
        "marker": str(marker),
        "secret_paths": [str(secret)],
        "socket_paths": [str(path_socket)],
        "host_pids": sorted({os.getpid(), os.getppid()} - {0, 1, 2}),
        "host_words": sorted({socket.gethostname(), str(pathlib.Path(__file__).resolve().parents[2]), "/var/lib/mayfly",
                              "/sys/fs/cgroup", ".erofs"} - {"localhost", "mayfly", ""}),
        "host_addresses": sorted(addresses),
        "host_port": listener.getsockname()[1],
        "abstract_name": name,
        # The daemon's own HTTP server; the control runs may be without a daemon.
        "daemon_http": urllib.parse.urlsplit(os.environ.get("MAYFLY_HTTP", "")).port or listener.getsockname()[1],
    }
    terminal = os.openpty()
    leak = os.open("/dev/null", os.O_RDWR)
    yield Host(f"MFSECRET-{secrets.token_hex(16)}", params, leak)
    for fd in (leak, *terminal):
        os.close(fd)
    for s in (listener, abstract, datagram, by_path):
        s.close()
