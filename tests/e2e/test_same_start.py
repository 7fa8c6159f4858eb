"""P5: every box of a template starts alike, whatever ran before; random state differs."""

import json
import os
import re

import pytest

# Boxes between the two listings; `./dev check` asks for a thousand.
BOXES_BETWEEN = int(os.environ.get("MAYFLY_BOXES_BETWEEN", "10"))

# Everything that a box can see of itself at its start, as one JSON object.
LISTING = r"""
import json, os, stat, sys
see = {}
see['env'] = dict(os.environ)
see['argv'] = sys.argv
see['ids'] = [os.getpid(), os.getppid(), os.getresuid(), os.getresgid(), os.getgroups(), os.getsid(0), os.getpgid(0)]
see['cwd'] = os.getcwd()
see['uname'] = list(os.uname())
see['umask'] = os.umask(0); os.umask(see['umask'])
see['fds'] = {f: stat.S_IFMT(os.fstat(int(f)).st_mode) for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f)}
import resource
see['limits'] = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT_')}
see['affinity'] = sorted(os.sched_getaffinity(0))
see['priority'] = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
status = open('/proc/self/status').read().splitlines()
see['status'] = [l for l in status if l.split(':')[0] not in CHANGING]
for name in ('mountinfo', 'cgroup', 'limits', 'uid_map', 'gid_map', 'setgroups', 'oom_score_adj', 'comm', 'cmdline', 'personality'):
    try:
        see[name] = open('/proc/self/' + name).read()
    except OSError as e:
        see[name] = str(e)
see['namespaces'] = sorted(os.listdir('/proc/self/ns'))
tree = []
for top in ('/tmp', '/task', '/run', '/dev', '/var/tmp', '/home', '/etc'):
    for path, folders, files in os.walk(top):
        for name in sorted(folders + files):
            p = os.path.join(path, name)
            s = os.lstat(p)
            tree.append([p, s.st_mode, s.st_uid, s.st_gid, s.st_size if not stat.S_ISDIR(s.st_mode) else 0])
see['tree'] = sorted(tree)
see['processes'] = sorted(n for n in os.listdir('/proc'))
see['disk'] = [getattr(os.statvfs('/task'), n) for n in ('f_bsize', 'f_blocks', 'f_bfree', 'f_files', 'f_ffree')]
import socket
see['interfaces'] = []
for i in range(1, 16):
    try:
        see['interfaces'].append([i, socket.if_indextoname(i)])
    except OSError:
        pass
see['modules'] = sorted(sys.modules)
see['path'] = sys.path
see['threads'] = __import__('threading').active_count()
see['hash'] = hash('mayfly')
see['warnings'] = [repr(f) for f in __import__('warnings').filters]
print(json.dumps(see))
"""

# The allowed differences, by name, with the reasons; any other difference fails.
CHANGING_STATUS = {
    "VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmPTE", "VmLib",  # pages touched so far
    "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches",  # the scheduler's doing
}


def normalise_mountinfo(text):
    """Mount ids, parents' ids and device numbers are the kernel's counters."""
    ids = {}
    lines = []
    for line in text.splitlines():
        first, parent, device, rest = line.split(" ", 3)
        for number in (first, parent, device):
            ids.setdefault(number, f"#{len(ids)}")
        lines.append(f"{ids[first]} {ids[parent]} {ids[device]} {rest}")
    return lines


def listing(mayfly, template="python"):
    code = f"CHANGING = {sorted(CHANGING_STATUS)!r}\n{LISTING}"
    result = mayfly.run("-t", template, "-c", code)
    assert result["verdict"] == "succeeded", result
    see = json.loads(result["stdout"])
    see["mountinfo"] = normalise_mountinfo(see["mountinfo"])
    return see


LITTER = """
import os, random, sys, tempfile
os.makedirs('/tmp/litter/deep'); open('/tmp/litter/f', 'w').write('x' * 100000)
open('/dev/shm/litter', 'w').write('y'); open('/task/litter', 'w').write('z')
os.environ['LITTER'] = '1'; sys.modules['litter'] = sys; random.seed(1)
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    import time; time.sleep(600)
"""


@pytest.mark.parametrize("template", ["python", "python-data"])
def test_the_first_box_and_a_later_one_see_the_same(mayfly, template):
    first = listing(mayfly, template)
    for _ in range(BOXES_BETWEEN):
        assert mayfly.run("-t", template, "-c", LITTER)["verdict"] == "succeeded"
    later = listing(mayfly, template)
    assert first.keys() == later.keys()
    for name in first:
        assert first[name] == later[name], name


def test_nothing_of_the_host_or_of_the_box_s_own_number_is_in_the_listing(mayfly):
    text = json.dumps(listing(mayfly))
    for word in ("/var/lib", "/sys/fs/cgroup", "instance", "images/", ".erofs"):
        assert word not in text.replace("/var/lib/dpkg", ""), word
    # The host's ids of this box are numbers above the base of our ranges.
    assert not re.search(r"\b(18790|18[89]\d{2}|19\d{3}|20\d{3}|21\d{3})\d{5}\b", text)


GENERATORS = """
import json, os, random, secrets, ssl, tempfile, uuid
draw = lambda: {
    'random': random.random(), 'SystemRandom': random.SystemRandom().random(),
    'uuid1': str(uuid.uuid1()), 'uuid4': str(uuid.uuid4()), 'node': uuid.getnode(), 'secrets': secrets.token_hex(8),
    'ssl': ssl.RAND_bytes(8).hex(), 'urandom': os.urandom(8).hex(), 'tempfile': tempfile.mktemp(),
    **numpy()}
def numpy():
    try:
        import numpy as np
    except ImportError:
        return {}
    return {'numpy': np.random.random(), 'default_rng': float(np.random.default_rng().random())}
mine = draw()
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, json.dumps(draw()).encode()); os._exit(0)
os.wait()
print(json.dumps([mine, json.loads(os.read(r, 65536))]))
"""


@pytest.mark.parametrize("template", ["python", "python-data"])
def test_every_generator_differs_between_any_two_clones_and_their_children(mayfly, template):
    drawn = []
    for _ in range(6):
        result = mayfly.run("-t", template, "-c", GENERATORS)
        assert result["verdict"] == "succeeded", result
        drawn += json.loads(result["stdout"])
    for name in drawn[0]:
        if name == "node":  # one per box: its child shares it
            values = [d[name] for d in drawn[::2]]
        else:
            values = [d[name] for d in drawn]
        assert len(set(values)) == len(values), (name, values)


def test_a_seed_makes_the_reproducible_generators_repeat_and_no_other(mayfly):
    def draw(seed):
        return json.loads(mayfly.run("-t", "python-data", "--seed", str(seed), "-c",
                                 GENERATORS)["stdout"])[0]

    one, two, other = draw(7), draw(7), draw(8)
    for name in ("random", "numpy"):
        assert one[name] == two[name] != other[name], name
    for name in ("urandom", "secrets", "uuid4", "default_rng", "ssl", "SystemRandom"):
        assert one[name] != two[name], name
