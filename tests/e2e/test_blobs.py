"""Blobs: large input by --file, one upload for many tasks, false claims, bounds, expiry, another user.

mayfly-blob-peer speaks the raw protocol, for what no well-behaved client does.
"""

import hashlib
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time

import pytest

from light import light
from support import CLI
from test_lifecycle import Daemon

PEER = str(pathlib.Path(CLI).parent / "mayfly-blob-peer")
SECONDS_MAX = 60  # of a wait for an event
MIB = 1 << 20
OK, INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 0, 1, 2, 4, 6

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon and other users need root")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def wait_for(condition, what):
    deadline = time.monotonic() + SECONDS_MAX
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {SECONDS_MAX} s"
    return value


class Peer:
    def __init__(self, socket, uid=None):
        command = [PEER, socket] + ([str(uid)] if uid is not None else [])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(SECONDS_MAX)
        self.process.stdout.close()

    def __call__(self, *words):
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], SECONDS_MAX)[0], f"no answer to {words}"
        return json.loads(self.process.stdout.readline())

    def put(self, size, byte):
        """Uploads `size` equal bytes; returns their hash."""
        name = sha256(bytes([byte]) * size)
        begun = self("upload", name, size)
        assert begun["code"] == OK and not begun["known"], begun
        assert self("write", begun["upload"], size, byte)["code"] == OK
        assert self("finish", begun["upload"])["code"] == OK
        return name

    def blobs(self):
        return self("blobs")["blobs"]

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def peer(daemon):
    with Peer(daemon) as made:
        yield made


@pytest.fixture
def own_daemon():
    """Starts a daemon with the given settings, in a folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="mayfly-blobs-") as folder:
        os.chmod(folder, 0o755)
        started = []

        def start(config):
            started.append(Daemon(folder, config=config, templates=("python",), **light()).start())
            return started[-1]

        yield start
        for each in started:
            each.end()


def a_file(path, size):
    with open(path, "wb") as file:
        block = os.urandom(MIB)
        for at in range(0, size, MIB):
            file.write((at.to_bytes(8, "little") + block[8:])[:size - at])
    return path


# --- by the command line ---------------------------------------------------------------


def test_100_mb_in_a_task_and_not_in_the_client(mayfly, tmp_path):
    big = a_file(tmp_path / "big.bin", 100_000_000)
    os.chmod(big, 0o640)
    code = ("import hashlib, os\nd = open('d/data.bin', 'rb').read()\n"
            "print(len(d), hashlib.sha256(d).hexdigest(), oct(os.stat('d/data.bin').st_mode & 0o777))")
    # The command is the only child of a separate process, which then prints how much memory it
    # used.
    held = tmp_path / "held"
    between = ("import resource, subprocess, sys\ncode = subprocess.run(sys.argv[2:]).returncode\n"
               "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\n"
               "sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", between, held, *mayfly.command(
        "run", "--json", "--input", "128MB", "--file", f"{big}:d/data.bin", "-c", code)],
        env=mayfly.environment, capture_output=True, timeout=SECONDS_MAX)
    result = json.loads(done.stdout)
    assert result["verdict"] == "succeeded", (result["reason"], result["stderr"])
    assert result["stdout"] == f"100000000 {sha256(big.read_bytes())} 0o640\n"
    assert result["usage"]["diskBytes"] >= 100_000_000
    # A sanitizer keeps freed memory.
    assert int(held.read_text()) << 10 < 64 * MIB or "ASAN_OPTIONS" in os.environ


def test_the_copy_is_charged_to_the_box(mayfly, tmp_path):
    big = a_file(tmp_path / "big", 8 * MIB)
    result = mayfly.run("--file", big, "-c", "pass")
    assert result["usage"]["memoryPeakBytes"] >= 8 * MIB
    done = mayfly("run", "--file", big, "--disk", "4MiB", "-c", "pass")
    assert done.returncode == 125 and b"the task's cap on the disk is 4 MiB" in done.stderr
    done = mayfly("run", "--file", big, "--input", "4MiB", "-c", "pass")
    assert done.returncode == 125 and b"the task's cap on input is 4 MiB" in done.stderr and b"--input" in done.stderr


def test_small_files_stay_inline_and_large_ones_are_kept(own_daemon, tmp_path):
    daemon = own_daemon("")
    small, large = a_file(tmp_path / "small", MIB), a_file(tmp_path / "large", MIB + 1)
    run = daemon.cli.run("--file", small, "--file", large, "-c", "import os; print(os.path.getsize('small'), os.path.getsize('large'))")
    assert run["stdout"] == f"{MIB} {MIB + 1}\n"
    with Peer(daemon.socket) as peer:
        assert peer.blobs() == {sha256(large.read_bytes()): MIB + 1}


def test_more_than_a_request_holds_goes_in_many_files(mayfly, tmp_path):
    flags = []
    for i in range(20):
        flags += ["--file", a_file(tmp_path / f"f{i}", MIB)]
    result = mayfly.run(*flags, "-c", "import os; print(sum(os.path.getsize(f'f{i}') for i in range(20)))")
    assert result["stdout"] == f"{20 * MIB}\n"


def test_a_pipe_is_an_input_file_of_any_size(mayfly):
    read, write = os.pipe()
    with subprocess.Popen(["head", "-c", str(5 * MIB), "/dev/zero"], stdout=write):
        os.close(write)
        result = mayfly.run("--file", f"/dev/fd/{read}:zeros", "-c", "print(len(open('zeros', 'rb').read()))", pass_fds=(read,))
    os.close(read)
    assert result["stdout"] == f"{5 * MIB}\n"


def test_twenty_tasks_at_once_share_one_upload(own_daemon, tmp_path):
    # A second copy has no room in the store.
    daemon = own_daemon('blob_user_max = "17MiB"\nblob_store_max = "17MiB"')
    big = a_file(tmp_path / "big", 16 * MIB)
    code = "import hashlib; print(hashlib.sha256(open('big', 'rb').read()).hexdigest())"
    running = [daemon.cli.start("run", "-q", "--memory", "64MiB", "--file", big, "-c", code) for _ in range(20)]
    for each in running:
        out, err = each.communicate(timeout=SECONDS_MAX)
        assert each.returncode == 0 and out.decode() == sha256(big.read_bytes()) + "\n", err
    with Peer(daemon.socket) as peer:
        assert list(peer.blobs().values()) == [16 * MIB]


def test_a_task_cannot_change_what_the_next_one_gets(mayfly, tmp_path):
    big = a_file(tmp_path / "big", 2 * MIB)
    spoil = ("import mmap, os\nos.chmod('big', 0o600)\nf = open('big', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\n"
             "m[:] = b'x' * len(m)\nm.flush()\nf.write(b'y')\nf.truncate(10)\nos.unlink('big')\nopen('big', 'w').write('z')")
    assert mayfly.run("--file", big, "-c", spoil)["verdict"] == "succeeded"
    result = mayfly.run("--file", big, "-c", "import hashlib; print(hashlib.sha256(open('big', 'rb').read()).hexdigest())")
    assert result["stdout"] == sha256(big.read_bytes()) + "\n"


def test_a_file_beyond_the_bound_is_refused_before_it_is_read(mayfly, tmp_path):
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.truncate(1 << 40)  # sparse; reading it would take minutes
    done = mayfly("run", "--file", huge, "-c", "print('ran')")
    assert done.returncode == 125 and done.stdout == b""
    assert b"the large input files have 1 TiB" in done.stderr and b"at most" in done.stderr, done.stderr


# --- by the raw protocol -----------------------------------------------------------------


def test_a_5_gb_upload_is_refused_at_once(peer):
    refused = peer("upload", sha256(b"5"), 5 << 30)
    assert refused["code"] == INVALID_ARGUMENT and not refused["retryable"], refused
    assert "upload" not in refused


def test_bytes_of_another_hash_are_not_kept(peer):
    name = sha256(b"what was told")
    begun = peer("upload", name, 3000)
    assert peer("write", begun["upload"], 3000, 7)["code"] == OK
    lied = peer("finish", begun["upload"])
    assert lied["code"] == INVALID_ARGUMENT and name in lied["message"], lied
    assert peer("finish", begun["upload"])["code"] == FAILED_PRECONDITION
    assert name not in peer.blobs()
    assert peer("run", name, "f", "print(1)")["code"] == NOT_FOUND


def test_sizes_that_lie_are_refused(peer):
    name = sha256(b"\7" * 3000)
    more = peer("upload", name, 2000)
    assert peer("write", more["upload"], 3000, 7)["code"] == INVALID_ARGUMENT
    assert peer("finish", more["upload"])["code"] == INVALID_ARGUMENT
    fewer = peer("upload", name, 4000)
    assert peer("write", fewer["upload"], 3000, 7)["code"] == OK
    assert peer("finish", fewer["upload"])["code"] == INVALID_ARGUMENT
    assert peer.put(3000, 7) == name
    assert peer("upload", name, 3001)["code"] == INVALID_ARGUMENT
    assert peer("upload", name, 3000)["known"]
    assert peer("remove", name)["code"] == OK and peer("remove", name)["code"] == NOT_FOUND


def test_a_blob_becomes_a_tasks_file(peer):
    name = peer.put(3 * MIB + 1, 65)
    ran = peer("run", name, "deep/er/file", "d = open('deep/er/file').read(); print(len(d), set(d))")
    assert ran["stdout"] == f"{3 * MIB + 1} {{'A'}}\n", ran
    # It stays the task's where the path is none: the blob makes no difference to the checks.
    assert peer("run", name, "../file", "print(1)")["code"] == INVALID_ARGUMENT


def test_an_empty_blob_is_an_empty_file(peer):
    name = sha256(b"")
    begun = peer("upload", name, 0)
    if not begun["known"]:
        assert peer("finish", begun["upload"])["code"] == OK
    assert peer("run", name, "f", "print(repr(open('f').read()))")["stdout"] == "''\n"


def test_a_dropped_connection_frees_its_uploads(own_daemon):
    daemon = own_daemon('blob_user_max = "4MiB"\nblob_store_max = "4MiB"')
    with Peer(daemon.socket) as peer:
        for half_written in (False, True):
            doomed = Peer(daemon.socket)
            begun = doomed("upload", sha256(b"x"), 4 * MIB)
            if half_written:
                assert doomed("write", begun["upload"], 2 * MIB, 1)["code"] == OK
            full = peer("upload", sha256(b"y"), 1)
            assert full["code"] == RESOURCE_EXHAUSTED and full["retryable"], full
            doomed.kill()
            begun = wait_for(lambda: (r := peer("upload", sha256(b"y"), 4 * MIB))["code"] == OK and r, "room for an upload")
            assert peer("close", begun["upload"])["code"] == OK


def test_uploads_of_one_connection_are_bounded(peer):
    begun = [peer("upload", sha256(b"%d" % i), 1) for i in range(16)]
    assert [b["code"] for b in begun] == [OK] * 16
    assert peer("upload", sha256(b"more"), 1)["code"] == RESOURCE_EXHAUSTED
    assert peer("close", begun[0]["upload"])["code"] == OK
    assert peer("upload", sha256(b"more"), 1)["code"] == OK


def test_what_nobody_uses_expires(own_daemon):
    daemon = own_daemon('blob_ttl = "1s"\nupload_idle = "500ms"')
    with Peer(daemon.socket) as peer:
        name = peer.put(1000, 1)
        idle = peer("upload", sha256(b"idle"), 1000)["upload"]
        assert list(peer.blobs()) == [name]
        # A refused write does not extend the upload's time.
        gone = wait_for(lambda: (r := peer("write", idle, 2000, 1))["code"] == NOT_FOUND and r, "the idle upload's end")
        assert "500 ms" in gone["message"], gone
        wait_for(lambda: peer.blobs() == {}, "the blob's end")
        assert peer("run", name, "f", "print(1)")["code"] == NOT_FOUND


def test_two_large_inputs_do_not_lock_their_user_out(own_daemon):
    daemon = own_daemon('blob_user_max = "2MiB"\nblob_ttl = "600s"')
    with Peer(daemon.socket) as peer:
        first, second = peer.put(MIB, 1), peer.put(MIB, 2)
        third = peer.put(MIB, 3)  # nobody uses the first one, which gives way
        assert set(peer.blobs()) == {second, third}, (first, peer.blobs())
        assert peer("remove", second)["code"] == OK
        assert peer("upload", sha256(b"y"), 1)["code"] == OK


def test_blobs_are_listed_and_removed_from_the_command_line(own_daemon, tmp_path):
    daemon = own_daemon("")
    big = tmp_path / "big"
    big.write_bytes(os.urandom(2 * MIB))
    ran = daemon.cli.run("--file", big, "-c", "print(len(open('big', 'rb').read()))")
    assert ran["stdout"] == f"{2 * MIB}\n", ran
    name = sha256(big.read_bytes())
    listed = json.loads(daemon.cli("blob", "list", "--json").stdout)["blobs"]
    assert [(each["sha256"], each["sizeBytes"]) for each in listed] == [(name, 2 * MIB)], listed
    assert name in daemon.cli("blob", "list").stdout.decode()
    assert daemon.cli("blob", "remove", "0" * 12).returncode == 1
    assert daemon.cli("blob", "remove", name[:12]).returncode == 0
    assert json.loads(daemon.cli("blob", "list", "--json").stdout) == {"blobs": []}


def test_caps_are_checked_before_an_upload(own_daemon, tmp_path):
    daemon = own_daemon("")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(100 * MIB)
    refused = daemon.cli("run", "--file", big, "-c", "print()")
    assert refused.returncode == 125 and b"Nothing was uploaded" in refused.stderr, refused
    assert b"--input" in refused.stderr, refused
    assert json.loads(daemon.cli("blob", "list", "--json").stdout) == {"blobs": []}


OTHER_USER = 64_041


@needs_root
def test_another_user_can_neither_use_nor_see_nor_remove_a_blob(own_daemon):
    daemon = own_daemon(f'blob_user_max = "1MiB"\nuids_allowed = [{OTHER_USER}]')
    with Peer(daemon.socket) as mine, Peer(daemon.socket, OTHER_USER) as other:
        name = mine.put(MIB, 9)
        assert other.blobs() == {}
        assert other("run", name, "f", "print(1)")["code"] == NOT_FOUND
        assert other("remove", name)["code"] == NOT_FOUND
        # Equal bytes of another user do not show, and do not count for this user's share.
        assert other.put(MIB, 9) == name
        assert other("remove", name)["code"] == OK
        assert mine("run", name, "f", "print(len(open('f').read()))")["stdout"] == f"{MIB}\n"


def test_what_a_task_holds_outlives_its_removal(own_daemon):
    daemon = own_daemon('blob_user_max = "2MiB"\nboxes_max = 1')
    blocker = daemon.cli.start("run", "-q", "--stdin", "-c", "import sys; print('READY', flush=True); sys.stdin.read()")
    assert blocker.stdout.readline() == b"READY\n"
    with Peer(daemon.socket) as mine, Peer(daemon.socket) as waiting:
        name = mine.put(2 * MIB, 3)
        # The only box is taken, so the task waits in the queue with its blob.
        waiting.process.stdin.write(f"run {name} f print(len(open('f').read()))\n".encode())
        waiting.process.stdin.flush()
        wait_for(lambda: b'"queued"' in daemon.cli("ps", "--json").stdout, "the queued task")
        assert mine("remove", name)["code"] == OK
        assert mine.blobs() == {}
        # Its bytes are still there, and counted.
        assert mine("upload", sha256(b"y"), 1)["code"] == RESOURCE_EXHAUSTED
        blocker.communicate(timeout=SECONDS_MAX)
        ran = json.loads(waiting.process.stdout.readline())
        assert ran["stdout"] == f"{2 * MIB}\n", ran
        assert mine("upload", sha256(b"y"), 2 * MIB)["code"] == OK
