"""Inspection of the schema's types: the section at a key, its limits, and descriptions of its values."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from metalm_cli.config.schema.base import Section

FREE_KEY = re.compile(r"[A-Za-z_]\w*\Z")
"""Valid names of user-defined keys (encoder names), which become parts of dotted keys and of parameter names."""


def join_key(path: str, key: str | int) -> str:
    """Append a key or index to a dotted key.

    >>> join_key("data.sources", 0)
    'data.sources.0'
    """
    return f"{path}.{key}" if path else str(key)


def union_members(annotation: Any) -> list[Any]:
    """Return the members of a union type, without null.

    >>> union_members(int | str | None)
    [<class 'int'>, <class 'str'>]
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return union_members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for part in get_args(annotation) for inner in union_members(part)]
    return [] if annotation in (None, types.NoneType) else [annotation]


def allows_null(annotation: Any) -> bool:
    """Return whether a type allows null."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return allows_null(get_args(annotation)[0])
    return annotation is Any or types.NoneType in get_args(annotation)


def section_types(annotation: Any) -> list[type[Section]]:
    """Return the section classes among the members of a type."""
    return [part for part in union_members(annotation) if isinstance(part, type) and issubclass(part, Section)]


def sections_by_name(annotation: Any) -> dict[str, type[Section]]:
    """Return the sections of a union that is discriminated by ``name`` (objectives), by name; empty for other types."""
    choices = section_types(annotation)
    if len(choices) < 2:
        return {}
    return {get_args(choice.model_fields["name"].annotation)[0]: choice for choice in choices}


def without_sections(annotation: Any) -> Any:
    """Return a type without the union members that contain sections; None if no member is left."""
    with_sections = [
        part for part in union_members(annotation) if section_types(part) or section_types(item_type(part))
    ]
    if not with_sections:
        return annotation
    remaining = [part for part in union_members(annotation) if part not in with_sections]
    if allows_null(annotation):
        remaining.append(types.NoneType)
    return Union[tuple(remaining)] if remaining else None  # noqa: UP007


def section_of(annotation: Any, *values: Any) -> type[Section] | None:
    """Return the section class of a type; for a union of objectives, the one of the last ``name`` in ``values``."""
    by_name = sections_by_name(annotation)
    if not by_name:
        choices = section_types(annotation)
        return choices[0] if choices else None
    for value in reversed(values):
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return by_name.get(value["name"])
    return None


def item_type(annotation: Any) -> Any:
    """Return the item type of a list, or the value type of a mapping with user-defined keys; otherwise ``Any``."""
    for part in union_members(annotation):
        if get_origin(part) in (list, dict):
            return get_args(part)[-1]
    return Any


def child_type(section: type[Section] | None, annotation: Any, key: str) -> Any:
    """Return the type of the value at ``key`` inside a value of this type."""
    if section is None:
        return item_type(annotation)
    field = section.model_fields.get(key)
    return Any if field is None else constrained_type(field)


def constrained_type(field: FieldInfo) -> Any:
    """Return the type of a field, annotated with its limits."""
    if not field.metadata:
        return field.annotation
    return Annotated[(field.annotation, *field.metadata)]


def mutually_exclusive_keys(section: type[Section], key: str) -> list[str]:
    """Return the keys that must not be set together with ``key``."""
    alternatives = [other for group in section.one_of if key in group for other in group if other != key]
    return [*alternatives, *section.excludes.get(key, ())]


def walk_keys(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section], str, FieldInfo]]:
    """Yield every key of a section and its subsections, depth first, as ``(dotted key, section, name, field)``.

    List items have the key ``0``, user-defined names the key ``NAME``. The keys of all objectives are included.
    """
    seen: set[str] = set()
    for name, field in section.model_fields.items():
        key = join_key(path, name)
        yield key, section, name, field
        inner, inner_path = field.annotation, key
        while get_origin(container := (union_members(inner) or [None])[0]) in (list, dict):
            inner_path = join_key(inner_path, "0" if get_origin(container) is list else "NAME")
            inner = item_type(container)
        for choice in section_types(inner):
            for entry in walk_keys(choice, inner_path):
                if entry[0] not in seen:
                    seen.add(entry[0])
                    yield entry


def limits(metadata: list[Any]) -> dict[str, Any]:
    """Return the limits in a field's metadata by name (``ge``, ``lt``, ``min_length``, …)."""
    bounds: dict[str, Any] = {}
    for entry in metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            if getattr(entry, name, None) is not None:
                bounds[name] = getattr(entry, name)
    return bounds


def describe_type(annotation: Any, *, examples: list[Any] | None = None) -> str:
    """Describe the values of a type, for messages and the recipe reference.

    >>> describe_type(Literal["linear", "mlp"] | None)
    'linear, mlp or null'
    >>> from pydantic import Field
    >>> describe_type(Annotated[list[str], Field(min_length=1)] | None)
    'a list of texts (not empty) or null'
    >>> describe_type(Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)])
    'a whole number of at least 0 or a number above 0 and below 1'
    """
    bounds: dict[str, Any] = {}
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        bounds = limits(metadata)
        for entry in metadata:
            if isinstance(entry, FieldInfo):
                bounds |= limits(entry.metadata)
                examples = examples or entry.examples
        annotation = inner
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    members = [(member, bounds | _bounds_of(part)) for part in parts for member in union_members(part)]
    descriptions = [_describe_member(member, own_bounds, examples) for member, own_bounds in members]
    if annotation is Any:
        descriptions = ["any value"]
    if allows_null(annotation) and annotation is not Any:
        descriptions.append("null")
    distinct = list(dict.fromkeys(word for phrase in descriptions for word in phrase.split(" | ")))
    return distinct[0] if len(distinct) == 1 else f"{', '.join(distinct[:-1])} or {distinct[-1]}"


def _bounds_of(annotation: Any) -> dict[str, Any]:
    """Return the limits with which one member of a union is annotated."""
    bounds: dict[str, Any] = {}
    if get_origin(annotation) is Annotated:
        for entry in get_args(annotation)[1:]:
            bounds |= limits(getattr(entry, "metadata", [entry]))
    return bounds


def _describe_member(member: Any, bounds: dict[str, Any], examples: list[Any] | None) -> str:
    origin = get_origin(member)
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(member))
    if origin is list:
        size = bounds.get("min_length")
        count = f"{size} " if size is not None and size == bounds.get("max_length") else ""
        return f"a list of {count}{_describe_items(get_args(member)[0])}" + (" (not empty)" if size == 1 else "")
    if origin is dict or member is dict or (isinstance(member, type) and issubclass(member, Section)):
        return "a mapping"
    if member is bool:
        return "true | false"
    if member in (int, float):
        return ("a whole number" if member is int else "a number") + _describe_bounds(bounds)
    if "pattern" in bounds and examples:
        return "text such as " + ", ".join(str(example) for example in examples)
    return "text"


def _describe_items(annotation: Any) -> str:
    if section_types(annotation) or get_origin(annotation) is dict:
        return "texts and mappings" if str in union_members(annotation) else "mappings"
    member = (union_members(annotation) or [Any])[0]
    if get_origin(member) is Literal:
        return "/".join(str(choice) for choice in get_args(member))
    return {int: "whole numbers", float: "numbers", str: "texts"}.get(member, "values")


def _describe_bounds(bounds: dict[str, Any]) -> str:
    wording = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    phrases = [f"{words} {bounds[name]:g}" for name, words in wording.items() if name in bounds]
    return " " + " and ".join(phrases) if phrases else ""
