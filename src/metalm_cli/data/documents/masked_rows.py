"""Rows of an encoder that trains alone: whole documents in its own tokens, with some masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from metalm_cli.data.sampling.lanes import RowSegment, numpy_generator
from metalm_cli.sessions import ROOT, Row, TextProcessor, TokenisedDocument
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

MASKS = 3
LEAST = 16
"""Fewest positions that are worth beginning a document in."""


class EncoderWriter:
    """Turns documents into masked rows.

    Args:
        processor: The encoder's.
        length: Positions of a row.
        mask_rate: Share of the content tokens that are predicted.
        keep_rate: Share of those that stay as they are.
        random_rate: Share of those that become a random token; the rest become the mask token.
        isolate: Documents in a row do not see each other.
        packs: The encoder can be packed; otherwise an isolated row holds one document.
        seed: Seeds the masks.
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
        self.vocabulary = len(processor.tokenizer)
        self.special = np.array(sorted(processor.tokenizer.all_special_ids))
        self._backend = backend_without_truncation(processor.tokenizer)
        encoding = self._backend.encode("a")
        content = encoding.special_tokens_mask.index(0)
        self.prefix = np.array(encoding.ids[:content], dtype=np.int64)
        self.suffix = np.array(
            [one for one, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True) if special][content:],
            dtype=np.int64,
        )

    def read(self, text: str, _number: int) -> TokenisedDocument:
        encoding = self._backend.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return TokenisedDocument(text, np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1])

    def take(self, document: TokenisedDocument, offset: int, room: int, first: bool) -> RowSegment | None:
        if not first and (room < LEAST or (self.isolate and not self.packs)):
            return None
        prefix = self.prefix if first or self.isolate else self.prefix[:0]
        count = min(len(document) - offset, room - len(prefix) - len(self.suffix))
        if count < 0:
            return None
        ids = np.concatenate([prefix, document.ids[offset : offset + count], self.suffix])
        content = np.zeros(len(ids), dtype=bool)
        content[len(prefix) : len(prefix) + count] = True
        done = offset + count >= len(document)
        counts = Counter(source_tokens=count, special_tokens=len(prefix) + len(self.suffix), documents=int(done))
        return RowSegment(ids, offset + count, done, (content, offset), counts)

    def write(self, pieces: list[RowSegment], counts: Counter[str], numbers: list[int]) -> Row:
        rng = numpy_generator(self.seed, MASKS, numbers[0], pieces[0].marks[1])
        return self._row(pieces, counts, numbers, rng)

    def _row(self, pieces: list[RowSegment], counts: Counter[str], numbers: list[int], rng: np.random.Generator) -> Row:
        ids = np.concatenate([piece.ids for piece in pieces])
        content = np.concatenate([piece.marks[0] for piece in pieces])
        sizes = [len(piece) for piece in pieces] if self.isolate else [len(ids)]
        chosen = self.choose(np.flatnonzero(content), rng)
        masked = self.corrupt(ids, chosen, rng)
        segments = np.repeat(np.arange(len(sizes)), sizes)
        return Row(
            ids=masked,
            positions=np.concatenate([np.arange(size) for size in sizes]),
            segments=segments,
            parents=np.full(len(sizes), ROOT, dtype=np.int64),
            docks=(),
            predict_at=chosen,
            targets=ids[chosen],
            owners=segments[chosen],
            uniforms=rng.random(len(chosen), dtype=np.float32),
            counts={**counts, "trained_tokens": len(chosen), "encoder_tokens": len(ids)},
            numbers=tuple(numbers),
        )

    def choose(self, content: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions to predict: the masking rate's share of the content, at least one."""
        count = min(len(content), max(1, round(self.rates[0] * len(content))))
        return np.sort(rng.choice(content, size=count, replace=False))

    def corrupt(self, ids: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The tokens that are read: masked, random or kept at the chosen positions."""
        _, keep, random = self.rates
        draw = rng.random(len(chosen))
        replaced = np.full(len(chosen), self.mask_id, dtype=np.int64)
        other = rng.integers(0, self.vocabulary, size=len(chosen))
        other = np.where(np.isin(other, self.special), ids[chosen], other)
        replaced = np.where(draw < random, other, replaced)
        replaced = np.where(draw >= 1 - keep, ids[chosen], replaced)
        out = ids.copy()
        out[chosen] = replaced
        return out

    def validation_rows(self, texts: Iterable[str]) -> list[Row]:
        """Rows of one document window each, masked alike for every seed."""
        rows = []
        for index, text in enumerate(texts):
            document, offset = self.read(text, -1), 0
            while offset < len(document):
                piece = self.take(document, offset, self.length, True)
                assert piece is not None, "an empty row takes a piece of any document"
                rng = numpy_generator(0, MASKS, index, offset)
                rows.append(self._row([piece], piece.counts, [], rng))
                offset = piece.end
        return rows
