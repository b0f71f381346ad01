"""Text metrics for one text and its references: exact match and F1 of SQuAD, TriviaQA, DROP and CLUES, ROUGE, numbers.

Each metric follows the official script of its data set; tests check them on the published cases of these scripts.
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
"""Answer to a question that its passage does not answer."""
EMPTY_LIST = "none"
"""Text of an empty list."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_NUMBER = re.compile(
    r"""(?:(?<![\w.)])[-\u2212])?              # a minus, unless it follows a word or a number
        (?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)""",
    re.VERBOSE,
)


def normalise_squad(text: str) -> str:
    """Normalise a text as SQuAD does: lowercase, no punctuation, no articles, single spaces.

    Source: Rajpurkar et al. 2016.

    >>> normalise_squad("The  Cat's hat, a lie.")
    'cats hat lie'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def best_over_references(measure: Callable[[str, str], float], text: str, references: Iterable[str]) -> float:
    """Return the highest value over the references."""
    return max(measure(text, reference) for reference in references)


def equal_text(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference, except for surrounding whitespace."""
    return float(text.strip() == reference.strip())


def exact_match(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after SQuAD's normalisation."""
    return float(normalise_squad(text) == normalise_squad(reference))


def token_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of a text after SQuAD's normalisation; 0 or 1 for unanswerable questions.

    Source: Rajpurkar et al. 2016 and 2018.

    >>> token_f1("the red ball", "a ball of red wool")
    0.6666666666666666
    """
    predicted_words, reference_words = normalise_squad(text).split(), normalise_squad(reference).split()
    if (
        not predicted_words
        or not reference_words
        or reference_words == [UNANSWERABLE]
        or predicted_words == [UNANSWERABLE]
    ):
        return float(predicted_words == reference_words)
    return _words_f1(predicted_words, reference_words)


def normalise_trivia(text: str) -> str:
    """Normalise a text as TriviaQA does: as SQuAD, but punctuation and single quotation marks separate words.

    Source: Joshi et al. 2017.

    >>> normalise_trivia("The ‘Spider-Man’_films")
    'spider man films'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION_TO_SPACE)).split())


def trivia_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after TriviaQA's normalisation."""
    return float(normalise_trivia(text) == normalise_trivia(reference))


def trivia_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of a text after TriviaQA's normalisation."""
    return _words_f1(normalise_trivia(text).split(), normalise_trivia(reference).split())


def normalise_drop(text: str) -> str:
    """Normalise a text as DROP does: word by word, split at spaces and hyphens, numbers as floats.

    Source: Dua et al. 2019.

    >>> normalise_drop("The 1,200-yard S.K. run")
    '1200.0 yard sk run'
    """
    words = []
    for token in re.split(" |-", text.lower()):
        word = token if _is_number(token) else token.translate(_PUNCTUATION)
        words += _ARTICLES.sub(" ", str(float(word)) if _is_number(word) else word).split()
    return " ".join(words)


def drop_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after DROP's normalisation, span by span in any order."""
    return drop_scores(split_list(text) or ("",), split_list(reference) or ("",))[0]


def drop_f1(text: str, reference: str) -> float:
    """Return DROP's F1 of a text: over sets of words that share numbers, with spans aligned one to one."""
    return drop_scores(split_list(text) or ("",), split_list(reference) or ("",))[1]


def drop_scores(predicted: Sequence[str], reference: Sequence[str]) -> tuple[float, float]:
    """Return DROP's exact match and F1 of an answer of one or more spans.

    Spans are sets of words. A span scores 0 against a reference span with numbers if it shares none of them. Spans are
    aligned one to one for the highest sum, which is divided by the number of spans of the longer answer and rounded to
    two digits.

    Args:
        predicted: Predicted spans, at least one.
        reference: Spans of one annotator, at least one.

    Source: Dua et al. 2019, section 5.
    """
    from scipy.optimize import linear_sum_assignment

    spans = [[normalise_drop(span) for span in answer] for answer in (predicted, reference)]
    exact = len(predicted) == len(reference) and set(spans[0]) == set(spans[1])
    word_sets = [[set(span.split()) for span in answer_spans] for answer_spans in spans]
    table = np.array(
        [
            [_word_sets_f1(predicted_words, reference_words) for predicted_words in word_sets[0]]
            for reference_words in word_sets[1]
        ]
    )
    sums = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(exact), float(np.round(sums / max(len(predicted), len(reference)), 2))


def _word_sets_f1(predicted: set[str], reference: set[str]) -> float:
    numbers = {word for word in reference if _is_number(word)}
    if numbers and not numbers & predicted:
        return 0.0
    common = len(predicted & reference)
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(reference) if reference else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def split_list(text: str) -> tuple[str, ...]:
    """Split a text into the items of a list separated by semicolons.

    >>> split_list("Paris; New York")
    ('Paris', 'New York')
    """
    return tuple(item.strip() for item in text.split(";") if item.strip())


def s1(predicted: Collection[str], reference: Collection[str]) -> float:
    """Return CLUES' S1: F1 of sets of texts, compared literally; 1 if both are empty.

    Source: Mukherjee et al. 2021.

    >>> s1(["a", "b"], ["b", "c", "d"])
    0.4
    """
    if not predicted or not reference:
        return float(len(predicted) == len(reference))
    return _f1(len(set(predicted) & set(reference)), len(set(predicted)), len(set(reference)))


def listed_s1(text: str, reference: str) -> float:
    """Return the S1 of the lists in two texts; :data:`EMPTY_LIST` is the empty list.

    >>> listed_s1("None", "none")
    1.0
    """
    predicted_items, reference_items = (
        () if answer.strip().lower() == EMPTY_LIST else split_list(answer) for answer in (text, reference)
    )
    return s1(predicted_items, reference_items)


def rouge(text: str, reference: str, kind: str) -> float:
    """Return the ROUGE F1 over lowercase words and numbers, without stemming, as for T5 and FLAN, by rouge-score.

    Args:
        text: The generated text.
        reference: The reference.
        kind: rouge1, rouge2 or rougeL.

    Source: Lin 2004, sections 2 and 3.1.
    """
    return float(_rouge_scorer(kind).score(reference, text)[kind].fmeasure)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, without thousands separators; None if there is none.

    >>> last_number("7 - 4 = 3, so $1,234.50.")
    Decimal('1234.50')
    """
    matches = _NUMBER.findall(text)
    return _decimal(matches[-1]) if matches else None


def first_number(text: str) -> float | None:
    """Return the first number in a text; None if there is none, or if it is too large for a float."""
    match = _NUMBER.search(text)
    value = math.nan if match is None else float(_decimal(match[0]))
    return value if math.isfinite(value) else None


def equal_number(text: str, reference: str) -> float:
    """Return 1 if the last numbers of a text and of its reference are equal."""
    predicted, expected = last_number(text), last_number(reference)
    return float(predicted is not None and predicted == expected)


def _decimal(digits: str) -> Decimal:
    return Decimal(digits.replace(",", "").replace("\u2212", "-"))


def _words_f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    return _f1((Counter(predicted) & Counter(reference)).total(), len(predicted), len(reference))


def _f1(common: int, predicted: int, reference: int) -> float:
    return 2 * common / (predicted + reference) if common else 0.0
