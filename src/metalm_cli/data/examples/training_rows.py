"""The rows of a split that a task trains on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from metalm_cli.data.sampling.index_plan import permute, permute_one
from metalm_cli.data.sources.usable_rows import UsableRows


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a task trains on, by position: those that its card includes, or a fixed sample of them.

    Args:
        usable: Rows of the split that the card includes.
        sample_size: Rows that the cap of the mixture allows, at most all usable ones.
        sample_key: Key of the sample; without a cap the usable rows keep their order.
        excluded: Positions in the sample, in ascending order, of rows that are not trained on (decontamination).
    """

    usable: UsableRows
    sample_size: int
    sample_key: int
    excluded: tuple[int, ...] = ()

    @classmethod
    def of(cls, usable: UsableRows, cap: int | None, sample_key: int) -> TrainingRows:
        """The usable rows, or a sample of ``cap`` of them."""
        return cls(usable, min(len(usable), cap or len(usable)), sample_key)

    def __len__(self) -> int:
        return self.sample_size - len(self.excluded)

    def __getitem__(self, position: int) -> int:
        """Row of the split at a position."""
        # The i-th excluded position has excluded[i] - i rows before it that are trained on.
        position += bisect_right(range(len(self.excluded)), position, key=lambda index: self.excluded[index] - index)
        if self.sample_size < len(self.usable):
            position = permute_one(position, len(self.usable), self.sample_key)
        return self.usable[position]

    def without(self, rows: Iterable[int]) -> TrainingRows:
        """These rows without some rows of the split."""
        sample = replace(self, excluded=())
        excluded = np.flatnonzero(np.isin(sample.array(), np.array([*rows], np.int64)))
        return replace(self, excluded=tuple(sorted({*self.excluded, *excluded.tolist()})))

    def array(self) -> np.ndarray:
        """All rows of the split, int64[n], by position."""
        rows = self.usable.array()
        if self.sample_size < len(self.usable):
            keys = np.full(self.sample_size, self.sample_key, dtype=np.uint64)
            rows = rows[permute(np.arange(self.sample_size), len(self.usable), keys)]
        return np.delete(rows, self.excluded) if self.excluded else np.asarray(rows)
