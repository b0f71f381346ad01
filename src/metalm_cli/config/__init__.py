"""Recipes: schema, YAML parsing, layers, checks, and the provenance of each value.

The schema (pydantic) is loaded on first use of a name of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.config.resolution import Provenance, ResolvedRecipe, resolve, split_arguments

__all__ = ["Provenance", "ResolvedRecipe", "resolve", "split_arguments"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from metalm_cli.config import resolution

        return getattr(resolution, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
