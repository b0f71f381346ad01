"""Names and texts of the numbers of a metrics record, for the display of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalm_cli.runs.dock_worth import dock_worth

Record = Mapping[str, Any]
"""A record of ``metrics.jsonl``: ``step``, ``loss``, ``lr``, ``tokens_per_second``, …"""


def number_fields(record: Record) -> list[tuple[str, str]]:
    """Displayed numbers of a record, in a fixed order; non-finite values as ``nan``."""
    formats = (
        ("loss", "loss", ".4f"),
        ("continuation_loss", "continuation", ".4f"),
        ("reconstruction_loss", "reconstruction", ".4f"),
        ("kl", "KL", ".4f"),
        ("bits_per_byte", "bits/byte", ".4f"),
        ("lr", "lr", ".2e"),
        ("grad_norm", "grad norm", ".3f"),
        ("tokens_per_second", "tokens/s", ",.0f"),
    )
    fields = []
    for key, name, number_format in formats:
        if key in record:
            value = record[key]
            fields.append((name, "nan" if value is None else format(float(value), number_format)))
    return fields


def group_losses(record: Record, group: str | None = None) -> list[tuple[str, str]]:
    """Losses per cluster if a validation record has them, else per task."""
    values = record.get(group) if group else record.get("cluster_loss") or record.get("task_loss")
    return [(name, f"{value:.3f}") for name, value in (values or {}).items() if value is not None]


def dock_fields(record: Record) -> list[tuple[str, str]]:
    """Change of the loss by exchanged docks, and by mean dock vectors, with intervals; empty if not measured."""
    worth = dock_worth(record)
    if worth is None:
        return []
    return [("docks exchanged", str(worth.exchanged)), ("mean dock vector", str(worth.mean_vector))]
