"""Processors: convert content into the input arrays of an encoder.

A processor determines how many decoder positions a content takes and which of the encoder's outputs are docked. It can
be pickled and needs no model, so that data loader processes can use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metalm_cli.errors import MetalmError
from metalm_cli.sessions.compression import Compression
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation
from metalm_cli.sessions.images import content_kind, read_image

MAX_CACHED_TEXTS = 64
"""Texts whose encodings a text processor caches: length checks encode a text before it is docked."""


class UnreadableContentError(MetalmError):
    """Error for content that its encoder cannot read; ``reason`` is ``empty`` or ``too_long``."""

    def __init__(self, reason: str, what: str, **details: Any) -> None:
        super().__init__(what, **details)
        self.reason = reason


@dataclass(frozen=True)
class DockInput:
    """Encoder input of one content.

    Args:
        encoder: Name of the encoder.
        arrays: Model inputs of one content, without a batch axis.
        output_positions: The encoder's output positions that are docked, in order. ``[p]`` int64.
        key: Digest of encoder and content: equal docks are encoded once.
        cost: Positions per stream (``{"text": 12}``), for packing and estimates.
        compressed: Number of decoder positions, if the connector gives another number of vectors than docked outputs.
        vectors: Vectors of the content that were computed before; the arrays are then empty. ``[p, d]``
        text_ids: The decoder's tokens of the content, for a teacher that reads it as text; None: not tokenised, or
            not a text. ``[n]`` int64.
    """

    encoder: str
    arrays: dict[str, np.ndarray]
    output_positions: np.ndarray
    key: bytes = field(repr=False)
    cost: dict[str, int]
    compressed: int | None = None
    vectors: np.ndarray | None = field(default=None, repr=False)
    text_ids: np.ndarray | None = field(default=None, repr=False)

    @property
    def positions(self) -> int:
        """Number of decoder positions that the dock takes."""
        return len(self.output_positions) if self.compressed is None else self.compressed


def dock_input(
    encoder: str,
    arrays: dict[str, np.ndarray],
    output_positions: np.ndarray,
    key: bytes,
    cost: dict[str, int],
    compression: Compression | None,
) -> DockInput:
    """Make a :class:`DockInput`, with the number of positions that a compression gives."""
    compressed = None if compression is None else compression.positions(len(output_positions))
    return DockInput(encoder, arrays, output_positions, key, cost, compressed)


class Processor(Protocol):
    """Interface of processors; that of a fused encoder takes a dict and returns the arrays of both modalities.

    Attributes:
        encoder: Name of the encoder.
        compression: Set if the connector gives another number of vectors than there are docked outputs; ``prepare`` and
            ``dummy`` then apply it (:func:`dock_input`).
    """

    encoder: str
    compression: Compression | None

    def prepare(self, content: Any) -> DockInput:
        """Convert one content into an encoder input.

        Raises:
            UnreadableContentError: The content is empty, or longer than the encoder reads.
        """

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        """Stack inputs along a new batch axis, with padding; outputs are indexed as ``[content, position]``."""

    def dummy(self) -> DockInput:
        """Return the smallest valid input."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the processor's files to a folder."""


def digest(encoder: str, *arrays: np.ndarray) -> bytes:
    """Hash an encoder's input: equal inputs have equal keys."""
    state = hashlib.blake2b(encoder.encode(), digest_size=16)
    for array in arrays:
        state.update(f"{array.shape}{array.dtype.str}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()


class TextProcessor:
    """Processor of a text encoder: adds the encoder's special tokens, and docks the content tokens.

    Args:
        encoder: Name of the encoder.
        tokenizer: The encoder's fast tokenizer.
        max_length: Maximum number of encoder tokens, including special tokens.
        keep_special: Also dock the outputs of special tokens.
        embedding_rows: Rows of the encoder's embeddings; a pad token beyond them is not used.
    """

    compression: Compression | None = None

    def __init__(
        self,
        encoder: str,
        tokenizer: Any,
        max_length: int,
        keep_special: bool = False,
        *,
        embedding_rows: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.keep_special = keep_special
        pad = tokenizer.pad_token_id
        has_pad = pad is not None and (embedding_rows is None or pad < embedding_rows)
        self.pad_id: int = pad if has_pad else 0
        self._backend = backend_without_truncation(tokenizer)
        self._encoding_cache: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoding_cache": {}}

    def encode(self, text: str) -> Any:
        """Tokenise a text with special tokens, into an ``Encoding`` of the tokenizers library."""
        encoding = self._encoding_cache.get(text)
        if encoding is None:
            if len(self._encoding_cache) == MAX_CACHED_TEXTS:
                self._encoding_cache.clear()
            encoding = self._encoding_cache[text] = self._backend.encode(text)
        return encoding

    def prepare(self, content: str) -> DockInput:
        if not isinstance(content, str):
            raise MetalmError(
                f"the encoder {self.encoder!r} reads text, got {content_kind(content)}",
                remedy="dock a string, or name an encoder that reads this content",
            )
        encoding = self.encode(content)
        ids = np.array(encoding.ids, dtype=np.int64)
        content_positions = (np.array(encoding.special_tokens_mask) == 0).nonzero()[0]
        if not len(content_positions):
            raise UnreadableContentError(
                "empty",
                f"the encoder {self.encoder!r} reads {content[:40]!r} as empty",
                remedy="remove the dock, or dock a text with content",
            )
        if len(ids) > self.max_length:
            raise UnreadableContentError(
                "too_long",
                f"a docked text has {len(ids)} tokens, the encoder {self.encoder!r} reads {self.max_length}",
                remedy="shorten the text, or raise max_length if the encoder has the positions",
            )
        docked = np.arange(len(ids)) if self.keep_special else content_positions
        key = digest(self.encoder, ids)
        return dock_input(self.encoder, {"input_ids": ids}, docked, key, {"text": len(ids)}, self.compression)

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        longest = max(len(dock_input.arrays["input_ids"]) for dock_input in inputs)
        ids = np.full((len(inputs), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(inputs), longest), dtype=np.int64)
        for index, dock_input in enumerate(inputs):
            length = len(dock_input.arrays["input_ids"])
            ids[index, :length] = dock_input.arrays["input_ids"]
            mask[index, :length] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def dummy(self) -> DockInput:
        ids = np.array([self.pad_id], dtype=np.int64)
        return dock_input(self.encoder, {"input_ids": ids}, np.array([0]), b"dummy", {"text": 1}, self.compression)

    def save_pretrained(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)


class ImageProcessor:
    """Processor of a vision encoder: patches are docked, class vectors are not.

    Args:
        encoder: Name of the encoder.
        processor: The encoder's Hugging Face image processor.
        output_positions: The encoder's output positions that are docked (the patches). ``[p]``
        shape: Shape of ``pixel_values`` of one image, for the dummy.
    """

    compression: Compression | None = None

    def __init__(self, encoder: str, processor: Any, output_positions: np.ndarray, shape: tuple[int, ...]) -> None:
        self.encoder = encoder
        self.processor = processor
        self.output_positions = output_positions
        self.shape = shape

    def prepare(self, content: Any) -> DockInput:
        pixels = self.processor(images=read_image(content), return_tensors="np")["pixel_values"][0]
        pixels = np.asarray(pixels, dtype=np.float32)
        return self._input(pixels, digest(self.encoder, pixels))

    def _input(self, pixels: np.ndarray, key: bytes) -> DockInput:
        cost = {"vision": len(self.output_positions)}
        return dock_input(self.encoder, {"pixel_values": pixels}, self.output_positions, key, cost, self.compression)

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([dock_input.arrays["pixel_values"] for dock_input in inputs])}

    def dummy(self) -> DockInput:
        return self._input(np.zeros(self.shape, dtype=np.float32), b"dummy")

    def save_pretrained(self, folder: str | Path) -> None:
        self.processor.save_pretrained(folder)


class FusedProcessor:
    """Processor of an encoder that reads an image and a text together: patches are docked, then content tokens.

    Args:
        encoder: Name of the encoder.
        text: Processor of the text.
        image: Processor of the image.
        image_outputs: Number of the encoder's outputs for an image, which come before those of the text.
    """

    compression: Compression | None = None

    def __init__(self, encoder: str, text: TextProcessor, image: ImageProcessor, image_outputs: int) -> None:
        self.encoder, self.text, self.image, self.image_outputs = encoder, text, image, image_outputs

    def prepare(self, content: Any) -> DockInput:
        if not isinstance(content, Mapping) or "image" not in content or content.keys() - {"image", "text"}:
            raise MetalmError(
                f"the encoder {self.encoder!r} reads an image and a text together, got {type(content).__name__}",
                remedy='dock {"image": "photo.jpg", "text": "What is this?"}; the text may be left out',
            )
        image, text = self.image.prepare(content["image"]), content.get("text", "")
        if not isinstance(text, str) or text.strip():
            return self._joined(image, self.text.prepare(text))
        ids = np.array(self.text.encode("").ids, dtype=np.int64)
        docked = np.arange(len(ids) if self.text.keep_special else 0)
        return self._joined(image, DockInput(self.encoder, {"input_ids": ids}, docked, b"", {"text": len(ids)}))

    def _joined(self, image: DockInput, text: DockInput) -> DockInput:
        arrays = {**text.arrays, **image.arrays}
        positions = np.concatenate([image.output_positions, self.image_outputs + text.output_positions])
        key = digest(self.encoder, *arrays.values())
        return dock_input(self.encoder, arrays, positions, key, {**text.cost, **image.cost}, self.compression)

    def collate(self, inputs: Sequence[DockInput]) -> dict[str, np.ndarray]:
        return {**self.text.collate(inputs), **self.image.collate(inputs)}

    def dummy(self) -> DockInput:
        return self._joined(self.image.dummy(), self.text.dummy())

    def save_pretrained(self, folder: str | Path) -> None:
        self.text.save_pretrained(folder)
        self.image.save_pretrained(folder)
