"""Looks for the file systems that show or steer the machine, wherever they may be mounted."""
import os

from escapekit import Probe

probe = Probe("sysfs")
for path in ("/sys", "/sys/kernel", "/sys/fs/cgroup", "/sys/class/net", "/sys/devices", "/sys/firmware",
             "/sys/kernel/debug", "/sys/kernel/security", "/sys/module", "/boot", "/lib/modules",
             "/dev/mqueue", "/dev/hugepages", "/dev/mapper"):
    probe.attempt(path, lambda: os.listdir(path) or None)


def mounted():
    allowed = {"tmpfs", "proc", "erofs"}
    # A devpts is the box's own where the kernel bounds it; whose terminals are in it: terminal.py.
    kinds = {line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo")
             if not (" /dev/pts " in line and " - devpts devpts " in line and ",max=" in line)}
    return sorted(kinds - allowed) or None


probe.attempt("mounted", mounted)
probe.done()
