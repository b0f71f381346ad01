"""Measures of one text against its references: exact match, token F1, ROUGE, and numbers read from text."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

UNANSWERABLE = "unanswerable"
"""What is said of a question that its passage does not answer."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = re.compile(r"[a-z0-9]+")
_NUMBER = re.compile(
    r"""(?:(?<![\w.)])[-\u2212])?              # a minus, unless it stands between two numbers
        (?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)""",
    re.VERBOSE,
)


def normalised(text: str) -> str:
    """A text as SQuAD compares it: lowercase, without punctuation and articles, single spaces.

    Source: Rajpurkar et al. 2016.

    >>> normalised("The  Cat's hat, a lie.")
    'cats hat lie'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def best(measure: Callable[[str, str], float], text: str, references: Iterable[str]) -> float:
    """The highest value over the references."""
    return max(measure(text, reference) for reference in references)


def same(text: str, reference: str) -> float:
    """1 if a text is its reference, whitespace around it aside."""
    return float(text.strip() == reference.strip())


def exact_match(text: str, reference: str) -> float:
    """1 if a text equals its reference as SQuAD compares them."""
    return float(normalised(text) == normalised(reference))


def token_f1(text: str, reference: str) -> float:
    """F1 of the words of a text, as SQuAD compares them; all or nothing for unanswerable questions.

    For DROP this is not that data set's own metric, which compares numbers and sets of spans.

    Source: Rajpurkar et al. 2016 and 2018.

    >>> token_f1("the red ball", "a ball of red wool")
    0.6666666666666666
    """
    said, right = normalised(text).split(), normalised(reference).split()
    if not said or not right or right == [UNANSWERABLE] or said == [UNANSWERABLE]:
        return float(said == right)
    return _f1(_overlap(Counter(said), Counter(right)), len(said), len(right))


def rouge_n(text: str, reference: str, n: int) -> float:
    """ROUGE-n F1 over lowercase words and numbers, without stemming.

    Source: Lin 2004, section 2.

    >>> rouge_n("the cat sat", "the cat ran", 2)
    0.5
    """
    said, right = _grams(text, n), _grams(reference, n)
    return _f1(_overlap(said, right), said.total(), right.total())


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1: of the longest common subsequence of words, without stemming.

    Source: Lin 2004, section 3.1.

    >>> rouge_l("police kill the gunman", "police killed the gunman")
    0.75
    """
    said, right = _words(text), _words(reference)
    return _f1(_common(said, right), len(said), len(right))


def last_number(text: str) -> Decimal | None:
    """The last number in a text, thousands' commas removed; None where there is none.

    >>> last_number("7 - 4 = 3, so $1,234.50.")
    Decimal('1234.50')
    """
    found = _NUMBER.findall(text)
    return _decimal(found[-1]) if found else None


def first_number(text: str) -> float | None:
    """The first number in a text; None where there is none, or it is too large for a float."""
    found = _NUMBER.search(text)
    value = math.nan if found is None else float(_decimal(found[0]))
    return value if math.isfinite(value) else None


def same_number(text: str, reference: str) -> float:
    """1 if the last numbers of a text and of its reference are equal."""
    said, right = last_number(text), last_number(reference)
    return float(said is not None and said == right)


def _decimal(digits: str) -> Decimal:
    return Decimal(digits.replace(",", "").replace("\u2212", "-"))


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())


def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _words(text)
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _overlap(one: Counter[str] | Counter[tuple[str, ...]], other: Counter[str] | Counter[tuple[str, ...]]) -> int:
    return (one & other).total()  # type: ignore[operator]


def _f1(common: int, said: int, right: int) -> float:
    return 2 * common / (said + right) if common else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for at, candidate in enumerate(other, 1):
            above = lengths[at]
            lengths[at] = before + 1 if word == candidate else max(above, lengths[at - 1])
            before = above
    return lengths[-1]
