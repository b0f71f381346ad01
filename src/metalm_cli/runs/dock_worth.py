"""What docks are worth, as the validation records of ``metrics.jsonl`` have it under ``dock_worth``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "dock_worth"
"""Key of a validation record."""


@dataclass(frozen=True)
class LossDifference:
    """Mean difference from the loss as it is, with its 95% interval, in nats per trained token."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True)
class DockWorth:
    """Losses of validation sessions with docks and without, in nats per trained token of a session.

    Args:
        sessions: Number of sessions.
        loss: Mean loss as it is.
        exchanged: Loss with docks exchanged between sessions, minus the loss as it is.
        mean_vector: Loss with the mean dock vector in each docked position, minus the loss as it is.
    """

    sessions: int
    loss: float
    exchanged: LossDifference
    mean_vector: LossDifference

    def sentence(self) -> str:
        """Both differences in a sentence."""
        return (
            f"On {self.sessions:,} validation sessions, exchanging docks between sessions changes the loss by "
            f"{self.exchanged}, and the mean dock vector in each docked position by {self.mean_vector} nats per "
            "trained token (95% intervals over sessions)."
        )


def dock_worth(record: Mapping[str, Any]) -> DockWorth | None:
    """Read a validation record; None if it has no figures, or damaged or non-finite ones."""
    entry = record.get(KEY)
    if not isinstance(entry, Mapping):
        return None
    try:
        differences = (LossDifference(*_numbers(entry[kind])) for kind in ("exchanged", "mean_vector"))
        worth = DockWorth(int(entry["sessions"]), float(entry["loss"]), *differences)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    return worth if math.isfinite(worth.loss) else None


def _numbers(entry: Any) -> list[float]:
    numbers = [float(entry[name]) for name in ("difference", "low", "high")]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers


def reason_unmeasured(record: Mapping[str, Any]) -> str:
    """Why a validation record of a docked model has no figures; empty if it does not say."""
    entry = record.get(KEY)
    why = entry.get("why") if isinstance(entry, Mapping) else None
    return why if isinstance(why, str) else ""
