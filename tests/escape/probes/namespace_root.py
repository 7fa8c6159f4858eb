"""What root of a user namespace may try, with every capability in it: for the places of zygote and init.

Its own namespaces are its own to break; what counts is the host behind them.
"""
import ctypes
import glob
import os

from escapekit import Probe, params, syscall

probe = Probe("namespace_root")
home = "/tmp" if os.access("/tmp", os.W_OK) else "/proc"  # a mount point; what it covers is our own
MS_BIND = 4096


def mounted(kind, look, source=b"none", data=0):
    """Mounts a file system and looks for the host in it. A disk is mounted read-only."""
    syscall("mount", source, home.encode(), kind.encode(), source.startswith(b"/"), data)
    try:
        return look()
    finally:
        syscall("umount2", home.encode(), 2)


def writable(*names):
    """Files that steer the machine, opened for writing."""

    def look():
        found = []
        for name in names:
            for path in glob.glob(f"{home}/{name}", recursive=True)[:50]:
                try:
                    os.close(os.open(path, os.O_WRONLY))
                    found.append(path)
                except OSError:
                    continue
        return found[:10] or None

    return look


def others():
    known = len([n for n in os.listdir("/proc") if n.isdigit()])
    count = len([n for n in os.listdir(home) if n.isdigit()])
    return count > known + 4 and f"{count} processes"


probe.attempt("proc_write", mounted, "proc", writable("sys/kernel/core_pattern", "sys/kernel/modprobe", "sysrq-trigger",
                                                      "sys/vm/drop_caches", "sys/kernel/panic", "sys/fs/suid_dumpable"))
probe.attempt("proc_others", mounted, "proc", others)
probe.attempt("sysfs_write", mounted, "sysfs", writable("power/state", "kernel/mm/ksm/run", "module/*/parameters/*", "kernel/uevent_helper"))
# Its own cgroup may be seen from within its cgroup namespace; a limit that can be written is no limit.
probe.attempt("cgroup2_write", mounted, "cgroup2", writable("cgroup.procs", "memory.*", "pids.max", "cpu.max", "cgroup.kill",
                                                            "cgroup.subtree_control", "*/cgroup.procs"))
for controller in ("memory", "pids", "cpu", "devices"):
    probe.attempt(f"cgroup_{controller}_write", mounted, "cgroup",
                  writable("tasks", "cgroup.procs", "release_agent", "notify_on_release", f"{controller}.*"), b"none", controller.encode())
for kind in ("debugfs", "tracefs", "securityfs", "bpf", "pstore", "configfs", "efivarfs", "binfmt_misc", "hugetlbfs", "devtmpfs"):
    probe.attempt(kind, mounted, kind, lambda: f"{len(os.listdir(home))} entries" if kind != "bpf" else None)
for kind in ("ext4", "erofs", "squashfs", "xfs", "btrfs", "vfat"):
    for device in ("/dev/vda", "/dev/sda", "/dev/loop0"):
        probe.attempt(f"{kind}_{device}", mounted, kind, lambda: os.listdir(home), device.encode())


def host_root():
    """Another root in the mount table, or the way out through a parent."""
    marker = params().get("marker", "")
    for base in ("/", "/..", "/proc/1/root", "/proc/1/cwd", "/mnt", "/img", "/src", "/oldroot"):
        try:
            with open(base + marker) as f:
                return f.read()
        except OSError:
            continue


def read_only_lifted():
    """The image is read-only by nature; were it a bind of a folder, this would lift it."""
    syscall("mount", b"none", b"/", 0, 32 | MS_BIND, 0)
    try:
        os.close(os.open("/probe", os.O_CREAT | os.O_WRONLY))
        os.unlink("/probe")
        return "written"
    finally:
        syscall("mount", b"none", b"/", 0, 32 | MS_BIND | 1, 0)


def device():
    path = "/dev/shm/probe-node" if os.path.isdir("/dev/shm") else "/tmp/probe-node"
    os.mknod(path, 0o020600, os.makedev(1, 11))
    try:
        return os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 100)
    finally:
        os.unlink(path)


probe.attempt("host_root", host_root)
probe.attempt("read_only_lifted", read_only_lifted)
probe.attempt("device", device)
shift = ctypes.create_string_buffer(208)
shift[1] = 1            # ADJ_SETOFFSET
shift[80:88] = b"\xff" * 8  # by an impossible number of microseconds
probe.touches("clock_adjtime", 0, shift)
probe.attempt("module", lambda: syscall("delete_module", b"no_such_module", 0x800) == 0)
probe.attempt("raise_limit", lambda: __import__("resource").setrlimit(7, (1 << 19, 1 << 19)) is None and "raised"
              if __import__("resource").getrlimit(7)[1] < 1 << 19 else None)
probe.attempt("priority", lambda: (os.setpriority(os.PRIO_PROCESS, 0, -5), "raised")[1])
probe.attempt("memory_order", lambda: open("/proc/self/oom_score_adj", "w").write("-500"))
probe.attempt("kernel_log", lambda: syscall("syslog", 10, 0, 0))
probe.attempt("trace_host", lambda: [p for p in params().get("host_pids", []) if syscall("pidfd_open", p, 0)])
probe.done()
