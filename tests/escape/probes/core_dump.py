"""Makes a core dump: raises the limit, sets itself dumpable, crashes where files are collected."""
import ctypes
import glob
import os
import resource
import signal

from escapekit import Probe, child, libc, params

probe = Probe("core_dump")
where = "/task/out" if os.path.isdir("/task/out") else "."


def raised():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "unlimited"


def dumped():
    os.chdir(where)

    def crash():
        try:
            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        except (OSError, ValueError):
            pass
        libc.prctl(4, 1, 0, 0, 0)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a background job of a shell's ignores it
        os.kill(os.getpid(), signal.SIGQUIT)
        signal.pause()

    status = child(crash)
    if not os.WIFSIGNALED(status):
        return f"the probe itself failed: {status}"
    return "dumped" if os.WCOREDUMP(status) or glob.glob("core*") else None


probe.attempt("limit", raised)
probe.attempt("dump", dumped)
probe.done(limit=resource.getrlimit(resource.RLIMIT_CORE))
