"""Dual encoders: an image encoder and a text encoder that embed into one space (CLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.connectors import set_compression
from metalm_cli.models.dual_encoder.dual_encoder import PROJECTION_DIM, DualEncoder, DualEncoderConfig
from metalm_cli.models.dual_encoder.image_text_pairs import ONE_VECTOR, ImageTextTokenizer
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.families.decoder_only import (
    PROCESSORS_FOLDER,
    check_encoder_names,
    image_layouts,
    load_docked_encoder,
)
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import Processor, TextProcessor
from metalm_cli.sessions.batch import dock_table
from metalm_cli.sessions.end_tokens import EndToken


class DualEncoderFamily:
    """Family of dual encoders; a session is a pair of an image and a text, and a step compares all of its pairs."""

    name = "dual-encoder"
    streams = ("decoder",)
    objectives = ("contrastive",)
    generates = False
    auto_class = "AutoModel"

    def claims(self, model: ModelConfig, objective: str) -> bool:
        return objective in self.objectives

    def build(self, model: ModelConfig, objective: str, loader: PartLoader, seed: int) -> ModelParts:
        encoders: dict[str, Any] = {}
        processors: dict[str, Processor] = {}
        connectors, docking = {}, {}
        for name, options in model.encoders.items():
            pooling = options.pooling or "mean"
            # The class vector is docked only with the other special outputs.
            special = {"keep_special": options.keep_special or pooling == "class"}
            options = options.model_copy(update=special)
            encoders[name], processors[name], docking[name] = load_docked_encoder(name, options, loader, None)
            docking[name]["pooling"] = pooling
            connector = options.connector or model.connector
            connectors[name] = {"kind": connector.kind, **connector.settings}
        _check_kinds({name: record["kind"] for name, record in docking.items()}, "model.encoders")
        config = DualEncoderConfig(
            encoder_configs={name: encoder.config.to_dict() for name, encoder in encoders.items()},
            connectors=connectors,
            docking=docking,
            projection_dim=model.projection_dim or PROJECTION_DIM,
        )
        return _model_parts(DualEncoder(config, encoders), processors)

    def wrap(
        self, model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
    ) -> ModelParts:
        check_encoder_names(model.encoders, folder)
        _check_kinds({name: encoder_io.kind for name, encoder_io in model.encoder_ios.items()}, str(folder))
        processors = {
            name: model.encoder_ios[name].processor(
                name, folder / PROCESSORS_FOLDER / name, encoder, config.docking[name]
            )
            for name, encoder in model.encoders.items()
        }
        return _model_parts(model.eval(), processors)

    def parts(self, built: Any) -> dict[str, nn.Module]:
        model = built.model
        parts: dict[str, nn.Module] = {}
        for name, encoder in model.encoders.items():
            parts[f"encoders.{name}"] = encoder
            parts[f"connectors.{name}"] = model.connectors[name]
        return {**parts, "logit_scale": model.logit_scale}

    def length_limit(self, built: Any) -> tuple[int | None, str]:
        return None, built.model.config.model_type

    def tokenizers(self, built: Any) -> dict[str, Any]:
        return {f"encoders/{name}": processor for name, processor in built.processors.items()}

    def save(self, folder: Path, built: Any) -> None:
        built.model.save_pretrained(folder)
        built.tokenizer.tokenizer.save_pretrained(folder)
        for name, processor in built.processors.items():
            processor.save_pretrained(folder / PROCESSORS_FOLDER / name)

    def notes(self, built: Any) -> list[str]:
        pooling = {name: built.model.config.pooling_of(name) for name in built.processors}
        pooled = ", ".join(f"{name} by {how}" for name, how in pooling.items())
        images = [f"images of {name}: {layout}" for name, layout in image_layouts(built).items()]
        return [*images, f"pooled outputs: {pooled}; embeddings of {built.model.config.projection_dim} dimensions"]


def _check_kinds(kinds: dict[str, str], where: str) -> None:
    """Check that one encoder reads images and one texts.

    Raises:
        MetalmError: They do not.
    """
    if sorted(kinds.values()) != ["text", "vision"]:
        raise MetalmError(
            "a dual encoder has one encoder of images and one of texts",
            where=where,
            why=", ".join(f"{name}: {kind}" for name, kind in kinds.items()) or "it has no encoder",
            remedy="set a vision transformer (DeiT, ViT, CLIP's vision tower, ...) and a text encoder (BERT, ...)",
        )


@torch.no_grad()
def _model_parts(model: DualEncoder, processors: dict[str, Processor]) -> ModelParts:
    """Return the model with its tokenizer; each encoder has read an input.

    Raises:
        MetalmError: An encoder has no pooled output of its own.
    """
    tokenizer = None
    for name, processor in processors.items():
        set_compression(processor, ONE_VECTOR, f"model.encoders.{name}")
        if isinstance(processor, TextProcessor):
            tokenizer = ImageTextTokenizer(processor.tokenizer)
        model.pool(name, dock_table([(0, processor.dummy())], processor).to(model.device))
    return ModelParts(model, tokenizer, processors)
