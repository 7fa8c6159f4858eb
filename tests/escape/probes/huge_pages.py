"""Takes huge pages from the host's reserve, which no memory cap counts."""
import ctypes
import os

from escapekit import Probe, libc, syscall

probe = Probe("huge_pages")
libc.mmap.restype = ctypes.c_void_p


def mapping():
    ctypes.set_errno(0)
    at = libc.mmap(None, ctypes.c_size_t(2 << 20), 3, 0x40022, -1, ctypes.c_long(0))
    if at in (None, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        if number == 12:
            return "none is free, but the kernel was asked"
        raise OSError(number, os.strerror(number))
    return "mapped"


def memfd():
    return f"descriptor {os.memfd_create('x', 4)}"


def segment():
    identity = syscall("shmget", 0, 2 << 20, 0o4600 | 0o1000)
    syscall("shmctl", identity, 0, 0)
    return f"segment {identity}"


probe.attempt("mapping", mapping)
probe.attempt("memfd", memfd)
probe.attempt("segment", segment)
probe.done()
