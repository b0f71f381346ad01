"""Toolkit for MetaLM (arXiv 2206.06336): pretraining, multi-task finetuning, instruction tuning and evaluation.

Exports are lazy: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.errors import MetalmError
    from metalm_cli.evaluation.results.results import Results
    from metalm_cli.evaluation.run_evaluation import evaluate
    from metalm_cli.inference import LanguageModel, load
    from metalm_cli.inference.docks import encode
    from metalm_cli.inference.prefix import Prefix
    from metalm_cli.models import MetaLM, MetaLMConfig
    from metalm_cli.sessions import Causal, Docked, Session
    from metalm_cli.sessions.docks import Docks, load_docks

__version__ = "0.2.0"

_EXPORTS = {
    "Causal": "sessions",
    "Docked": "sessions",
    "Docks": "sessions.docks",
    "LanguageModel": "inference",
    "MetaLM": "models",
    "MetaLMConfig": "models",
    "MetalmError": "errors",
    "Prefix": "inference.prefix",
    "Results": "evaluation.results.results",
    "Session": "sessions",
    "encode": "inference.docks",
    "evaluate": "evaluation.run_evaluation",
    "load": "inference",
    "load_docks": "sessions.docks",
}

__all__ = [
    "Causal",
    "Docked",
    "Docks",
    "LanguageModel",
    "MetaLM",
    "MetaLMConfig",
    "MetalmError",
    "Prefix",
    "Results",
    "Session",
    "__version__",
    "encode",
    "evaluate",
    "load",
    "load_docks",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.models")  # accessing any export registers the Auto classes
    exported = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    return _without_inner_frames(exported) if isinstance(exported, FunctionType) else exported


def __dir__() -> list[str]:
    return sorted(__all__)


@functools.cache
def _without_inner_frames(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that the traceback of a MetalmError has no frames of the package and no earlier errors."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        from metalm_cli.errors import MetalmError

        try:
            return function(*arguments, **options)
        except MetalmError as error:
            raise error.with_traceback(None) from None

    return call
