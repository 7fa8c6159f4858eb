"""Mounts, unmounts, remounts, changes the root: by the old calls and the new."""
import ctypes
import os

from escapekit import Probe, syscall

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_PRIVATE, MNT_DETACH, AT_FDCWD = 1, 32, 4096, 1 << 18, 2, -100
probe = Probe("mount")
os.makedirs("m", exist_ok=True)


def mount(source, target, kind, flags, data=0):
    return syscall("mount", source, target, kind, flags, data) == 0 and "mounted"


probe.attempt("tmpfs", mount, b"x", b"m", b"tmpfs", 0)
probe.attempt("proc", mount, b"proc", b"m", b"proc", 0)
probe.attempt("sysfs", mount, b"sys", b"m", b"sysfs", 0)
probe.attempt("cgroup2", mount, b"cg", b"m", b"cgroup2", 0)
probe.attempt("bind", mount, b"/", b"m", 0, MS_BIND)
probe.attempt("private", mount, 0, b"/", 0, MS_PRIVATE)
probe.attempt("detach", lambda: syscall("umount2", b"m", MNT_DETACH) == 0 and "unmounted")
for where in (b"/proc", b"/task", b"/tmp", b"/dev"):
    probe.attempt(f"detach_{where.decode()}", lambda: os.path.ismount(where) and syscall("umount2", where, MNT_DETACH) == 0)
probe.attempt("fsopen", lambda: f"descriptor {syscall('fsopen', b'tmpfs', 0)}")
probe.attempt("fspick", lambda: f"descriptor {syscall('fspick', AT_FDCWD, b'/', 0)}")
probe.attempt("open_tree", lambda: f"descriptor {syscall('open_tree', AT_FDCWD, b'/', 1)}")
probe.touches("fsconfig", -1, 0, 0, 0, 0)
probe.touches("fsmount", -1, 0, 0)
probe.touches("move_mount", -1, b"", -1, b"", 0)
probe.touches("mount_setattr", AT_FDCWD, b"/nonexistent", 0, ctypes.create_string_buffer(32), 32)
probe.attempt("chroot", lambda: syscall("chroot", b".") == 0 and "changed")
probe.touches("pivot_root", b"m", b"m")
probe.done()
