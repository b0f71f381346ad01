"""Stopping a run by a signal: finish the step, save, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signal_handlers(handle: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Have signals handled inside, those that the system knows; the earlier handlers come back on leaving.

    Outside the main thread, where Python hands out no signals, it does nothing.

    Args:
        handle: Called with a signal's number.
        names: Of the signals, as ``SIGINT``.
    """
    earlier = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name, None) for name in names):
            if number is not None:
                earlier[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """While it is entered, the first SIGINT or SIGTERM only sets :attr:`pending`; the loop looks at it each step.

    A SIGINT that comes when a stop is pending raises ``KeyboardInterrupt`` at once; a second SIGTERM changes
    nothing, because schedulers repeat it. Outside the main thread, where Python hands out no signals, entering
    does nothing. The earlier handlers come back on leaving.
    """

    def __init__(self) -> None:
        self.pending: str | None = None
        """``SIGINT`` or ``SIGTERM`` once one has come, else None."""
        self._handled = signal_handlers(self._handle, "SIGINT", "SIGTERM")

    def __enter__(self) -> StopSignals:
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = signal.Signals(number).name
        elif number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
