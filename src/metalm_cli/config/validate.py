"""Validation of merged values against the schema, key by key, with our own messages instead of pydantic's."""

from __future__ import annotations

import contextlib
import functools
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metalm_cli.common.registry import did_you_mean
from metalm_cli.config import schema_types
from metalm_cli.config.recipe_errors import MAX_LISTED, RecipeProblem, quote_value
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.schema.objectives import NOT_OBJECTIVES
from metalm_cli.config.yaml_nodes import MAX_INTEGER, YamlNode


class SchemaChecker:
    """Builder of schema objects from YAML nodes, which collects all problems.

    Args:
        root: Section class at the top level.
    """

    def __init__(self, root: type[Section]) -> None:
        self.root = root
        self.problems: list[RecipeProblem] = []
        self.invalid_keys: set[str] = set()

    def build(self, node: YamlNode) -> Section | None:
        """Build the object; after problems, defaults replace the invalid values.

        Returns:
            None if a required section is missing or is not a mapping.
        """
        return self._build_section(self.root, node, "")

    def add_problem(
        self, key: str, node: YamlNode | None, message: str, remedy: str = "", *, is_missing: bool = False
    ) -> None:
        """Record a problem and mark the value of its key as invalid."""
        self.invalid_keys.add(key)
        self.problems.append(RecipeProblem(key, message, remedy, node.where if node else "", is_missing=is_missing))

    def _build_section(self, section: type[Section], node: YamlNode, path: str) -> Section | None:
        if not isinstance(node.value, dict):
            self._add_type_problem(path, node, "a mapping")
            return None
        values: dict[str, Any] = {}
        missing = False
        entries = self._current_entries(section, node, path)
        for key, field in section.model_fields.items():
            child_path = schema_types.join_key(path, key)
            child = entries.get(key)
            if child is None or self._is_removed(field.annotation, child):
                if field.is_required():
                    missing = True
                    expected = schema_types.describe_type(schema_types.constrained_type(field), examples=field.examples)
                    remedy = f"set {child_path}: {field.description}" if field.description else f"set {child_path}"
                    self.add_problem(child_path, node, f"missing, expected {expected}", remedy, is_missing=True)
                continue
            if self._has_renamed_values(section.renamed_values.get(key, {}), child, child_path):
                continue
            problem_count = len(self.problems)
            value = self._build_value(schema_types.constrained_type(field), child, child_path, field.examples)
            if len(self.problems) == problem_count or isinstance(value, (Section, dict, list)):
                values[key] = value
            elif field.is_required():
                missing = True
        return None if missing else self._validate_section(section, values, node, path)

    def _current_entries(self, section: type[Section], node: YamlNode, path: str) -> dict[str, YamlNode]:
        """Return the entries of a section by current key; renamed and unknown keys are recorded as problems."""
        entries: dict[str, YamlNode] = {}
        for key, inner in node.value.items():
            if key in section.model_fields:
                entries[key] = inner
            elif current := section.renamed.get(key):
                name = schema_types.join_key(path, current)
                self.add_problem(schema_types.join_key(path, key), inner, f"this key is now {name}", f"write {name}")
                if current not in node.value:
                    entries[current] = inner
            else:
                self._add_unknown_key(section, key, inner, path)
        return entries

    def _has_renamed_values(self, renamed: dict[str, str], node: YamlNode, path: str) -> bool:
        """Return whether a value, or an entry of a list, has an old name; each is recorded as a problem."""
        entries = node.value if isinstance(node.value, list) else [node]
        old = [entry for entry in entries if isinstance(entry.value, str) and entry.value in renamed]
        for entry in old:
            current = renamed[entry.value]
            self.add_problem(path, entry, f"{quote_value(entry.value)} is now {current}", f"write {current}")
        return bool(old)

    def _is_removed(self, annotation: Any, node: YamlNode) -> bool:
        """Return whether the value is null in place of a mapping, which removes the mapping."""
        if node.value is not None or schema_types.allows_null(annotation):
            return False
        return bool(schema_types.section_types(annotation)) or any(
            get_origin(part) is dict for part in schema_types.union_members(annotation)
        )

    def _validate_section(self, section: type[Section], values: dict[str, Any], node: YamlNode, path: str) -> Section:
        try:
            return section.model_validate(values)
        except ValidationError as error:
            for entry in error.errors(include_url=False):
                if entry["loc"] and isinstance(entry["input"], Section):
                    continue  # the problem of a nested section, already recorded
                cause = entry.get("ctx", {}).get("error")
                key = ".".join([path, *(str(part) for part in entry["loc"])]).strip(".")
                message, remedy, is_missing = entry["msg"], "", False
                if isinstance(cause, InconsistentValues):
                    message, remedy, is_missing = str(cause), cause.remedy, cause.is_missing
                    if any(schema_types.join_key(key, name) in self.invalid_keys for name in cause.depends_on):
                        continue
                    key = schema_types.join_key(key, cause.key) if cause.key else key
                if key in self.invalid_keys:
                    continue
                first_part = key.removeprefix(path).strip(".").split(".")[0]
                source = node.value.get(first_part, node)
                self.add_problem(key, source, message, remedy, is_missing=is_missing)
        return section.model_construct(**values)

    def _build_value(self, annotation: Any, node: YamlNode, path: str, examples: list[Any] | None = None) -> Any:
        if isinstance(node.value, dict):
            by_name = schema_types.sections_by_name(annotation)
            if by_name:
                return self._build_named_section(by_name, node, path)
            choices = schema_types.section_types(annotation)
            if choices:
                return self._build_section(choices[0], node, path)
            for part in schema_types.union_members(annotation):
                if get_origin(part) is dict and schema_types.section_types(get_args(part)[1]):
                    return self._build_mapping(get_args(part)[1], node, path)
        if isinstance(node.value, list):
            for part in schema_types.union_members(annotation):
                if get_origin(part) is list and schema_types.section_types(get_args(part)[0]):
                    return self._build_list(annotation, part, node, path)
        return self._build_leaf(annotation, node, path, examples)

    def _build_named_section(self, by_name: dict[str, type[Section]], node: YamlNode, path: str) -> Section | None:
        key = schema_types.join_key(path, "name")
        name = node.value.get("name")
        expected = ", ".join(by_name)
        if name is None:
            self.add_problem(key, node, f"missing, expected one of {expected}", f"set {key}", is_missing=True)
            return None
        if not isinstance(name.value, str) or name.value not in by_name:
            self.add_problem(
                key,
                name,
                f"got {quote_value(name.plain())}, expected one of {expected}",
                NOT_OBJECTIVES.get(str(name.value)) or did_you_mean(name.value, by_name),
            )
            return None
        return self._build_section(by_name[name.value], node, path)

    def _build_mapping(self, annotation: Any, node: YamlNode, path: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, inner in node.value.items():
            inner_path = schema_types.join_key(path, key)
            if not schema_types.FREE_KEY.match(key):
                self.add_problem(
                    inner_path, inner, f"got the name {quote_value(key)}, expected letters, digits and _", "rename it"
                )
            elif inner.value is not None:
                values[key] = self._build_value(annotation, inner, inner_path)
        return {key: value for key, value in values.items() if value is not None}

    def _build_list(self, annotation: Any, list_type: Any, node: YamlNode, path: str) -> list[Any]:
        bounds = schema_types.limits(list(get_args(annotation)[1:]) if get_origin(annotation) is Annotated else [])
        if len(node.value) < bounds.get("min_length", 0):
            self._add_type_problem(path, node, schema_types.describe_type(annotation))
        item_type = get_args(list_type)[0]
        items = [
            self._build_value(item_type, entry, schema_types.join_key(path, index))
            for index, entry in enumerate(node.value)
        ]
        return [entry for entry in items if entry is not None]

    def _build_leaf(self, annotation: Any, node: YamlNode, path: str, examples: list[Any] | None) -> Any:
        plain, leaf_type = node.plain(), schema_types.without_sections(annotation)
        if leaf_type is not None:
            with contextlib.suppress(ValidationError):
                return _type_adapter(leaf_type).validate_python(plain)
        self._add_type_problem(
            path, node, schema_types.describe_type(annotation, examples=examples), _conversion_hint(annotation, plain)
        )
        return None

    def _add_type_problem(self, path: str, node: YamlNode, expected: str, remedy: str = "") -> None:
        self.add_problem(path, node, f"got {quote_value(node.plain())}, expected {expected}", remedy)

    def _add_unknown_key(self, section: type[Section], key: str, node: YamlNode, path: str) -> None:
        known = list(section.model_fields)
        if len(self.problems) >= MAX_LISTED:  # this problem is counted and not listed
            self.add_problem(schema_types.join_key(path, key), node, "unknown key")
            return
        remedy = did_you_mean(key, known)
        if not remedy:
            matching_keys = [dotted_key for dotted_key, _, name, _ in schema_types.walk_keys(self.root) if name == key]
            matching_keys.sort(key=lambda full: full.count("."))
            remedy = f"did you mean {matching_keys[0]}?" if matching_keys else f"known here: {', '.join(known)}"
        self.add_problem(schema_types.join_key(path, key), node, "unknown key", remedy)


def _conversion_hint(annotation: Any, value: Any) -> str:
    """Return a remedy for values that are nearly valid."""
    members = schema_types.union_members(annotation)
    if int in members and isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return f"write {int(value)}"
    if (int in members or float in members) and isinstance(value, str):
        number = value.replace("_", "").replace(",", "")
        if number.replace(".", "", 1).isdigit():
            return f"write {number}"
    if bool in members and str(value).lower() in ("yes", "on", "y", "1", "no", "off", "n", "0"):
        return f"write {'true' if str(value).lower() in ('yes', 'on', 'y', '1') else 'false'}"
    for member in members:
        choices = [choice for choice in get_args(member) if isinstance(choice, str)]
        if choices and isinstance(value, str):
            return did_you_mean(value, choices)
    if str in members and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'quote it: "{quote_value(value)}"'
    return ""


@functools.cache
def _cached_type_adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _type_adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _cached_type_adapter(annotation)
    except TypeError:
        return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
