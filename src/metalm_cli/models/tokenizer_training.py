"""Training of tokenizers, for models built from a config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metalm_cli.errors import MetalmError

DECODER_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SEQ2SEQ_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>"}
ENCODER_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Iterable[str], vocab_size: int, role: str) -> Any:
    """Train a byte-level BPE tokenizer.

    A newline is a token of its own, the paper's end-of-paragraph token; start and document end are special tokens.

    Args:
        texts: Documents.
        vocab_size: Number of entries, including special tokens and the 256 bytes.
        role: ``decoder`` (start, end), ``seq2seq`` (end after every text, padding) or ``encoder`` (class and separator
            around every text, mask).

    Raises:
        MetalmError: There are no texts.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special_tokens = {"decoder": DECODER_TOKENS, "seq2seq": SEQ2SEQ_TOKENS, "encoder": ENCODER_TOKENS}[role]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("\n"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_require_texts(texts), trainer)
    if role == "encoder":
        template_tokens = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=template_tokens
        )
    if role == "seq2seq":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)


def _require_texts(texts: Iterable[str]) -> Iterable[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise MetalmError(
            "there are no documents to train a tokenizer on", remedy="check data.sources, or set a tokenizer"
        )
