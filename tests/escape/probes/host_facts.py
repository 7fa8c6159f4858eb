"""Numbers of the host's that no wall hides: what sysinfo, counters and ids tell."""
import ctypes
import os
import time

from escapekit import Probe, libc, params

probe = Probe("host_facts")
host = params()["host_facts"]


class SysInfo(ctypes.Structure):
    _fields_ = [("uptime", ctypes.c_long), ("loads", ctypes.c_ulong * 3), ("totalram", ctypes.c_ulong), ("freeram", ctypes.c_ulong),
                ("sharedram", ctypes.c_ulong), ("bufferram", ctypes.c_ulong), ("totalswap", ctypes.c_ulong),
                ("freeswap", ctypes.c_ulong), ("procs", ctypes.c_ushort), ("pad", ctypes.c_ushort),
                ("totalhigh", ctypes.c_ulong), ("freehigh", ctypes.c_ulong), ("mem_unit", ctypes.c_uint), ("more", ctypes.c_char * 64)]


def info():
    told = SysInfo()
    assert libc.sysinfo(ctypes.byref(told)) == 0
    return told


def memory():
    return info().totalram * info().mem_unit == host["memory"] and "the host's memory"


def load():
    return any(info().loads) and f"load {info().loads[0] / 65536:.2f}"


def processes():
    return info().procs > host["processes"] // 2 and f"{info().procs} threads"


def packets():
    """Of all network namespaces; this one has sent none."""
    lines = open("/proc/self/net/softnet_stat").read().splitlines()
    return sum(int(line.split()[0], 16) for line in lines) > 100 and lines[0]


def inodes():
    """Pipes count in one row for the whole host."""
    number = os.fstat(os.pipe()[0]).st_ino
    return number > host["inode"] and f"pipe {number}"


def uptime():
    return time.clock_gettime(time.CLOCK_BOOTTIME) > host["uptime"] and "the host's uptime"


for kind in (memory, load, processes, packets, inodes, uptime):
    probe.attempt(kind.__name__, kind)
probe.done()
