"""Translation of keys and values that were renamed since earlier versions.

The old names are in ``Section.renamed`` and ``Section.renamed_values``; ``Section.unrecorded`` has the values of keys
that records of earlier versions lack, where these are not the defaults. An old key in a user's recipe, card or
template is an error that gives the new name (:mod:`metalm_cli.config.validate`). The recipe that a run recorded is
translated when it is read.
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
    """Replace keys and values in a record of an earlier version by the current ones, and add those that it lacks.

    Args:
        value: A plain value or a :class:`YamlNode`.
        annotation: Type of the value in the schema.
    """
    if isinstance(value, YamlNode):
        return replace(value, value=with_current_keys(value.value, annotation))
    if isinstance(value, list):
        item_type = schema_types.item_type(annotation)
        return [with_current_keys(entry, item_type) for entry in value]
    if not isinstance(value, dict):
        return value
    section = schema_types.section_of(annotation, {key: _plain(entry) for key, entry in value.items()})
    current: dict[str, Any] = {}
    for key, entry in value.items():
        if section is not None and key not in section.model_fields:
            key = section.renamed.get(key, key)
        translated = with_current_keys(entry, schema_types.child_type(section, annotation, key))
        current[key] = _translate_values(translated, section.renamed_values.get(key, {}) if section else {})
    for key, entry in section.unrecorded.items() if section and current else ():
        if key not in current:
            current[key] = _node_like(next(iter(current.values())), entry)
    return current


def with_current_recipe_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Translate the plain values of a run's ``recipe.yaml`` to the current keys."""
    schema = RECIPES.get(str(values.get("command")), RECIPES["pretrain"])
    return with_current_keys(values, schema)


def fingerprint_json(section: Section, exclude: Collection[str] = ()) -> str:
    """Serialise a section as JSON with the keys and values of their first version, so that renaming keeps fingerprints.

    Keys that a section names in ``keys_without_effect`` are left out.

    Args:
        section: The section to fingerprint.
        exclude: Current names of keys to leave out.
    """
    return pydantic_core.to_json(_with_first_keys(section, exclude)).decode()


def _with_first_keys(value: Any, exclude: Collection[str] = ()) -> Any:
    if isinstance(value, Section):
        exclude = {*exclude, *getattr(value, "keys_without_effect", ())}
        first_keys = {current: key for key, current in value.renamed.items()}
        first_values = {name: {new: old for old, new in pairs.items()} for name, pairs in value.renamed_values.items()}
        return {
            first_keys.get(name, name): _translate_values(
                _with_first_keys(getattr(value, name)), first_values.get(name, {})
            )
            for name in type(value).model_fields
            if name not in exclude
        }
    if isinstance(value, dict):
        return {key: _with_first_keys(entry) for key, entry in value.items()}
    return [_with_first_keys(entry) for entry in value] if isinstance(value, list) else value


def _translate_values(value: Any, renamed: dict[str, str]) -> Any:
    if isinstance(value, YamlNode):
        return replace(value, value=_translate_values(value.value, renamed))
    if isinstance(value, list):
        return [_translate_values(entry, renamed) for entry in value]
    return renamed.get(value, value) if isinstance(value, str) else value


def _node_like(sibling: Any, value: Any) -> Any:
    """Return a plain value as a :class:`YamlNode` from the place of its sibling, if that is one."""
    if not isinstance(sibling, YamlNode):
        return value
    if isinstance(value, dict):
        value = {key: _node_like(sibling, entry) for key, entry in value.items()}
    return replace(sibling, value=value)


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, YamlNode) else value
