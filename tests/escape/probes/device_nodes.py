"""Makes device nodes, and opens every one that is there."""
import os
import stat

from escapekit import Probe

probe = Probe("device_nodes")
SAFE = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)}  # null zero full random urandom tty
OWN_TERMINALS = "/dev/pts/ptmx"  # of the box's own file system: terminal.py
NODES = {"mem": (0o020000, 1, 1), "kmsg": (0o020000, 1, 11), "null": (0o020000, 1, 3), "console": (0o020000, 5, 1),
         "ptmx": (0o020000, 5, 2), "loop0": (0o060000, 7, 0), "sda": (0o060000, 8, 0), "vda": (0o060000, 254, 0),
         "fuse": (0o020000, 10, 229), "kvm": (0o020000, 10, 232), "tun": (0o020000, 10, 200),
         "loop-control": (0o020000, 10, 237), "cpu_msr": (0o020000, 202, 0)}
for name, (kind, major, minor) in NODES.items():
    for folder in (".", "/tmp", "/dev/shm"):
        path = f"{folder}/probe-{name}-{os.getpid()}"

        def make():
            os.mknod(path, kind | 0o600, os.makedev(major, minor))
            os.unlink(path)
            return f"made {path}"

        probe.attempt(f"mknod_{name}_{folder}", make)


def others():
    found = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode) and \
                    (os.major(info.st_rdev), os.minor(info.st_rdev)) not in SAFE and path != OWN_TERMINALS:
                found.append(path)
    return found or None


probe.attempt("others", others)
probe.attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR))
probe.attempt("write_dev", lambda: (os.mkdir(f"/dev/probe-{os.getpid()}"), os.rmdir(f"/dev/probe-{os.getpid()}"), "made")[2])
probe.attempt("add_entropy", lambda: __import__("fcntl").ioctl(os.open("/dev/urandom", os.O_RDWR), 0x40045201,
                                                               b"\0\0\0\0") and "RNDADDTOENTCNT")
probe.done(dev=sorted(os.listdir("/dev")))
