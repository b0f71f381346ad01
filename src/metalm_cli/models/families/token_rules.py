"""Token rules and end tokens of checkpoints."""

from __future__ import annotations

from typing import Any

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.sessions import TokenRules


def token_rules(model: ModelConfig, config: Any) -> TokenRules:
    """Return the token rules of a checkpoint, or else those of the recipe."""
    saved = getattr(config, "metalm", None)
    if not saved:
        return TokenRules(**model.special_tokens.model_dump())
    with model_errors(config.name_or_path):
        return TokenRules(**saved["tokens"])


def generation_end_ids(model: Any) -> list[int]:
    """Return the tokens that end a text by a checkpoint's ``generation_config.json`` or ``config.json``.

    Raises:
        ValueError: They are not token ids.
    """
    end_ids = getattr(model.generation_config, "eos_token_id", None)
    listed = [] if end_ids is None else end_ids if isinstance(end_ids, list) else [end_ids]
    if not all(isinstance(token_id, int) for token_id in listed):
        raise ValueError(f"eos_token_id is {end_ids!r}, expected token ids")
    return listed
