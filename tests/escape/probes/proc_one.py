"""Opens everything under /proc/1 that tells about, or leads into, another process."""
import os

from escapekit import Probe, params, read_some

probe = Probe("proc_one")
READ = ("environ", "mem", "maps", "smaps", "smaps_rollup", "numa_maps", "auxv", "syscall", "stack", "io",
        "pagemap", "personality", "timers", "wchan", "patch_state",
        "clear_refs", "task/1/mem", "task/1/environ", "task/1/maps")
LINKS = ("root", "cwd", "exe", "ns/mnt", "ns/pid", "ns/user", "ns/net", "ns/cgroup", "fd/0", "fd/1", "fd/3")


def read(name):
    if name in ("mem", "task/1/mem", "pagemap"):
        return os.open(f"/proc/1/{name}", os.O_RDONLY)
    text = read_some(f"/proc/1/{name}")
    if name == "wchan" and text in (b"0", None):
        return None  # what the kernel says to those that may not know
    return text


for name in READ:
    probe.attempt(name, read, name)
for name in LINKS:
    probe.attempt(name, os.readlink, f"/proc/1/{name}")
for name in ("fd", "map_files", "fdinfo"):
    probe.attempt(f"{name}/", lambda: os.listdir(f"/proc/1/{name}") or None)
for name in ("oom_score_adj", "coredump_filter", "autogroup", "uid_map", "setgroups", "timerslack_ns"):
    probe.attempt(f"write_{name}", os.open, f"/proc/1/{name}", os.O_WRONLY)


def other_mounts():
    """Its mount table may be read where it is our own, which the kernel shows to all in it."""
    lines = {open(f"/proc/{who}/mountinfo").read() for who in ("self", 1)}
    return len(lines) > 1 and lines


def host_words():
    """The command line may be read; nothing of the host may stand in it."""
    text = (read_some("/proc/1/cmdline") or b"") + (read_some("/proc/1/comm") or b"")
    for word in params().get("host_words", []):
        if word.encode() in text:
            return text


probe.attempt("mountinfo", other_mounts)
probe.attempt("cmdline", host_words)
probe.done()
