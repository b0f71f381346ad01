"""Session writers of every kind for tests, and documents for their rows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from metalm_cli.config.schema.objectives import CausalLM, PrefixLM, SemiCausal
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.objectives.language import span_drawer_of
from metalm_cli.sessions import DecoderTokenizer, TextProcessor, TokenRules
from tiny_models import STORY, texts, tokenizer_of

UNREAD = "\u200b\u200d" * 12
"""Characters that the tiny encoder's normalizer removes."""
DOCUMENTS = (
    *texts()[:12],
    STORY,
    "A dog.",
    f"Nothing {UNREAD} to {UNREAD} read {UNREAD}. " * 3,
    "日本語の文章です。" * 9,
)

writers = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["byte", "byte-bos", "llama"]),
        "length": st.sampled_from([8, 24, 64, 200]),
        "isolate": st.booleans(),
        "packs": st.booleans(),
        "span": st.sampled_from([(1, 1), (2, 6), (8, 16), (30, 60)]),
        "fraction": st.sampled_from([0.1, 0.25, 0.7]),
        "objective": st.sampled_from(["semi_causal", "semi_causal", "prefix", "causal"]),
        "start": st.sampled_from(["auto", "auto", "always", "never"]),
        "max_encoder_tokens": st.sampled_from([12, 40]),
        "keep_special": st.booleans(),
        "seed": st.integers(0, 3),
    }
)


@lru_cache(maxsize=32)
def decoder(kind: str, start: str, paragraph: str = "newline") -> DecoderTokenizer:
    return DecoderTokenizer(tokenizer_of(kind), TokenRules(start=start, paragraph=paragraph))


@lru_cache(maxsize=8)
def processor(max_encoder_tokens: int, keep_special: bool) -> TextProcessor:
    return TextProcessor("text", tokenizer_of("wordpiece"), max_encoder_tokens, keep_special)


def make_writer(
    *,
    kind: str = "byte",
    length: int = 64,
    span: tuple[int, int] = (2, 6),
    fraction: float = 0.25,
    objective: str = "semi_causal",
    start: str = "auto",
    max_encoder_tokens: int = 40,
    keep_special: bool = False,
    encoder: bool = True,
    **options: Any,
) -> SessionWriter:
    choices = {
        "semi_causal": lambda: SemiCausal(name="semi_causal", span_length=list(span), span_fraction=fraction),
        "prefix": lambda: PrefixLM(name="prefix", prefix_length=list(span)),
        "causal": lambda: CausalLM(name="causal"),
    }
    draw = span_drawer_of(choices[objective]())
    docking = processor(max_encoder_tokens, keep_special) if encoder else None
    return SessionWriter(decoder(kind, start), docking, draw, length, **options)
