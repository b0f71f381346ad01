"""Scoring and generation with finished models. Torch is imported only with a model, so that results load fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.inference.language_model import Conversation, LanguageModel
    from metalm_cli.inference.loading import load

__all__ = ["Conversation", "LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metalm_cli.inference import language_model, loading

    return getattr(loading if name == "load" else language_model, name)
