"""n-grams of words as 64-bit hashes, and an index of those that evaluation rows hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b

import numpy as np

NGRAM = 13
"""Words in a row that make an overlap (GPT-3, arXiv 2005.14165, appendix C; OPT-IML, arXiv 2212.12017)."""
WHOLE = 6
"""A text of at least this many words, and fewer than :data:`NGRAM`, is compared as a whole; shorter ones are not."""

WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 1_000_000
BLOCK = 1_000_000
"""Characters that are hashed at once."""
BASE = 0x9E3779B97F4A7C15
"""An odd number: it has an inverse modulo 2**64."""


def words_of(text: str) -> list[str]:
    """The words that are compared: runs of letters and digits, in lower case.

    >>> words_of("It's 5 o'clock, Mr. Fox!")
    ['it', 's', '5', 'o', 'clock', 'mr', 'fox']
    """
    return WORD.findall(text.lower())


def ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What a text is compared by, in words: its 13-grams, or all of it.

    >>> [len(span) for span in ngrams("abcdefghijklmno")]
    [13, 13, 13]
    >>> list(ngrams(["too", "short"]))
    []
    """
    size = min(len(words), NGRAM)
    if size >= WHOLE:
        for start in range(len(words) - size + 1):
            yield tuple(words[start : start + size])


def shared_words(texts: Iterable[str], others: Iterable[str]) -> str:
    """The first span that two lists of texts share; empty if there is none."""
    theirs = {span for text in others for span in ngrams(words_of(text))}
    ours = (span for text in texts for span in ngrams(words_of(text)))
    return next((" ".join(span) for span in ours if span in theirs), "")


class WordHashes(dict[str, int]):
    """64-bit hash of each word, the same in every process; forgets all when it has grown large."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST_WORDS:
            self.clear()
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


_hashes = WordHashes()


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """``BASE ** t`` and ``BASE ** -t`` modulo 2**64 for t below ``count``."""

    def powers(base: int) -> np.ndarray:
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return powers(BASE), powers(pow(BASE, -1, 1 << 64))


def hash_ngrams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64[n]) of the spans of all texts, and the text (int64[n]) that each is of.

    A span of words w_0 … w_k-1 hashes to the sum of hash(w_t) · BASE ** t, so that all come from one running sum.

    >>> one, _ = hash_ngrams(["a b c d e f"])
    >>> two, texts = hash_ngrams(["short", "A, b; c d -- E f"])
    >>> bool(one[0] == two[0]), texts.tolist()
    (True, [1])
    """
    found: list[int] = []
    counts = np.empty(len(texts), np.int64)
    for at, text in enumerate(texts):
        words = words_of(text)
        counts[at] = len(words)
        found.extend(map(_hashes.__getitem__, words))
    sizes = np.minimum(counts, NGRAM)
    spans = np.where(sizes >= WHOLE, counts - sizes + 1, 0)
    owners = np.repeat(np.arange(len(texts)), spans)
    starts = (np.cumsum(counts) - counts)[owners] + np.arange(len(owners)) - (np.cumsum(spans) - spans)[owners]
    powers, inverse = (one[: len(found)] for one in _powers(1 << max(16, len(found).bit_length())))
    sums = np.zeros(len(found) + 1, np.uint64)
    np.cumsum(np.fromiter(found, np.uint64, len(found)) * powers, out=sums[1:])
    return (sums[starts + sizes[owners]] - sums[starts]) * inverse[starts], owners


def row_blocks(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(hashes, row of each) of numbered rows of texts, as many at once as :data:`BLOCK` allows."""
    texts: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, row in rows:
        for text in dict.fromkeys(row):
            texts.append(text)
            numbers.append(number)
            size += len(text)
        if size >= BLOCK:
            yield _block(texts, numbers)
            texts, numbers, size = [], [], 0
    if texts:
        yield _block(texts, numbers)


def _block(texts: list[str], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    hashes, owners = hash_ngrams(texts)
    return hashes, np.array(numbers, np.int64)[owners]


def _new(ordered: np.ndarray) -> np.ndarray:
    """Where sorted values differ from the one before (bool[n])."""
    return np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]


def unique_sorted(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values; ``numpy.unique`` takes ten times as long on integers."""
    ordered = np.sort(values)
    return ordered[_new(ordered)]


class SpanIndex:
    """The spans of evaluation rows: which rows hold a span, of which tasks.

    Args:
        hashes: Spans (uint64[n]), in any order, equal ones among them.
        rows: Evaluation row (int64[n]) of each.
        tasks: Task (int64[r]) of each evaluation row.

    Attributes:
        hashes: Distinct spans (uint64[u]), sorted.
        rows: Their rows, one span's after the other's.
        starts: Where in ``rows`` those of each span begin (int64[u + 1]).
        tasks: As given.
    """

    def __init__(self, hashes: np.ndarray, rows: np.ndarray, tasks: np.ndarray) -> None:
        order = np.argsort(hashes)
        ordered = hashes[order]
        firsts = np.flatnonzero(_new(ordered))
        self.hashes, self.rows, self.tasks = ordered[firsts], rows[order].astype(np.int32), tasks
        self.starts = np.append(firsts, len(ordered))
        self.names = int(tasks.max(initial=0)) + 1
        spans = np.repeat(np.arange(len(firsts)), np.diff(self.starts))
        pairs = unique_sorted(spans * self.names + tasks[self.rows])
        self._span_tasks = pairs % self.names
        self._task_starts = np.searchsorted(pairs // self.names, np.arange(len(firsts) + 1))
        bits = min(26, len(firsts).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._some = np.zeros(1 << bits, bool)
        self._some[(self.hashes >> self._shift).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the hashes (indices) are in the index, and which of its spans they are."""
        maybe = np.flatnonzero(self._some[(hashes >> self._shift).astype(np.int64)])
        spans = np.searchsorted(self.hashes, hashes[maybe])
        spans = np.minimum(spans, max(len(self.hashes) - 1, 0))
        same = self.hashes[spans] == hashes[maybe] if len(self.hashes) else np.zeros(0, bool)
        return maybe[same], spans[same]

    def tasks_of(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index into ``spans``, task) of every task that holds one of the spans."""
        counts = self._task_starts[spans + 1] - self._task_starts[spans]
        which = np.repeat(np.arange(len(spans)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._span_tasks[self._task_starts[spans][which] + within]

    def row_of(self, span: int, task: int) -> int:
        """The first row of a task that holds a span."""
        rows = self.rows[self.starts[span] : self.starts[span + 1]]
        return int(rows[self.tasks[rows] == task].min())

    def rows_with(self, met: np.ndarray) -> np.ndarray:
        """Rows that hold any of the spans that were met (bool[u]), as bool[r]."""
        found = np.zeros(len(self.tasks), bool)
        found[self.rows[np.repeat(met, np.diff(self.starts))]] = True
        return found
