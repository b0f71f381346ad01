"""What is wrong with a recipe: every problem with its key, place, what was got, what was expected, and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metalm_cli.config.yaml_nodes import to_flow_yaml
from metalm_cli.errors import MetalmError


@dataclass(frozen=True)
class RecipeProblem:
    """One thing that is wrong.

    Args:
        key: Dotted key.
        message: What was got and what was expected.
        remedy: What to change.
        where: ``file:line``, ``command line``, or empty for a default.
        uses: Other keys that the finding rests on.
    """

    key: str
    message: str
    remedy: str = ""
    where: str = ""
    uses: tuple[str, ...] = ()


class RecipeError(MetalmError):
    """All problems of a recipe at once.

    Args:
        name: Name of the recipe.
        problems: At least one.
        kind: What it is, if it is no recipe (``task card``).
    """

    def __init__(self, name: str, problems: Sequence[RecipeProblem], kind: str = "recipe") -> None:
        self.problems = tuple(problems)
        if len(problems) == 1:
            only = problems[0]
            super().__init__(f"{only.key}: {only.message}", where=only.where or name, remedy=only.remedy)
            return
        lines = []
        for problem in problems:
            lines.append(f"{problem.key}: {problem.message}")
            lines += [f"    {label}: {text}" for label, text in _details(problem)]
        super().__init__("\n  ".join([f"{kind} {name} has {len(problems)} problems", *lines]))


def _details(problem: RecipeProblem) -> list[tuple[str, str]]:
    return [(label, text) for label, text in (("where", problem.where), ("remedy", problem.remedy)) if text]


def quote_value(value: Any) -> str:
    """A value as messages quote it: YAML on one line, cut at 60 characters."""
    text = to_flow_yaml(value)
    return text if len(text) <= 60 else text[:57] + "..."
