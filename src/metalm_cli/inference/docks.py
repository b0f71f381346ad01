"""Encoding of contents whose docks many sessions read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.dock_cache import DockCache
from metalm_cli.inference.text_sessions import text_encoder
from metalm_cli.sessions.docks import Docks

POSITIONS = 2048
"""Encoder positions of a forward pass, padding included."""


@torch.no_grad()
def encode(model: LanguageModel, texts: Iterable[Any], encoder: str | None = None) -> Docks:
    """Encode contents once: each becomes the vectors that the decoder reads in its place.

    Args:
        model: A loaded MetaLM.
        texts: Contents of the encoder: texts, images, or mappings of both.
        encoder: Name of the encoder; default: that for texts.

    Returns:
        Docks in the order of the contents. ``metalm.Docked(encoder, docks[0])`` docks the first one.

    Raises:
        MetalmError: The model has no such encoder, or a content is empty or longer than the encoder reads.
    """
    if not isinstance(model, LanguageModel):
        raise MetalmError(f"got a {type(model).__name__} as model", remedy="pass a loaded model: metalm_cli.load(path)")
    if isinstance(texts, str):
        raise MetalmError("expected a list of texts, got a single text", remedy="write encode(model, [text])")
    name = encoder or (text_encoder(model) if model.processors else None)
    processor = model.processors.get(name or "")
    if name is None or processor is None:
        encoders = ", ".join(model.processors)
        raise MetalmError(
            f"the model has no encoder {encoder!r}" if encoder else "the model has no encoder that reads texts",
            why=f"its encoders: {encoders}" if encoders else "it docks nothing",
            remedy="name one of its encoders" if encoders else "use a MetaLM with encoders",
        )
    inputs = [_prepared(processor, content, index) for index, content in enumerate(texts)]
    cache = DockCache(model, POSITIONS, max_bytes=0)
    vectors = [vectors.float().cpu().numpy() for vectors in cache.vectors(inputs)]
    return Docks(vectors, model.dock_origin(name))


def _prepared(processor: Any, content: Any, index: int) -> Any:
    try:
        return processor.prepare(content)
    except MetalmError as error:
        raise MetalmError(error.what, where=f"texts[{index}]", why=error.why, remedy=error.remedy) from error
