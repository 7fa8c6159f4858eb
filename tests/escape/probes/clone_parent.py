"""Makes a sibling: a process whose parent is the parent's, whom nobody in the box would reap."""
import os

from escapekit import Probe, syscall

CLONE_PARENT = 0x8000
probe = Probe("clone_parent")


def sibling():
    pid = syscall("clone", CLONE_PARENT, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"pid {pid}"


if os.getpid() == 1:
    probe.refused["clone"] = "a pid 1 has no siblings"
else:
    probe.attempt("clone", sibling)
probe.done()
