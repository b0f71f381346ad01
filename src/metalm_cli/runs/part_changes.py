"""What moved: change of the weights of each part in a run, as the last record of ``metrics.jsonl`` has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metalm_cli.common.table import Table

SPLIT = "parts"
"""Value of ``split`` of the record, and its key with the parts."""

UNMOVED = 1e-7
"""Relative change below which weights count as not moved: the precision of fp32."""

TITLE = "What moved"
NOTE = (
    "Change of the weights that train, from the start of the run to the saved model, as a share of their norm at the "
    "start. Weights that do not train keep their SHA-256."
)


@dataclass(frozen=True)
class PartChange:
    """Change of a part from the start of the run to its saved model.

    Args:
        trained: Number of weights that train.
        change: Norm of their change divided by their norm at the start; None if that norm is 0 or not finite.
        frozen: Number of weights that do not train.
        sha256_before: SHA-256 of these at the start; empty without any.
        sha256_after: SHA-256 of these in the saved model.
        estimated: The norms are estimated from a sample of each large tensor.
    """

    trained: int
    change: float | None
    frozen: int
    sha256_before: str
    sha256_after: str
    estimated: bool = False

    @property
    def is_unmoved(self) -> bool:
        """Whether weights that train are, up to the precision of fp32, those of the start."""
        return self.trained > 0 and self.change is not None and self.change < UNMOVED

    @property
    def frozen_changed(self) -> bool:
        """Whether weights that do not train have changed."""
        return self.sha256_before != self.sha256_after

    def record(self) -> dict[str, Any]:
        """Return what a metrics record has of the part."""
        return asdict(self)


def part_changes(record: Mapping[str, Any]) -> dict[str, PartChange]:
    """Read a metrics record; parts with damaged values are left out."""
    entries = record.get(SPLIT)
    changes: dict[str, PartChange] = {}
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        try:
            change = PartChange(**entry)
            numbers = [change.trained, change.frozen, 0 if change.change is None else change.change]
            if all(math.isfinite(number) for number in numbers) and isinstance(change.sha256_before, str):
                changes[str(name)] = change
        except (TypeError, OverflowError):
            continue
    return changes


def change_table(runs: Mapping[str, Mapping[str, PartChange]]) -> Table | None:
    """Table of the parts of some runs, by the names of the runs; None without any.

    >>> change = PartChange(1_000, 0.0123, 0, "", "")
    >>> print(change_table({"first": {"decoder": change}}).rows)
    (('decoder', '1,000', '1.23%', '-', '-'),)
    """
    several = len(runs) > 1
    rows = [
        (*([run] if several else []), name, *_cells(change))
        for run, changes in runs.items()
        for name, change in changes.items()
    ]
    headers = (*(["run"] if several else []), "part", "trained", "change", "frozen", "SHA-256 of the frozen weights")
    return Table(TITLE, headers, tuple(rows), NOTE, frozenset({0, 1, 5} if several else {0, 4})) if rows else None


def _cells(change: PartChange) -> tuple[str, str, str, str]:
    relative = "from 0"
    if change.change is not None:
        relative = f"{'about ' if change.estimated else ''}{100 * change.change:.3g}%"
    digest = f"{change.sha256_before[:12]}…, unchanged"
    if change.frozen_changed:
        digest = f"changed: {change.sha256_before[:12]}… to {change.sha256_after[:12]}…"
    return (
        f"{change.trained:,}" if change.trained else "-",
        relative if change.trained else "-",
        f"{change.frozen:,}" if change.frozen else "-",
        digest if change.frozen else "-",
    )


def warnings_of(changes: Mapping[str, PartChange]) -> list[str]:
    """Sentences on parts that train and have not moved, and on frozen weights that have changed."""
    sentences = [
        f"warning: {name} trains, but its weights have not moved in the run: no row has used it, or its learning "
        "rate is too low"
        for name, change in changes.items()
        if change.is_unmoved
    ]
    return sentences + [
        f"warning: frozen weights of {name} have changed in the run: their SHA-256 was "
        f"{change.sha256_before[:12]}… and is {change.sha256_after[:12]}…"
        for name, change in changes.items()
        if change.frozen_changed
    ]
