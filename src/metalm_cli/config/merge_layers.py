"""Merging the layers of a recipe: its ``extends`` chain, then the command line; excluded keys are dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.config import schema_types
from metalm_cli.config.locate import RecipeFile, find_recipe, read_recipe
from metalm_cli.config.renamed_keys import with_current_keys
from metalm_cli.config.schema.base import Section
from metalm_cli.config.yaml_nodes import YamlNode, parse_yaml, to_flow_yaml
from metalm_cli.errors import MetalmError

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
MAX_EXTENDS = 16

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class OverriddenValue:
    """A value of an earlier layer that was dropped by a key of a later layer.

    Args:
        key: Dotted key of the dropped value.
        value: The dropped value, as YAML on one line.
        where: Location of the dropped value.
        by_key: Dotted key that replaced or excluded it.
        by_where: Location of that key.
    """

    key: str
    value: str
    where: str
    by_key: str
    by_where: str

    def __str__(self) -> str:
        return f"{self.key} ({self.where}) dropped: {self.by_key} is set ({self.by_where})"


@dataclass
class LayerStack:
    """The layers merged so far, and the values dropped while merging."""

    schema: type[Section]
    root: YamlNode = field(default_factory=lambda: YamlNode({}))
    dropped: list[OverriddenValue] = field(default_factory=list)

    def push(self, above: YamlNode) -> None:
        """Merge a layer above all others."""
        self.root = self._merge(self.root, above, self.schema, "")

    def override(self, key: str, value: YamlNode) -> None:
        """Set one dotted key above all layers; numbers in the key are list indices.

        Raises:
            MetalmError: The list index is out of range.
        """
        self.push(self._layer_for_key(self.root, key.split("."), value, self.schema, ""))

    def _merge(self, below: YamlNode, above: YamlNode, annotation: Any, path: str) -> YamlNode:
        if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
            if isinstance(below.value, dict) and below.value and above.value is None:
                self._record_dropped(path, below, path, above)
            return above
        section = schema_types.section_of(annotation, below.plain(), above.plain())
        merged = self._without_excluded(below.value, above.value, section, annotation, path)
        for key, node in above.value.items():
            child_type = schema_types.child_type(section, annotation, key)
            merged[key] = self._merge(
                merged.get(key, YamlNode(None)), node, child_type, schema_types.join_key(path, key)
            )
        return YamlNode(merged, above.where, above.kind, above.layer)

    def _without_excluded(
        self,
        below: dict[str, YamlNode],
        above: dict[str, YamlNode],
        section: type[Section] | None,
        annotation: Any,
        path: str,
    ) -> dict[str, YamlNode]:
        remaining = dict(below)
        if schema_types.sections_by_name(annotation):
            self._drop_previous_objective(remaining, above, path)
        if section is None:
            return remaining
        for key, node in above.items():
            if node.value is None:
                continue
            for excluded_key in self._keys_excluded_by(section, key, node, remaining):
                if self._drop(remaining, excluded_key, key, node, path):
                    self._drop_companions(remaining, section, excluded_key, key, node, path)
            old = remaining.get(key, YamlNode(None))
            if not isinstance(node.value, dict) and old.value not in (None, node.value):
                self._drop_companions(remaining, section, key, key, node, path)
        return remaining

    def _keys_excluded_by(
        self, section: type[Section], key: str, node: YamlNode, remaining: dict[str, YamlNode]
    ) -> list[str]:
        def takes_part(name: str, value: YamlNode | None) -> bool:
            return (
                value is not None and value.value is not None and section.takes_part_in_exclusion(name, value.plain())
            )

        if not takes_part(key, node):
            return []
        excluded_keys = schema_types.mutually_exclusive_keys(section, key)
        return [excluded_key for excluded_key in excluded_keys if takes_part(excluded_key, remaining.get(excluded_key))]

    def _drop_companions(
        self,
        remaining: dict[str, YamlNode],
        section: type[Section],
        owner: str,
        by_key: str,
        above: YamlNode,
        path: str,
    ) -> None:
        for companion in section.companions.get(owner, ()):
            self._drop(remaining, companion, by_key, above, path)

    def _drop(self, remaining: dict[str, YamlNode], key: str, by_key: str, above: YamlNode, path: str) -> bool:
        old = remaining.get(key)
        if old is None or old.newest_layer() >= above.newest_layer():
            return False
        del remaining[key]
        if old.value is not None:
            self._record_dropped(schema_types.join_key(path, key), old, schema_types.join_key(path, by_key), above)
        return old.value is not None

    def _drop_previous_objective(self, remaining: dict[str, YamlNode], above: dict[str, YamlNode], path: str) -> None:
        old, new = remaining.get("name"), above.get("name")
        if old is None or new is None or old.value == new.value:
            return
        for key in [key for key in remaining if key != "name"]:
            self._drop(remaining, key, "name", new, path)

    def _record_dropped(self, key: str, old: YamlNode, by_key: str, above: YamlNode) -> None:
        self.dropped.append(OverriddenValue(key, to_flow_yaml(old.plain()), old.where, by_key, above.where))

    def _layer_for_key(
        self, below: YamlNode, parts: Sequence[str], value: YamlNode, annotation: Any, path: str
    ) -> YamlNode:
        """Build the layer that sets one key: nested mappings; a list on the path is copied with one item changed."""
        if not parts:
            return value
        part, remaining_parts = parts[0], parts[1:]
        if isinstance(below.value, list):
            return self._replace_item(below, part, remaining_parts, value, annotation, path)
        section = schema_types.section_of(annotation, below.plain())
        child_type = schema_types.child_type(section, annotation, part)
        old = below.value.get(part, YamlNode(None)) if isinstance(below.value, dict) else YamlNode(None)
        child_layer = self._layer_for_key(old, remaining_parts, value, child_type, schema_types.join_key(path, part))
        return YamlNode({part: child_layer}, value.where, value.kind, value.layer)

    def _replace_item(
        self, below: YamlNode, part: str, remaining_parts: Sequence[str], value: YamlNode, annotation: Any, path: str
    ) -> YamlNode:
        items = list(below.value)
        if not (part.isascii() and part.isdecimal()) or int(part) >= len(items):
            raise MetalmError(
                f"{path} has no item {part}",
                where=value.where,
                why=f"{path} is a list of {len(items)} ({below.where}), counted from 0",
                remedy=f"replace the whole list with {path}=[...]",
            )
        index, item_type, inner_path = int(part), schema_types.item_type(annotation), schema_types.join_key(path, part)
        above = self._layer_for_key(items[index], remaining_parts, value, item_type, inner_path)
        items[index] = self._merge(items[index], above, item_type, inner_path)
        return YamlNode(items, below.where, below.kind, below.layer)


def read_layers(stack: LayerStack, recipe_file: RecipeFile) -> int:
    """Push a recipe and all recipes that it extends onto the stack, base recipes first.

    Args:
        stack: The stack.
        recipe_file: The recipe.

    Returns:
        The number of layers.

    Raises:
        MetalmError: A file cannot be read, recipes extend each other in a cycle, or the chain is too long.
    """
    chain: list[tuple[RecipeFile, YamlNode]] = []
    visited: list[str] = []
    where = ""
    while True:
        identity = str(recipe_file.path.resolve())
        visited.append(identity)
        if identity in visited[:-1] or len(visited) > MAX_EXTENDS:
            names = " -> ".join([below.name for below, _ in chain] + [recipe_file.name])
            problem = (
                "recipes extend each other in a cycle"
                if identity in visited[:-1]
                else f"the extends chain is longer than {MAX_EXTENDS} recipes"
            )
            raise MetalmError(problem, where=where, why=names, remedy="remove one of the extends keys")
        node = read_recipe(recipe_file, 0)
        if recipe_file.is_run_record:
            node = with_current_keys(node, stack.schema)
        extends = node.value.pop("extends", YamlNode(None))
        chain.append((recipe_file, node))
        if extends.value is None:
            break
        where = extends.where
        if not isinstance(extends.value, str):
            raise MetalmError(
                f"extends: expected the name or path of one recipe, got {to_flow_yaml(extends.plain())}",
                where=where,
                remedy="to combine several recipes, chain them: each extends one other",
            )
        recipe_file = find_recipe(extends.value, beside=recipe_file.path, where=where)
    for layer, (layer_file, node) in enumerate(reversed(chain), start=1):
        if layer < len(chain):
            node.value.pop("description", None)
        stack.push(with_layer_number(node, layer, is_shipped=layer_file.shipped))
    return len(chain)


def with_layer_number(node: YamlNode, layer: int, *, is_shipped: bool = False) -> YamlNode:
    """Return a copy of a node, with all that it contains, in a layer; shipped values stay shipped."""
    value = node.value
    if isinstance(value, dict):
        value = {key: with_layer_number(inner, layer, is_shipped=is_shipped) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [with_layer_number(inner, layer, is_shipped=is_shipped) for inner in value]
    return YamlNode(value, node.where, node.kind, layer, node.is_shipped or is_shipped)


def apply_command_line(stack: LayerStack, overrides: Sequence[str], flags: Mapping[str, Any], layer: int) -> None:
    """Push ``KEY=VALUE`` arguments and option values onto the stack as one layer.

    Args:
        stack: The stack.
        overrides: ``KEY=VALUE`` arguments; values are parsed as YAML.
        flags: Values of options by dotted key (``{"model.checkpoint": BASE}`` for ``--model BASE``).
        layer: Number of the layer.

    Raises:
        MetalmError: An argument is not an override, a value is not valid YAML, or a list index is out of range.
    """
    pairs = [read_override(override, layer) for override in overrides]
    pairs += [(key, _to_node(value, layer)) for key, value in flags.items() if value is not None]
    for key, value in pairs:
        if key.split(".")[0] in ("extends", "command"):
            raise MetalmError(
                f"{key} cannot be set on the command line", where=COMMAND_LINE, remedy="set it in a recipe file"
            )
        stack.override(key, value)
    keys = [key for key, _ in pairs]
    if "description" not in keys and any(_changes_what_is_described(key) for key in keys):
        stack.root.value.pop("description", None)


def _changes_what_is_described(key: str) -> bool:
    """Whether a value on the command line replaces what the description of a recipe may be about."""
    return key.split(".")[0] in ("model", "data", "objective", "stages") and key != "model.checkpoint"


def read_override(argument: str, layer: int) -> tuple[str, YamlNode]:
    """Parse ``KEY=VALUE`` into the dotted key and a YAML node.

    Raises:
        MetalmError: The argument is not an override, or its value is not valid YAML.
    """
    if not OVERRIDE.match(argument):
        raise MetalmError(f"{argument} is not an override", where=COMMAND_LINE, remedy="write KEY=VALUE")
    key, _, text = argument.partition("=")
    if "" in key.split("."):
        raise MetalmError(f"{key} is not a dotted key", where=COMMAND_LINE, remedy="write it as train.steps=100")
    if not text.strip():
        raise MetalmError(
            f"the value of {key} is empty",
            where=COMMAND_LINE,
            why="a shell variable may be empty",
            remedy=f"give a value; {key}=null removes the key",
        )
    # Anchors, aliases and tags are useless in a single value, so *.jsonl is read as text (a glob).
    if text[:1] in tuple("*&!%@`"):
        return key, YamlNode(text, COMMAND_LINE, "command line", layer)
    try:
        return key, parse_yaml(text, COMMAND_LINE, kind="command line", layer=layer)
    except MetalmError as error:
        raise MetalmError(
            f"the value of {key} is not valid YAML",
            where=COMMAND_LINE,
            why=f"{to_flow_yaml(text)}: {error.why or error.what}",
            remedy=f"quote it: '{key}=\"...\"'",
        ) from None


def _to_node(value: Any, layer: int) -> YamlNode:
    if isinstance(value, dict):
        value = {key: _to_node(inner, layer) for key, inner in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [_to_node(inner, layer) for inner in value]
    return YamlNode(value, COMMAND_LINE, "command line", layer)
