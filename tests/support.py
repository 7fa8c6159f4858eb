"""The command line in the tests' form; MAYFLY_CLI can name another program to test."""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import uuid

TOP = pathlib.Path(__file__).resolve().parents[1]
CLI = os.environ.get("MAYFLY_CLI", str(TOP / "build/bin/mayfly"))
COMMAND_SECONDS_MAX = 180
# In the names of this run's instances; pytest's workers inherit it.
RUN = os.environ.setdefault("MAYFLY_TEST_RUN", uuid.uuid4().hex[:6])


@contextlib.contextmanager
def many_files(count):
    """This process may have that many descriptors, if the host lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Mayfly:
    """Runs the command line against one daemon."""

    def __init__(self, socket):
        self.socket = socket
        self.environment = {**os.environ, "MAYFLY_SOCKET": socket}

    def command(self, *args):
        return [CLI, *map(str, args)]

    def __call__(self, *args, **kwargs):
        kwargs.setdefault("timeout", COMMAND_SECONDS_MAX)
        kwargs.setdefault("env", self.environment)
        return subprocess.run(self.command(*args), capture_output=True, **kwargs)

    def raw(self, words, given):
        """Runs a command, whose words may be bytes, with this standard input."""
        return subprocess.run([CLI, *words], input=given, capture_output=True, env=self.environment,
                              timeout=COMMAND_SECONDS_MAX)

    def start(self, *args, **kwargs):
        kwargs.setdefault("env", self.environment)
        return subprocess.Popen(self.command(*args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **kwargs)

    def run(self, *args, **kwargs):
        """`mayfly run --json ...` as a dictionary; Mayfly's own errors fail the test."""
        done = self("run", "--json", *args, **kwargs)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"no JSON from {args}: exit {done.returncode}\n{done.stdout[-500:]!r}\n"
                                 f"{done.stderr[-2000:].decode(errors='replace')}") from None
