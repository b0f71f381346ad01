"""Hashed n-grams of words, and an index of the n-grams of evaluation rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b

import numpy as np

NGRAM_WORDS = 13
"""Consecutive words that make an overlap (GPT-3, arXiv 2005.14165, appendix C; OPT-IML, arXiv 2212.12017)."""
MIN_WORDS = 6
"""Texts of at least this many words, but fewer than :data:`NGRAM_WORDS`, are compared as a whole; shorter ones are not
compared."""

WORD = re.compile(r"[^\W_]+")
MAX_CACHED_WORDS = 1_000_000
BLOCK_CHARACTERS = 1_000_000
"""Characters of texts that are hashed at once."""
HASH_BASE = 0x9E3779B97F4A7C15
"""Base of the rolling hash; odd, so that it has an inverse modulo 2**64."""


def words_of(text: str) -> list[str]:
    """Words of a text: runs of letters and digits, in lower case.

    >>> words_of("It's 5 o'clock, Mr. Fox!")
    ['it', 's', '5', 'o', 'clock', 'mr', 'fox']
    """
    return WORD.findall(text.lower())


def ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """n-grams of a text's words that are compared: its 13-grams, or the whole text if it is shorter.

    >>> [len(ngram) for ngram in ngrams("abcdefghijklmno")]
    [13, 13, 13]
    >>> list(ngrams(["too", "short"]))
    []
    """
    size = min(len(words), NGRAM_WORDS)
    if size >= MIN_WORDS:
        for start in range(len(words) - size + 1):
            yield tuple(words[start : start + size])


def shared_words(texts: Iterable[str], others: Iterable[str]) -> str:
    """The first n-gram that two lists of texts share; empty if there is none."""
    other_ngrams = {ngram for text in others for ngram in ngrams(words_of(text))}
    own_ngrams = (ngram for text in texts for ngram in ngrams(words_of(text)))
    return next((" ".join(ngram) for ngram in own_ngrams if ngram in other_ngrams), "")


class WordHashes(dict[str, int]):
    """Cache of the 64-bit hash of each word, the same in every process; cleared when it is full."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_CACHED_WORDS:
            self.clear()
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


_hashes = WordHashes()


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """``HASH_BASE ** t`` and ``HASH_BASE ** -t`` modulo 2**64 for t below ``count``."""

    def powers(base: int) -> np.ndarray:
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        return np.multiply.accumulate(factors)

    return powers(HASH_BASE), powers(pow(HASH_BASE, -1, 1 << 64))


def hash_ngrams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64[n]) of the n-grams of all texts, and the index of the text (int64[n]) of each.

    The hash of words w_0 … w_k-1 is the sum of hash(w_t) · HASH_BASE ** t, so that all hashes come from a running sum.

    >>> first, _ = hash_ngrams(["a b c d e f"])
    >>> second, texts = hash_ngrams(["short", "A, b; c d -- E f"])
    >>> bool(first[0] == second[0]), texts.tolist()
    (True, [1])
    """
    word_hashes: list[int] = []
    word_counts = np.empty(len(texts), np.int64)
    for index, text in enumerate(texts):
        words = words_of(text)
        word_counts[index] = len(words)
        word_hashes.extend(map(_hashes.__getitem__, words))
    sizes = np.minimum(word_counts, NGRAM_WORDS)
    ngram_counts = np.where(sizes >= MIN_WORDS, word_counts - sizes + 1, 0)
    owners = np.repeat(np.arange(len(texts)), ngram_counts)
    starts = (
        (np.cumsum(word_counts) - word_counts)[owners]
        + np.arange(len(owners))
        - (np.cumsum(ngram_counts) - ngram_counts)[owners]
    )
    powers, inverse = (table[: len(word_hashes)] for table in _powers(1 << max(16, len(word_hashes).bit_length())))
    sums = np.zeros(len(word_hashes) + 1, np.uint64)
    np.cumsum(np.fromiter(word_hashes, np.uint64, len(word_hashes)) * powers, out=sums[1:])
    return (sums[starts + sizes[owners]] - sums[starts]) * inverse[starts], owners


def row_blocks(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Iterate over (hashes, row of each) of numbered rows of texts, in blocks of :data:`BLOCK_CHARACTERS`."""
    texts: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, row in rows:
        for text in dict.fromkeys(row):
            texts.append(text)
            numbers.append(number)
            size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield _hash_block(texts, numbers)
            texts, numbers, size = [], [], 0
    if texts:
        yield _hash_block(texts, numbers)


def _hash_block(texts: list[str], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    hashes, owners = hash_ngrams(texts)
    return hashes, np.array(numbers, np.int64)[owners]


def _is_new(ordered: np.ndarray) -> np.ndarray:
    """Whether sorted values differ from the previous one (bool[n])."""
    return np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]


def unique_sorted(values: np.ndarray) -> np.ndarray:
    """Sorted distinct values; ``numpy.unique`` takes ten times as long on integers."""
    ordered = np.sort(values)
    return ordered[_is_new(ordered)]


class NgramIndex:
    """Index of the n-grams of evaluation rows: the rows and tasks that contain an n-gram.

    Args:
        hashes: Hashes of n-grams (uint64[n]), in any order, with duplicates.
        rows: Evaluation row (int64[n]) of each hash.
        tasks: Task (int64[r]) of each evaluation row.

    Attributes:
        hashes: Distinct hashes (uint64[u]), sorted.
        rows: Rows of each hash, concatenated in the order of ``hashes``.
        row_starts: Start of each hash's rows in ``rows`` (int64[u + 1]).
        tasks: Task of each evaluation row.
    """

    def __init__(self, hashes: np.ndarray, rows: np.ndarray, tasks: np.ndarray) -> None:
        order = np.argsort(hashes)
        ordered = hashes[order]
        firsts = np.flatnonzero(_is_new(ordered))
        self.hashes, self.rows, self.tasks = ordered[firsts], rows[order].astype(np.int32), tasks
        self.row_starts = np.append(firsts, len(ordered))
        self.task_count = int(tasks.max(initial=0)) + 1
        ngram_ids = np.repeat(np.arange(len(firsts)), np.diff(self.row_starts))
        pairs = unique_sorted(ngram_ids * self.task_count + tasks[self.rows])
        self._tasks_of_ngrams = pairs % self.task_count
        self._task_starts = np.searchsorted(pairs // self.task_count, np.arange(len(firsts) + 1))
        bits = min(26, len(firsts).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._prefixes = np.zeros(1 << bits, bool)
        self._prefixes[(self.hashes >> self._shift).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the hashes that are in the index, and the index of the n-gram of each."""
        candidates = np.flatnonzero(self._prefixes[(hashes >> self._shift).astype(np.int64)])
        ngram_ids = np.searchsorted(self.hashes, hashes[candidates])
        ngram_ids = np.minimum(ngram_ids, max(len(self.hashes) - 1, 0))
        is_equal = self.hashes[ngram_ids] == hashes[candidates] if len(self.hashes) else np.zeros(0, bool)
        return candidates[is_equal], ngram_ids[is_equal]

    def tasks_of(self, ngram_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in ``ngram_ids``, task) of every task that contains one of the n-grams."""
        counts = self._task_starts[ngram_ids + 1] - self._task_starts[ngram_ids]
        positions = np.repeat(np.arange(len(ngram_ids)), counts)
        offsets = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        return positions, self._tasks_of_ngrams[self._task_starts[ngram_ids][positions] + offsets]

    def first_row(self, ngram: int, task: int) -> int:
        """The first row of a task that contains an n-gram."""
        rows = self.rows[self.row_starts[ngram] : self.row_starts[ngram + 1]]
        return int(rows[self.tasks[rows] == task].min())

    def rows_with(self, shared: np.ndarray) -> np.ndarray:
        """Whether each row contains any of the shared n-grams (bool[u]), as bool[r]."""
        has_shared = np.zeros(len(self.tasks), bool)
        has_shared[self.rows[np.repeat(shared, np.diff(self.row_starts))]] = True
        return has_shared
