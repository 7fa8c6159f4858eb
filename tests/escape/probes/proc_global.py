"""Reads what /proc says about the whole machine; a box's /proc knows processes only."""
import os

from escapekit import Probe

probe = Probe("proc_global")
NAMES = """acpi asound buddyinfo bus cgroups cmdline config.gz consoles cpuinfo crypto devices diskstats dma driver
execdomains fb filesystems fs interrupts iomem ioports irq kallsyms kcore key-users keys kmsg kpagecount kpageflags
kpagecgroup latency_stats loadavg locks mdstat meminfo misc modules mtrr net/ pagetypeinfo partitions pressure
sched_debug schedstat scsi self/net slabinfo softirqs stat swaps sys sysrq-trigger sysvipc timer_list tty uptime
version vmallocinfo vmstat zoneinfo""".split()


def beyond_loopback(path):
    """A box's own network may be seen; anything beyond loopback is the host's."""
    return [line for line in open(path).read().splitlines()[2:] if not line.lstrip().startswith("lo:")] or None


for name in NAMES:
    if name == "net/":
        probe.attempt("net", beyond_loopback, "/proc/1/net/dev")
    elif name == "self/net":
        probe.attempt("own_net", beyond_loopback, "/proc/self/net/dev")
    else:
        probe.attempt(name, os.stat, f"/proc/{name}")
probe.done()
