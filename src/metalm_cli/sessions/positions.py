"""Positions of rows, and the texts of their tokens, for display."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CONTEXT_TOKENS = 4
"""Number of preceding tokens decoded with a token, so that its spaces and split characters are correct."""


@dataclass(frozen=True)
class Position:
    """Position of a row, for display.

    Args:
        row_position: Index in the row.
        segment: Segment of the position.
        position: Index in its session.
        text: Text of the token that is read; at a dock, of the encoder's token.
        special: The token is a special token.
        trained: The token is a prediction target (in a masked row: predicted at this position).
        dock: Encoder name, index of the dock in the row, and index in the dock; None for the model's own tokens.
        predicts: Texts of the targets that its output predicts.
    """

    row_position: int
    segment: int
    position: int
    text: str
    special: bool = False
    trained: bool = False
    dock: tuple[str, int, int] | None = None
    predicts: tuple[str, ...] = ()


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Return the text that each token adds to the preceding ones, or the name of a special token.

    A character whose bytes span several tokens belongs to the last of them.
    """
    special = set(tokenizer.all_special_ids)
    texts: list[str] = []
    recent: list[int] = []
    for token in map(int, ids):
        if token in special:
            texts.append(str(tokenizer.convert_ids_to_tokens(token)))
            recent = []
            continue
        before = _decode(tokenizer, recent).rstrip("�")
        recent = [*recent, token]
        after = _decode(tokenizer, recent)
        if not after.startswith(before):  # the tokenizer's decoder changes the preceding text
            before, after = "", _decode(tokenizer, [token])
        # Bytes of an incomplete character are decoded as U+FFFD, and left out until the character is complete.
        texts.append("" if after.endswith("�") else after[len(before) :])
        if not after.endswith("�"):
            recent = recent[-CONTEXT_TOKENS:]
    return texts


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""
