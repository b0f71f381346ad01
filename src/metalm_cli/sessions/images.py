"""Reader of images: files, bytes and Pillow images, as upright RGB with 8 bits per channel."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
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


MISSING, BROKEN, TOO_LARGE, OUTSIDE = "image missing", "image broken", "image too large", "image outside its folder"
"""Reasons why an image is not read."""
MAX_NAME_LENGTH = 1024
"""Maximum characters of the name of an image file."""


class UnreadableImageError(MetalmError):
    """Error for an image that is not read; ``reason`` is one of those above."""

    def __init__(self, reason: str, what: str, **details: Any) -> None:
        super().__init__(what, **details)
        self.reason = reason


class _UnsuitableImageError(Exception):
    """An image that is not read, with the reason and the remedy."""

    def __init__(self, why: str, remedy: str, reason: str = BROKEN) -> None:
        super().__init__(why)
        self.remedy, self.reason = remedy, reason


@dataclass(frozen=True)
class ImageSource:
    """An image of a row, which is opened when it is docked.

    Args:
        name: Path of the file as the row has it; for an image in memory its name, or a description.
        root: Folder that contains the file; links must not lead out of it. None for an image in memory.
        data: Content of the file, if the row holds it.
    """

    name: str
    root: str | None = None
    data: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, value: Any, root: str | None) -> ImageSource:
        """Make the source of a value of a row.

        Args:
            value: Path, bytes, or ``{bytes, path}`` as the ``Image`` feature of ``datasets`` has it.
            root: Folder that paths start at; None: the rows hold their images.

        Raises:
            ValueError: The value is none of these, or a path without a folder that it could start at.
        """
        if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
            data, path = value.get("bytes"), value.get("path")
            if isinstance(data, bytes):
                return cls(path if isinstance(path, str) and path else f"{len(data):,} bytes", None, data)
            value = path
        if isinstance(value, bytes):
            return cls(f"{len(value):,} bytes", None, value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"got {value!r:.60}, expected an image: a path, bytes, or {{bytes, path}}")
        if len(value) > MAX_NAME_LENGTH or "\n" in value or "\0" in value:
            raise ValueError(f"got the text {value!r:.60}, expected an image: a path, bytes, or {{bytes, path}}")
        if "://" in value or value.startswith("data:"):
            raise ValueError(f"got the address {value!r:.80}; images are read from files: download them first")
        if root is None:
            raise ValueError(f"got the path {value!r:.80}, but the data has no folder of images: set image_folder")
        return cls(value, root)

    def path(self) -> Path:
        """Return the file of the image, without links in its path.

        Raises:
            UnreadableImageError: The file lies outside the folder of the images.
        """
        assert self.root is not None, "an image in memory has no file"
        root, path = os.path.realpath(self.root), os.path.realpath(os.path.join(self.root, self.name))
        if os.path.commonpath([root, path]) != root:
            raise UnreadableImageError(
                OUTSIDE,
                "an image lies outside the folder of the images",
                where=self.name[:300],
                why=f"the path leads to {path:.200}, the folder is {root:.200}",
                remedy="move the image into the folder, or set image_folder of the card",
            )
        return Path(path)


def content_kind(content: Any) -> str:
    """Kind of a docked content, for messages.

    >>> content_kind(ImageSource("photo.jpg", ".")), content_kind(5)
    ('image', 'int')
    """
    return "image" if isinstance(content, ImageSource) else type(content).__name__


def read_image(source: Any) -> Any:
    """Read an image as transformers does (``convert("RGB")``: transparency is dropped), upright by its EXIF tag.

    The first frame of an animation is read. 16-bit grey is scaled to 8 bits.

    Args:
        source: Path of a regular file in one of :data:`FORMATS`, an :class:`ImageSource`, or a Pillow image.

    Returns:
        A loaded Pillow image of mode RGB without metadata; reading it again changes nothing.

    Raises:
        MetalmError: The source is neither, the file cannot be read or has another format, or the image has more pixels,
            longer sides or another kind of pixels than are read.
    """
    return _with_image(source, _to_rgb)


def check_image(source: Any) -> None:
    """Check the file of an image and its size, without decoding its pixels.

    Raises:
        MetalmError: As :func:`read_image`, but for damage behind the header of the file.
    """
    _with_image(source, _check_size)


def _with_image(source: Any, use: Any) -> Any:
    from PIL import Image

    if not isinstance(source, Image.Image | str | Path | ImageSource):
        raise MetalmError(
            f"an image dock takes a path or a PIL image, got {type(source).__name__}",
            remedy='dock an image as Docked("vision", "photo.jpg")',
        )
    where = f"a PIL image of mode {source.mode}" if isinstance(source, Image.Image) else str(source)
    remedy, reason = "check the path and the file", BROKEN
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")  # Pillow warns of large images, damaged metadata and odd palettes
            if isinstance(source, Image.Image):
                return use(source)
            return use(stack.enter_context(_open_file(source)))
    except UnreadableImageError:
        raise
    except _UnsuitableImageError as error:
        why, remedy, reason = str(error), error.remedy, error.reason
    except OSError as error:
        why = error.strerror or str(error)
        reason = MISSING if isinstance(error, FileNotFoundError | NotADirectoryError) else BROKEN
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        why = f"{type(error).__name__}: {error}"
    raise UnreadableImageError(reason, "an image cannot be read", where=where[:300], why=why[:300], remedy=remedy)


def _open_file(source: str | Path | ImageSource) -> Any:
    from PIL import Image, UnidentifiedImageError

    file: Any = source
    if isinstance(source, ImageSource):
        file = source.path() if source.data is None else io.BytesIO(source.data)
    if isinstance(file, io.BytesIO):
        size = file.getbuffer().nbytes
    else:
        status = os.stat(file)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise _UnsuitableImageError("it is not a regular file", "name a file")
    if size > MAX_FILE_BYTES:
        raise _UnsuitableImageError(
            f"{size:,} bytes, at most {MAX_FILE_BYTES:,} are read", "shrink the image", TOO_LARGE
        )
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except UnidentifiedImageError as error:
        raise _UnsuitableImageError(
            f"its content has none of the formats {', '.join(FORMATS)}", "convert the image to PNG or JPEG"
        ) from error


def _too_many_pixels() -> _UnsuitableImageError:
    return _UnsuitableImageError(f"more than {MAX_PIXELS:,} pixels", "shrink the image", TOO_LARGE)


def _check_size(image: Any) -> None:
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
            TOO_LARGE,
        )


def _to_rgb(image: Any) -> Any:
    """Convert a Pillow image that may not be loaded yet."""
    _check_size(image)
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
