"""A limit on the memory that the C allocator retains.

Passes of varying size leave holes between the blocks that stay allocated, and glibc returns memory to the system only
from the end of its heap. The resident memory of a process then grows far above what it uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import psutil

TOLERANCE = 0.02
"""Share of the reference that resident memory may exceed it by before the heap is trimmed. It leaves room for what a
pass needs above the memory that it begins with."""


class HeapLimit:
    """Returns retained memory to the system when the resident memory exceeds that of the first step.

    Memory that is returned must be mapped again by the next pass, so it is returned only above the limit.

    Args:
        resident: Reads the resident memory of this process in bytes.
        trim: Returns the allocator's free memory to the system. Default: glibc's ``malloc_trim``; with another
            allocator, memory is not limited.
    """

    def __init__(self, resident: Callable[[], int] | None = None, trim: Callable[[], object] | None = None) -> None:
        process = psutil.Process()
        self._resident = resident or (lambda: int(process.memory_info().rss))
        self._trim = trim or _malloc_trim()
        self.reference: int | None = None

    def trim(self) -> None:
        """Return the free memory to the system, after work that is not part of a pass and may need more memory."""
        if self._trim is not None:
            self._trim()

    def enforce(self) -> None:
        """Trim the heap if the resident memory is above the reference by more than the tolerance.

        The first call sets the reference. If little is returned, the process does use more memory than then, and the
        reference is raised.
        """
        if self.reference is None:
            self.reference = self._resident()
            return
        if self._trim is None or self._resident() <= self.reference * (1 + TOLERANCE):
            return
        self._trim()
        self.reference = max(self.reference, self._resident())


def _malloc_trim() -> Callable[[], object] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return lambda: trim(0)
