"""Makes namespaces, enters others', and asks for the parents of its own."""
import ctypes
import fcntl
import os
import signal

from escapekit import Probe, child, syscall

KINDS = dict(mnt=0x20000, cgroup=0x02000000, uts=0x04000000, ipc=0x08000000, user=0x10000000, pid=0x20000000,
             net=0x40000000, time=0x80)
probe = Probe("namespaces")


def unshare(flags):
    return os.waitstatus_to_exitcode(child(lambda: refused(lambda: syscall("unshare", flags)))) == 0 and "unshared"


def refused(act):
    try:
        act()
    except OSError:
        return 1
    return 0


def clone(flags):
    pid = syscall("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def clone3(flags):
    args = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, signal.SIGCHLD)
    pid = syscall("clone3", ctypes.byref(args), 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


for name, flag in KINDS.items():
    probe.attempt(f"unshare_{name}", unshare, flag)
    if name != "time":
        probe.attempt(f"clone_{name}", clone, flag)
        probe.attempt(f"clone_user_{name}", clone, flag | KINDS["user"])
    probe.attempt(f"clone3_{name}", clone3, flag)
probe.attempt("clone3_plain", clone3, 0)


def enter(pid, name):
    fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
    return os.waitstatus_to_exitcode(child(lambda: refused(lambda: syscall("setns", fd, 0)))) == 0 and "entered"


def enter_by_pidfd(pid):
    fd = syscall("pidfd_open", pid, 0)
    return os.waitstatus_to_exitcode(child(lambda: refused(lambda: syscall("setns", fd, KINDS["uts"])))) == 0 and "entered"


def parent(name, request):
    """NS_GET_USERNS and NS_GET_PARENT: the kernel may answer only below the box."""
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    up = fcntl.ioctl(fd, request)
    return f"descriptor {up}" if os.fstat(up).st_ino != os.stat("/proc/self/ns/user").st_ino else None


for name in ("user", "pid", "mnt", "net", "uts", "ipc"):
    probe.attempt(f"enter_{name}", enter, 1, name)
probe.attempt("enter_by_pidfd", enter_by_pidfd, 1)
for name in ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup"):
    probe.attempt(f"owner_{name}", parent, name, 0xB701)
for name in ("user", "pid"):
    probe.attempt(f"parent_{name}", parent, name, 0xB702)
probe.done()
