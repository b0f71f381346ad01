"""Rows for encoder pretraining: documents in the encoder's tokens, some of them masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from metalm_cli.data.sampling.row_slots import RowSegment, numpy_generator
from metalm_cli.sessions import ROOT, Row, TextProcessor, TokenisedDocument
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

MASKS_PURPOSE = 3
MIN_FREE_POSITIONS = 16
"""A document is begun in a row only if at least this many positions are free."""


class EncoderWriter:
    """Writer that turns documents into masked rows.

    Args:
        processor: The encoder's processor.
        length: Positions of a row.
        mask_rate: Share of the content tokens that are predicted.
        keep_rate: Share of the predicted tokens that stay unchanged.
        random_rate: Share of the predicted tokens that become a random token; the others become the mask token.
        isolate: Whether documents in a row do not attend to each other.
        packs: Whether the encoder can be packed; otherwise an isolated row holds one document.
        seed: Seed of the masks.
    """

    def __init__(
        self,
        processor: TextProcessor,
        length: int,
        *,
        mask_rate: float,
        keep_rate: float = 0.0,
        random_rate: float = 0.0,
        isolate: bool = True,
        packs: bool = True,
        seed: int = 0,
    ) -> None:
        self.length = length
        self.rates = (mask_rate, keep_rate, random_rate)
        self.isolate = isolate
        self.packs = packs
        self.seed = seed
        self.mask_id: int = processor.tokenizer.mask_token_id
        self.vocabulary_size = len(processor.tokenizer)
        self.special_ids = np.array(sorted(processor.tokenizer.all_special_ids))
        self._backend = backend_without_truncation(processor.tokenizer)
        encoding = self._backend.encode("a")
        content = encoding.special_tokens_mask.index(0)
        self.prefix = np.array(encoding.ids[:content], dtype=np.int64)
        self.suffix = np.array(
            [token for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if special][
                content:
            ],
            dtype=np.int64,
        )

    def read(self, text: str, _number: int) -> TokenisedDocument:
        encoding = self._backend.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return TokenisedDocument(text, np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])

    def take(
        self, document: TokenisedDocument, offset: int, free_positions: int, row_is_empty: bool
    ) -> RowSegment | None:
        if not row_is_empty and (free_positions < MIN_FREE_POSITIONS or (self.isolate and not self.packs)):
            return None
        prefix = self.prefix if row_is_empty or self.isolate else self.prefix[:0]
        count = min(len(document) - offset, free_positions - len(prefix) - len(self.suffix))
        if count < 0:
            return None
        ids = np.concatenate([prefix, document.ids[offset : offset + count], self.suffix])
        content = np.zeros(len(ids), dtype=bool)
        content[len(prefix) : len(prefix) + count] = True
        done = offset + count >= len(document)
        counts = Counter(source_tokens=count, special_tokens=len(prefix) + len(self.suffix), documents=int(done))
        return RowSegment(ids, offset + count, done, (content, offset), counts)

    def write(self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        rng = numpy_generator(self.seed, MASKS_PURPOSE, numbers[0], row_segments[0].payload[1])
        return self._masked_row(row_segments, counts, numbers, rng)

    def _masked_row(
        self, row_segments: list[RowSegment], counts: Counter[str], numbers: list[int], rng: np.random.Generator
    ) -> Row:
        ids = np.concatenate([row_segment.ids for row_segment in row_segments])
        content = np.concatenate([row_segment.payload[0] for row_segment in row_segments])
        sizes = [len(row_segment) for row_segment in row_segments] if self.isolate else [len(ids)]
        masked_positions = self.choose_positions(np.flatnonzero(content), rng)
        corrupted = self.corrupt(ids, masked_positions, rng)
        segments = np.repeat(np.arange(len(sizes)), sizes)
        return Row(
            ids=corrupted,
            positions=np.concatenate([np.arange(size) for size in sizes]),
            segments=segments,
            parents=np.full(len(sizes), ROOT, dtype=np.int64),
            docks=(),
            predict_at=masked_positions,
            targets=ids[masked_positions],
            target_segments=segments[masked_positions],
            uniforms=rng.random(len(masked_positions), dtype=np.float32),
            counts={**counts, "trained_tokens": len(masked_positions), "encoder_tokens": len(ids)},
            numbers=tuple(numbers),
        )

    def choose_positions(self, content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the positions to predict: the masking rate's share of the content, at least one."""
        count = min(len(content), max(1, round(self.rates[0] * len(content))))
        return np.sort(rng.choice(content, size=count, replace=False))

    def corrupt(self, ids: np.ndarray, masked_positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace the tokens at the masked positions by the mask token, by random tokens, or by themselves."""
        _, keep_rate, random_rate = self.rates
        draws = rng.random(len(masked_positions))
        replacements = np.full(len(masked_positions), self.mask_id, dtype=np.int64)
        random_tokens = rng.integers(0, self.vocabulary_size, size=len(masked_positions))
        random_tokens = np.where(np.isin(random_tokens, self.special_ids), ids[masked_positions], random_tokens)
        replacements = np.where(draws < random_rate, random_tokens, replacements)
        replacements = np.where(draws >= 1 - keep_rate, ids[masked_positions], replacements)
        corrupted = ids.copy()
        corrupted[masked_positions] = replacements
        return corrupted

    def validation_rows(self, texts: Iterable[str]) -> list[Row]:
        """Validation rows of one document window each, with the same masks for every seed."""
        rows = []
        for index, text in enumerate(texts):
            document, offset = self.read(text, -1), 0
            while offset < len(document):
                row_segment = self.take(document, offset, self.length, True)
                assert row_segment is not None, "an empty row takes a segment of any document"
                rng = numpy_generator(0, MASKS_PURPOSE, index, offset)
                rows.append(self._masked_row([row_segment], row_segment.counts, [], rng))
                offset = row_segment.end
        return rows
