"""Chains of thought: the answer behind a rationale, and the vote over several of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import text_metrics
from metalm_cli.inference.text_streaming import strip_delimiter
from metalm_cli.tasks.card import MetricName
from metalm_cli.templates.render import CONCLUSION

_CONCLUSION = re.compile(rf"\b{re.escape(CONCLUSION)}\b[ \t]*:?[ \t]*([^\n]*)", re.IGNORECASE)
_NUMBERS: dict[str, Callable[[str], Hashable]] = {
    "number": text_metrics.last_number,
    "pearson": text_metrics.first_number,
    "spearman": text_metrics.first_number,
}
"""How metrics that compare numbers read one; None where there is none."""
_EXACT = ("accuracy", "f1", "matthews")
"""Metrics that compare texts as they are, whitespace around them aside."""


def find_answers(text: str) -> list[tuple[int, str]]:
    """Where a text concludes, and what: each ``The answer is`` in any case, with the rest of its line.

    Those that are followed by nothing, as at the end of a text that was cut off, do not count.

    >>> find_answers("Two and two. The answer is 4\\nNo: the answer is: 5\\nThe answer is")
    [(13, '4'), (33, '5')]
    """
    found = ((one.start(), one[1].strip()) for one in _CONCLUSION.finditer(text))
    return [(at, answer) for at, answer in found if answer]


def extract_answer(text: str, delimiter: str = " ", metric: MetricName = "accuracy") -> tuple[str, str]:
    """The rationale and the answer of what was said, as ``Style(rationale=True)`` trains it.

    The last conclusion counts (:func:`find_answers`), and the answer is the rest of its line, without a full stop for
    metrics that compare numbers. Where a text does not conclude, its answer is its last line that is not empty; for
    metrics that compare numbers, its last number.

    Args:
        text: What a model said.
        delimiter: The model's ``target_delimiter``, which it says first.
        metric: What will judge the answer.

    Returns:
        ``(rationale, answer)``; the rationale is empty if there is none, the answer if nothing was said, or nothing
        in it is a number where one is needed.

    Example:
        >>> extract_answer(" Fire burns.\\nThe answer is no")
        ('Fire burns.', 'no')
        >>> extract_answer("3 apples and 4 make 7 in all.", metric="number")
        ('3 apples and 4 make 7 in all.', '7')
    """
    said = strip_delimiter(text, delimiter)
    found = find_answers(said)
    if found:
        at, answer = found[-1]
        return said[:at].strip(), answer.removesuffix(".").rstrip() if metric in _NUMBERS else answer
    said = _without_dangling(said)
    if metric in _NUMBERS:
        number = text_metrics.last_number(said)
        return said, "" if number is None else str(number)
    lines = said.splitlines()
    return "\n".join(lines[:-1]).strip(), lines[-1].strip() if lines else ""


def _without_dangling(said: str) -> str:
    """A text without a conclusion that breaks off at its end."""
    return re.sub(rf"\b{re.escape(CONCLUSION)}[ \t]*:?\s*$", "", said, flags=re.IGNORECASE).strip()


def vote(answer: str, metric: MetricName) -> Hashable | None:
    """What an answer votes for: answers that the metric takes for equal vote for the same; None: it abstains.

    Numbers are compared as numbers, classes as they are, and other texts as SQuAD compares them. An empty answer, and
    one without a number where one is needed, abstains.

    >>> vote("1,200.0 apples", "number") == vote("1200", "number")
    True
    """
    if metric in _NUMBERS:
        return _NUMBERS[metric](answer)
    return (answer.strip() if metric in _EXACT else text_metrics.normalised(answer) or answer.strip()) or None


def majority_vote(samples: Sequence[str], metric: MetricName = "accuracy") -> str:
    """The answer that most samples give: self-consistency (Wang et al. 2022, section 2).

    Args:
        samples: Answers, without their rationales.
        metric: What will judge the answer; decides which are equal (:func:`vote`).

    Returns:
        The first sample of the largest group; of equal groups that whose first sample comes first. The first sample
        if all abstain.

    Raises:
        MetalmError: There are no samples.

    Example:
        >>> majority_vote(["12", "13.", "13.0", "I do not know"], "number")
        '13.'
    """
    if not samples:
        raise MetalmError("there are no samples to vote", remedy="draw at least one")
    votes = [vote(one, metric) for one in samples]
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return samples[0]
    most = max(counts.values())
    return next(one for one, vote in zip(samples, votes, strict=True) if vote is not None and counts[vote] == most)
