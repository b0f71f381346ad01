"""Checking merged values against the schema, key by key, in our own words."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metalm_cli.config import schema_types
from metalm_cli.config.recipe_errors import RecipeProblem, quote_value
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.yaml_nodes import YamlNode


class Checker:
    """Builds the schema's objects from marked values and collects what is wrong on the way.

    Args:
        root: The section at the top.
    """

    def __init__(self, root: type[Section]) -> None:
        self.root = root
        self.problems: list[RecipeProblem] = []
        self.bad: set[str] = set()

    def build(self, node: YamlNode) -> Section | None:
        """The object, whole if nothing is wrong; with defaults in place of wrong values if something is.

        Returns:
            None when a required section is missing or is no mapping.
        """
        return self._section(self.root, node, "")

    def add(self, key: str, node: YamlNode | None, message: str, remedy: str = "") -> None:
        """Note a problem and that this key's value cannot be relied on."""
        self.bad.add(key)
        self.problems.append(RecipeProblem(key, message, remedy, node.where if node else ""))

    def _section(self, section: type[Section], node: YamlNode, path: str) -> Section | None:
        if not isinstance(node.value, dict):
            self._wrong(path, node, "a mapping")
            return None
        values: dict[str, Any] = {}
        missing = False
        entries = self._current_entries(section, node, path)
        for key, field in section.model_fields.items():
            inner_path = schema_types.join(path, key)
            inner = entries.get(key)
            if inner is None or self._taken_away(field.annotation, inner):
                if field.is_required():
                    missing = True
                    expected = schema_types.describe_type(
                        schema_types.is_complete_value(field), examples=field.examples
                    )
                    remedy = f"set {inner_path}: {field.description}" if field.description else f"set {inner_path}"
                    self.add(inner_path, node, f"missing, expected {expected}", remedy)
                continue
            former = section.renamed_values.get(key, {})
            if isinstance(inner.value, str) and inner.value in former:
                current = former[inner.value]
                self.add(inner_path, inner, f"{quote_value(inner.value)} is now {current}", f"write {current}")
                continue
            before = len(self.problems)
            value = self._value(schema_types.is_complete_value(field), inner, inner_path, field.examples)
            if len(self.problems) == before or isinstance(value, (Section, dict, list)):
                values[key] = value
            elif field.is_required():
                missing = True
        return None if missing else self._assemble(section, values, node, path)

    def _current_entries(self, section: type[Section], node: YamlNode, path: str) -> dict[str, YamlNode]:
        """The entries of a section; those with a former key are noted and stand under their present one."""
        entries: dict[str, YamlNode] = {}
        for key, inner in node.value.items():
            if key in section.model_fields:
                entries[key] = inner
            elif current := section.renamed.get(key):
                name = schema_types.join(path, current)
                self.add(schema_types.join(path, key), inner, f"this key is now {name}", f"write {name}")
                if current not in node.value:
                    entries[current] = inner
            else:
                self._unknown(section, key, inner, path)
        return entries

    def _taken_away(self, annotation: Any, node: YamlNode) -> bool:
        """Whether this is null over a mapping, which means: as if it had not been written."""
        if node.value is not None or schema_types.allows_null(annotation):
            return False
        return bool(schema_types.sections(annotation)) or any(
            get_origin(part) is dict for part in schema_types.members(annotation)
        )

    def _assemble(self, section: type[Section], values: dict[str, Any], node: YamlNode, path: str) -> Section:
        try:
            return section.model_validate(values)
        except ValidationError as error:
            for entry in error.errors(include_url=False):
                if entry["loc"] and isinstance(entry["input"], Section):
                    continue  # a section inside says again what has been noted for it
                misfit = entry.get("ctx", {}).get("error")
                key = ".".join([path, *(str(part) for part in entry["loc"])]).strip(".")
                message, remedy, at = entry["msg"], "", node
                if isinstance(misfit, InconsistentValues):
                    message, remedy = str(misfit), misfit.remedy
                    key = schema_types.join(key, misfit.key) if misfit.key else key
                if key in self.bad:
                    continue
                inner = key.removeprefix(path).strip(".").split(".")[0]
                self.add(key, node.value.get(inner, at), message, remedy)
        return section.model_construct(**values)

    def _value(self, annotation: Any, node: YamlNode, path: str, examples: list[Any] | None = None) -> Any:
        if isinstance(node.value, dict):
            named = schema_types.fields_by_name(annotation)
            if named:
                return self._named(named, node, path)
            choices = schema_types.sections(annotation)
            if choices:
                return self._section(choices[0], node, path)
            for part in schema_types.members(annotation):
                if get_origin(part) is dict and schema_types.sections(get_args(part)[1]):
                    return self._by_free_name(get_args(part)[1], node, path)
        if isinstance(node.value, list):
            for part in schema_types.members(annotation):
                if get_origin(part) is list and schema_types.sections(get_args(part)[0]):
                    return self._items(annotation, part, node, path)
        return self._leaf(annotation, node, path, examples)

    def _named(self, named: dict[str, type[Section]], node: YamlNode, path: str) -> Section | None:
        key = schema_types.join(path, "name")
        name = node.value.get("name")
        expected = ", ".join(named)
        if name is None:
            self.add(key, node, f"missing, expected one of {expected}", f"set {key}")
            return None
        if not isinstance(name.value, str) or name.value not in named:
            self.add(
                key, name, f"got {quote_value(name.plain())}, expected one of {expected}", _nearest(name.value, named)
            )
            return None
        return self._section(named[name.value], node, path)

    def _by_free_name(self, annotation: Any, node: YamlNode, path: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, inner in node.value.items():
            inner_path = schema_types.join(path, key)
            if not schema_types.NAME.match(key):
                self.add(
                    inner_path, inner, f"got the name {quote_value(key)}, expected letters, digits and _", "rename it"
                )
            elif inner.value is not None:
                values[key] = self._value(annotation, inner, inner_path)
        return {key: value for key, value in values.items() if value is not None}

    def _items(self, annotation: Any, part: Any, node: YamlNode, path: str) -> list[Any]:
        least = schema_types.limits(list(get_args(annotation)[1:]) if get_origin(annotation) is Annotated else [])
        if len(node.value) < least.get("min_length", 0):
            self._wrong(path, node, schema_types.describe_type(annotation))
        inner = get_args(part)[0]
        items = [self._value(inner, entry, schema_types.join(path, n)) for n, entry in enumerate(node.value)]
        return [entry for entry in items if entry is not None]

    def _leaf(self, annotation: Any, node: YamlNode, path: str, examples: list[Any] | None) -> Any:
        plain, leaf = node.plain(), schema_types.without_sections(annotation)
        if leaf is not None:
            with contextlib.suppress(ValidationError):
                return _adapter(leaf).validate_python(plain)
        self._wrong(path, node, schema_types.describe_type(annotation, examples=examples), _hint(annotation, plain))
        return None

    def _wrong(self, path: str, node: YamlNode, expected: str, remedy: str = "") -> None:
        self.add(path, node, f"got {quote_value(node.plain())}, expected {expected}", remedy)

    def _unknown(self, section: type[Section], key: str, node: YamlNode, path: str) -> None:
        known = list(section.model_fields)
        remedy = _nearest(key, known)
        if not remedy:
            elsewhere = [full for full, _, name, _ in schema_types.walk_keys(self.root) if name == key]
            elsewhere.sort(key=lambda full: full.count("."))
            remedy = f"did you mean {elsewhere[0]}?" if elsewhere else f"known here: {', '.join(known)}"
        self.add(schema_types.join(path, key), node, "unknown key", remedy)


def _nearest(got: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(got), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _hint(annotation: Any, value: Any) -> str:
    """A remedy for values that are nearly right."""
    parts = schema_types.members(annotation)
    if int in parts and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if (int in parts or float in parts) and isinstance(value, str):
        number = value.replace("_", "").replace(",", "")
        if number.replace(".", "", 1).isdigit():
            return f"write {number}"
    if bool in parts and str(value).lower() in ("yes", "on", "y", "1", "no", "off", "n", "0"):
        return f"write {'true' if str(value).lower() in ('yes', 'on', 'y', '1') else 'false'}"
    for part in parts:
        choices = [choice for choice in get_args(part) if isinstance(choice, str)]
        if choices and isinstance(value, str):
            return _nearest(value, choices)
    if str in parts and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'quote it: "{quote_value(value)}"'
    return ""


@functools.cache
def _cached_adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _cached_adapter(annotation)
    except TypeError:
        return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
