"""Derived cards: the data of a card with another name, metric, split or part of the rows, as suites evaluate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from metalm_cli.tasks.card import Card


class DerivedCard(Card):
    """A card whose rows, templates and prompts are those of another card."""

    derived_from: str = Field(description="Name of the original card.")
    evaluated_split: str | None = Field(default=None, description="Split to evaluate, whatever the settings say.")
    evaluated_limit: int | None = Field(default=None, description="Maximum number of examples to evaluate.")
    part: str = Field(default="", description="The part of the rows, as column = value; empty: all rows.")

    @property
    def data_name(self) -> str:
        """Name of the original card."""
        return self.derived_from


def derive_card(
    card: Card,
    name: str,
    *,
    column: str = "",
    value: str = "",
    split: str | None = None,
    limit: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> DerivedCard:
    """Derive a card; its prompts are those of the original card.

    Args:
        card: The original card.
        name: Name of the derived card.
        column: Column that selects a part of the rows of every split; empty: all rows. A row without it is left out.
        value: Text of the column in the part.
        split: Role of the split to evaluate.
        limit: Number of examples to evaluate.
        changes: Other fields of the card, as valid values.
    """
    values = {field: getattr(card, field) for field in type(card).model_fields}
    values |= {
        "name": name,
        "derived_from": card.data_name,
        "evaluated_split": split,
        "evaluated_limit": limit,
        **(changes or {}),
    }
    if column:
        condition = f"{column} | default('') == {value!r}"
        values["row_filter"] = condition if card.row_filter is None else f"({card.row_filter}) and {condition}"
        values["part"] = f"{column} = {value}"
    return DerivedCard.model_construct(**values)


def default_split(card: Card) -> str:
    """Return the split to evaluate: ``validation``, as in the paper, or ``test`` for a card without one."""
    return "test" if "validation" not in card.splits and "test" in card.splits else "validation"


def scored_split(card: Card, split: str | None) -> str:
    """Return the split of a card to evaluate: a derived card's own, else that of the settings, else the default."""
    own = card.evaluated_split if isinstance(card, DerivedCard) else None
    return own or split or default_split(card)


def evaluated_limit(card: Card, limit: int | None) -> int | None:
    """Return the number of examples to evaluate: the smaller one of a derived card's own and that of the settings."""
    own = card.evaluated_limit if isinstance(card, DerivedCard) else None
    limits = [number for number in (own, limit) if number is not None]
    return min(limits) if limits else None
