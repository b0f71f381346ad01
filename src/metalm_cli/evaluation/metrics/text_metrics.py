"""Text metrics for one text and its references: exact match and F1, ROUGE, numbers.

The metrics of SQuAD, TriviaQA, DROP, Super-NaturalInstructions and CLUES follow the official script of their data set;
tests check them on the published cases of these scripts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from functools import cache, partial
from typing import Any

import numpy as np

from metalm_cli.common.languages import is_mostly_latin, language_code, split_characters, split_words
from metalm_cli.evaluation.metrics.normalisation import (
    is_number,
    normalise_drop,
    normalise_squad,
    normalise_super_ni,
    normalise_trivia,
    normalise_words,
)

UNANSWERABLE = "unanswerable"
"""Answer to a question that its passage does not answer; the empty answer of SQuAD 2.0."""
EMPTY_LIST = "none"
"""Text of an empty list."""
_NUMBER = re.compile(
    r"""(?:(?<![\w.)])[-\u2212])?              # a minus, unless it follows a word or a number
        (?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
        (?:[eE][-+]?[0-9]{1,3}(?!\w))?        # an exponent""",
    re.VERBOSE,
)


def best_over_references(measure: Callable[[str, str], float], text: str, references: Iterable[str]) -> float:
    """Return the highest value over the references."""
    return max(measure(text, reference) for reference in references)


def equal_text(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference, except for surrounding whitespace."""
    return float(text.strip() == reference.strip())


def exact_match(text: str, reference: str, language: str = "en") -> float:
    """Return 1 if a text has the words of its reference: :func:`normalise_words`, which keeps signs and symbols."""
    return float(normalise_words(text, language) == normalise_words(reference, language))


def token_f1(text: str, reference: str, language: str = "en") -> float:
    """Return the F1 of the words of a text by :func:`normalise_words`; of characters in scripts without spaces.

    >>> token_f1("the red ball", "a ball of red wool")
    0.6666666666666666
    """
    words, reference_words = (
        [part for word in normalise_words(answer, language) for part in split_characters(word)]
        for answer in (text, reference)
    )
    return _words_f1(words, reference_words)


def squad_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after SQuAD's normalisation, also if both are then empty.

    Source: Rajpurkar et al. 2016.
    """
    return float(normalise_squad(text) == normalise_squad(reference))


def squad_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of a text after SQuAD's normalisation.

    It is 0 where no word is left, except for the reference itself.

    Source: Rajpurkar et al. 2016.
    """
    words, reference_words = normalise_squad(text).split(), normalise_squad(reference).split()
    return _words_f1(words, reference_words) if words or reference_words else equal_text(text, reference)


def squad_v2_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after SQuAD's normalisation; :data:`UNANSWERABLE` is the empty answer.

    Source: Rajpurkar et al. 2018.
    """
    return float(_squad_v2_words(text) == _squad_v2_words(reference))


def squad_v2_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of a text after SQuAD's normalisation; 0 or 1 if either is the empty answer.

    Source: Rajpurkar et al. 2018.
    """
    words, reference_words = _squad_v2_words(text), _squad_v2_words(reference)
    return _words_f1(words, reference_words) if words and reference_words else float(words == reference_words)


def squad_v2_references(references: Sequence[str]) -> tuple[str, ...]:
    """Return the references that SQuAD 2.0 scores: without those of punctuation and articles, unless all are such."""
    return tuple(reference for reference in references if normalise_squad(reference)) or tuple(references)


def _squad_v2_words(text: str) -> list[str]:
    words = normalise_squad(text).split()
    return [] if words == [UNANSWERABLE] else words


def super_ni_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after Super-NaturalInstructions' normalisation.

    Source: Wang et al. 2022.
    """
    return float(normalise_super_ni(text) == normalise_super_ni(reference))


def trivia_em(text: str, reference: str) -> float:
    """Return 1 if a text equals its reference after TriviaQA's normalisation."""
    return float(normalise_trivia(text) == normalise_trivia(reference))


def trivia_f1(text: str, reference: str) -> float:
    """Return the F1 of the words of a text after TriviaQA's normalisation."""
    return _words_f1(normalise_trivia(text).split(), normalise_trivia(reference).split())


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
    numbers = {word for word in reference if is_number(word)}
    if numbers and not numbers & predicted:
        return 0.0
    common = len(predicted & reference)
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(reference) if reference else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


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


def listed_items(text: str) -> tuple[str, ...]:
    """Return the items of the list in a text; :data:`EMPTY_LIST` is the empty list."""
    return () if text.strip().lower() == EMPTY_LIST else split_list(text)


def listed_s1(text: str, reference: str) -> float:
    """Return the S1 of the lists in two texts.

    >>> listed_s1("None", "none")
    1.0
    """
    return s1(listed_items(text), listed_items(reference))


def rouge(text: str, reference: str, kind: str, language: str = "en") -> float:
    """Return the ROUGE F1 over words and numbers, without stemming, as for T5 and FLAN, by rouge-score.

    The words are rouge-score's (ASCII letters and digits) if the language is English and the reference mostly in Latin
    letters, else those of :func:`~metalm_cli.common.languages.split_words`. If a reference has no words, a text scores
    1 only if it equals the reference.

    Args:
        text: The generated text.
        reference: The reference.
        kind: rouge1, rouge2 or rougeL.
        language: Language of the reference.

    Source: Lin 2004, sections 2 and 3.1.
    """
    is_english = language_code(language) == "en" and is_mostly_latin(reference)
    tokenizer = "english" if is_english else "any language"
    if text.strip() and not _rouge_scorer(kind, tokenizer)._tokenizer.tokenize(reference):
        return equal_text(text, reference)
    return _rouge_f1(text, reference, kind, tokenizer)


rouge1 = partial(rouge, kind="rouge1")
rouge2 = partial(rouge, kind="rouge2")
rougeL = partial(rouge, kind="rougeL")


def super_ni_rouge(text: str, reference: str, language: str = "en") -> float:
    """Return the ROUGE-L F1 of Super-NaturalInstructions: with stemming in English.

    In other languages, the official script uses the tokens of GPT-2, here replaced by the words of
    :func:`~metalm_cli.common.languages.split_words`.

    Source: Wang et al. 2022.
    """
    tokenizer = "stemmed English" if language_code(language) == "en" else "any language"
    return _rouge_f1(text, reference, "rougeL", tokenizer)


def _rouge_f1(text: str, reference: str, kind: str, tokenizer: str) -> float:
    return float(_rouge_scorer(kind, tokenizer).score(reference, text)[kind].fmeasure)


class _WordTokenizer:
    """Tokenizer for rouge-score: the words of any language."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


@cache
def _rouge_scorer(kind: str, tokenizer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    if tokenizer == "any language":
        return RougeScorer([kind], tokenizer=_WordTokenizer())
    return RougeScorer([kind], use_stemmer=tokenizer == "stemmed English")


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
