"""Tokenizers of several kinds, trained once on documents of the miniature world."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from metalm_cli import miniworld
from model_families import VOCABULARY

DECODER_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
ENCODER_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def _set_template(tokenizer: Tokenizer, template: str) -> None:
    marks = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)


def _byte_level(texts: list[str], special: dict[str, str], template: str = "") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if template:
        _set_template(tokenizer, template)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _sentencepiece(texts: list[str]) -> PreTrainedTokenizerFast:
    """Llama's kind of tokenizer: a dummy prefix, spaces as a visible character, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*DECODER_TOKENS.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    _set_template(tokenizer, "<s> $A")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **DECODER_TOKENS)


def _wordpiece(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(ENCODER_TOKENS.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    _set_template(tokenizer, "[CLS] $A [SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ENCODER_TOKENS)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of the miniature world."""
    return [document["text"] for document in miniworld.miniworld_documents(60, seed=7)]


@pytest.fixture(scope="session")
def tokenizers(texts, tmp_path_factory) -> dict[str, Path]:
    """Folders of tokenizers: three of decoders (gpt2, llama, opt), two of encoders (bert, roberta)."""
    by_name = {
        "gpt2": _byte_level(texts, {"eos_token": "<|endoftext|>"}),
        "llama": _sentencepiece(texts),
        "opt": _byte_level(texts, {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>"}, "</s> $A"),
        "bert": _wordpiece(texts),
        "roberta": _byte_level(texts, ROBERTA_TOKENS, "<s> $A </s>"),
    }
    root = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in by_name.items():
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in by_name}
