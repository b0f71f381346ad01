"""Inputs and outputs of fused encoders, which read an image and a text together (VLMo's kind in the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.models.encoders import TextEncoderIO, load_tokenizer
from metalm_cli.models.images.image_processors import load_image_processor
from metalm_cli.models.images.sizes import Size, height_and_width
from metalm_cli.sessions import FusedProcessor, ImageProcessor
from metalm_cli.sessions.compression import Grid


class FusedEncoderIO:
    """Encoder IO of ViLT, FLAVA and BridgeTower: patches are docked, then the content tokens of the text."""

    kind = "fused"

    def load_class(self, config: Any) -> Any:
        from transformers import AutoModel

        return AutoModel

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def image_size(self, config: Any) -> Size:
        """Return the height and width of the images that are read, in pixels."""
        size = _image_config(config).image_size
        return height_and_width(size)

    def patches(self, config: Any) -> Grid:
        """Return the rows and columns of the patches; they are not the last outputs."""
        (height, width), patch = self.image_size(config), _image_config(config).patch_size
        return height // patch, width // patch

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> FusedProcessor:
        """Build the processor; the source is a folder, or a pair of a tokenizer and an image processor."""
        if isinstance(source, str | Path):
            source = load_tokenizer(source), load_image_processor(name, source)
        tokenizer, image_processor = source
        text = TextEncoderIO().processor(name, tokenizer, _text_part(model), options)
        shape = (3, *self.image_size(model.config))
        rows, columns = self.patches(model.config)
        with torch.no_grad():
            pixels = torch.zeros(1, *shape, device=next(model.parameters()).device)
            ids = torch.zeros(1, 2, dtype=torch.long, device=pixels.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
            image_outputs = self.outputs(model, inputs).shape[1] - ids.shape[1]
        if image_outputs < rows * columns:
            raise MetalmError(
                f"the fused encoder {name!r} gives {image_outputs} outputs for an image of {rows * columns} patches",
                where=f"model.encoders.{name}",
                remedy="use a ViLT, FLAVA or BridgeTower model",
            )
        first = 0 if options.get("keep_special") else image_outputs - rows * columns
        image = ImageProcessor(name, image_processor, torch.arange(first, image_outputs).numpy(), shape)
        return FusedProcessor(name, text, image, image_outputs)

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Run the encoder on ``u`` contents.

        Contents of equally many tokens are run together, without padding, because FLAVA attends to padding.

        Returns:
            Outputs of the image (class vectors, patches), then those of the text, padded with zeros.
            ``[u, i + l, width]``
        """
        pixels = inputs["pixel_values"].to(next(model.parameters()).dtype)
        lengths = inputs["attention_mask"].sum(1)
        order, groups = [], []
        for length in lengths.unique().tolist():
            members = (lengths == length).nonzero()[:, 0]
            image, text = _image_and_text(model, inputs["input_ids"][members, :length], pixels[members])
            padding = inputs["input_ids"].shape[1] - length
            groups.append(torch.cat([image, torch.nn.functional.pad(text, (0, 0, 0, padding))], 1))
            order.append(members)
        return torch.cat(groups)[torch.cat(order).argsort()]


def _image_and_text(model: Any, input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of images and of texts without padding."""
    kind, length = model.config.model_type, input_ids.shape[1]
    if kind == "vilt":
        embeds = _vilt_embeddings(model.embeddings, pixels)
        mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long)
        states = model(input_ids=input_ids, image_embeds=embeds, pixel_mask=mask).last_hidden_state
        return states[:, length:], states[:, :length]  # the text is first
    results = model(input_ids=input_ids, pixel_values=pixels)
    if kind == "bridgetower":
        return results.image_features, results.text_features
    states = results.multimodal_output.last_hidden_state  # FLAVA's class vectors and patches, then the text
    return states[:, :-length], states[:, -length:]


def _vilt_embeddings(embeddings: Any, pixels: Tensor) -> Tensor:
    """Embed images of ViLT's own size: transformers would put the patches into a random order."""
    patches = embeddings.patch_embeddings(pixels).flatten(2).transpose(1, 2)
    vectors = torch.cat([embeddings.cls_token.expand(len(patches), -1, -1), patches], 1)
    return embeddings.dropout(vectors + embeddings.position_embeddings)


def _image_config(config: Any) -> Any:
    return getattr(config, "image_config", None) or getattr(config, "vision_config", None) or config


def _text_part(model: Any) -> Any:
    """Return the module with the text embeddings and the config of their positions."""
    return getattr(model, "text_model", model)
