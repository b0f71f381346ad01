"""Errors of recipes: each problem has a key, a location, the value and what was expected, and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metalm_cli.config.yaml_nodes import to_flow_yaml
from metalm_cli.errors import MetalmError


@dataclass(frozen=True)
class RecipeProblem:
    """A problem of a recipe.

    Args:
        key: Dotted key; empty for the whole record.
        message: The value and what was expected.
        remedy: What to change.
        where: ``file:line``, ``command line``, or empty for a default.
        depends_on: Other keys that the problem depends on; it is not reported if the value of one of these is invalid.
        is_missing: The key is required and has no value; a base recipe may leave it out.
    """

    key: str
    message: str
    remedy: str = ""
    where: str = ""
    depends_on: tuple[str, ...] = ()
    is_missing: bool = False

    @property
    def text(self) -> str:
        """The message after its key; a problem of the whole record has none."""
        return f"{self.key}: {self.message}" if self.key else self.message


MAX_LISTED = 50
"""Problems that the error of a recipe lists."""


class RecipeError(MetalmError):
    """Error that lists the problems of a recipe.

    Args:
        name: Name of the recipe.
        problems: The problems, at least one.
        kind: Kind of the record, if other than a recipe (``task card``).
    """

    def __init__(self, name: str, problems: Sequence[RecipeProblem], kind: str = "recipe") -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            single = problems[0]
            super().__init__(single.text, where=single.where or name, remedy=single.remedy)
            return
        lines = []
        for problem in problems[:MAX_LISTED]:
            lines.append(problem.text)
            lines += [f"    {label}: {text}" for label, text in _labelled_details(problem)]
        lines += [f"and {len(problems) - MAX_LISTED:,} more"] if len(problems) > MAX_LISTED else []
        super().__init__("\n  ".join([f"{kind} {name} has {len(problems)} problems", *lines]))


def _labelled_details(problem: RecipeProblem) -> list[tuple[str, str]]:
    return [(label, text) for label, text in (("where", problem.where), ("remedy", problem.remedy)) if text]


def quote_value(value: Any) -> str:
    """Format a value for messages: YAML on one line, cut to 60 characters."""
    text = to_flow_yaml(value)
    return text if len(text) <= 60 else text[:57] + "..."
