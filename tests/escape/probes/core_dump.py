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
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        libc.prctl(4, 1, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGQUIT)
        signal.pause()

    status = child(crash)
    return (os.WCOREDUMP(status) or glob.glob("core*")) and "dumped"


probe.attempt("limit", raised)
probe.attempt("dump", dumped)
probe.done(limit=resource.getrlimit(resource.RLIMIT_CORE))
