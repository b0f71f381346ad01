"""Results that ``metalm demo --full`` expects, recorded before it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expected result of a task after instruction tuning or multi-task finetuning in the full demo.

    Args:
        above_chance: Whether models are expected to score above chance.
        reason: Reason for the expectation.
    """

    above_chance: bool
    reason: str


_WORD_ORDER = "all labels share the same words, and there are too few examples to learn their order"

EXPECTED: dict[str, Expectation] = {
    "world_reviews": Expectation(
        True, "words of praise and blame decide most examples; trained on this task alone, 1,600 rows were enough"
    ),
    "world_nli": Expectation(False, f"{_WORD_ORDER}; held out in instruction tuning"),
    "world_paraphrase": Expectation(False, f"{_WORD_ORDER}; held out in instruction tuning"),
    "world_pronouns": Expectation(False, f"the name has to be copied from the text, and {_WORD_ORDER}"),
    "world_outcomes": Expectation(False, _WORD_ORDER),
    "world_yes_no": Expectation(False, _WORD_ORDER),
    "world_grammar": Expectation(False, _WORD_ORDER),
}
"""Expectations for the tasks that have a chance level. Recorded on 2026-11-21, after one run of 600 steps of multi-task
finetuning from a MetaLM of 400 steps: 91.5 on reviews, no other task above chance."""

WITHOUT_CHANCE = ("world_passages", "world_facts", "world_triples", "world_gist")
"""Tasks with free answers: they have no chance level, so there is no expectation for them."""

IN_CONTEXT = Expectation(False, "they have never seen the format of an answer")
"""Expectation for pretrained models in context, on every task that has a chance level. Recorded on 2026-11-21, after a
demo of one seed in which no interval was above chance, and before the in-context scores of a full demo were read."""


def describe() -> list[str]:
    """Describe the expectations with their reasons, one line each."""
    lines = [
        f"{_short_name(task)}: {_outcome(expectation)}: {expectation.reason}" for task, expectation in EXPECTED.items()
    ]
    free_answer_tasks = ", ".join(map(_short_name, WITHOUT_CHANCE))
    return [
        "after instruction tuning and after multi-task finetuning:",
        *lines,
        f"{free_answer_tasks}: nothing, because they have no chance level",
        f"pretrained models in context: {_outcome(IN_CONTEXT)} on any task: {IN_CONTEXT.reason}",
    ]


def describe_briefly() -> str:
    """Summarise the expectations without their reasons."""
    above, below = (
        ", ".join(
            _short_name(task) for task, expectation in EXPECTED.items() if expectation.above_chance == above_chance
        )
        for above_chance in (True, False)
    )
    free_answer_tasks = ", ".join(map(_short_name, WITHOUT_CHANCE))
    return (
        f"Expected above chance after tuning: {above}; not above chance: {below}. "
        f"No expectation, because there is no chance level: {free_answer_tasks}. "
        f"Pretrained models in context: {_outcome(IN_CONTEXT)} on any task."
    )


def _short_name(task: str) -> str:
    return task.removeprefix("world_")


def _outcome(expectation: Expectation) -> str:
    return "above chance" if expectation.above_chance else "not above chance"
