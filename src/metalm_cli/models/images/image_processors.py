"""Image processors of transformers: loading them without torchvision, and setting the size of their images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors

CONFIG = "preprocessor_config.json"
COMMON_SETTINGS = ("resample", "rescale_factor", "do_rescale", "do_normalize", "image_mean", "image_std")
"""Settings that mean the same for all processors that scale images to a height and a width."""
PROBES = ((20, 30), (30, 20))
"""Heights and widths of the images on which the size of a processor's output is measured."""


def load_image_processor(name: str, folder: str | Path) -> Any:
    """Load the image processor in a folder, with Pillow in place of torchvision.

    A processor that transformers has for torchvision only (DINOv3's), and SigLIP 2's, which gives patches, are replaced
    by one that scales images to a height and a width in the same way.

    Args:
        name: Name of the encoder.
        folder: The folder.

    Raises:
        MetalmError: The folder holds no image processor that can be used.
    """
    import transformers

    what = f"the image processor of encoder {name!r} cannot be loaded"
    remedy = "restore preprocessor_config.json as the encoder was saved with it"
    with loading_errors(what, str(folder), remedy):
        path = Path(folder) / CONFIG
        fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kind = str(fields.get("image_processor_type", "")).removesuffix("Pil").removesuffix("Fast")
        common = {key: fields[key] for key in COMMON_SETTINGS if fields.get(key) is not None}
        if kind == "Siglip2ImageProcessor":
            side = math.isqrt(fields.get("max_num_patches", 256)) * fields.get("patch_size", 16)
            return transformers.SiglipImageProcessorPil(size={"height": side, "width": side}, **common)
        if kind and not hasattr(transformers, f"{kind}Pil") and "height" in (fields.get("size") or {}):
            return transformers.ViTImageProcessorPil(size=fields["size"], **common)
        return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)


def default_image_processor(height: int, width: int) -> Any:
    """Return the image processor of encoders that are built from a config: ViT's."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": height, "width": width})


def resized_processor(processor: Any, size: tuple[int, int]) -> Any:
    """Return an image processor that gives images of another size; what is cut off at the sides stays in proportion.

    Args:
        processor: The processor.
        size: Height and width of its images, in pixels.
    """
    from transformers import ViTImageProcessorPil

    fields = processor.to_dict()
    target = dict(zip(("height", "width"), size, strict=True))
    settings: dict[str, Any] = {"size": target}
    if not fields.get("do_center_crop") and "height" not in (fields.get("size") or {}):  # the shape is that of an image
        common = {key: fields[key] for key in COMMON_SETTINGS if fields.get(key) is not None}
        return ViTImageProcessorPil(size=target, **common)
    if fields.get("do_center_crop") and fields.get("crop_size"):
        former = pixels_of(processor).shape[1:]
        ratio = max(size[0] / former[0], size[1] / former[1])
        scaled = {key: round(value * ratio) for key, value in fields["size"].items() if value}
        settings = {"size": scaled, "crop_size": target}
    return type(processor).from_dict({**fields, **settings})


def pixels_of(processor: Any, size: tuple[int, int] = PROBES[0]) -> np.ndarray:
    """Return what a processor gives for a black image, ``[c, h, w]``.

    Args:
        processor: The processor.
        size: Height and width of the image.
    """
    from PIL import Image

    pixels = processor(images=Image.new("RGB", size[::-1]), return_tensors="np")["pixel_values"]
    return np.asarray(pixels)[0]


def fixed_size(processor: Any) -> tuple[int, int] | None:
    """Return the height and width of a processor's images; None if they depend on the image."""
    shapes = {pixels_of(processor, size).shape[1:] for size in PROBES}
    return shapes.pop() if len(shapes) == 1 else None
