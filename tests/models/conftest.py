"""Tokenizers of several kinds, trained once on documents of the miniature world."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from metalm_cli import miniworld
from model_families import VOCABULARY

ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
MARKS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def _around(tokenizer: Tokenizer, template: str) -> None:
    marks = [(one, tokenizer.token_to_id(one)) for one in template.split() if one != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)


def _bytes(texts: list[str], special: dict[str, str], template: str = "") -> PreTrainedTokenizerFast:
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
        _around(tokenizer, template)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _sentencepiece(texts: list[str]) -> PreTrainedTokenizerFast:
    """As Llama's: a dummy prefix, spaces as a visible character, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*ENDS.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    _around(tokenizer, "<s> $A")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ENDS)


def _wordpiece(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(MARKS.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    _around(tokenizer, "[CLS] $A [SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **MARKS)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of the miniature world."""
    return [document["text"] for document in miniworld.miniworld_documents(60, seed=7)]


@pytest.fixture(scope="session")
def tokenizers(texts, tmp_path_factory) -> dict[str, Path]:
    """Folders of tokenizers: three of decoders (gpt2, llama, opt), two of encoders (bert, roberta)."""
    made = {
        "gpt2": _bytes(texts, {"eos_token": "<|endoftext|>"}),
        "llama": _sentencepiece(texts),
        "opt": _bytes(texts, {"pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>"}, "</s> $A"),
        "bert": _wordpiece(texts),
        "roberta": _bytes(texts, ROBERTA, "<s> $A </s>"),
    }
    root = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in made.items():
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in made}
