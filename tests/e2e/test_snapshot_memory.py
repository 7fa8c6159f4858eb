"""The memory that the clones of a snapshot share: theirs to read, each one's own to write; and criu, which waits in stocked boxes."""

import json
import os
import signal

import pytest

from shared_pages import COUNT
from template_place import Place, registries  # noqa: F401 (a fixture)
from test_lifecycle import TOP, await_that, comm, daemons, family, parent_of  # noqa: F401 (a fixture)
from test_snapshot_walls import folder_of, put, served, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="snapshots need root")

# 2 MiB of which a task changes a page, and a counter on the heap.
HOLDS = "data = bytearray(b'\\x5a' * (2 << 20))\nnotes = ['first']\n"
# What a task can know and do of the memory that it shares.
LOOKS = COUNT + """
import json, os, packed
opened = 0
for line in lines:
    try:
        opened += os.close(os.open('/proc/self/map_files/' + line.split()[0], os.O_RDONLY)) is None
    except OSError:
        pass
targets = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{fd}')]
print(json.dumps({'kinds': sorted({line.split()[1] for line in lines}), 'shared': shared, 'alone': alone, 'opened': opened,
                  'held': [each for each in targets if 'zygote' in each], 'there': os.path.exists('/run/memory'),
                  'was': [packed.data[0], packed.data[-1], packed.notes]}))
packed.data[0] = 1
packed.notes.append('changed')
"""


def test_clones_share_what_they_read_and_own_what_they_write(tmp_path, daemons):  # noqa: F811
    place = put(tmp_path / "place", HOLDS)
    daemon = served(place, daemons)
    bytes_of = {each.name: each.stat().st_size for each in folder_of(place).iterdir()}
    assert bytes_of["memory"] > 2 * bytes_of["pages-1.img"] > 0, bytes_of
    for _ in range(3):  # nothing of one task's is in another
        found = json.loads(daemon.cli.run("-t", "packed", "-c", LOOKS)["stdout"])
        assert found.pop("shared") > 1000, found  # 4 MiB
        assert found == {"kinds": ["r--p", "rw-p"], "alone": 0, "opened": 0, "held": [], "there": False, "was": [0x5a, 0x5a, ["first"]]}, found


def test_memory_that_changes_all_the_time_is_dumped_and_not_shared(tmp_path, daemons):  # noqa: F811
    """A thread that never sleeps may write at any time: a copy of its memory would be of no moment."""
    busy = "import hashlib, threading\nthreading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'', b'', 2 ** 31 - 1), daemon=True).start()\n"
    place = put(tmp_path / "place", HOLDS + busy)
    daemon = served(place, daemons)
    assert "memory" not in [each.name for each in folder_of(place).iterdir()]
    task = daemon.cli.run("-t", "packed", "-c", "import packed, threading; print(packed.data[7], packed.notes, threading.active_count())")
    assert task["stdout"] == "90 ['first'] 2\n", task


def test_a_block_that_libc_mapped_can_grow(tmp_path, daemons):  # noqa: F811
    """realloc() has the kernel enlarge such a block in its place, or move it: not beyond the end of a file."""
    holds = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
libc.realloc.argtypes = ctypes.c_void_p, ctypes.c_size_t
blocks = []
for number in range(8):
    at = libc.malloc(1 << 20)
    ctypes.memset(at, 65 + number, 1 << 20)
    blocks.append(at)
# As if they were the runtime's own, of before any package: else they are not shared at all.
assert ctypes.PyDLL('/usr/lib/mayfly/libmayfly-zygote.so').mayfly_zygote_mark_memory() == 0
"""
    grows = """
import ctypes, packed
for number, at in enumerate(packed.blocks):
    to = packed.libc.realloc(at, 64 << 20)
    ctypes.memset(to + (1 << 20), 1, 63 << 20)
    assert ctypes.string_at(to, 1 << 20) == bytes([65 + number]) * (1 << 20)
    packed.libc.free(ctypes.c_void_p(to))
print(len(packed.blocks))
"""
    place = put(tmp_path / "place", holds)
    daemon = served(place, daemons)
    assert (folder_of(place) / "memory").stat().st_size > 8 << 20
    task = daemon.cli.run("-t", "packed", "-c", grows)
    assert task["stdout"] == "8\n", task


@pytest.mark.parametrize("what", ["a link", "a folder", "an empty file", "a longer file"])
def test_what_a_package_leaves_in_the_place_of_the_memory_is_not_taken(tmp_path, what):
    makes = {"a link": "os.symlink('/etc/passwd', at)", "a folder": "os.mkdir(at)", "an empty file": "open(at, 'w').close()",
             "a longer file": "open(at, 'w').write('x' * (1 << 16))"}[what]
    place = put(tmp_path / "place", f"import os\nat = '/run/memory'\n{makes}\n")
    built = snapshot(place, "build", "packed")
    assert built.returncode == 1 and "cannot share its memory: File exists" in built.stderr, built.stderr


def test_a_heap_that_a_package_trims_in_its_clone_is_no_fault(tmp_path, daemons):  # noqa: F811
    trims = "import ctypes\nlibc = ctypes.CDLL(None)\nblocks = [libc.malloc(100_000) for _ in range(20)]\nfor at in blocks: libc.free(ctypes.c_void_p(at))\n"
    place = put(tmp_path / "place", trims)
    task = served(place, daemons).cli.run("-t", "packed", "-c", "import ctypes; ctypes.CDLL(None).malloc_trim(0); print(len(bytearray(8 << 20)))")
    assert task["stdout"] == f"{8 << 20}\n", task


# A language's promise: what a buffer gave back comes again as zeros.
BUFFER = "globalThis.buffer = new ArrayBuffer(1 << 20, { maxByteLength: 1 << 20 }); new Uint8Array(buffer).fill(7);\n"
SHRINKS = "const had = new Uint8Array(buffer)[5e5]; buffer.resize(0); buffer.resize(1 << 20); console.log(had, new Uint8Array(buffer).reduce((sum, each) => sum + each, 0))"


@pytest.mark.slow
def test_a_buffer_that_shrinks_and_grows_again_holds_zeros(registries, tmp_path, daemons):  # noqa: F811
    place = Place(tmp_path / "place")
    place.put("buffered", '[image.files]\n"/node_modules/buffered/index.js" = "buffered.js"\n[zygote]\npreload = ["buffered"]\n', "node", buffered__js=BUFFER)
    place("build", "buffered", check=0)
    daemon = daemons(state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"), templates=("buffered",))
    assert daemon.cli.run("-t", "buffered", "-c", SHRINKS)["stdout"] == "7 0\n"


# --- criu, ahead of the request --------------------------------------------------------


def waiting(daemon):
    """The processes that wait for their box's clone to be asked for."""
    return [pid for pid in family(daemon.pid) if comm(pid) == "criu"]


@pytest.fixture
def stocked(daemons):  # noqa: F811
    daemon = daemons(templates=("node",), template_dirs=(TOP / "templates",), config="parked_max = 0\n")
    assert daemon.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    await_that(lambda: waiting(daemon), "after a first task, criu waits in a stocked box")
    return daemon


def test_criu_waits_in_a_stocked_box_and_is_gone_when_the_task_runs(stocked):
    waited = waiting(stocked)
    task = stocked.cli.run("-t", "node", "-c", "console.log(6*7, require('fs').readdirSync('/proc').filter((name) => /^\\d+$/.test(name)).join())")
    assert task["stdout"] == "42 1,1000\n", task
    await_that(lambda: set(waiting(stocked)) - set(waited), "another one waits")
    stocked.end()
    assert not [pid for pid in waited if os.path.exists(f"/proc/{pid}")]


def test_a_criu_that_is_killed_while_it_waits_costs_no_task(stocked):
    for _ in range(3):
        for pid in waiting(stocked):
            os.kill(pid, signal.SIGKILL)
        task = stocked.cli.run("-t", "node", "-c", "console.log(6*7)")
        assert task["stdout"] == "42\n", task


def test_a_stocked_box_whose_init_was_killed_is_made_anew(stocked):
    """The kernel tells of that end only when criu, a child of the spawner, is reaped."""
    [waited] = waiting(stocked)
    [init] = [pid for pid in family(stocked.pid) if pid != waited and space_of(pid) == space_of(waited)]
    os.kill(init, signal.SIGKILL)
    await_that(lambda: not os.path.exists(f"/proc/{init}") and not os.path.exists(f"/proc/{waited}"), "the box is gone")
    await_that(lambda: waiting(stocked), "another box is in stock")
    assert stocked.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"


def space_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_tasks_that_are_cancelled_while_they_are_restored_cost_no_other(stocked, rounds):
    zygote = [pid for pid in family(stocked.pid) if comm(pid) == "mayfly-restorer"]
    [spawner] = [pid for pid in family(stocked.pid) if comm(pid) == "mayfly-spawner"]
    ended = []
    for _ in range(rounds):
        await_that(lambda: not set(ended) & set(family(stocked.pid)), "the box of the cancelled task is gone")
        await_that(lambda: waiting(stocked), "a box is in stock")
        waited = {space_of(pid) for pid in waiting(stocked)}
        known = set(family(stocked.pid))
        client = stocked.cli.start("run", "-q", "-t", "node", "-c", "setTimeout(() => {}, 1e6)")

        def made():  # criu has children of its own
            return [space_of(pid) for pid in set(family(stocked.pid)) - known if parent_of(pid) == spawner and space_of(pid) in waited]

        space = await_that(made, "its clone is made", pause_s=0)[0]
        ended = [pid for pid in family(stocked.pid) if space_of(pid) == space]
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=60)
    assert stocked.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
    assert [pid for pid in family(stocked.pid) if comm(pid) == "mayfly-restorer"] == zygote, "its zygote goes on"


def test_a_restorer_that_ends_takes_along_what_waits(stocked):
    [restorer] = [pid for pid in family(stocked.pid) if comm(pid) == "mayfly-restorer"]
    waited = waiting(stocked)
    os.kill(restorer, signal.SIGKILL)
    await_that(lambda: not [pid for pid in waited if os.path.exists(f"/proc/{pid}")], "what waited is gone")
    assert stocked.cli.run("-t", "node", "-c", "console.log(6*7)")["stdout"] == "42\n"
