"""Reads, writes and advises other processes' memory and compares their objects."""
import ctypes
import os
import signal

from escapekit import Probe, syscall

probe = Probe("process_memory")


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


secret = ctypes.create_string_buffer(b"secret of the child", 32)
pid = os.fork()
if pid == 0:
    signal.pause()
    os._exit(0)
copy = ctypes.create_string_buffer(32)


def transfer(name, target):
    here = Iovec(ctypes.cast(copy, ctypes.c_void_p), 32)
    there = Iovec(ctypes.cast(secret, ctypes.c_void_p), 32)
    return f"{syscall(name, target, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)} bytes"


for target, who in ((1, "init"), (pid, "child")):
    probe.attempt(f"read_{who}", transfer, "process_vm_readv", target)
    probe.attempt(f"write_{who}", transfer, "process_vm_writev", target)
    probe.attempt(f"kcmp_{who}", lambda: f"order {syscall('kcmp', os.getpid(), target, 1, 0, 0)}")


def madvise():
    handle = syscall("pidfd_open", pid, 0)
    page = Iovec(ctypes.addressof(secret) & ~4095, 4096)
    return f"{syscall('process_madvise', handle, ctypes.byref(page), 1, 20, 0)} bytes advised"


def steal():
    handle = syscall("pidfd_open", pid, 0)
    return f"descriptor {syscall('pidfd_getfd', handle, 1, 0)}"


probe.attempt("madvise", madvise)
probe.attempt("descriptor_of_child", steal)
probe.attempt("memory_of_init", lambda: os.open("/proc/1/mem", os.O_RDONLY))
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
probe.done()
