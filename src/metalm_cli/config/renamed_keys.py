"""Keys and values that earlier versions called otherwise (``Section.renamed``, ``Section.renamed_values``).

A recipe, card or template that a user writes with an old key gets an error that names the new one
(:mod:`metalm_cli.config.validate`). The recipe that a run recorded is translated when it is read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pydantic_core

from metalm_cli.config import schema_types
from metalm_cli.config.schema.base import Section
from metalm_cli.config.schema.recipes import RECIPES
from metalm_cli.config.yaml_nodes import YamlNode


def with_current_keys(value: Any, annotation: Any) -> Any:
    """A value with today's keys and values in place of those that earlier versions wrote.

    Args:
        value: Plain values, or marked ones (:class:`YamlNode`).
        annotation: Type of the value in the schema.
    """
    if isinstance(value, YamlNode):
        return replace(value, value=with_current_keys(value.value, annotation))
    if isinstance(value, list):
        inner = schema_types.item(annotation)
        return [with_current_keys(entry, inner) for entry in value]
    if not isinstance(value, dict):
        return value
    section = schema_types.section_of(annotation, {key: _plain(entry) for key, entry in value.items()})
    current: dict[str, Any] = {}
    for key, entry in value.items():
        if section is not None and key not in section.model_fields:
            key = section.renamed.get(key, key)
        translated = with_current_keys(entry, schema_types.child(section, annotation, key))
        current[key] = _with_values(translated, section.renamed_values.get(key, {}) if section else {})
    return current


def recorded_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe that a run recorded (plain values of its ``recipe.yaml``), with today's keys."""
    schema = RECIPES.get(str(values.get("command")), RECIPES["pretrain"])
    return with_current_keys(values, schema)


def fingerprint_json(section: Section, exclude: Collection[str] = ()) -> str:
    """A section as JSON with the keys and values of their first version, so that fingerprints outlive a renaming.

    Args:
        section: What enters a fingerprint.
        exclude: Present names of keys that do not.
    """
    return pydantic_core.to_json(_with_first_keys(section, exclude)).decode()


def _with_first_keys(value: Any, exclude: Collection[str] = ()) -> Any:
    if isinstance(value, Section):
        first = {current: key for key, current in value.renamed.items()}
        values = {name: {new: old for old, new in pairs.items()} for name, pairs in value.renamed_values.items()}
        return {
            first.get(name, name): _with_values(_with_first_keys(getattr(value, name)), values.get(name, {}))
            for name in type(value).model_fields
            if name not in exclude
        }
    if isinstance(value, dict):
        return {key: _with_first_keys(entry) for key, entry in value.items()}
    return [_with_first_keys(entry) for entry in value] if isinstance(value, list) else value


def _with_values(value: Any, renamed: dict[str, str]) -> Any:
    if isinstance(value, YamlNode):
        return replace(value, value=_with_values(value.value, renamed))
    if isinstance(value, list):
        return [_with_values(entry, renamed) for entry in value]
    return renamed.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, YamlNode) else value
