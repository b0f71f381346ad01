"""An encoder that trains alone: packed rows through a bidirectional model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from metalm_cli.config.schema.model import Encoder
from metalm_cli.errors import MetalmError
from metalm_cli.models.attention import dense_mask
from metalm_cli.models.encoders import encoder_io_for, first_position
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import ROOT, PackedTokens, TextProcessor


def load_encoder_for_pretraining(name: str, part: Encoder, loader: PartLoader, kind: str) -> tuple[Any, TextProcessor]:
    """Load or make an encoder with the head that its objective trains.

    Args:
        name: Its name in the recipe.
        part: Its options.
        loader: Loads parts.
        kind: ``mlm`` (masked language model) or ``rtd`` (replaced token detector).

    Raises:
        MetalmError: The family has no such head, or the encoder does not read text.
    """
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

    where = f"model.encoders.{name}"
    folder = loader.folder(part.checkpoint, part.revision)
    config, tokenizer = loader.encoder_config(part, folder, where, None)
    auto = AutoModelForMaskedLM if kind == "mlm" else AutoModelForPreTraining
    fits = type(config) in auto._model_mapping and encoder_io_for(config).kind == "text"
    if kind == "rtd":
        fits = fits and config.model_type in ("electra", "metalm-encoder")
    if not fits:
        raise MetalmError(
            f"a {config.model_type} model has no head for {kind}",
            where=where,
            remedy="use electra or metalm-encoder for rtd, any masked language model for mlm",
        )
    model = loader.build(auto, config, folder, where, {}, new_head=True)
    options = {"max_length": part.max_length, "keep_special": part.keep_special}
    processor = encoder_io_for(config).processor(name, tokenizer, model, options)
    assert isinstance(processor, TextProcessor)
    if tokenizer.mask_token_id is None:
        raise MetalmError(
            f"the tokenizer of encoder {name!r} has no mask token",
            where=f"{where}.tokenizer",
            remedy="train one (tokenizer: {train: ...}), or use the encoder's own",
        )
    return model, processor


def make_generator(encoder: Any, size: float) -> Any:
    """ELECTRA's generator: a narrower masked language model that shares the encoder's token embeddings.

    Args:
        encoder: The discriminator.
        size: Width, heads and feed-forward size as a share of the discriminator's. A family whose embeddings are as
            wide as its layers gets fewer layers instead, so that the embeddings can still be shared.
    """
    from transformers import AutoModelForMaskedLM

    config = copy.deepcopy(encoder.config)
    if hasattr(config, "embedding_size"):
        config.embedding_size = config.embedding_size or config.hidden_size
        heads = max(1, round(config.num_attention_heads * size))
        config.hidden_size = heads * max(1, round(config.hidden_size * size / heads))
        config.num_attention_heads = heads
        config.intermediate_size = max(1, round(config.intermediate_size * size))
    else:
        config.num_hidden_layers = max(1, round(config.num_hidden_layers * size))
    generator = AutoModelForMaskedLM.from_config(config, trust_remote_code=False)
    generator.set_input_embeddings(encoder.get_input_embeddings())
    generator.tie_weights()
    return generator


def row_inputs(model: Any, input_ids: Tensor, stream: PackedTokens) -> dict[str, Tensor]:
    """What an encoder, or an encoder with a head, is given so that the documents of a row do not see each other.

    Args:
        model: It reads the rows.
        input_ids: The tokens to read, instead of the stream's own. ``[b, s]``
        stream: The rows.
    """
    if stream.plain:
        return {"input_ids": input_ids, "attention_mask": (stream.segment_ids != ROOT).long()}
    return {
        "input_ids": input_ids,
        "attention_mask": dense_mask(stream, next(model.parameters()).dtype, causal=False),
        "position_ids": stream.position_ids + first_position(model),
    }


def encode(model: Any, input_ids: Tensor, stream: PackedTokens) -> Tensor:
    """Last hidden states of packed rows: ``[b, s, h]``; arguments as :func:`row_inputs`."""
    return model.base_model(**row_inputs(model, input_ids, stream)).last_hidden_state


@torch.no_grad()
def measure_encoder_packing(model: Any) -> bool:
    """Whether packed rows with a block mask give the outputs of unpacked ones; measured on a few tokens.

    An explicit mask would also bypass local windows, so encoders that have them are not packed.
    """
    if getattr(model.config, "local_attention", None) or getattr(model.config, "sliding_window", None):
        return False
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    ids = ((torch.arange(9, device=device) * 7 + 5) % model.get_input_embeddings().num_embeddings)[None]
    ids[ids == model.config.pad_token_id] += 1  # RoBERTa does not count padding when it numbers positions
    positions = torch.tensor([[*range(5), *range(4)]], device=device)
    segments = torch.tensor([[0] * 5 + [1] * 4], device=device)
    parents = torch.full((1, 2), ROOT, device=device)
    none = torch.zeros(0, dtype=torch.long, device=device)
    stream = PackedTokens(ids, positions, segments, parents, none, none, none, None, plain=False)
    try:
        packed = encode(model, ids, stream)
        apart = torch.cat([model.base_model(input_ids=part).last_hidden_state for part in (ids[:, :5], ids[:, 5:])], 1)
        return bool((packed - apart).abs().max() < 1e-4)
    except (TypeError, ValueError, RuntimeError, IndexError):  # a family may refuse masks or positions
        return False
    finally:
        model.train(training)
