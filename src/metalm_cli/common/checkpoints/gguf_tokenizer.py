"""Pre-tokenisation of byte-level tokenizers in GGUF files.

transformers splits text by GPT-2's pattern where it does not know the value of ``tokenizer.ggml.pre``. Digits are then
not split from the spaces before them as the published tokenizers do it.
"""

from __future__ import annotations

from typing import Any

from metalm_cli.errors import MetalmError

GPT2_PATTERN = frozenset({"", "default", "gpt-2", "phi-2", "mpt", "olmo", "jais"})
"""Values for which text is split by GPT-2's pattern, as transformers does."""
SINGLE_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
)
"""Values for which digits are first split from the text one by one."""


def set_pre_tokenizer(tokenizer: Any, model: str, pre: str, where: str) -> None:
    """Make a tokenizer split text as its file says.

    Args:
        tokenizer: The tokenizer that transformers made of the file.
        model: Value of ``tokenizer.ggml.model``; only ``gpt2`` (byte-level BPE) is split by a pattern.
        pre: Value of ``tokenizer.ggml.pre``, or an empty string.
        where: The file.

    Raises:
        MetalmError: The value is not known, so texts would be tokenised in another way than in training.
    """
    if model != "gpt2" or pre in GPT2_PATTERN or pre in _splits_of_transformers():
        return
    if pre not in SINGLE_DIGITS:
        raise MetalmError(
            "the tokenizer of a GGUF file splits text in a way that is not known",
            where=where,
            why=f"tokenizer.ggml.pre is {pre!r}",
            remedy="use the model's safetensors checkpoint",
        )
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _splits_of_transformers() -> frozenset[str]:
    """Return the values that transformers knows."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # before transformers 5.20
        return frozenset()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)
