# Run in two clones of a new zygote, one of them rehearsed, before the template is served. Prints
# the values that must differ between clones, those that must be equal in all, and faults.
# docs/templates.md explains the format.
import gc
import hashlib
import os
import random
import re
import secrets
import signal
import stat
import sys
import tempfile
import threading
import time
import uuid
import warnings

loaded = sorted(sys.modules)  # before the code below loads more


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()


differ = {
    "random.random": random.random(),
    "random.SystemRandom": random.SystemRandom().getrandbits(64),
    "secrets.token_hex": secrets.token_hex(16),
    "uuid.uuid1": uuid.uuid1(),
    "uuid.uuid4": uuid.uuid4(),
    "os.urandom": os.urandom(16).hex(),
    "tempfile": os.path.basename(tempfile.mktemp()),
}
if "ssl" in sys.modules:
    differ["ssl.RAND_bytes"] = sys.modules["ssl"].RAND_bytes(16).hex()
if "multiprocessing.process" in sys.modules:
    differ["multiprocessing.authkey"] = bytes(sys.modules["multiprocessing.process"].current_process().authkey).hex()
if "numpy" in sys.modules:
    numpy = sys.modules["numpy"]
    differ["numpy.random.random"] = numpy.random.random()
    differ["numpy.random.default_rng"] = numpy.random.default_rng().random()

registries = {name: sorted(map(repr, vars(module)["__warningregistry__"])) for name, module in list(sys.modules.items())
              if name != "__main__" and "__warningregistry__" in getattr(module, "__dict__", {})}
equal = {
    "hash": hash("mayfly"),
    "modules": digest(loaded),
    "sys.path": sys.path,
    "sys.argv": sys.argv,
    "environment": sorted(os.environ.items()),
    "folder": os.getcwd(),
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "files": sorted(os.listdir("/tmp") + os.listdir("/task") + os.listdir("/run")),
    "signals": [str(signal.getsignal(s)) if not callable(signal.getsignal(s)) else signal.getsignal(s).__name__
                for s in sorted(signal.valid_signals())],
    "warnings": digest([repr(each) for each in warnings.filters]),
    "warnings.registries": digest(registries),
    "gc": [gc.isenabled(), gc.get_threshold()],
    "recursion": sys.getrecursionlimit(),
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name.startswith("__")),
}

faults = []
# A module that computed a time or a pid at its load has the zygote's.
ZYGOTE_PID = 23129  # Mayfly's spawner gives it to every zygote
with open("/proc/self/stat") as file:
    ticks = int(file.read().rpartition(")")[2].split()[19])
begun = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def of_the_zygote(value):
    if type(value) not in (int, float):
        return None
    if value == ZYGOTE_PID:
        return "the zygote's pid"
    for unit in (1, 1e3, 1e6, 1e9):
        if begun - 86_400 < value / unit < begun - 1:
            return "a time before its process began"
    return None


for name in loaded:
    if name in ("__main__", "__mp_main__"):
        continue  # this program itself
    held = getattr(sys.modules[name], "__dict__", {})
    for attribute, value in list(held.items()):
        own = getattr(value, "__dict__", {}) if not isinstance(value, (type, type(sys))) else {}
        for path, each in ((attribute, value), *((f"{attribute}.{k}", v) for k, v in list(own.items()))):
            if what := of_the_zygote(each):
                faults.append(f"{name}.{path} is {what}: {each}")
# A snapshot takes the preloads' threads along; a fork cannot.
with open("/usr/lib/mayfly/template.json", encoding="utf-8") as file:
    forked = '"restore"' not in re.search(r'"mechanism": *("\w+")', file.read())[1]
if forked and (threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1):
    faults.append("it has more than one thread: " + ", ".join(t.name for t in threading.enumerate()))
for fd in os.listdir("/proc/self/fd"):
    try:
        mode = os.fstat(int(fd)).st_mode
    except OSError:
        continue  # the descriptor of the listing itself
    if not stat.S_ISFIFO(mode):
        faults.append(f"descriptor {fd} is open: " + os.readlink(f"/proc/self/fd/{fd}"))
for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    if signal.getitimer(which) != (0.0, 0.0):
        faults.append("an interval timer runs")
try:
    if open("/proc/self/timers").read():
        faults.append("a POSIX timer exists")
except OSError:
    pass
try:
    os.waitpid(-1, os.WNOHANG)
    faults.append("it has a child process")
except ChildProcessError:
    pass
# Every Mayfly process that must be out of reach carries such a word. The pattern does not match itself.
canary = re.compile(rb"MAYFLY[-]CANARY[-][0-9a-f]{16}")
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps.read().splitlines():
        span, access = line.split()[:2]
        if "r" not in access or line.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
            continue
        begin, end = (int(part, 16) for part in span.split("-"))
        try:
            memory.seek(begin)
            if canary.search(memory.read(end - begin)):
                faults.append("the daemon's canary is in its memory: " + line)
        except (OSError, ValueError):
            pass
if any(canary.search(entry) for entry in (k + b"=" + v for k, v in os.environb.items())):
    faults.append("the daemon's canary is in its environment")

for fault in faults:
    print("fault", fault)
for name, value in differ.items():
    print("differ", name, value)
for name, value in equal.items():
    print("equal", name, value)
