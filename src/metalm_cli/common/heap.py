"""A limit on the memory that the C allocator retains.

Passes of varying size leave holes between the blocks that stay allocated, and glibc returns memory to the system only
from the end of its heap. The resident memory of a process then grows far above what it uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import psutil

TOLERANCE = 0.02
"""Share of a reference that resident memory may exceed it by before the heap is trimmed."""


class HeapLimit:
    """Returns retained memory to the system when the resident memory exceeds that of the first step.

    Memory that is returned must be mapped again by the next pass, so it is returned only above a limit: after a step,
    what was resident after the first step; between passes, the most that was resident between those of the first step.

    Args:
        resident: Reads the resident memory of this process in bytes.
        trim: Returns the allocator's free memory to the system. Default: glibc's ``malloc_trim``; with another
            allocator, memory is not limited.
    """

    def __init__(self, resident: Callable[[], int] | None = None, trim: Callable[[], object] | None = None) -> None:
        process = psutil.Process()
        self._resident = resident or (lambda: int(process.memory_info().rss))
        self._trim = trim or _malloc_trim()
        self.pass_reference = 0
        self.step_reference: int | None = None

    def trim(self) -> None:
        """Return the free memory to the system, after work that is not part of a pass and may need more memory."""
        if self._trim is not None:
            self._trim()

    def after_pass(self) -> None:
        """Limit the memory between passes; in the first step, measure it."""
        if self.step_reference is None:
            self.pass_reference = max(self.pass_reference, self._resident())
        else:
            self.pass_reference = self._limit(self.pass_reference)

    def after_step(self) -> None:
        """Limit the memory after a step; after the first one, measure it."""
        self.step_reference = self._resident() if self.step_reference is None else self._limit(self.step_reference)

    def _limit(self, reference: int) -> int:
        """Trim the heap if the resident memory is above the reference by more than the tolerance.

        Returns:
            The reference; a larger one if little was returned, because the process then uses more memory.
        """
        if self._trim is None or self._resident() <= reference * (1 + TOLERANCE):
            return reference
        self._trim()
        return max(reference, self._resident())


def _malloc_trim() -> Callable[[], object] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return lambda: trim(0)
