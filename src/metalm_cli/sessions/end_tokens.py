"""End tokens that a user names: a token of the vocabulary as text, or its id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metalm_cli.common.registry import did_you_mean
from metalm_cli.errors import MetalmError

EndToken = str | int
"""A token that ends a generated text: its text, or its id."""
REMEDY = "name a token of the vocabulary, such as '<|im_end|>', or its id; a text of several tokens is a stop string"


def end_token_ids(
    tokenizer: Any, tokens: Iterable[EndToken], embedding_rows: int | None = None, where: str = ""
) -> list[int]:
    """Return the ids of end tokens.

    Args:
        tokenizer: Hugging Face tokenizer of the decoder.
        tokens: Tokens by their entry of the vocabulary, by a text that is tokenised as one token, or by id.
        embedding_rows: Rows of the decoder's embeddings: no other id can be generated.
        where: The model, for messages.

    Raises:
        MetalmError: A token is not a single token of the decoder.
    """
    rows = min(len(tokenizer), embedding_rows or len(tokenizer))
    return list(dict.fromkeys(_token_id(tokenizer, token, rows, where) for token in tokens))


def _token_id(tokenizer: Any, token: EndToken, rows: int, where: str) -> int:
    if isinstance(token, bool) or not isinstance(token, str | int):
        raise MetalmError(f"the end token {token!r} is neither a text nor a token id", remedy=REMEDY)
    if isinstance(token, int):
        if not 0 <= token < rows:
            raise MetalmError(
                f"the end token {token} is not a token id of the decoder",
                where=where,
                why=f"its ids are 0 to {rows - 1:,}",
                remedy=REMEDY,
            )
        return token
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    token_id = vocabulary.get(token)
    if token_id is None:
        ids = tokenizer(token, add_special_tokens=False).input_ids if token else []
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id or tokenizer.decode(ids) != token:
            raise _not_a_token(token, ids, vocabulary, where)
        token_id = int(ids[0])
    if token_id >= rows:
        raise MetalmError(
            f"the end token {token!r} cannot be generated",
            where=where,
            why=f"its id is {token_id}, and the decoder has {rows:,} embeddings",
            remedy=REMEDY,
        )
    return token_id


def _not_a_token(token: str, ids: list[int], vocabulary: dict[str, int], where: str) -> MetalmError:
    return MetalmError(
        f"the end token {token!r} is not a token of the decoder",
        where=where,
        why=f"its text has {len(ids)} tokens" if len(ids) > 1 else "its vocabulary does not contain it",
        remedy=f"{did_you_mean(token, vocabulary, 0.7)} {REMEDY}".strip(),
    )
