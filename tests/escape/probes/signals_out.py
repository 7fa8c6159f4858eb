"""Signals (number 0, which only asks) whoever it is not: by number, by group, by descriptor, by owner of a pipe."""
import fcntl
import os
import signal

from escapekit import Probe, params, syscall

probe = Probe("signals_out")
own = {os.getpid()}


def everyone():
    found = []
    for pid in range(1, 40000):
        if pid in own:
            continue
        try:
            os.kill(pid, 0)
        except OSError:
            continue
        found.append(pid)
    return found[:20] or None


def groups():
    found = []
    for group in range(2, 40000):
        if group == os.getpgrp():
            continue
        try:
            os.kill(-group, 0)
        except OSError:
            continue
        found.append(group)
    return found[:20] or None


def owner(pid):
    """SIGIO of a pipe, sent to a process that did not ask for it."""
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, pid)
    return fcntl.fcntl(read, fcntl.F_GETOWN) == pid and "owner set"


def init_by_descriptor():
    handle = syscall("pidfd_open", 1, 0)
    syscall("pidfd_send_signal", handle, 0, 0, 0)
    return "sent"


probe.attempt("by_number", everyone)
probe.attempt("by_group", groups)
probe.attempt("parent", lambda: os.getppid() not in (0, 1) and (os.kill(os.getppid(), 0), "sent")[1])
probe.attempt("init", lambda: (os.kill(1, 0), "sent")[1])
probe.attempt("init_by_descriptor", init_by_descriptor)
for pid in params().get("host_pids", []):
    probe.attempt(f"host_pid_{pid}", lambda: (os.kill(pid, 0), "sent")[1])
    probe.attempt(f"pipe_owner_{pid}", owner, pid)
probe.attempt("group_0", lambda: os.getpgrp() != os.getpid() and f"group {os.getpgrp()}")
probe.done()
