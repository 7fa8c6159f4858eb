"""Takes more than its share: priorities, classes, limits, the out-of-memory order."""
import ctypes
import os
import resource

from escapekit import Probe, child, syscall

probe = Probe("priority")


def alone(function):
    """In a child: it may succeed."""

    def act():
        try:
            function()
        except (OSError, ValueError):
            return 1
        return 0

    return os.waitstatus_to_exitcode(child(act)) == 0 and "granted"


probe.attempt("nice", alone, lambda: os.nice(-5))
probe.attempt("setpriority", alone, lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
probe.attempt("setpriority_init", lambda: (os.setpriority(os.PRIO_PROCESS, 1, os.getpriority(os.PRIO_PROCESS, 1)), "set")[1]
              if os.getpid() != 1 else None)
for name, policy in (("fifo", os.SCHED_FIFO), ("rr", os.SCHED_RR)):
    probe.attempt(name, alone, lambda: os.sched_setscheduler(0, policy, os.sched_param(10)))


def deadline():
    attr = (ctypes.c_uint64 * 6)(48 | 6 << 32, 0, 0, 1_000_000, 10_000_000, 10_000_000)
    syscall("sched_setattr", 0, ctypes.byref(attr), 0)


probe.attempt("deadline", alone, deadline)
probe.attempt("ioprio", alone, lambda: syscall("ioprio_set", 1, 0, 1 << 13))
probe.attempt("oom_order", alone, lambda: open("/proc/self/oom_score_adj", "w").write("-900"))
for name in ("NOFILE", "NPROC", "CORE", "FSIZE", "MEMLOCK", "NICE", "RTPRIO", "MSGQUEUE", "SIGPENDING", "CPU", "STACK"):
    limit = getattr(resource, f"RLIMIT_{name}", None)
    if limit is None:
        continue
    hard = resource.getrlimit(limit)[1]
    if hard == resource.RLIM_INFINITY:
        continue
    probe.attempt(f"limit_{name}", alone, lambda: resource.setrlimit(limit, (hard, hard + 1)))
probe.attempt("limit_of_init", lambda: (resource.prlimit(1, resource.RLIMIT_NOFILE), "read")[1] if os.getpid() != 1 else None)
probe.done(limits={n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")})
