"""The limit on retained memory, on a scripted process and on a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalm_cli.common.heap import HeapLimit

GROWING = """
import random, sys, psutil, torch
from metalm_cli.common.heap import HeapLimit
torch.set_num_threads(1)
limit = HeapLimit() if sys.argv[1] == "limited" else None
rng, process, pinned, resident = random.Random(0), psutil.Process(), [], []
for step in range(40):
    sizes = [rng.randrange(50_000, 2_000_000) for _ in range(20)] if step else [2_000_000] * 20
    tensors = []
    for size in sizes:
        tensors.append(torch.zeros(size))
        pinned.append(bytes(2_000))
    del tensors
    if limit is not None:
        limit.after_step()
    resident.append(process.memory_info().rss / 2**20)
print(max(resident[1:]) / resident[0])
"""


class Process:
    """A process whose memory is scripted."""

    def __init__(self, used: int) -> None:
        self.used, self.retained, self.trims = used, 0, 0

    def resident(self) -> int:
        return self.used + self.retained

    def trim(self) -> None:
        self.retained, self.trims = 0, self.trims + 1


def test_memory_is_returned_above_the_limit_only() -> None:
    process = Process(1_000)
    limit = HeapLimit(process.resident, process.trim)
    limit.after_step()
    for retained, trims in ((20, 0), (21, 1), (20, 1), (400, 2)):
        process.retained = retained
        limit.after_step()
        assert process.trims == trims
    assert limit.step_reference == 1_000


def test_memory_between_passes_is_limited_to_that_of_the_first_step() -> None:
    """The passes of the first step retain memory that the end of the step returns."""
    process = Process(1_000)
    limit = HeapLimit(process.resident, process.trim)
    for retained in (300, 1_000, 100):
        process.retained = retained
        limit.after_pass()
    process.retained = 0
    limit.after_step()
    assert (limit.pass_reference, limit.step_reference, process.trims) == (2_000, 1_000, 0)
    for retained, trims in ((1_040, 0), (1_041, 1), (500, 1)):
        process.retained = retained
        limit.after_pass()
        assert process.trims == trims
    limit.after_step()
    assert (process.trims, process.retained) == (2, 0)


def test_memory_in_use_raises_the_reference() -> None:
    process = Process(1_000)
    limit = HeapLimit(process.resident, process.trim)
    limit.after_step()
    process.used = 3_000
    limit.after_step()
    assert limit.step_reference == 3_000
    limit.after_step()
    assert process.trims == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is for glibc's allocator")
def test_a_process_of_varying_passes_keeps_its_first_peak() -> None:
    """Without the limit the same passes grow: the test of the limit would otherwise show nothing."""
    growth = {mode: _growth(mode) for mode in ("free", "limited")}
    assert growth["limited"] <= 1.02
    assert growth["free"] > growth["limited"]


def _growth(mode: str) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", GROWING, mode], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return float(done.stdout)
