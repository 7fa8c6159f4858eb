"""P5: no task can see its clone's rehearsal: a rehearsed box is compared with an unrehearsed one."""

import json
import os

import pytest

from pool_view import boxes
from test_lifecycle import STATE_DIR, await_that, daemons, read  # noqa: F401
from test_pool_kills import stopped
from test_same_start import CHANGING_STATUS, LISTING, normalise_mountinfo

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")

# The runtime's own state and counters, which the common listing leaves out.
MORE = r"""
import atexit, gc, linecache, locale, logging, multiprocessing, random, signal, threading, warnings
more = {}
more['warning registries'] = sorted(name for name, module in list(sys.modules.items())
                                    if getattr(module, '__warningregistry__', None))
more['warnings.filters'] = [repr(each) for each in warnings.filters]
more['once and default warnings'] = [len(warnings.onceregistry), str(warnings.defaultaction)]
more['exit handlers'] = atexit._ncallbacks()
more['threads'] = sorted(str(t.name) + str(t.daemon) for t in threading.enumerate())
more['signals'] = {int(s): str(signal.getsignal(s)).split(' at 0x')[0] for s in signal.valid_signals()}
more['pending'] = [sorted(signal.sigpending()), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]
more['gc'] = [gc.isenabled(), gc.get_threshold(), len(gc.garbage), len(gc.callbacks)]
more['collections'] = [stats['collections'] for stats in gc.get_stats()]
more['linecache'] = sorted(linecache.cache)
more['locale'] = [locale.setlocale(locale.LC_ALL), sys.getdefaultencoding(), sys.getfilesystemencoding()]
more['logging'] = [len(logging.root.handlers), sorted(logging.root.manager.loggerDict)]
more['children'] = len(multiprocessing.active_children())
more['hooks'] = [str(sys.excepthook is sys.__excepthook__), str(sys.displayhook is sys.__displayhook__),
                 str(sys.gettrace()), str(sys.getprofile()), len(sys.meta_path), len(sys.path_hooks)]
more['importer cache'] = sorted(sys.path_importer_cache)
more['main'] = sorted(n for n in vars(sys.modules['__main__']) if n.startswith('__'))
more['orig_argv'] = sys.orig_argv
more['last error'] = [hasattr(sys, n) for n in ('last_exc', 'last_type', 'last_value', 'last_traceback')]
more['recursion'] = [sys.getrecursionlimit(), sys.getswitchinterval()]
more['streams'] = [[f.encoding, f.errors, f.line_buffering, f.name, f.mode] for f in (sys.stdin, sys.stdout, sys.stderr)]
more['written'] = sys.stdout.buffer.raw.closed
inodes = {}
for folder in ('/tmp', '/task', '/run', '/dev/shm'):
    path = folder + '/probe'
    with open(path, 'x') as f:
        inodes[folder] = os.fstat(f.fileno()).st_ino
    os.unlink(path)
more['inodes of new files'] = inodes
fd = os.open('/dev/null', os.O_RDONLY); os.close(fd)
more['next descriptor'] = fd
more['children so far'] = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, os.times().children_user]
child = os.fork()
if child == 0: os._exit(0)
more['next pid'] = child
os.waitpid(child, 0)
for name in ('numpy', 'pandas', 'matplotlib'):
    module = sys.modules.get(name)
    if name == 'numpy' and module: more[name] = [str(module.geterr()), module.get_printoptions()['precision']]
    if name == 'pandas' and module: more[name] = [module.get_option('display.max_rows'), module.get_option('mode.chained_assignment')]
    if name == 'matplotlib' and module:
        plt = sys.modules['matplotlib.pyplot']
        more[name] = [plt.get_fignums(), module.get_backend(), module.rcParams['figure.figsize'], module.rcParams['font.size']]
print(json.dumps(more))
"""

# The only allowed differences, and the reasons.
MAY_DIFFER = {
    "collections": "how often the collector ran: a rehearsal that makes garbage sets it off",
}
# Of the result: the kernel's counters restart at the claim.
CPU_MS_MAX = 250       # of an empty task on a busy machine; a rehearsed python-data clone used more before its claim
MEMORY_LESS_MAX = 4 << 20  # of what a task takes; the interpreter's end takes more


def started(daemons, name, parked):  # noqa: F811
    """A daemon with the whole template, whose clones are all rehearsed, or all unrehearsed."""
    config = f"parked_max = {parked}\nstocked_max = 0\n"
    daemon = daemons(config=config, templates=(name,), state_dir=STATE_DIR)
    if parked:
        await_that(lambda: told(daemon)["parked"] > 0, "a parked clone")
    return daemon


def told(daemon):
    return json.loads(daemon.cli("templates", "--json").stdout)["templates"][0]


def seen(daemon, name):
    result = daemon.cli.run("-t", name, "-c", f"CHANGING = {sorted(CHANGING_STATUS)!r}\n{LISTING}\n{MORE}")
    assert result["verdict"] == "succeeded", result
    see, more = map(json.loads, result["stdout"].splitlines())
    see["mountinfo"] = normalise_mountinfo(see["mountinfo"])
    return {**see, **more}, result


@pytest.mark.parametrize("name", ["python", pytest.param("python-data", marks=pytest.mark.slow)])
def test_a_rehearsal_leaves_no_visible_trace(daemons, name):  # noqa: F811
    plain, rehearsed = started(daemons, name, 0), started(daemons, name, 2)
    (one, _), (other, _) = seen(plain, name), seen(rehearsed, name)
    assert (told(plain)["hits"], told(plain)["misses"]) == (0, 1)
    assert (told(rehearsed)["hits"], told(rehearsed)["misses"]) == (1, 0)
    assert one.keys() == other.keys()
    differ = {key: (one[key], other[key]) for key in one if one[key] != other[key]}
    assert differ.keys() <= MAY_DIFFER.keys(), {key: differ[key] for key in differ.keys() - MAY_DIFFER.keys()}
    # The listing's own warnings are __main__'s.
    assert set(other["warning registries"]) <= {"__main__", "__mp_main__"}


@pytest.mark.parametrize("name", ["python", pytest.param("python-data", marks=pytest.mark.slow)])
def test_what_the_kernel_counts_begins_anew_with_the_task(daemons, name):  # noqa: F811
    """A clone's making and rehearsal do not count as its task's usage."""
    rehearsed = started(daemons, name, 2)
    usage = rehearsed.cli.run("-t", name, "-c", "pass")["usage"]
    assert told(rehearsed)["hits"] == 1
    assert usage["userCpuNs"] + usage["systemCpuNs"] < CPU_MS_MAX * 1e6, usage
    assert usage["processesPeak"] == 1, usage
    # Neither counts the interpreter's end, after which the large one's memory is free again.
    peak = [rehearsed.cli.run("-t", name, "-c", f"x = b'x' * {size}; import os; os._exit(0)")["usage"]["memoryPeakBytes"]
            for size in (1, 64 << 20)]
    assert peak[1] - peak[0] > (64 << 20) - MEMORY_LESS_MAX, (peak, usage)


def test_what_a_task_uses_while_the_spawner_is_held_up_is_its_own(daemons):  # noqa: F811
    """A parked clone starts without the spawner, which looks at its counters later."""
    daemon = started(daemons, "python", 2)
    with stopped([daemon.spawner]):
        client = daemon.cli.start("run", "--json", "-t", "python", "-c",
                                  "import time\nwhile time.process_time() < 0.6: pass\nprint(42)")
        # Its clone has already used this much when the spawner reads the claim.
        await_that(lambda: any(cpu_s(box.clone) > 0.4 for box in boxes(daemon).values()), "the task has run")
    usage = json.loads(client.communicate(timeout=60)[0])["usage"]
    assert told(daemon)["hits"] == 1
    assert usage["userCpuNs"] + usage["systemCpuNs"] > 0.5e9, usage


def cpu_s(pid):
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else 0
