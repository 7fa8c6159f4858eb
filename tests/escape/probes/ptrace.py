"""Traces: the init, the parent, a child of its own, itself."""
import os
import signal

from escapekit import Probe, syscall

TRACEME, PEEKDATA, ATTACH, SEIZE = 0, 2, 16, 0x4206
probe = Probe("ptrace")
probe.attempt("init", lambda: syscall("ptrace", SEIZE, 1, 0, 0) == 0 if os.getpid() != 1 else None)

for label, request in (("attach_child", ATTACH), ("seize_child", SEIZE)):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    probe.attempt(label, lambda: syscall("ptrace", request, pid, 0, 0) == 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
probe.attempt("traceme", lambda: syscall("ptrace", TRACEME, 0, 0, 0) == 0)
probe.done()
