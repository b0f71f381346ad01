"""Loading of language models of every family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalm_cli.inference.embeddings.image_text_model import ImageTextModel
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.pair_language_model import PairLanguageModel
from metalm_cli.models.checkpoint_io import load_model
from metalm_cli.models.dual_encoder.image_text_pairs import ImageTextTokenizer
from metalm_cli.sessions import DecoderTokenizer, Processor


def load(
    source: str | Path,
    *,
    base: str | Path | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    end_tokens: Sequence[str | int] = (),
) -> LanguageModel:
    """Load a finished model.

    Args:
        source: A run folder, its ``model/`` or ``adapter/``, any Hugging Face folder of a causal or encoder–decoder
            language model, or a hub id. A dual encoder is loaded as a model that embeds images and texts.
        base: Base model of an adapter; by default the path that its run recorded. The weights must be the same.
        offline: Do not connect to the hub.
        trust_remote_code: Run Python code from the model's repository; it has all your permissions.
        end_tokens: Further tokens that end a generated text, beside the model's own: tokens of the vocabulary as text,
            or token ids.

    Returns:
        The loaded model; a plain causal language model loads as a MetaLM without encoders.

    Raises:
        MetalmError: The source does not contain a model that can be loaded, or an end token is not a token of it.
    """
    loaded = load_model(source, base=base, offline=offline, remote_code=trust_remote_code, end_tokens=tuple(end_tokens))
    return language_model_of(*loaded, str(source))


def language_model_of(
    model: Any, tokenizer: DecoderTokenizer, processors: dict[str, Processor], source: str = ""
) -> LanguageModel:
    """Return the language model of a model, by its family; a dual encoder's embeds."""
    if isinstance(tokenizer, ImageTextTokenizer):
        return ImageTextModel(model, tokenizer, processors, source)
    if tokenizer.reads_pairs:
        return PairLanguageModel(model, tokenizer, processors, source)  # type: ignore[arg-type]
    return LanguageModel(model, tokenizer, processors, source)
