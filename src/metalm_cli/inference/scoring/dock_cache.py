"""Cache of connector outputs: each docked content is encoded once while the cache has room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions.batch import dock_table
from metalm_cli.sessions.processors import DockInput

MAX_CACHE_BYTES = 1 << 30
"""Bytes of cached outputs; the least recently used are evicted first."""


class DockCache:
    """Cache of the decoder's input vectors for docks, by content.

    Args:
        language_model: The model.
        budget: Encoder positions of a forward pass, padding included.
        max_bytes: Maximum size of the cached vectors.

    Attributes:
        encoded: Number of contents that an encoder has read.
        requested: Number of contents that were requested.
    """

    def __init__(self, language_model: LanguageModel, budget: int, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.language_model, self.budget, self.max_bytes = language_model, budget, max_bytes
        self.encoded = self.requested = 0
        self._cached: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    @torch.no_grad()
    def vectors(self, docks: Sequence[DockInput]) -> list[Tensor]:
        """Return the connector outputs of each dock: ``[p, d]``, p its positions."""
        self.requested += len(docks)
        vectors_by_key = {dock.key: self._cached[dock.key] for dock in docks if dock.key in self._cached}
        weight = next(self.language_model.model.parameters())
        precomputed = {
            dock.key: torch.from_numpy(dock.vectors).to(weight)
            for dock in docks
            if dock.vectors is not None and dock.key not in vectors_by_key
        }
        for key in vectors_by_key:
            self._cached.move_to_end(key)
        vectors_by_key |= precomputed
        missing = {dock.key: dock for dock in docks if dock.key not in vectors_by_key}
        for group in _encoder_batches(missing.values(), self.budget):
            for dock, vectors in zip(group, self._encode(group), strict=True):
                vectors_by_key[dock.key] = vectors
                self._store(dock.key, vectors)
        return [vectors_by_key[dock.key] for dock in docks]

    def _encode(self, docks: Sequence[DockInput]) -> list[Tensor]:
        """Encode contents of the same encoder in one forward pass."""
        name = docks[0].encoder
        table = dock_table([(0, dock) for dock in docks], self.language_model.processors[name])
        self.encoded += len(docks)
        vectors = self.language_model.model.dock_vectors(name, table.to(self.language_model.device))
        return list(vectors.split([dock.positions for dock in docks]))

    def _store(self, key: bytes, vectors: Tensor) -> None:
        size = vectors.numel() * vectors.element_size()
        if size > self.max_bytes:
            return
        # A copy, because a slice would keep the whole batch in memory.
        self._cached[key] = vectors.clone()
        self._bytes += size
        while self._bytes > self.max_bytes:
            _, evicted = self._cached.popitem(last=False)
            self._bytes -= evicted.numel() * evicted.element_size()


def _encoder_batches(docks: Iterable[DockInput], budget: int) -> Iterable[list[DockInput]]:
    """Group contents of the same encoder and similar length into batches, the longest first."""
    group: list[DockInput] = []
    for dock in sorted(docks, key=lambda dock: (dock.encoder, -sum(dock.cost.values()))):
        longest = sum((group or [dock])[0].cost.values())
        if group and (group[0].encoder != dock.encoder or longest * (len(group) + 1) > budget):
            yield group
            group = []
        group.append(dock)
    if group:
        yield group
