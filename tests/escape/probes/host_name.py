"""Learns who the host is: names, machine ids, boot id, users, mail, logs."""
import os
import socket

from escapekit import Probe, params, read_some

probe = Probe("host_name")
words = [w for w in params().get("host_words", []) if w]


def tells(path):
    text = (read_some(path, 65536) or b"").decode(errors="replace")
    return [word for word in words if word in text] or None


probe.attempt("hostname", lambda: socket.gethostname() in words and socket.gethostname())
probe.attempt("uname", lambda: os.uname().nodename in words and os.uname().nodename)
for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/etc/fstab", "/etc/machine-id",
             "/etc/mailname", "/etc/passwd", "/var/log/dpkg.log", "/var/log/apt/history.log", "/var/log/bootstrap.log",
             "/proc/self/mounts", "/proc/self/cmdline", "/proc/self/environ", "/etc/apt/sources.list",
             "/var/lib/dpkg/status", "/etc/environment"):
    probe.attempt(path, tells, path)
for path in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid", "/proc/sys/kernel/random/boot_id"):
    probe.attempt(f"id_{path}", lambda: (read_some(path) or b"").strip() or None)
probe.done(hostname=socket.gethostname())
