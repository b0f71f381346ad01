"""Tiny tokenizers and models, built without files and without network."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from metalm_cli.miniworld import generate_document

STORY = (
    "Once upon a time there was a little girl named Lily. She had a red ball, and a dog.\n"
    "\n"
    "Lily said: \"Let's play!\" The dog barked twice; it wasn't in the mood.\n"
    "  Two spaces, 1,234 numbers, naïve café, München.\tTabs too.\n"
    "日本語の文章です。空白がありません。 And emoji 🙂👩‍👩‍👧 end it.\n"
)


@lru_cache(maxsize=1)
def texts() -> tuple[str, ...]:
    """Return documents to train tokenizers on."""
    return (*(generate_document(0, number).text for number in range(120)), *[STORY] * 5)


def make_byte_tokenizer(vocab_size: int = 420, *, bos: bool = False, trim: bool = False) -> Any:
    """Train GPT-2's kind of byte-level BPE tokenizer; with ``bos`` every text begins with that token, as in OPT."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<s>" if bos else "<|endoftext|>"
    )


def make_sentencepiece_tokenizer(vocab_size: int = 600, *, legacy: bool = True, newlines: bool = False) -> Any:
    """Train Llama's kind of BPE tokenizer, with byte fallback; every text begins with ``<s>``.

    Args:
        vocab_size: Entries.
        legacy: A normalizer puts the dummy prefix before every text (Llama 1 and 2); else a Metaspace pre-tokenizer
            puts it before the first word.
        newlines: Tokens may contain newlines, also several.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    trainee = Tokenizer(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 256, special_tokens=special, limit_alphabet=120, show_progress=False
    )
    trainee.train_from_iterator([text.replace("\n", "\n\n" if newlines else " ") for text in texts()], trainer)
    vocab, merges = _vocabulary_and_merges(trainee)
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _vocabulary_and_merges(tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def make_wordpiece_tokenizer(vocab_size: int = 400) -> Any:
    """Train BERT's kind of WordPiece tokenizer: lower case, no accents, ``[CLS]`` and ``[SEP]`` around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
    },
}
ENCODERS: dict[str, dict[str, Any]] = {
    family: {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 66,
    }
    for family in ("bert", "roberta", "electra")
}
ENCODERS["electra"]["embedding_size"] = 16
NO_DROPOUT = {
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "llama": {},
    "opt": {"dropout": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def config_of(family: str, vocab_size: int, **changes: Any) -> Any:
    """Build the configuration of a tiny model without dropout."""
    from transformers import AutoConfig

    sizes = {**DECODERS, **ENCODERS}[family]
    dropout = NO_DROPOUT.get(family, NO_DROPOUT["bert"])
    token_ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0} if family in DECODERS else {"pad_token_id": 0}
    return AutoConfig.for_model(family, **{**sizes, **dropout, **token_ids, "vocab_size": vocab_size, **changes})


def make_decoder(family: str = "gpt2", vocab_size: int = 420, *, seed: int = 0, **changes: Any) -> Any:
    """Build a causal language model with random weights, in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config_of(family, vocab_size, **changes)).eval()


def make_encoder(family: str = "bert", vocab_size: int = 400, *, seed: int = 1, **changes: Any) -> Any:
    """Build a text encoder with random weights, in evaluation mode."""
    import torch
    from transformers import AutoModel

    torch.manual_seed(seed)
    return AutoModel.from_config(config_of(family, vocab_size, **changes)).eval()


@lru_cache(maxsize=8)
def _train_tokenizer(kind: str) -> Any:
    return {
        "byte": make_byte_tokenizer,
        "byte-bos": lambda: make_byte_tokenizer(bos=True),
        "byte-trim": lambda: make_byte_tokenizer(trim=True),
        "llama": make_sentencepiece_tokenizer,
        "metaspace": lambda: make_sentencepiece_tokenizer(legacy=False),
        "wordpiece": make_wordpiece_tokenizer,
    }[kind]()


TOKENIZERS = ("byte", "byte-bos", "byte-trim", "llama", "metaspace")
"""Decoder tokenizers that :func:`tokenizer_of` knows; ``wordpiece`` is the encoder's."""


def tokenizer_of(kind: str) -> Any:
    """Return a copy of a tiny tokenizer; each kind is trained once per process."""
    return copy.deepcopy(_train_tokenizer(kind))
