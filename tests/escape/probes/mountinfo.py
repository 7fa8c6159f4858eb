"""Reads what the mount table tells of the host: paths, devices, names of boxes."""
import re

from escapekit import Probe, params

probe = Probe("mountinfo")
lines = open("/proc/self/mountinfo").read().splitlines()


def host_words():
    words = params().get("host_words", [])
    return [line for line in lines if any(word in line for word in words)] or None


def devices():
    """A source that is a path names a file or device of the host."""
    return [line for line in lines if line.split(" - ")[1].split()[1].startswith("/")] or None


def roots():
    """The root of a bind, where it is deep, is a path on somebody's file system."""
    known = {"/", "/tmp", "/task", "/run", "/shm", "/null", "/zero", "/full", "/random", "/urandom", "/tty"}
    return [line for line in lines if line.split()[3] not in known] or None


def numbers():
    """uid=, gid= and upperdir= tell a box's ids and folders."""
    return [line for line in lines if re.search(r"(uid|gid|upperdir|lowerdir|workdir)=", line)] or None


def many():
    return len(lines) > 24 and f"{len(lines)} mounts"


probe.attempt("host_words", host_words)
probe.attempt("devices", devices)
probe.attempt("roots", roots)
probe.attempt("numbers", numbers)
probe.attempt("many", many)
probe.done(mountinfo=lines)
