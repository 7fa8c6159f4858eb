"""Bombs in real boxes: each ends as its cap says, and the host pays no more than the cap and a stated margin.

What the box is charged comes from its own counters; what it is not charged for
would show as memory that the kernel holds while the bomb runs.
"""

import fcntl
import itertools
import os
import threading

import pytest

import cases
from test_walls import assert_gone, run_probe

# Beyond the cap: the kernel's own objects per box, and those of the host's other load.
MARGIN_BYTES = 64 * cases.MIB
ATTEMPTS = 3  # others' kernel memory counts, too: one calm run is enough
SAMPLE_S = 0.02 * cases.SLOWNESS


class KernelMemory(threading.Thread):
    """The most memory that the kernel held for itself while the block ran, above what it held before.

    Pages of files and of processes do not count: the kernel charges each to a cgroup, whose peak tells of
    them. So other programs that use memory meanwhile do not matter."""

    def __enter__(self):
        self.before = self.most = self.held()
        self.ended = threading.Event()
        self.start()
        return self

    def run(self):
        while not self.ended.wait(SAMPLE_S):
            self.most = max(self.most, self.held())

    def __exit__(self, *_):
        self.ended.set()
        self.join()

    @property
    def taken(self):
        return self.most - self.before

    @staticmethod
    def held():
        with open("/proc/meminfo") as lines:
            kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        # Caches that the kernel gives back count as free memory.
        free = sum(kib[name] for name in ("MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "KReclaimable"))
        return (kib["MemTotal"] - free) << 10


def test_kernel_memory_of_pipes_is_seen():  # control of the measure
    pipes, page = [], bytes(cases.MIB)
    try:
        with KernelMemory() as memory:
            while len(pipes) < (cases.BOMB_MEMORY + 2 * MARGIN_BYTES) // cases.MIB:
                pipes.append(os.pipe())
                assert fcntl.fcntl(pipes[-1][1], fcntl.F_SETPIPE_SZ, cases.MIB) == cases.MIB
                assert os.write(pipes[-1][1], page) == cases.MIB
            memory.most = max(memory.most, memory.held())
    finally:
        for end in itertools.chain(*pipes):
            os.close(end)
    assert memory.taken > cases.BOMB_MEMORY + MARGIN_BYTES, memory.taken


@pytest.mark.parametrize("bomb", cases.BOMBS, ids=lambda b: b.kind)
def test_bomb_costs_one_task(mayfly, tmp_path, host, bomb):
    taken = []
    for _ in range(ATTEMPTS):
        with KernelMemory() as memory:
            result = run_probe(mayfly, tmp_path, host, "bombs", (bomb.kind,), flags=bomb.all_flags())
        assert result["verdict"] in bomb.verdicts, (result["verdict"], result["reason"], result["report"], result["stderr"][-500:])
        assert_gone(result)
        assert result["usage"]["memoryPeakBytes"] <= cases.BOMB_MEMORY + cases.MIB, result["usage"]
        assert result["usage"]["processesPeak"] <= 32
        if result["report"]:
            assert result["report"]["facts"]["count"] <= bomb.count_max, result["report"]
            assert result["report"]["facts"]["why"] != "all its units"
        taken.append(memory.taken)
        if memory.taken <= cases.BOMB_MEMORY + MARGIN_BYTES:
            break
    assert min(taken) <= cases.BOMB_MEMORY + MARGIN_BYTES, [f"{t / cases.MIB:.0f} MiB" for t in taken]
    print(f"{bomb.kind}: {result['verdict']}, peak {result['usage']['memoryPeakBytes'] / cases.MIB:.1f} MiB, "
          f"kernel {min(taken) / cases.MIB:.1f} MiB, {result['report'] and result['report']['facts']}")
    assert mayfly.run("-t", "python", "-c", "print(6*7)")["stdout"] == "42\n", "the next task runs"
