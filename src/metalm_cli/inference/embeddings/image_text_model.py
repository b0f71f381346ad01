"""Loaded dual encoders: embed images and texts, and compare them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.text_sessions import check_continues
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoder
from metalm_cli.models.dual_encoder.image_text_pairs import ImageTextTokeniser, ImageTextTokenizer
from metalm_cli.sessions import Processor
from metalm_cli.sessions.batch import dock_table
from metalm_cli.sessions.processors import DockInput

BATCH_SIZE = 32
"""Contents in a forward pass."""


class ImageTextModel(LanguageModel):
    """Finished dual encoder: embeddings of images and texts, whose products are cosines.

    Args:
        model: The model.
        tokenizer: Tokenizer of its text encoder.
        processors: Processors of both encoders, by name.
        source: Where the model comes from.
    """

    def __init__(
        self, model: DualEncoder, tokenizer: ImageTextTokenizer, processors: dict[str, Processor], source: str = ""
    ) -> None:
        super().__init__(model, tokenizer, processors, source)
        self.tokenise: ImageTextTokeniser = ImageTextTokeniser(tokenizer, processors)

    def parts(self) -> dict[str, nn.Module]:
        """Return the encoders, connectors and the logit scale by key path."""
        named: dict[str, nn.Module] = {f"encoders.{name}": part for name, part in self.model.encoders.items()}
        named |= {f"connectors.{name}": part for name, part in self.model.connectors.items()}
        return {**named, "logit_scale": self.model.logit_scale}

    def embed_images(self, images: Iterable[Any]) -> Tensor:
        """Embed images.

        Args:
            images: Paths, or Pillow images.

        Returns:
            Vectors of L2 norm 1. ``[n, d]``

        Raises:
            MetalmError: An image cannot be read.
        """
        processor = self.processors[self.model.image_encoder]
        return self.embed([processor.prepare(image) for image in images])

    def embed_texts(self, texts: Iterable[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: The texts.

        Returns:
            Vectors of L2 norm 1. ``[n, d]``

        Raises:
            MetalmError: A text is empty, or longer than the text encoder reads.
        """
        processor = self.processors[self.model.text_encoder]
        return self.embed([processor.prepare(text) for text in texts])

    def embed(self, docks: Sequence[DockInput]) -> Tensor:
        """Embed the inputs of one encoder: ``[n, d]``; equal inputs once."""
        return self._in_batches(docks, self.model.embed)

    def pool(self, docks: Sequence[DockInput]) -> Tensor:
        """Pool the outputs of one encoder for its inputs, before the projection: ``[n, width]``."""
        return self._in_batches(docks, self.model.pool)

    @torch.no_grad()
    def _in_batches(self, docks: Sequence[DockInput], compute: Callable[[str, Any], Tensor]) -> Tensor:
        if not docks:
            return torch.zeros(0, self.model.config.projection_dim)
        name, processor = docks[0].encoder, self.processors[docks[0].encoder]
        distinct = list({dock.key: dock for dock in docks}.values())
        index = {dock.key: number for number, dock in enumerate(distinct)}
        vectors = []
        for start in range(0, len(distinct), BATCH_SIZE):
            table = dock_table([(0, dock) for dock in distinct[start : start + BATCH_SIZE]], processor)
            vectors.append(compute(name, table.to(self.device)).float())
        return torch.cat(vectors)[[index[dock.key] for dock in docks]]

    def log_likelihood(self, *_arguments: Any, **_options: Any) -> Any:
        check_continues(self)

    def generate(self, *_arguments: Any, **_options: Any) -> Any:
        check_continues(self)

    def start(self, *_arguments: Any, **_options: Any) -> Any:
        check_continues(self)
