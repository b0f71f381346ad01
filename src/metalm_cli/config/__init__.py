"""Recipes: the schema, YAML, layers, checks, and where each value came from.

``from metalm_cli.config import resolve`` loads the schema (pydantic) only when touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.config.resolution import Provenance, Resolved, resolve, split_arguments

__all__ = ["Provenance", "Resolved", "resolve", "split_arguments"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from metalm_cli.config import resolution

        return getattr(resolution, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
