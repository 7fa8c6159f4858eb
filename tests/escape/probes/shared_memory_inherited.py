"""Looks for memory that it shares with the zygote or a neighbour: writable shared mappings that nobody here made."""
from escapekit import Probe, params

probe = Probe("shared_memory_inherited")
if params().get("make_one"):
    import mmap
    area = mmap.mmap(-1, 4096)


def shared():
    found = []
    for line in open("/proc/self/maps"):
        fields = line.split()
        if "s" in fields[1] and "w" in fields[1]:
            found.append(line.strip())
    return found or None


probe.attempt("shared", shared)
probe.done()
