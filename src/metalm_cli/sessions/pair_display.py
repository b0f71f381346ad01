"""Positions of rows of pairs, for display: each source, and after it what the decoder reads and predicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from metalm_cli.sessions.packing import Row
from metalm_cli.sessions.pairs import ENCODER
from metalm_cli.sessions.positions import Position, token_texts


def pair_positions(row: Row, tokenizer: Any) -> list[Position]:
    """Return the positions of a row of pairs.

    A source is shown as content that the encoder reads. The last token of a target is predicted, but never read.

    Args:
        row: A row with a source.
        tokenizer: Tokenizer of the model.
    """
    assert row.source is not None, "rows of pairs have sources"
    special = set(tokenizer.all_special_ids)
    positions: list[Position] = []
    for segment in range(len(row.parents)):
        source_ids = row.source.ids[row.source.segments == segment]
        for offset, text in enumerate(token_texts(tokenizer, source_ids)):
            positions.append(Position(len(positions), segment, offset, text, dock=(ENCODER, segment, offset)))
        targets = row.targets[row.target_segments == segment]
        inputs = row.ids[row.segments == segment]
        prefix = inputs[: len(inputs) - max(0, len(targets) - 1)]
        ids = np.concatenate([prefix, targets])
        texts = [*token_texts(tokenizer, prefix), *token_texts(tokenizer, targets)]
        for offset, (token, text) in enumerate(zip(ids.tolist(), texts, strict=True)):
            follows = len(targets) > 0 and len(prefix) - 1 <= offset < len(ids) - 1
            positions.append(
                Position(
                    len(positions),
                    segment,
                    offset,
                    text,
                    special=token in special,
                    trained=offset >= len(prefix),
                    predicts=(texts[offset + 1],) if follows else (),
                )
            )
    return positions
