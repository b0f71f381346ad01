"""Settings of a suite, under the names of the options of ``metalm evaluate``."""

from __future__ import annotations

from typing import Any

from metalm_cli.evaluation.suites.load import Suite
from metalm_cli.tasks import Card
from metalm_cli.tasks.derived_card import DerivedCard

SETTINGS = (
    "shots",
    "protocol",
    "templates",
    "template",
    "split",
    "limit",
    "demonstrations",
    "demonstration_layout",
    "input_route",
    "show_options",
    "rationales",
    "normalise",
)
"""Keys of a suite that are settings of the evaluation."""


def suite_settings(suite: Suite) -> dict[str, Any]:
    """Return the settings that a suite sets."""
    values = {key: getattr(suite.file, key) for key in SETTINGS}
    return {key: value for key, value in values.items() if value is not None}


def scored_split(card: Card, split: str | None) -> str:
    """Return the split of a card to evaluate.

    ``validation``, as in the paper, or ``test`` if there is no validation split.

    Args:
        card: The card; a derived card's own split takes precedence.
        split: Split of the settings; None for the default.
    """
    own = card.evaluated_split if isinstance(card, DerivedCard) else None
    if own is not None or split is not None:
        return own or split or ""
    return "test" if "validation" not in card.splits and "test" in card.splits else "validation"
