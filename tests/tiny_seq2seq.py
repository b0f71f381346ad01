"""Tiny encoder–decoders with random weights, and their tokenizers, built without files and without network."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch

from tiny_models import texts

KINDS = ("t5", "t5-v1.1", "mt5", "bart")
SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART_SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
}


def tokenizer_of(kind: str) -> Any:
    """Return a tokenizer: T5's (Unigram, ``</s>`` after each text), or BART's (byte-level, ``<s>`` and ``</s>``)."""
    return _bart_tokenizer() if kind == "bart" else _t5_tokenizer()


@lru_cache(maxsize=1)
def _t5_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    trainee = Tokenizer(models.Unigram())
    trainee.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    trainee.train_from_iterator(texts(), trainer)
    vocab = [tuple(entry) for entry in json.loads(trainee.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocab, extra_ids=4)


@lru_cache(maxsize=1)
def _bart_tokenizer() -> Any:

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizer

    trainee = Tokenizer(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trainee.train_from_iterator(texts(), trainer)
    model = json.loads(trainee.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def make_seq2seq(kind: str, seed: int = 0, **changes: Any) -> Any:
    """Make an encoder–decoder without dropout, whose weights (and BART's bias) are all random."""
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MT5Config,
        MT5ForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(seed)
    vocabulary = {"vocab_size": len(tokenizer_of(kind))}
    if kind == "bart":
        sizes = {**BART_SIZES, "dropout": 0.0, "attention_dropout": 0.0, **changes}
        model: Any = BartForConditionalGeneration(BartConfig(**vocabulary, **sizes))
        model.final_logits_bias.normal_()
    elif kind == "mt5":
        sizes = {**SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "dropout_rate": 0.0}
        model = MT5ForConditionalGeneration(MT5Config(**vocabulary, **{**sizes, **changes}))
    else:
        later = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if kind == "t5-v1.1" else {}
        sizes = {**SIZES, **later, "dropout_rate": 0.0, **changes}
        model = T5ForConditionalGeneration(T5Config(**vocabulary, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_seq2seq(kind: str, folder: Any, **changes: Any) -> Any:
    """Save a tiny encoder–decoder with its tokenizer as a folder of transformers, and return the model."""
    model = make_seq2seq(kind, **changes)
    model.save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return model
