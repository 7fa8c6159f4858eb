"""Counts its privileges and tries to gain some."""
import ctypes
import os

from escapekit import Probe, libc

probe = Probe("capabilities")
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    probe.attempt(name, lambda: int(status[name], 16) and status[name] or None)
probe.attempt("new_privileges", lambda: status["NoNewPrivs"].strip() != "1" or None)
probe.attempt("no_filter", lambda: status["Seccomp"].strip() != "2" or None)


def prctl(*args):
    ctypes.set_errno(0)
    if libc.prctl(*[ctypes.c_ulong(a) for a in args]) < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return "done"


PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_SET_MM = 8, 28, 47, 35
probe.attempt("ambient", prctl, PR_CAP_AMBIENT, 2, 21, 0, 0)
probe.attempt("securebits", prctl, PR_SET_SECUREBITS, 0x2F)
probe.attempt("memory_map", prctl, PR_SET_MM, 1, 0x400000, 0, 0)
for bit in (0, 12, 21):
    # Whether a bit of the bounding set is still there to be dropped.
    probe.attempt(f"bounding_{bit}", lambda: libc.prctl(23, bit, 0, 0, 0) == 1 or None)


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def capset():
    data = (ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0)
    header = Header(0x20080522, 0)
    if libc.capset(ctypes.byref(header), data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    return "SYS_ADMIN"


probe.attempt("capset", capset)
probe.done()
