"""Errors for users: what is wrong, where, why, and how to fix it."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    """The command failed while running."""
    USAGE = 2
    """Wrong usage, recipe or input, detected before work began."""
    STOPPED = 75
    """Stopped by a signal or a time limit; the same command (of training, with ``--resume``) continues."""


class MetalmError(Exception):
    """An error that the user can act on.

    Args:
        what: Statement of what is wrong, beginning in lower case.
        where: Location that the user can open: ``file:line``, a recipe key, a folder, an address.
        why: The actual and the expected value, or the underlying reason.
        remedy: What to change or run.
        exit_code: :attr:`Exit.USAGE` if detected before work began, else :attr:`Exit.FAILED`.

    Attributes:
        is_shared: Whether every process of a run raises this error, so that rank zero prints it.
    """

    def __init__(
        self, what: str, *, where: str = "", why: str = "", remedy: str = "", exit_code: Exit = Exit.USAGE
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy
        self.exit_code = exit_code
        self.is_shared = False

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self) if type(self).__init__ is MetalmError.__init__ else MetalmError
        return _rebuild_error, (kind, self.what, self.where, self.why, self.remedy, self.exit_code)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("remedy", self.remedy)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


def _rebuild_error(
    kind: type[MetalmError], what: str, where: str, why: str, remedy: str, exit_code: Exit
) -> MetalmError:
    return kind(what, where=where, why=why, remedy=remedy, exit_code=exit_code)


class RowsUnavailableError(MetalmError):
    """The rows of a task are not available (no local copy, no hub); its card may be correct."""


class NoTemplatesError(MetalmError):
    """A collection has no templates for a task."""


class EmptyRenderingError(MetalmError):
    """A template renders an empty input or target for an example."""


class LostProcessError(MetalmError):
    """Another process of the run has ended, so that this process cannot continue."""
