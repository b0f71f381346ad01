"""Inputs and outputs of vision transformers: which vectors of an image are docked."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.models.encoders import LAST_LAYER, outputs_of_layer
from metalm_cli.models.images.image_processors import load_image_processor, pixels_of
from metalm_cli.models.images.sizes import Size, height_and_width, size_text
from metalm_cli.sessions import ImageProcessor
from metalm_cli.sessions.compression import Grid


class VisionEncoderIO:
    """Encoder IO of vision transformers with one output per patch: patches are docked, class vectors are not."""

    kind = "vision"
    layer = LAST_LAYER

    def load_class(self, config: Any) -> Any:
        from transformers import AutoModel

        return AutoModel

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def image_size(self, config: Any) -> Size:
        """Return the height and width of the images that are read, in pixels."""
        size = getattr(config, "image_size", None)
        if size is None:  # SigLIP 2 states the number of patches
            size = math.isqrt(config.num_patches) * config.patch_size
        return height_and_width(size)

    def grid(self, config: Any) -> Grid:
        """Return the rows and columns of the patches."""
        size, patch = self.image_size(config), height_and_width(config.patch_size)
        return size[0] // patch[0], size[1] // patch[1]

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> ImageProcessor:
        processor = load_image_processor(name, source) if isinstance(source, str | Path) else source
        shape = (model.config.num_channels, *self.image_size(model.config))
        given_shape = pixels_of(processor).shape
        if given_shape != shape:
            raise MetalmError(
                f"the image processor of encoder {name!r} gives images of another size than the encoder reads",
                where=f"model.encoders.{name}",
                why=f"it gives {size_text(given_shape)}, the encoder reads {size_text(shape)} "
                "(channels, height, width)",
                remedy="use the image processor that the encoder was saved with",
            )
        rows, columns = self.grid(model.config)
        patches = rows * columns
        first = self._first_patch(name, model, shape, patches)
        positions = np.arange(0 if options.get("keep_special") else first, first + patches)
        return ImageProcessor(name, processor, positions, shape)

    def _first_patch(self, name: str, model: Any, shape: tuple[int, ...], patches: int) -> int:
        with torch.no_grad():
            pixels = torch.zeros(1, *shape, device=next(model.parameters()).device)
            outputs = self.outputs(model, {"pixel_values": pixels})
        if outputs.dim() != 3 or outputs.shape[1] < patches:
            raise MetalmError(
                f"the vision encoder {name!r} gives outputs of shape {tuple(outputs.shape)}, "
                f"not one vector for each of {patches} patches",
                remedy="use a vision transformer (ViT, DeiT, BEiT, DINOv2, CLIP's vision tower, ...)",
            )
        return outputs.shape[1] - patches

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        pixels = inputs["pixel_values"].to(next(model.parameters()).dtype)
        if not reads_flat_patches(model):
            return outputs_of_layer(model, {"pixel_values": pixels}, self.layer)
        patches = flat_patches(pixels, height_and_width(model.config.patch_size))
        rows, columns = self.grid(model.config)
        flat = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
            "spatial_shapes": torch.tensor([[rows, columns]], device=patches.device).expand(len(patches), -1),
        }
        return outputs_of_layer(model, flat, self.layer)


def reads_flat_patches(model: Any) -> bool:
    """Whether a tower reads patches with the shape of their grid, in place of an image (SigLIP 2)."""
    return "spatial_shapes" in inspect.signature(model.forward).parameters


def flat_patches(pixels: Tensor, patch: Size) -> Tensor:
    """Divide images into patches, row by row; the channels of a pixel are neighbours.

    Args:
        pixels: ``[u, c, h, w]``
        patch: Height and width of a patch.

    Returns:
        ``[u, patches, height * width * c]``
    """
    patches = pixels.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1])  # [u, c, rows, columns, height, width]
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
