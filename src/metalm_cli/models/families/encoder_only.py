"""Encoder-only models: a bidirectional text encoder that is pretrained alone, in packed rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metalm_cli.config.schema.model import EncoderConfig, ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.attention import dense_mask
from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors
from metalm_cli.models.encoders import LAST_LAYER, TextEncoderIO, encoder_io_for, first_position
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.images.resolution import check_image_size
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import ROOT, PackedTokens, TextProcessor
from metalm_cli.sessions.end_tokens import EndToken


class EncoderOnly:
    """Family of encoders that train alone; a row holds documents with masked tokens."""

    name = "encoder-only"
    streams = ("the name of the encoder",)
    objectives = ("mlm", "rtd")
    generates = False
    auto_class = "AutoModel"

    def claims(self, model: ModelConfig, objective: str) -> bool:
        return objective in self.objectives

    def build(self, model: ModelConfig, objective: str, loader: PartLoader, seed: int) -> ModelParts:
        ((name, options),) = model.encoders.items()
        encoder, processor = load_encoder_for_pretraining(name, options, loader, objective)
        return ModelParts(encoder, None, {name: processor})

    def wrap(
        self, model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
    ) -> ModelParts:
        raise NotImplementedError("an encoder alone continues no text; it is docked, or trained with mlm or rtd")

    def parts(self, built: Any) -> dict[str, nn.Module]:
        return {f"encoders.{name}": built.model for name in built.processors}

    def length_limit(self, built: Any) -> tuple[int | None, str]:
        (processor,) = built.processors.values()
        assert isinstance(processor, TextProcessor)
        limit = TextEncoderIO().max_positions(built.model, processor.tokenizer)
        return limit, built.model.config.model_type

    def tokenizers(self, built: Any) -> dict[str, Any]:
        return {f"encoders/{name}": processor for name, processor in built.processors.items()}

    def save(self, folder: Path, built: Any) -> None:
        built.model.save_pretrained(folder)
        for processor in built.processors.values():
            processor.save_pretrained(folder)

    def notes(self, built: Any) -> list[str]:
        return []


def load_encoder_for_pretraining(
    name: str, part: EncoderConfig, loader: PartLoader, kind: str
) -> tuple[Any, TextProcessor]:
    """Load or build an encoder with the head of its objective.

    Args:
        name: Name of the encoder in the recipe.
        part: Options of the encoder in the recipe.
        loader: Loader of parts.
        kind: ``mlm`` (masked language model) or ``rtd`` (replaced token detector).

    Raises:
        MetalmError: The family has no such head, or the encoder does not read text.
    """
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

    where = f"model.encoders.{name}"
    folder = loader.folder(part, where)
    config, tokenizer = loader.encoder_config(part, folder, where, None)
    auto_class = AutoModelForMaskedLM if kind == "mlm" else AutoModelForPreTraining
    has_head = type(config) in auto_class._model_mapping and encoder_io_for(config, part.adapter).kind == "text"
    if kind == "rtd":
        has_head = has_head and config.model_type in ("electra", "metalm-encoder")
    if not has_head:
        raise MetalmError(
            f"a {config.model_type} model has no head for {kind}",
            where=where,
            remedy="use electra or metalm-encoder for rtd, any masked language model for mlm",
        )
    check_image_size(encoder_io_for(config, part.adapter), config, part.image_size, where)
    if part.layer != LAST_LAYER:
        raise MetalmError(
            f"the outputs of layer {part.layer} are chosen, but {kind} trains an encoder alone",
            where=f"{where}.layer",
            remedy="leave layer out: it chooses what a decoder reads",
        )
    model = loader.build(auto_class, config, folder, where, {}, new_head=True)
    options = {"max_length": part.max_length, "keep_special": part.keep_special}
    with loading_errors("the encoder cannot be used", where, "use another checkpoint or config"):
        processor = encoder_io_for(config, part.adapter).processor(name, tokenizer, model, options)
    assert isinstance(processor, TextProcessor)
    if tokenizer.mask_token_id is None:
        raise MetalmError(
            f"the tokenizer of encoder {name!r} has no mask token",
            where=f"{where}.tokenizer",
            remedy="train a tokenizer (tokenizer: {new: ...}), or use the encoder's own",
        )
    return model, processor


def make_generator(encoder: Any, size: float) -> Any:
    """Build ELECTRA's generator: a narrower masked language model that shares the encoder's token embeddings.

    Args:
        encoder: The discriminator.
        size: Width, heads and feed-forward size as a share of the discriminator's. A family whose embeddings are as
            wide as its layers has fewer layers instead, so that the embeddings can be shared.
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


def row_inputs(model: Any, input_ids: Tensor, tokens: PackedTokens) -> dict[str, Tensor]:
    """Build the inputs of an encoder, with or without a head, so that documents of a row do not attend to each other.

    Args:
        model: The encoder.
        input_ids: Token ids to read, in place of those of the rows. ``[b, s]``
        tokens: Packed rows.
    """
    if tokens.plain:
        return {"input_ids": input_ids, "attention_mask": (tokens.segment_ids != ROOT).long()}
    return {
        "input_ids": input_ids,
        "attention_mask": dense_mask(tokens, next(model.parameters()).dtype, causal=False),
        "position_ids": tokens.position_ids + first_position(model),
    }


def encode(model: Any, input_ids: Tensor, tokens: PackedTokens) -> Tensor:
    """Compute the last hidden states of packed rows, ``[b, s, h]``; arguments as :func:`row_inputs`."""
    return model.base_model(**row_inputs(model, input_ids, tokens)).last_hidden_state
