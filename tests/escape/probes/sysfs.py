"""Looks for the file systems that show or steer the machine, wherever they may be mounted."""
import os

from escapekit import Probe

probe = Probe("sysfs")
for path in ("/sys", "/sys/kernel", "/sys/fs/cgroup", "/sys/class/net", "/sys/devices", "/sys/firmware",
             "/sys/kernel/debug", "/sys/kernel/security", "/sys/module", "/boot", "/lib/modules", "/dev/pts",
             "/dev/mqueue", "/dev/hugepages", "/dev/mapper"):
    probe.attempt(path, lambda: os.listdir(path) or None)


def mounted():
    allowed = {"tmpfs", "proc", "erofs"}
    kinds = {line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo")}
    return sorted(kinds - allowed) or None


probe.attempt("mounted", mounted)
probe.done()
