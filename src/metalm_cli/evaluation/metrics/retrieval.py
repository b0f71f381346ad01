"""Retrieval: how often a query's own item is among the most similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np


def ranks_of_relevant(similarity: np.ndarray, relevant: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the number of items that rank before the most similar relevant item of each query.

    Items of equal similarity rank before the relevant one, so that equal vectors score nothing.

    Args:
        similarity: Similarity of each query and item. ``[queries, items]``
        relevant: Items that are right for each query, at least one; a photograph with five captions has five.

    Returns:
        ``[queries]`` int64

    Raises:
        ValueError: A query has no relevant item, or a similarity is not a number.
    """
    if len(relevant) != len(similarity) or not all(len(items) for items in relevant):
        raise ValueError("every query needs a relevant item")
    if np.isnan(similarity).any():
        raise ValueError("a similarity is not a number")
    ranks = np.zeros(len(relevant), dtype=np.int64)
    for query, items in enumerate(relevant):
        others = np.delete(similarity[query], list(items))
        ranks[query] = (others >= similarity[query, list(items)].max()).sum()
    return ranks


def recall_at(similarity: np.ndarray, relevant: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[int, float]:
    """Return the share of queries with a relevant item among the most similar ones, for several numbers of items.

    Args:
        similarity: Similarity of each query and item. ``[queries, items]``
        relevant: Items that are right for each query, as for :func:`ranks_of_relevant`.
        counts: Numbers of items k.

    Returns:
        Recall@k by k, 0 to 1.

    Raises:
        ValueError: As :func:`ranks_of_relevant`.

    >>> recall_at(np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5]]), [[0], [2]], [1, 2])
    {1: 0.5, 2: 1.0}
    """
    ranks = ranks_of_relevant(similarity, relevant)
    return {count: float((ranks < count).mean()) for count in counts}


def chance_of_recall(items: int, relevant: int, count: int) -> float:
    """Return the chance that a relevant item is among ``count`` items in random order.

    Args:
        items: Number of items.
        relevant: Number of relevant ones.
        count: Number of items that are retrieved.

    >>> round(chance_of_recall(100, 1, 5), 3), chance_of_recall(4, 2, 1), chance_of_recall(3, 1, 10)
    (0.05, 0.5, 1.0)
    """
    return 1.0 - comb(max(0, items - relevant), min(count, items)) / comb(items, min(count, items))
