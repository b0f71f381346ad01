"""Tiny models, tokenizers and rows for the tests of models: everything from config, in fp32, without dropout."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.models import MetaLM, MetaLMConfig
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.dual_encoder.docked_encoders import build_encoder
from metalm_cli.models.encoders import encoder_io_for, load_tokenizer
from metalm_cli.sessions import (
    Batch,
    Causal,
    Docked,
    DockInput,
    Session,
    SessionTokeniser,
    TextProcessor,
    TokenisedSession,
    build_row,
    collate,
)
from metalm_cli.sessions.processors import digest

VOCABULARY = 400
"""Entries of every trained tokenizer and embedding."""

_WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_LLAMA = {**_WIDE, "num_key_value_heads": 2, "max_position_embeddings": 256}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 130}

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "llama": _LLAMA,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 20,
        "max_position_embeddings": 256,
        "dropout": 0.0,
    },
    "gpt_neox": {**_WIDE, "max_position_embeddings": 256},
    "qwen2": _LLAMA,
    "gemma2": {
        **_LLAMA,
        "head_dim": 8,
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 2.0,
    },
    "mistral": {**_LLAMA, "head_dim": 8, "sliding_window": 6},
    "cohere": {**_LLAMA, "logit_scale": 0.5},
    "granite": {**_LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.3},
    "phi": {**_LLAMA, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "metalm-decoder": {**_WIDE, "max_position_embeddings": 256},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0},
}
PACKED = [name for name in DECODERS if name != "bloom"]

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_WIDE, **_NO_DROPOUT},
    "roberta": {**_WIDE, **_NO_DROPOUT},
    "electra": {**_WIDE, **_NO_DROPOUT, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 130}
    | {"dropout": 0.0, "attention_dropout": 0.0},
    "modernbert": {**_WIDE, "max_position_embeddings": 130, "local_attention": 8, "global_attn_every_n_layers": 2},
    "deberta-v2": {**_WIDE, **_NO_DROPOUT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "mpnet": {**_WIDE, **_NO_DROPOUT},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
    "metalm-encoder": {**_WIDE, "max_position_embeddings": 130, "dropout": 0.0, "attention_dropout": 0.0},
}
VISION: dict[str, dict[str, Any]] = {
    kind: {**_WIDE, "image_size": 8, "patch_size": 4, "num_channels": 3} for kind in ("vit", "deit")
}


def config_of(kind: str, **changes: Any) -> Any:
    """The tiny config of a family."""
    from transformers import AutoConfig

    shapes = {**DECODERS, **ENCODERS, **VISION}
    tokens = {} if kind in VISION else {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    if kind not in VISION:
        tokens["pad_token_id"] = 1 if kind in ("roberta", "mpnet") else 0
    return AutoConfig.for_model(kind, **{**tokens, **shapes[kind], **changes})


@torch.no_grad()
def perturb(model: Any, seed: int = 0) -> Any:
    """Add noise to every parameter, so that each bias and norm matters; set evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_decoder(kind: str, **changes: Any) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return perturb(AutoModelForCausalLM.from_config(config_of(kind, **changes)))


def make_encoder(kind: str, **changes: Any) -> Any:
    torch.manual_seed(1)
    return perturb(build_encoder(config_of(kind, **changes)), 1)


def make_masked_lm(kind: str) -> Any:
    """Build a masked language model."""
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(1)
    marks = {"cls_token_id": 2, "sep_token_id": 3} if kind == "modernbert" else {}
    return perturb(AutoModelForMaskedLM.from_config(config_of(kind, **marks)), 1)


def make_metalm(
    decoder: Any,
    encoders: dict[str, Any] | None = None,
    kind: str = "linear",
    connectors: dict[str, dict[str, Any]] | None = None,
) -> MetaLM:
    """Build a MetaLM of these parts, with perturbed connectors; ``connectors`` are records by encoder name."""
    encoders = encoders or {}
    shapes = {name: {"kind": kind, "layers": 1 if kind == "linear" else 2} for name in encoders}
    shapes.update(connectors or {})
    docking = {
        name: {"kind": encoder_io_for(encoder_model.config).kind, "keep_special": False, "max_length": None}
        for name, encoder_model in encoders.items()
    }
    config = MetaLMConfig(
        decoder.config.to_dict(),
        {name: encoder_model.config.to_dict() for name, encoder_model in encoders.items()},
        shapes,
        docking,
    )
    torch.manual_seed(2)
    model = MetaLM(config, decoder, encoders)
    perturb(model.connectors, 2)
    return model.eval()


def model_recipe(
    tokenizers: dict[str, Path],
    decoder: str = "gpt2",
    encoder: str | None = "bert",
    *,
    name: str = "text",
    connector: dict[str, Any] | None = None,
    tokens: dict[str, Any] | None = None,
    decoder_options: dict[str, Any] | None = None,
    **options: Any,
) -> ModelConfig:
    """Build a recipe's ``model``: a decoder and an encoder made from configs, with tokenizers from folders.

    Args:
        tokenizers: Folders by kind.
        decoder: Family of the decoder.
        encoder: Family of the encoder; None for a plain causal language model.
        name: The encoder's name.
        connector: ``model.connector``.
        tokens: ``model.special_tokens``.
        decoder_options: Further keys of the decoder.
        **options: Further keys of the encoder.
    """
    tokenizer_kind = decoder if decoder in ("llama", "opt") else "gpt2"
    parts: dict[str, Any] = {
        "decoder": {
            "config": {"model_type": decoder, **DECODERS[decoder]},
            "tokenizer": str(tokenizers[tokenizer_kind]),
        }
        | (decoder_options or {}),
        "connector": connector or {},
        "special_tokens": tokens or {},
    }
    if encoder is not None:
        encoder_options = {"config": {"model_type": encoder, **{**ENCODERS, **VISION}[encoder]}}
        if encoder in ENCODERS:
            encoder_options["tokenizer"] = str(tokenizers["roberta" if encoder in ("roberta", "mpnet") else "bert"])
        parts["encoders"] = {name: {**encoder_options, **options}}
    return ModelConfig.model_validate(parts)


# -- rows of random tokens, without a tokenizer ---------------------------------------------------------------------


class IdProcessor:
    """Replacement of a text processor, for docks of ids from :func:`dock`."""

    pad_id = 0
    collate = TextProcessor.collate


def dock(*ids: int) -> DockInput:
    """Build a dock of ids for an encoder named ``text``; the first and last ids act as special tokens."""
    array = np.array(ids, dtype=np.int64)
    return DockInput("text", {"input_ids": array}, np.arange(1, len(ids) - 1), digest("text", array), {})


def random_session(
    rng: np.random.Generator, length: int, *, docks: int = 0, size: int = 5, low: int = 3
) -> TokenisedSession:
    """Build a session of random ids, most of them trained, with docks of ``size`` positions inside."""
    ids = rng.integers(low, VOCABULARY, length)
    trained = rng.random(length) < 0.7
    trained[[0, -1]] = True
    placed = []
    if docks:
        for start in range(0, length - size, max(size + 2, length // docks))[:docks]:
            placed.append((start, dock(*rng.integers(low, VOCABULARY, size + 2).tolist())))
            ids[start : start + size] = -1
            trained[start : start + size] = False
    return TokenisedSession(ids, trained, tuple(placed))


def batch_of(rows: Iterable[Sequence[TokenisedSession]], length: int | None = None) -> Batch:
    """Build a batch with one row for each list of sessions."""
    return collate([build_row(sessions) for sessions in rows], {"text": IdProcessor()}, length=length)  # type: ignore[dict-item]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def loss_and_gradients(model: MetaLM, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of each target, and the gradients of the mean loss."""
    model.zero_grad()
    total, each = model.losses(batch)
    (total / len(each)).backward()
    return each, gradients(model)


def sessions(seed: int = 0, docks: int = 2) -> list[TokenisedSession]:
    """Build sessions longer than the local windows (6), with docks inside."""
    rng = np.random.default_rng(seed)
    return [random_session(rng, length, docks=docks) for length in (23, 17, 31)]


def unpacked_losses(model: MetaLM, packed: list[TokenisedSession]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Run each session alone, without padding; return losses and summed gradients of the mean loss."""
    losses, total = [], {}
    count = sum(len(build_row([session]).targets) for session in packed)
    for session in packed:
        model.zero_grad()
        loss, session_losses = model.losses(batch_of([[session]]))
        (loss / count).backward()
        losses.append(session_losses)
        session_gradients = gradients(model)
        total = (
            session_gradients if not total else {name: total[name] + value for name, value in session_gradients.items()}
        )
    return torch.cat(losses), total


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(
            value, expected[name], atol=tolerance, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


class LargestTensor(TorchDispatchMode):
    """Dispatch mode that records the size of the largest tensor of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


TEXTS = ("It rained.", "A fox can hide well in the forest, and Foxes have four legs.", "Clerks sell stamps.")


def batch_with(assembly: Assembly, contents: Iterable[Any], name: str = "text") -> Batch:
    """Build a batch of two rows: the first content docked, and the others docked."""
    tokenise = SessionTokeniser(assembly.decoder_tokenizer, assembly.processors)
    spans = [[Causal("So:"), Docked(name, content), Causal(" yes", trained=True, end=True)] for content in contents]
    sessions = [tokenise(Session(session_spans)) for session_spans in spans]
    return collate([build_row(sessions[:1]), build_row(sessions[1:])], assembly.processors)


def noise_image(seed: int = 0) -> Image.Image:
    """Return an image of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


# -- text -------------------------------------------------------------------------------------------------------------


class Documents(list):
    """Texts by number, as row slots read them."""

    def get(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(text=self[number])


def real_documents(root: Path, count: int, characters: int) -> list[str]:
    """Return the beginnings of real documents."""
    documents = []
    with gzip.open(root / "pile_sample" / "validation.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            documents.append(json.loads(line)["text"][:characters])
            if len(documents) == count:
                break
    return documents


def processor_of(folder: Path, *, max_length: int = 120, name: str = "text", **options: Any) -> TextProcessor:
    return TextProcessor(name, load_tokenizer(folder), max_length, **options)
