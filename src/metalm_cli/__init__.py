"""Toolkit for MetaLM (arXiv 2206.06336): pretraining, multi-task finetuning, instruction tuning and evaluation.

Exports are lazy: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
