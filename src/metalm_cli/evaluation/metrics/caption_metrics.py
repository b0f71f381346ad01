"""Metrics of captions as the evaluation of COCO captions has them: BLEU-4, ROUGE-L and CIDEr on its tokens.

On the same tokens they equal the scorers of ``pycocoevalcap``. Its METEOR and SPICE are Java programs and are not
offered. Its tokens come from Stanford's PTBTokenizer, also a Java program; :func:`caption_tokens` follows its rules for
plain English sentences.

Legend of shapes: ``n`` captions, ``b`` resamples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

ORDERS = 4
"""Longest n-grams of BLEU and CIDEr."""
ROUGE_BETA = 1.2
"""Weight of recall against precision in ROUGE-L."""
CIDER_SIGMA = 6.0
"""Standard deviation of the penalty on lengths that differ, in bigrams."""
CIDER_SCALE = 10.0
_TINY, _SMALL = 1e-15, 1e-9
"""What the scorer of BLEU adds to counts and to totals, so that no score is undefined."""
_TOKEN = re.compile(
    r"""(?<![a-z])n't\b
        | (?:[a-z]\.){2,}                                      # u.s.
        | (?:mr|mrs|ms|dr|st|jr|sr|vs|etc)\.(?=\s|$)           # abbreviations keep their period
        | \d+(?:[.,:]\d+)*                                     # 3.5, 1,000, 10:30
          (?:st|nd|rd|th|s)?(?![^\W_])
        | [^\W_]+(?:[-/&_][^\W_]+)*                            # words, t-shirt
        | '(?:s|re|ve|ll|d|m)\b                                # clitics
        | \.{3} | -- | [^\s]""",
    re.VERBOSE,
)
_NEGATION = re.compile(r"(?<=[a-z])n't\b")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "--", "\u2014": "--"})
_SPLIT_WORDS = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"}
_REMOVED = frozenset(
    ["'", "`", '"', "''", "``", "(", ")", "[", "]", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


def caption_tokens(text: str) -> list[str]:
    """Return the tokens of a caption: lower case, clitics apart, without punctuation.

    >>> caption_tokens("A man's dog can't wait, it's 10:30 a.m. (again)!")
    ['a', 'man', "'s", 'dog', 'ca', "n't", 'wait', 'it', "'s", '10:30', 'a.m.', 'again']
    """
    text = _NEGATION.sub(" n't", text.translate(_QUOTES).lower())
    tokens = [part for token in _TOKEN.findall(text) for part in _SPLIT_WORDS.get(token, token).split()]
    return [token for token in tokens if token not in _REMOVED]


def _ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def bleu_counts(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """Return the counts of one caption from which BLEU is computed: its length, that of the closest reference, and for
    each order the n-grams of the caption and those of them that a reference has."""
    counts = _ngrams(tokens)
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    closest = min((abs(len(reference) - len(tokens)), len(reference)) for reference in references)[1]
    matched = [0] * ORDERS
    for ngram, count in counts.items():
        matched[len(ngram) - 1] += min(count, most[ngram])
    return [len(tokens), closest, *(max(0, len(tokens) - order) for order in range(ORDERS)), *matched]


def bleu4(counts: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return BLEU-4 of splits, 0 to 1, from counts by caption ``[..., n, 10]``; the references are in the counts.

    Source: Papineni et al. 2002, without smoothing but for the tiny values of the scorer of COCO captions.
    """
    sums = counts.sum(axis=-2)
    length, reference_length, totals, matched = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
    score = ((matched + _TINY) / (totals + _SMALL)).prod(axis=-1) ** (1 / ORDERS)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return np.asarray(score * np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0))


def rouge_l(text: str, references: Sequence[str]) -> float:
    """Return ROUGE-L of a caption, 0 to 1: F of the highest precision and the highest recall over the references.

    Source: Lin 2004; the two maxima may be of different references, as in COCO's evaluation.
    """
    tokens = caption_tokens(text)
    pairs = [(_common_subsequence(tokens, reference), len(reference)) for reference in map(caption_tokens, references)]
    precision = max(common for common, _ in pairs) / max(len(tokens), 1)
    recall = max(common / max(length, 1) for common, length in pairs)
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for token in first:
        previous = 0
        for index, other in enumerate(second, start=1):
            previous, lengths[index] = (
                lengths[index],
                previous + 1 if token == other else max(lengths[index], lengths[index - 1]),
            )
    return lengths[-1]


class _Cider:
    """CIDEr-D of captions; n-grams are weighted by how few images have them in their references."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        self.references = [[_ngrams(reference) for reference in answers] for answers in references]
        self.frequency = Counter(ngram for answers in self.references for ngram in set().union(*answers))
        self.log_images = math.log(len(references))

    def _vectors(self, counts: Counter[tuple[str, ...]]) -> tuple[list[dict[tuple[str, ...], float]], int]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for ngram, count in counts.items():
            weight = self.log_images - math.log(max(1, self.frequency[ngram]))
            vectors[len(ngram) - 1][ngram] = count * weight
        return vectors, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    def scores(self, texts: Sequence[Sequence[str]]) -> Iterator[float]:
        for text, answers in zip(texts, self.references, strict=True):
            own, length = self._vectors(_ngrams(text))
            total = 0.0
            for answer in answers:
                other, other_length = self._vectors(answer)
                penalty = math.exp(-((length - other_length) ** 2) / (2 * CIDER_SIGMA**2))
                total += penalty * sum(map(_similarity, own, other)) / ORDERS
            yield CIDER_SCALE * total / len(answers)


def _similarity(own: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
    product = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in own.items() if ngram in other)
    norms = [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in (own, other)]
    return product / (norms[0] * norms[1]) if all(norms) else product


def cider(texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """Return the CIDEr-D of each caption, 0 to 10; that of a split is their mean.

    Args:
        texts: Tokens of each caption. ``[n]``
        references: Tokens of the references of each image, of all images of the split. ``[n]``

    Source: Vedantam et al. 2015, with the clipping and the penalty on lengths of CIDEr-D.
    """
    return list(_Cider(references).scores(texts))
