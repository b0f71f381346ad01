"""Reader of images: files and Pillow images, as upright RGB with 8 bits per channel."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read. Pillow knows others, of which some start programs (EPS: Ghostscript)."""
JPEG_VARIANTS = frozenset({"MPO"})
"""Formats that Pillow reports for JPEG files with further pictures after the first."""
MAX_PIXELS = 1 << 26
"""Maximum number of pixels, 8,192 x 8,192: a file of a few kB may contain more than memory can hold."""
MAX_ASPECT_RATIO = 100
"""Maximum ratio of the sides: encoders scale the short side to their input size, and the long side with it."""
MAX_FILE_BYTES = 1 << 30
DEPTH_RATIO = 257
"""Ratio of the largest 16-bit value to the largest 8-bit value."""
ORIENTATION_TAG = 0x0112
"""EXIF tag that tells how the camera was held."""


class _UnsuitableImageError(Exception):
    """An image that is not read, with the reason and the remedy."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


def read_image(source: Any) -> Any:
    """Read an image as transformers does (``convert("RGB")``: transparency is dropped), upright by its EXIF tag.

    The first frame of an animation is read. 16-bit grey is scaled to 8 bits.

    Args:
        source: Path of a regular file in one of :data:`FORMATS`, or a Pillow image.

    Returns:
        A loaded Pillow image of mode RGB without metadata; reading it again changes nothing.

    Raises:
        MetalmError: The source is neither, the file cannot be read or has another format, or the image has more pixels,
            longer sides or another kind of pixels than are read.
    """
    from PIL import Image

    if not isinstance(source, Image.Image | str | Path):
        raise MetalmError(
            f"an image dock takes a path or a PIL image, got {type(source).__name__}",
            remedy='dock an image as Docked("vision", "photo.jpg")',
        )
    where = f"a PIL image of mode {source.mode}" if isinstance(source, Image.Image) else str(source)
    remedy = "check the path and the file"
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")  # Pillow warns of large images, damaged metadata and odd palettes
            if isinstance(source, Image.Image):
                return _to_rgb(source)
            return _to_rgb(stack.enter_context(_open_file(source)))
    except _UnsuitableImageError as error:
        why, remedy = str(error), error.remedy
    except OSError as error:
        why = error.strerror or str(error)
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        why = f"{type(error).__name__}: {error}"
    raise MetalmError("an image cannot be read", where=where[:300], why=why[:300], remedy=remedy)


def _open_file(path: str | Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    file = os.stat(path)
    if not stat.S_ISREG(file.st_mode):
        raise _UnsuitableImageError("it is not a regular file", "name a file")
    if file.st_size > MAX_FILE_BYTES:
        raise _UnsuitableImageError(f"{file.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read", "shrink the image")
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except UnidentifiedImageError as error:
        raise _UnsuitableImageError(
            f"its content has none of the formats {', '.join(FORMATS)}", "convert the image to PNG or JPEG"
        ) from error


def _too_many_pixels() -> _UnsuitableImageError:
    return _UnsuitableImageError(f"more than {MAX_PIXELS:,} pixels", "shrink the image")


def _to_rgb(image: Any) -> Any:
    """Convert a Pillow image that may not be loaded yet."""
    if image.format is not None and image.format not in (*FORMATS, *JPEG_VARIANTS):
        raise _UnsuitableImageError(
            f"the format {image.format} is not read", f"give one of {', '.join(FORMATS)}, or a copy of the pixels"
        )
    if not all(image.size):
        raise _UnsuitableImageError("it has no pixels", "give an image that is not empty")
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels()
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise _UnsuitableImageError(
            f"{image.width:,} x {image.height:,} pixels: one side is more than {MAX_ASPECT_RATIO} times the other",
            "cut the image into pieces",
        )
    image.load()
    upright = _upright(_eight_bits(image))
    upright.info = {}  # the orientation in it has been applied
    return upright


def _eight_bits(image: Any) -> Any:
    """Convert an image to RGB. 16-bit grey is scaled; Pillow would cut off all that is brighter than 255."""
    import numpy as np
    from PIL import Image

    is_sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if is_sixteen_bit:
        values = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((values + DEPTH_RATIO // 2) // DEPTH_RATIO).astype(np.uint8))
        grey.info = image.info
        return grey.convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise _UnsuitableImageError(
            f"its pixels are of mode {image.mode}, whose black and white are not defined",
            "convert the image to 8 bits per channel",
        )
    return image.convert("RGB")


def _upright(image: Any) -> Any:
    """Turn an image as its EXIF orientation says; damaged metadata is ignored, as by image viewers."""
    from PIL.Image import Transpose

    orientation = 1
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    transpositions = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    transposition = transpositions.get(orientation)
    return image if transposition is None else image.transpose(transposition)
