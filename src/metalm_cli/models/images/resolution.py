"""Resolution of a tower: images of another size than it was trained with, with interpolated position embeddings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metalm_cli.errors import MetalmError
from metalm_cli.models.images.image_processors import (
    default_image_processor,
    fixed_size,
    load_image_processor,
    resized_processor,
)
from metalm_cli.models.images.sizes import Size, height_and_width, size_text

BIAS_TABLE = "relative_position_bias_table"
"""Name of BEiT's table: a row for each offset between two patches, then three for the class vector."""
CLASS_OFFSETS = 3
METHOD = "interpolate_pos_encoding"
"""Name of the method of transformers that interpolates the position embeddings of a tower."""


def check_image_size(encoder_io: Any, config: Any, image_size: int | None, where: str) -> None:
    """Check the size of images that a recipe sets, by the config of the encoder.

    Raises:
        MetalmError: The encoder reads no images or those of its own size only, or patches do not fill an image.
    """
    if image_size is None:
        return
    key, size = f"{where}.image_size", (image_size, image_size)
    if not hasattr(encoder_io, "image_size"):
        why = "reads text, and no images" if encoder_io.kind == "text" else "chooses the size of images itself"
        raise MetalmError(f"a {config.model_type} encoder {why}", where=key, remedy="leave image_size out")
    own = encoder_io.image_size(config)
    if size == own:
        return
    if encoder_io.kind != "vision":
        raise _own_size_only(config, own, size, key)
    patch = height_and_width(config.patch_size)
    if any(image_size % side for side in patch):
        below = max(1, image_size // max(patch)) * max(patch)
        raise MetalmError(
            f"images of {size_text(size)} pixels cannot be divided into patches of {size_text(patch)}",
            where=key,
            remedy=f"set it to a multiple of {max(patch)}, such as {below} or {below + max(patch)}",
        )


def _own_size_only(config: Any, own: Size, size: Size, where: str) -> MetalmError:
    return MetalmError(
        f"a {config.model_type} encoder reads images of {size_text(own)} pixels, not of {size_text(size)}",
        where=where,
        remedy="leave image_size out, and use the image processor that the encoder was saved with",
    )


class FittedTower(NamedTuple):
    """A tower and an image processor for images of one size.

    Args:
        encoder: The tower.
        processor: The image processor.
        notes: Notes for the user.
    """

    encoder: Any
    processor: Any
    notes: list[str]


def fit_resolution(
    encoder: Any, encoder_io: Any, folder: Path | None, image_size: int | None, build: Callable[[Any], Any], where: str
) -> FittedTower:
    """Fit a tower and its image processor to each other, or both to the size that the recipe sets.

    Without a size in the recipe it is that of the checkpoint's image processor: DINOv2's config has the size of its
    training, 518, and its processor 224.

    Args:
        encoder: The tower.
        encoder_io: Its :class:`~metalm_cli.models.images.encoder_io.VisionEncoderIO`.
        folder: Folder with its image processor; None: it gets one by default.
        image_size: Height and width of the images in pixels, or None.
        build: Builds a tower of a config, with new weights.
        where: Key of the encoder, for messages.

    Raises:
        MetalmError: The folder has no image processor, or the tower cannot read the size.
    """
    own: Size = encoder_io.image_size(encoder.config)
    size = own if image_size is None else (image_size, image_size)
    processor = None if folder is None else load_image_processor(where.rpartition(".")[2], folder)
    given_size = None if processor is None else fixed_size(processor)
    if image_size is None and given_size is not None:
        size = given_size
    if encoder_io.kind != "vision" and size != own:
        raise _own_size_only(encoder.config, own, size, where)
    if processor is None:
        processor = default_image_processor(*size)
    elif given_size != size:
        processor = resized_processor(processor, size)
    if size == own:
        return FittedTower(encoder, processor, [])
    reason = "" if image_size is not None else ", as its image processor gives them"
    note = f"{where}: reads images of {size_text(size)} pixels{reason}; it was trained with {size_text(own)}"
    return FittedTower(resized_tower(encoder, size, build, where), processor, [note])


@torch.no_grad()
def resized_tower(encoder: Any, size: Size, build: Callable[[Any], Any], where: str) -> Any:
    """Return a tower with the same weights that reads images of another size.

    Position embeddings are interpolated once, as transformers does it in every forward pass of a tower that offers it
    (``interpolate_pos_encoding``); BEiT's biases of offsets as well. Rotary positions need none.

    Args:
        encoder: The tower.
        size: Height and width of the images, in pixels.
        build: Builds a tower of a config, with new weights.
        where: Key of the encoder, for messages.

    Raises:
        MetalmError: transformers cannot interpolate the tower's positions.
    """
    config = copy.deepcopy(encoder.config)
    config.image_size = size[0] if size[0] == size[1] else list(size)
    resized = build(config)
    weights = encoder.state_dict()
    for name, wanted in resized.state_dict().items():
        if weights[name].shape != wanted.shape:
            weights[name] = _interpolated(encoder, name, tuple(wanted.shape), size, where)
    resized.load_state_dict(weights)
    return resized.train(encoder.training)


def _interpolated(encoder: Any, name: str, shape: tuple[int, ...], size: Size, where: str) -> Tensor:
    module, _, attribute = name.rpartition(".")
    table: Tensor | None = None
    if attribute == BIAS_TABLE:
        table = _resized_biases(encoder.get_submodule(module), _grid(size, encoder.config))
    else:
        owner = _owner(encoder, module)
        if owner is not None:
            table = _positions(owner, encoder.get_parameter(name), encoder.config, size)
    if table is None or table.numel() != torch.Size(shape).numel():
        own = size_text(height_and_width(encoder.config.image_size))
        raise MetalmError(
            f"a {encoder.config.model_type} tower reads images of {own} pixels only",
            where=f"{where}.image_size",
            why=f"its weights {name} depend on the size, and transformers does not interpolate them",
            remedy="leave image_size out, and use the image processor that the encoder was saved with",
        )
    return table.reshape(shape)


def _owner(encoder: nn.Module, name: str) -> Any:
    """Return the innermost module around a parameter that interpolates positions; None if there is none."""
    while name:
        module = encoder.get_submodule(name)
        if hasattr(module, METHOD):
            return module
        name = name.rpartition(".")[0]
    return None


def _positions(owner: Any, table: Tensor, config: Any, size: Size) -> Tensor | None:
    """Interpolate the table of positions; rows before those of patches (class vectors) stay as they are."""
    rows, columns = _grid(height_and_width(config.image_size), config)
    if rows != columns:  # transformers takes the former grid for a square
        return None
    vectors = table.reshape(-1, table.shape[-1])
    side, other = _grid(size, config)
    embeddings = vectors.new_zeros(1, len(vectors) - rows * columns + side * other, vectors.shape[-1])
    return getattr(owner, METHOD)(embeddings, *size)


def _resized_biases(module: Any, grid: Size) -> Tensor:
    table, (rows, columns) = module.relative_position_bias_table, module.window_size
    # transformers names the axes of the former table (columns, rows)
    offsets = table[:-CLASS_OFFSETS].reshape(1, 2 * columns - 1, 2 * rows - 1, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(offsets, size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear")
    return torch.cat([resized.permute(0, 2, 3, 1).flatten(0, 2), table[-CLASS_OFFSETS:]])


def _grid(size: Size, config: Any) -> Size:
    patch = height_and_width(config.patch_size)
    return size[0] // patch[0], size[1] // patch[1]
