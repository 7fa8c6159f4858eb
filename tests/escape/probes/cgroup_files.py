"""Looks for its cgroup: its name, its files, and a way to leave it or to lift its caps."""
import glob
import os

from escapekit import Probe, params

probe = Probe("cgroup_files")


def names():
    """What /proc says of the cgroup must be its own root, and no path of the host."""
    lines = open("/proc/self/cgroup").read().splitlines()
    return [line for line in lines if line.split(":", 2)[2] not in ("/", "/task") or ".." in line] or None


def of_init():
    lines = open("/proc/1/cgroup").read().splitlines()
    words = params().get("host_words", []) + ["mayfly"]
    return [line for line in lines if any(word in line for word in words)] or None


def files():
    found = []
    for pattern in ("/sys/fs/cgroup/*", "/cgroup/*", "/proc/*/root/sys/fs/cgroup/*", "/dev/cgroup/*"):
        found += glob.glob(pattern)
    return found[:10] or None


def mounted():
    return [line for line in open("/proc/self/mountinfo") if " - cgroup" in line] or None


probe.attempt("names", names)
probe.attempt("of_init", of_init)
probe.attempt("files", files)
probe.attempt("mounted", mounted)
probe.attempt("limits", lambda: open(glob.glob("/sys/fs/cgroup/**/memory*max*", recursive=True)[0]).read()
              if glob.glob("/sys/fs/cgroup/**/memory*max*", recursive=True) else None)
probe.done(own=open("/proc/self/cgroup").read(), init=open("/proc/1/cgroup").read())
