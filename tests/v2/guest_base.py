# Shared by the guest's tests: skipping, waiting for an event, raw system calls.
import ctypes
import os
import time

libc = ctypes.CDLL(None, use_errno=True)
SYS_CLONE3 = 435
SYS_LANDLOCK_CREATE_RULESET = 444
CLONE_INTO_CGROUP = 0x200000000
POLL_S = 0.2  # a look at the state costs the emulated processor as much as 0.05 s


class Skip(Exception):
    pass


def wait_until(what, condition, seconds_max=120):
    """Waits until condition() is true; fails with `what` when it never is."""
    deadline = time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(POLL_S)
    raise AssertionError(f"{what}: not within {seconds_max} s")


def kernel():
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.split("-")[0])


def syscall(number, *arguments):
    value = libc.syscall(ctypes.c_long(number), *arguments)
    if value < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value


def read(path):
    with open(path, errors="replace") as handle:
        return handle.read()


def write(path, text):
    with open(path, "w") as handle:
        handle.write(text)
