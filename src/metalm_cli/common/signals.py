"""Signal handling: the first signal lets a command finish its step and save; a second Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that stop a command in order: Ctrl-C, schedulers, a closed terminal, and a scheduler's early warning."""


@contextmanager
def signal_handlers(handle: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    """Context manager that installs a handler for signals and restores the previous handlers at the end.

    Signals that the system does not have are skipped, and so are signals that the process ignores, such as the SIGHUP
    of a command started with ``nohup``. SIGINT is always handled, because shells make background commands ignore it.
    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        handle: Handler, called with a signal's number.
        names: Names of the signals, such as ``SIGINT``.
    """
    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name, None) for name in names):
            if number is not None and (number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN):
                previous_handlers[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            # None means that the handler was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """Context manager that handles :data:`STOP_SIGNALS`; the first signal sets :attr:`pending`.

    In work that checks :attr:`pending`, such as the training loop, the first signal does nothing else; elsewhere it
    raises ``KeyboardInterrupt``. A SIGINT while a stop is pending raises ``KeyboardInterrupt`` everywhere; a repetition
    of another signal changes nothing, because schedulers repeat them. The previous handlers are restored at the end.

    Args:
        at_once: Whether the first signal raises ``KeyboardInterrupt``, except inside :meth:`deferred`.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.pending: str | None = None
        """Name of the first signal that was received, such as ``SIGTERM``; None before."""
        self.raised = False
        """Whether a signal has raised ``KeyboardInterrupt``, so that nothing more should be started."""
        self._at_once = at_once
        self._handlers = signal_handlers(self._handle, *STOP_SIGNALS)

    def __enter__(self) -> StopSignals:
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.__exit__(None, None, None)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Context manager in which the first signal only sets :attr:`pending`."""
        at_once, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = at_once

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first = self.pending is None
        if is_first:
            self.pending = signal.Signals(number).name
        if self._at_once if is_first else number == signal.SIGINT:
            self.raised = True
            raise KeyboardInterrupt
