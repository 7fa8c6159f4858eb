"""Asks what the page cache holds, which is what the neighbours read; and drops pages from it."""
import ctypes
import mmap
import os

from escapekit import Probe, libc, syscall

probe = Probe("page_cache")
path = next(p for p in ("/usr/bin/python3", "/bin/sh", "/etc/passwd") if os.path.exists(p))
fd = os.open(path, os.O_RDONLY)
area = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)


def mincore():
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, fd, ctypes.c_long(0))
    answer = ctypes.create_string_buffer(1)
    syscall("mincore", at, 4096, answer)
    return f"page is {answer.raw[0] & 1}"


def cachestat():
    what = (ctypes.c_uint64 * 2)(0, 4096)
    answer = (ctypes.c_uint64 * 5)()
    syscall("cachestat", fd, ctypes.byref(what), ctypes.byref(answer), 0)
    return f"{answer[0]} pages cached"


def nowait():
    return f"{os.preadv(fd, [bytearray(4096)], 0, os.RWF_NOWAIT)} bytes at once"


probe.attempt("mincore", mincore)
probe.attempt("cachestat", cachestat)
probe.attempt("nowait", nowait)
MERGEABLE = 12
anonymous = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
probe.attempt("merge", lambda: (anonymous.madvise(MERGEABLE), "advised")[1])


def prctl(option, *args):
    ctypes.set_errno(0)
    if libc.prctl(option, *[ctypes.c_ulong(a) for a in args]) < 0:
        number = ctypes.get_errno()
        if number == 22 and option == 62:
            return "answered EINVAL"  # no hyperthreads here, but the kernel was asked
        raise OSError(number, os.strerror(number))
    return "done"


probe.attempt("merge_all", prctl, 67, 1, 0, 0, 0)
probe.attempt("core_cookie", prctl, 62, 1, 0, 0, 0)
probe.done()
