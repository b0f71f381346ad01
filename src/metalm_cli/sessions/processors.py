"""The part of an encoder that runs before the model: content in, arrays out.

A processor says how many decoder positions a content takes and which of the encoder's outputs are docked. It is plain
data and picklable, so that loader processes can use it without the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

RECENT = 64
"""Texts whose tokens a text processor keeps: limits ask for them before they are docked."""


class UnreadableContentError(MetalmError):
    """A content that its encoder cannot read; ``reason`` is ``empty`` or ``too_long``."""

    def __init__(self, reason: str, what: str, **details: Any) -> None:
        super().__init__(what, **details)
        self.reason = reason


@dataclass(frozen=True)
class DockInput:
    """One content as an encoder reads it.

    Args:
        encoder: Name of the encoder.
        arrays: Model inputs of one content, without a batch axis.
        docked: Which of the encoder's output positions are docked, in order. ``[p]`` int64.
        key: Digest of encoder and content: equal docks are encoded once.
        cost: Positions per stream (``{"text": 12}``), for packing and estimates.
    """

    encoder: str
    arrays: dict[str, np.ndarray]
    docked: np.ndarray
    key: bytes = field(repr=False)
    cost: dict[str, int]

    @property
    def positions(self) -> int:
        """Decoder positions that the dock takes."""
        return len(self.docked)


class Processor(Protocol):
    """What every encoder brings along to prepare its inputs; fused encoders take dicts and give both arrays."""

    encoder: str

    def prepare(self, content: Any) -> DockInput:
        """Read one content.

        Raises:
            UndockableError: The content is empty, or longer than the encoder reads.
        """

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        """Join inputs along a new batch axis, padded; outputs are indexed as ``[content, position]``."""

    def dummy(self) -> DockInput:
        """The smallest valid input."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what is needed to load the processor again."""


def digest(encoder: str, *arrays: np.ndarray) -> bytes:
    """A key of an encoder's input: equal inputs have equal keys."""
    state = hashlib.blake2b(encoder.encode(), digest_size=16)
    for array in arrays:
        state.update(f"{array.shape}{array.dtype.str}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()


class TextProcessor:
    """Texts for a text encoder: its own tokens, special tokens around, content tokens docked.

    Args:
        encoder: Name of the encoder.
        tokenizer: The encoder's fast tokenizer.
        max_length: Most encoder tokens, special tokens included.
        keep_special: Dock the outputs of special tokens too.
    """

    def __init__(self, encoder: str, tokenizer: Any, max_length: int, keep_special: bool = False) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.keep_special = keep_special
        self.pad_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._backend = backend_without_truncation(tokenizer)
        self._recent: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": {}}

    def encode(self, text: str) -> Any:
        """A text in the encoder's tokens, special ones included: an ``Encoding`` of the tokenizers library."""
        found = self._recent.get(text)
        if found is None:
            if len(self._recent) == RECENT:
                self._recent.clear()
            found = self._recent[text] = self._backend.encode(text)
        return found

    def prepare(self, content: str) -> DockInput:
        if not isinstance(content, str):
            raise MetalmError(
                f"the encoder {self.encoder!r} reads text, got {type(content).__name__}",
                remedy="dock a string, or name an encoder that reads this content",
            )
        encoding = self.encode(content)
        ids = np.array(encoding.ids, dtype=np.int64)
        content_at = (np.array(encoding.special_tokens_mask) == 0).nonzero()[0]
        if not len(content_at):
            raise UnreadableContentError(
                "empty",
                f"the encoder {self.encoder!r} reads {content[:40]!r} as empty",
                remedy="leave the dock out, or dock a text with content",
            )
        if len(ids) > self.max_length:
            raise UnreadableContentError(
                "too_long",
                f"a docked text has {len(ids)} tokens, the encoder {self.encoder!r} reads {self.max_length}",
                remedy="shorten the text, or raise max_length if the encoder has the positions",
            )
        docked = np.arange(len(ids)) if self.keep_special else content_at
        return DockInput(self.encoder, {"input_ids": ids}, docked, digest(self.encoder, ids), {"text": len(ids)})

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        longest = max(len(one.arrays["input_ids"]) for one in inputs)
        ids = np.full((len(inputs), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(inputs), longest), dtype=np.int64)
        for row, one in enumerate(inputs):
            length = len(one.arrays["input_ids"])
            ids[row, :length] = one.arrays["input_ids"]
            mask[row, :length] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def dummy(self) -> DockInput:
        ids = np.array([self.pad_id], dtype=np.int64)
        return DockInput(self.encoder, {"input_ids": ids}, np.array([0]), b"dummy", {"text": 1})

    def save_pretrained(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)


class ImageProcessor:
    """Images for a vision encoder: patches docked, class vectors left out.

    Args:
        encoder: Name of the encoder.
        processor: The encoder's Hugging Face image processor.
        docked: Output positions that are docked (the patches). ``[p]``
        shape: Shape of ``pixel_values`` of one image, for the dummy.
    """

    def __init__(self, encoder: str, processor: Any, docked: np.ndarray, shape: tuple[int, ...]) -> None:
        self.encoder = encoder
        self.processor = processor
        self.docked = docked
        self.shape = shape

    def prepare(self, content: Any) -> DockInput:
        pixels = self.processor(images=_image(content), return_tensors="np")["pixel_values"][0]
        pixels = np.asarray(pixels, dtype=np.float32)
        return self._input(pixels, digest(self.encoder, pixels))

    def _input(self, pixels: np.ndarray, key: bytes) -> DockInput:
        return DockInput(self.encoder, {"pixel_values": pixels}, self.docked, key, {"vision": len(self.docked)})

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([one.arrays["pixel_values"] for one in inputs])}

    def dummy(self) -> DockInput:
        return self._input(np.zeros(self.shape, dtype=np.float32), b"dummy")

    def save_pretrained(self, folder: str | Path) -> None:
        self.processor.save_pretrained(folder)


def _image(content: Any) -> Any:
    from PIL import Image, UnidentifiedImageError

    if isinstance(content, Image.Image):
        return content.convert("RGB")
    if not isinstance(content, str | Path):
        raise MetalmError(
            f"an image dock takes a path or a PIL image, got {type(content).__name__}",
            remedy='dock an image as Docked("vision", "photo.jpg")',
        )
    try:
        with Image.open(content) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MetalmError(
            "an image cannot be read",
            where=str(content),
            why=str(error),
            remedy="check the path and the file",
        ) from error
