"""Stopping a run by a signal: finish the step, save, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """While it is entered, the first SIGINT or SIGTERM only sets :attr:`pending`; the loop looks at it each step.

    A SIGINT that comes when a stop is pending raises ``KeyboardInterrupt`` at once; a second SIGTERM changes
    nothing, because schedulers repeat it. Outside the main thread, where Python hands out no signals, entering
    does nothing. The earlier handlers come back on leaving.
    """

    def __init__(self) -> None:
        self.pending: str | None = None
        """``SIGINT`` or ``SIGTERM`` once one has come, else None."""
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        while self._earlier:
            number, handler = self._earlier.popitem()
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = signal.Signals(number).name
        elif number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
