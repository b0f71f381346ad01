"""Fields of a recipe's model config: names that the model type does not have."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import Any

from metalm_cli.common.registry import did_you_mean
from metalm_cli.errors import MetalmError

OTHER_FIELDS = frozenset(
    {"attn_implementation", "dtype", "partial_rotary_factor", "rope_scaling", "rope_theta", "torch_dtype"}
)
"""Fields that every config of transformers accepts, beside those that it saves."""
NEAR = 0.8
"""Least similarity of a misspelt name, from 0 to 1 (difflib's ratio)."""


def check_config_fields(kind: Any, names: Iterable[str], where: str) -> list[str]:
    """Check the names of a config's fields.

    transformers keeps a field of any name, so that a misspelt one would have no effect.

    Args:
        kind: The ``model_type``.
        names: Names of the fields.
        where: Key of the config in the recipe.

    Returns:
        Notes about fields that the model type does not have, and that resemble none of its fields.

    Raises:
        MetalmError: The model type is unknown, or a field resembles another one that the model type has.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise MetalmError(
            f"transformers has no model type {kind!r}",
            where=f"{where}.model_type",
            remedy=f"{did_you_mean(str(kind), CONFIG_MAPPING, NEAR)} set a model_type that transformers knows".strip(),
        )
    known = _field_names(CONFIG_MAPPING[kind])
    notes = []
    for name in () if known is None else sorted(set(names) - known):
        hint = did_you_mean(name, sorted(known or ()), NEAR)
        if hint:
            raise MetalmError(
                f"a {kind} config has no field {name}",
                where=f"{where}.{name}",
                remedy=f"{hint} its fields are those of {CONFIG_MAPPING[kind].__name__} in transformers",
            )
        notes.append(f"{where}.{name}: a {kind} config has no such field; it is saved, and may have no effect")
    return notes


def _field_names(config_class: Any) -> set[str] | None:
    """Names of the fields of a config class; None if it cannot be built without arguments."""
    try:
        saved = config_class().to_dict()
    except Exception:  # a composite config needs those of its parts
        return None
    parameters = {name for base in config_class.__mro__ for name in _parameters(base)}
    return {*saved, *getattr(config_class, "attribute_map", {}), *parameters, *OTHER_FIELDS}


def _parameters(base: type) -> Collection[str]:
    try:
        return inspect.signature(base.__init__).parameters  # type: ignore[misc]
    except (TypeError, ValueError):
        return ()
