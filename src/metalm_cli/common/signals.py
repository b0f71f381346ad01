"""Signal handling: the first signal lets a run finish its step and save; a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signal_handlers(handle: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Context manager that installs a handler for signals and restores the previous handlers at the end.

    Signals that the system does not have are ignored. Outside the main thread, where Python delivers no signals, it
    does nothing.

    Args:
        handle: Handler, called with a signal's number.
        names: Names of the signals, such as ``SIGINT``.
    """
    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name, None) for name in names):
            if number is not None:
                previous_handlers[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            # None means that the handler was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """Context manager in which the first SIGINT or SIGTERM only sets :attr:`pending`, which the loop checks each step.

    A SIGINT while a stop is pending raises ``KeyboardInterrupt`` at once; a second SIGTERM changes nothing, because
    schedulers repeat it. Outside the main thread, where Python delivers no signals, it does nothing. The previous
    handlers are restored at the end.
    """

    def __init__(self) -> None:
        self.pending: str | None = None
        """Name of the first signal that was received, ``SIGINT`` or ``SIGTERM``; None before."""
        self._handlers = signal_handlers(self._handle, "SIGINT", "SIGTERM")

    def __enter__(self) -> StopSignals:
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = signal.Signals(number).name
        elif number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
