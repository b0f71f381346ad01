"""Metrics that are means over examples: their functions come from the registry, also those of plug-ins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Real

from metalm_cli.common import registry
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.metrics.text_metrics import best_over_references

MULTI_REFERENCE_METRICS = ("vqa_accuracy", "coco_rougeL")
"""Metrics of metalm that are functions of a text and all its references."""


def example_score(metric: str, text: str, references: Sequence[str], language: str) -> float:
    """Return the score of a text, 0 to 1; the best reference counts.

    Args:
        metric: A registered metric of single texts: a function of a text and a reference, which may also take the
            language of the reference (``language``).
        text: The text.
        references: The references.
        language: Language code of the references.

    Raises:
        MetalmError: The metric of a plug-in cannot be imported, raises, or does not return a number of 0 to 1.
    """
    measure, takes_language, is_built_in = _load(metric)
    if metric in MULTI_REFERENCE_METRICS:
        all_references: Callable[[str, Sequence[str]], float] = registry.metrics.load(metric)
        return all_references(text, references)
    arguments = {"language": language} if takes_language else {}
    if is_built_in:
        return best_over_references(lambda text, reference: measure(text, reference, **arguments), text, references)
    return best_over_references(
        lambda text, reference: _checked(metric, measure, text, reference, arguments), text, references
    )


@cache
def _load(metric: str) -> tuple[Callable[..., float], bool, bool]:
    """Function of a metric, whether it takes the language, and whether it is metalm's own."""
    measure = registry.metrics.load(metric)
    takes_language = "language" in inspect.signature(measure).parameters
    return measure, takes_language, registry.metrics.entry(metric).origin == registry.BUILT_IN


def _checked(metric: str, measure: Callable[..., float], text: str, reference: str, arguments: dict[str, str]) -> float:
    try:
        value = measure(text, reference, **arguments)
        problem = "" if _is_score(value) else f"it returns {value!r:.60}, expected a number of 0 to 1"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        entry = registry.metrics.entry(metric)
        raise MetalmError(
            f"the metric {metric} of {entry.origin} fails",
            where=entry.target,
            why=f"{problem}; text {text!r:.60}, reference {reference!r:.60}",
            remedy=f"repair, update or uninstall {entry.origin}, or use another metric",
            exit_code=Exit.FAILED,
        )
    return float(value)


def _is_score(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1
