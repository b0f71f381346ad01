"""What ``metalm demo --full`` expects, written down before it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of a task after instruction tuning or multi-task finetuning at the full demo's budget.

    Args:
        above: Are models expected above chance?
        why: The reason.
    """

    above: bool
    why: str


_ORDER = "the same words stand in every label's rows, and who stands where is not learned from so few"

EXPECTED: dict[str, Expectation] = {
    "world_reviews": Expectation(
        True, "words of praise and blame carry much of it; seen alone, 1,600 rows were enough"
    ),
    "world_nli": Expectation(False, f"{_ORDER}; held out in instruction tuning"),
    "world_paraphrase": Expectation(False, f"{_ORDER}; held out in instruction tuning"),
    "world_pronouns": Expectation(False, f"the name has to be copied from the text, and {_ORDER}"),
    "world_outcomes": Expectation(False, _ORDER),
    "world_yes_no": Expectation(False, _ORDER),
    "world_grammar": Expectation(False, _ORDER),
}
"""Tasks that have a chance level. Written down on 2026-11-21, after one run of 600 steps of multi-task finetuning
from a MetaLM of 400 steps: 91.5 on reviews, nothing else above chance."""

WITHOUT_CHANCE = ("world_passages", "world_facts", "world_triples", "world_gist")
"""Tasks with free answers: they have no chance level, so that nothing is expected of them."""

IN_CONTEXT = Expectation(False, "they were never shown the form of an answer")
"""Pretrained models in context, on every task that has a chance level. Written down on 2026-11-21, after a demo of one
seed in which no interval lay above chance, and before the scores in context of a full demo were looked at."""


def describe() -> list[str]:
    """What is expected, a line each, with reasons."""
    found = [f"{_short(task)}: {_side(one)}: {one.why}" for task, one in EXPECTED.items()]
    free = ", ".join(map(_short, WITHOUT_CHANCE))
    return [
        "after instruction tuning and after multi-task finetuning:",
        *found,
        f"{free}: nothing, for they have no chance level",
        f"pretrained models in context: {_side(IN_CONTEXT)} on any task: {IN_CONTEXT.why}",
    ]


def describe_briefly() -> str:
    """The same in a line."""
    above, below = (
        ", ".join(_short(task) for task, one in EXPECTED.items() if one.above == side) for side in (True, False)
    )
    free = ", ".join(map(_short, WITHOUT_CHANCE))
    return (
        f"Expected above chance, once tuned: {above}; not: {below}. Without a chance level, so nothing: {free}. "
        f"Pretrained models in context: {_side(IN_CONTEXT)} on any task."
    )


def _short(task: str) -> str:
    return task.removeprefix("world_")


def _side(one: Expectation) -> str:
    return "above chance" if one.above else "not above chance"
