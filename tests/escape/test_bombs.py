"""Bombs in real boxes: each ends as its cap says, and the host pays no more than the cap and a stated margin.

What the box is charged comes from its own counters; what it is not charged for
would show as memory that the host has less of while the bomb holds it.
"""

import threading

import pytest

import cases
from test_walls import assert_gone, run_probe

# Beyond the cap: the kernel's own objects per box, and the host's other load.
MARGIN_BYTES = 64 * cases.MIB
ATTEMPTS = 3  # others use memory too: one calm run is enough
SAMPLE_S = 0.02 * cases.SLOWNESS


class HostMemory(threading.Thread):
    """The least memory that the host had left while the block ran."""

    def __enter__(self):
        self.before = self.least = self.left()
        self.ended = threading.Event()
        self.start()
        return self

    def run(self):
        while not self.ended.wait(SAMPLE_S):
            self.least = min(self.least, self.left())

    def __exit__(self, *_):
        self.ended.set()
        self.join()

    @property
    def taken(self):
        return self.before - self.least

    @staticmethod
    def left():
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":") for line in lines)
        # Reclaimable caches count as free memory; a box's own pages do not.
        return int(fields["MemAvailable"].split()[0]) << 10


@pytest.mark.parametrize("bomb", cases.BOMBS, ids=lambda b: b.kind)
def test_bomb_costs_one_task(mayfly, tmp_path, host, bomb):
    taken = []
    for _ in range(ATTEMPTS):
        with HostMemory() as memory:
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
          f"host {min(taken) / cases.MIB:.1f} MiB, {result['report'] and result['report']['facts']}")
    assert mayfly.run("-t", "python", "-c", "print(6*7)")["stdout"] == "42\n", "the next task runs"
