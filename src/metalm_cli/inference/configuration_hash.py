"""Hash of all that determines a model's answers besides its weights: configurations, tokenizers and token rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

IGNORED_KEYS = ("_name_or_path", "name_or_path", "transformers_version", "_from_model_config")
"""Keys of configurations that do not change answers: the location of a model and the version that saved it."""


def configuration_sha256(language_model: LanguageModel) -> str:
    """Compute the SHA-256 of a model's configurations, generation settings, tokenizers, token rules and processors.

    Models with the same weights and the same hash give the same answers, wherever they are stored.
    """
    model, decoder_tokenizer = language_model.model, language_model.decoder_tokenizer
    text_model: Any = getattr(model, "text_model", None)
    generation_config: Any = getattr(text_model, "generation_config", None)
    encoders: Mapping[str, Any] = dict(model.encoders.items())
    content = {
        "model": model.config.to_dict(),
        **({} if text_model is None else {"decoder": text_model.config.to_dict()}),
        "encoders": {name: encoder.config.to_dict() for name, encoder in encoders.items()},
        "generation": None if generation_config is None else generation_config.to_dict(),
        "rules": decoder_tokenizer.rules.to_dict(),
        "special_ids": [
            decoder_tokenizer.start_id,
            decoder_tokenizer.adds_start_token,
            decoder_tokenizer.document_end_id,
            decoder_tokenizer.pad_id,
            decoder_tokenizer.paragraph_id,
        ],
        **({"end_ids": sorted(end_ids)} if len(end_ids := decoder_tokenizer.end_ids) > 1 else {}),
        "tokenizer": _tokenizer_content(language_model.tokenizer),
        "processors": {name: _processor_content(processor) for name, processor in language_model.processors.items()},
    }
    return hashlib.sha256(json.dumps(_stable(content), sort_keys=True).encode()).hexdigest()


def _tokenizer_content(tokenizer: Any) -> list[Any]:
    return [
        backend_without_truncation(tokenizer).to_str(),
        sorted(tokenizer.all_special_ids),
        getattr(tokenizer, "clean_up_tokenization_spaces", None),
    ]


def _processor_content(processor: Any) -> list[Any]:
    tokenizer, image_processor = getattr(processor, "tokenizer", None), getattr(processor, "processor", None)
    return [
        None if tokenizer is None else _tokenizer_content(tokenizer),
        None if image_processor is None else image_processor.to_dict(),
        getattr(processor, "max_length", None),
        getattr(processor, "keep_special", None),
    ]


def _stable(value: Any) -> Any:
    """Return a value with text keys, without ignored keys, for JSON."""
    if isinstance(value, Mapping):
        return {str(key): _stable(inner) for key, inner in value.items() if key not in IGNORED_KEYS}
    if isinstance(value, list | tuple):
        return [_stable(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
