"""What the probes share: attempts, raw system calls, the report.

A probe makes attempts. Each gives evidence of what it reached, or nothing, or is
refused by an exception. The report is one JSON line on stdout; `reached` must be
empty in a box and must not be empty in the control run outside. Python 3.9,
standard library, x86-64.
"""

import ctypes
import errno
import json
import os
import pathlib
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

NR = dict(
    mincore=27, shmget=29, shmat=30, shmctl=31, clone=56, semget=64, msgget=68, msgsnd=69, msgrcv=70,
    ptrace=101, syslog=103, personality=135, ustat=136, vhangup=153, modify_ldt=154, pivot_root=155,
    adjtimex=159, chroot=161, acct=163, settimeofday=164, mount=165, umount2=166, swapon=167,
    swapoff=168, reboot=169, sethostname=170, setdomainname=171, iopl=172, ioperm=173, init_module=175,
    delete_module=176, quotactl=179, io_setup=206, lookup_dcookie=212, timer_create=222,
    clock_settime=227, mq_open=240, kexec_load=246, add_key=248, request_key=249, keyctl=250,
    ioprio_set=251, inotify_init=253, migrate_pages=256, unshare=272, move_pages=279,
    inotify_init1=294, perf_event_open=298, fanotify_init=300, name_to_handle_at=303,
    open_by_handle_at=304, clock_adjtime=305, setns=308, process_vm_readv=310, process_vm_writev=311,
    kcmp=312, finit_module=313, sched_setattr=314, seccomp=317, kexec_file_load=320, bpf=321,
    userfaultfd=323, preadv2=327, pidfd_send_signal=424, io_uring_setup=425, io_uring_enter=426,
    io_uring_register=427, open_tree=428, move_mount=429, fsopen=430, fsconfig=431, fsmount=432,
    fspick=433, pidfd_open=434, clone3=435, pidfd_getfd=438, process_madvise=440, mount_setattr=442,
    quotactl_fd=443, memfd_secret=447, cachestat=451,
)

REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EACCES)


def syscall(name, *args):
    """The raw call; an OSError where it fails. Integers, bytes and ctypes objects."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(NR[name]), *words)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def params():
    """What the harness tells the probe: params.json beside it."""
    path = pathlib.Path(__file__).with_name("params.json")
    return json.loads(path.read_text()) if path.exists() else {}


class Probe:
    def __init__(self, name):
        self.name = name
        self.reached, self.evidence, self.refused, self.facts = [], {}, {}, {}

    def attempt(self, label, function, *args):
        """Reached if it returns anything but None or False. An exception is a refusal."""
        try:
            found = function(*args)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            self.refused[label] = f"{type(error).__name__}: {error}"[:200]
            return
        if found is None or found is False:
            self.refused[label] = "nothing there"
            return
        self.reached.append(label)
        self.evidence[label] = str(found)[:300]

    def touches(self, name, *args, label=None):
        """Reached if the kernel so much as looks at the arguments: for calls that must not
        be there at all. The arguments are chosen so that success is impossible or harmless."""

        def look():
            try:
                result = syscall(name, *args)
            except OSError as error:
                if error.errno in REFUSALS:
                    raise
                return f"answered {errno.errorcode[error.errno]}"
            return f"answered {result}"

        self.attempt(label or name, look)

    def done(self, **facts):
        self.facts.update(facts)
        report = {"probe": self.name, "reached": self.reached, "evidence": self.evidence,
                  "refused": self.refused, "facts": self.facts}
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def child(function):
    """Runs `function` in a forked child; its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def read_some(path, limit=4096):
    """Up to `limit` bytes; None where the file is empty."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, limit) or None
    finally:
        os.close(fd)
