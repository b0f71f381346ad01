"""Measures of one text against its references: exact match and F1 of SQuAD, TriviaQA, DROP and CLUES, ROUGE, numbers.

Each follows the behaviour of the data set's own script, which is held by that script's published cases.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

UNANSWERABLE = "unanswerable"
"""What is said of a question that its passage does not answer."""
NOTHING = "none"
"""The text of an empty list."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
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

    Source: Rajpurkar et al. 2016 and 2018.

    >>> token_f1("the red ball", "a ball of red wool")
    0.6666666666666666
    """
    said, right = normalised(text).split(), normalised(reference).split()
    if not said or not right or right == [UNANSWERABLE] or said == [UNANSWERABLE]:
        return float(said == right)
    return _words_f1(said, right)


def trivia_normalised(text: str) -> str:
    """A text as TriviaQA compares it: as SQuAD does, but punctuation, single quotation marks too, parts words.

    Source: Joshi et al. 2017.

    >>> trivia_normalised("The ‘Spider-Man’_films")
    'spider man films'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


def trivia_em(text: str, reference: str) -> float:
    """1 if a text equals its reference as TriviaQA compares them."""
    return float(trivia_normalised(text) == trivia_normalised(reference))


def trivia_f1(text: str, reference: str) -> float:
    """F1 of the words of a text, as TriviaQA compares them."""
    return _words_f1(trivia_normalised(text).split(), trivia_normalised(reference).split())


def drop_normalised(text: str) -> str:
    """A text as DROP compares it: word by word, split at spaces and hyphens, numbers as numbers.

    Source: Dua et al. 2019.

    >>> drop_normalised("The 1,200-yard S.K. run")
    '1200.0 yard sk run'
    """
    words = []
    for token in re.split(" |-", text.lower()):
        word = token if _is_number(token) else token.translate(_PUNCTUATION)
        words += _ARTICLES.sub(" ", str(float(word)) if _is_number(word) else word).split()
    return " ".join(words)


def drop_em(text: str, reference: str) -> float:
    """1 if a text equals its reference as DROP compares them, span by span in any order."""
    return drop_scores(parts(text) or ("",), parts(reference) or ("",))[0]


def drop_f1(text: str, reference: str) -> float:
    """DROP's F1 of a text: of sets of words that share their numbers, spans aligned one to one."""
    return drop_scores(parts(text) or ("",), parts(reference) or ("",))[1]


def drop_scores(said: Sequence[str], right: Sequence[str]) -> tuple[float, float]:
    """DROP's exact match and F1 of an answer of one or more spans.

    Spans are sets of words. A span is worth nothing against one whose numbers it shares none of. Spans are aligned one
    to one for the highest sum, which is divided by how many spans the longer answer has, and rounded to two digits.

    Args:
        said: The spans said, at least one.
        right: The spans of one annotator, at least one.

    Source: Dua et al. 2019, section 5.
    """
    from scipy.optimize import linear_sum_assignment

    spans = [[drop_normalised(span) for span in side] for side in (said, right)]
    exact = len(said) == len(right) and set(spans[0]) == set(spans[1])
    bags = [[set(span.split()) for span in side] for side in spans]
    table = np.array([[_bags_f1(one, other) for one in bags[0]] for other in bags[1]])
    sums = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(exact), float(np.round(sums / max(len(said), len(right)), 2))


def _bags_f1(said: set[str], right: set[str]) -> float:
    numbers = {word for word in right if _is_number(word)}
    if numbers and not numbers & said:
        return 0.0
    common = len(said & right)
    precision = common / len(said) if said else 1.0
    recall = common / len(right) if right else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def parts(text: str) -> tuple[str, ...]:
    """The items of a list in a text, which semicolons part.

    >>> parts("Paris; New York")
    ('Paris', 'New York')
    """
    return tuple(part.strip() for part in text.split(";") if part.strip())


def s1(said: Collection[str], right: Collection[str]) -> float:
    """CLUES' S1: F1 of sets of texts, compared as they are; 1 where nothing is right and nothing said.

    Source: Mukherjee et al. 2021.

    >>> s1(["a", "b"], ["b", "c", "d"])
    0.4
    """
    if not said or not right:
        return float(len(said) == len(right))
    return _f1(len(set(said) & set(right)), len(set(said)), len(set(right)))


def listed_s1(text: str, reference: str) -> float:
    """S1 of the lists that two texts are; :data:`NOTHING` is the empty one.

    >>> listed_s1("None", "none")
    1.0
    """
    said, right = (() if side.strip().lower() == NOTHING else parts(side) for side in (text, reference))
    return s1(said, right)


def rouge(text: str, reference: str, kind: str) -> float:
    """ROUGE F1 over lowercase words and numbers, without stemming, as T5 and FLAN score: rouge-score's.

    Args:
        text: What was said.
        reference: What is right.
        kind: rouge1, rouge2 or rougeL.

    Source: Lin 2004, sections 2 and 3.1.
    """
    return float(_rouge_scorer(kind).score(reference, text)[kind].fmeasure)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


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


def _words_f1(said: Sequence[str], right: Sequence[str]) -> float:
    return _f1((Counter(said) & Counter(right)).total(), len(said), len(right))


def _f1(common: int, said: int, right: int) -> float:
    return 2 * common / (said + right) if common else 0.0
