"""Chains of thought: extraction of the answer after a rationale, and the vote over several samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import normalisation, text_metrics
from metalm_cli.inference.text_streaming import strip_delimiter
from metalm_cli.tasks.card import MetricName
from metalm_cli.templates.render import CONCLUSION_PREFIX

_CONCLUSION = re.compile(rf"\b{re.escape(CONCLUSION_PREFIX)}\b[ \t]*:?[ \t]*([^\n]*)", re.IGNORECASE)
_NUMBER_READERS: dict[str, Callable[[str], Hashable]] = {
    "number": text_metrics.last_number,
    "pearson": text_metrics.first_number,
    "spearman": text_metrics.first_number,
}
"""How metrics that compare numbers read a number from a text; None if there is none."""
_NORMALISATIONS: dict[str, Callable[[str], Hashable]] = {
    "accuracy": str.strip,
    "f1": str.strip,
    "matthews": str.strip,
    "squad_em": normalisation.normalise_squad,
    "squad_f1": normalisation.normalise_squad,
    "squad_v2_em": normalisation.normalise_squad,
    "squad_v2_f1": normalisation.normalise_squad,
    "trivia_em": normalisation.normalise_trivia,
    "trivia_f1": normalisation.normalise_trivia,
    "drop_em": lambda text: frozenset(map(normalisation.normalise_drop, text_metrics.split_list(text))),
    "drop_f1": lambda text: frozenset(map(normalisation.normalise_drop, text_metrics.split_list(text))),
    "s1": lambda text: frozenset(text_metrics.listed_items(text)),
    "super_ni_em": normalisation.normalise_super_ni,
    "super_ni_rougeL": normalisation.normalise_super_ni,
}
"""How metrics normalise a text before they compare it; other metrics: ``normalise_words``."""


def find_answers(text: str) -> list[tuple[int, str]]:
    """Find the conclusions of a text: the position of each ``The answer is`` (in any case) and the rest of its line.

    A conclusion without an answer, such as at the end of a truncated text, is left out.

    >>> find_answers("Two and two. The answer is 4\\nNo: the answer is: 5\\nThe answer is")
    [(13, '4'), (33, '5')]
    """
    matches = ((match.start(), match[1].strip()) for match in _CONCLUSION.finditer(text))
    return [(start, answer) for start, answer in matches if answer]


def extract_answer(text: str, delimiter: str = " ", metric: MetricName = "accuracy") -> tuple[str, str]:
    """Split a generated text into rationale and answer, in the format that ``PromptStyle(rationale=True)`` trains.

    The last conclusion counts (:func:`find_answers`), and the answer is the rest of its line, without a full stop for
    metrics that compare numbers. Without a conclusion, the answer is the last line that is not empty, or the last
    number for metrics that compare numbers.

    Args:
        text: The generated text.
        delimiter: The model's ``target_delimiter``, with which the text begins.
        metric: The metric that scores the answer.

    Returns:
        ``(rationale, answer)``; the rationale is empty if there is none. The answer is empty if the text is empty, or
        if the metric needs a number and the text has none.

    Example:
        >>> extract_answer(" Fire burns.\\nThe answer is no")
        ('Fire burns.', 'no')
        >>> extract_answer("3 apples and 4 make 7 in all.", metric="number")
        ('3 apples and 4 make 7 in all.', '7')
    """
    stripped = strip_delimiter(text, delimiter)
    conclusions = find_answers(stripped)
    if conclusions:
        start, answer = conclusions[-1]
        return stripped[:start].strip(), answer.removesuffix(".").rstrip() if metric in _NUMBER_READERS else answer
    stripped = _strip_unfinished_conclusion(stripped)
    if metric in _NUMBER_READERS:
        number = text_metrics.last_number(stripped)
        return stripped, "" if number is None else str(number)
    lines = stripped.splitlines()
    return "\n".join(lines[:-1]).strip(), lines[-1].strip() if lines else ""


def _strip_unfinished_conclusion(text: str) -> str:
    """Remove a conclusion without an answer from the end of a text."""
    return re.sub(rf"\b{re.escape(CONCLUSION_PREFIX)}[ \t]*:?\s*$", "", text, flags=re.IGNORECASE).strip()


def vote(answer: str, metric: MetricName, language: str = "en") -> Hashable | None:
    """Return the candidate that an answer votes for, the same for answers that the metric treats as equal.

    Numbers are compared as numbers, other texts after the normalisation of the metric; an answer of which this leaves
    nothing, such as punctuation alone, is compared literally. None (an abstention) for an empty answer, and for an
    answer without a number if the metric needs one.

    >>> vote("1,200.0 apples", "number") == vote("1200", "number")
    True
    """
    if metric in _NUMBER_READERS:
        return _NUMBER_READERS[metric](answer)
    if metric not in _NORMALISATIONS:
        return normalisation.normalise_words(answer, language) or None
    return _NORMALISATIONS[metric](answer) or answer.strip() or None


def majority_vote(samples: Sequence[str], metric: MetricName = "accuracy", language: str = "en") -> str:
    """Return the most frequent answer: self-consistency (Wang et al. 2022, section 2).

    Args:
        samples: Answers, without their rationales.
        metric: The metric that scores the answer; decides which answers are equal (:func:`vote`).
        language: Language of the answers.

    Returns:
        The first sample of the largest group of equal answers; of groups of the same size, the group whose first
        sample comes first. The first sample if all abstain.

    Raises:
        MetalmError: There are no samples.

    Example:
        >>> majority_vote(["12", "13.", "13.0", "I do not know"], "number")
        '13.'
    """
    if not samples:
        raise MetalmError("there are no samples to vote on", remedy="draw at least one sample")
    votes = [vote(sample, metric, language) for sample in samples]
    counts = Counter(value for value in votes if value is not None)
    if not counts:
        return samples[0]
    highest = max(counts.values())
    return next(
        sample for sample, value in zip(samples, votes, strict=True) if value is not None and counts[value] == highest
    )
