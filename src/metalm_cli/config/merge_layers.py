"""Layers of a recipe: the chain of ``extends``, then the command line, merged with what excludes what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.config import schema_types
from metalm_cli.config.locate import RecipeFile, find_recipe, read_recipe
from metalm_cli.config.renamed_keys import with_current_keys
from metalm_cli.config.schema.base import Section
from metalm_cli.config.yaml_nodes import YamlNode, parse, to_flow_yaml
from metalm_cli.errors import MetalmError

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
MAX_CHAIN = 16

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class OverriddenValue:
    """A value of an earlier layer that a later layer has pushed out.

    Args:
        key: Its dotted key.
        value: The value, on one line.
        where: Where it had been written.
        by: The key that pushed it out.
        by_where: Where that key was written.
    """

    key: str
    value: str
    where: str
    by: str
    by_where: str

    def __str__(self) -> str:
        return f"{self.key} ({self.where}) dropped: {self.by} is set ({self.by_where})"


@dataclass
class LayerStack:
    """The merged layers so far, and what they have dropped."""

    schema: type[Section]
    root: YamlNode = field(default_factory=lambda: YamlNode({}))
    dropped: list[OverriddenValue] = field(default_factory=list)

    def put(self, above: YamlNode) -> None:
        """Merge a layer above all others."""
        self.root = self._merge(self.root, above, self.schema, "")

    def override(self, key: str, value: YamlNode) -> None:
        """Set one dotted key above all layers; numbers address list items.

        Raises:
            MetalmError: When a list has no such item.
        """
        self.put(self._lift(self.root, key.split("."), value, self.schema, ""))

    def _merge(self, below: YamlNode, above: YamlNode, annotation: Any, path: str) -> YamlNode:
        if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
            if isinstance(below.value, dict) and below.value and above.value is None:
                self._note(path, below, path, above)
            return above
        section = schema_types.section_of(annotation, below.plain(), above.plain())
        kept = self._without_rivals(below.value, above.value, section, annotation, path)
        for key, node in above.value.items():
            inner = schema_types.child(section, annotation, key)
            kept[key] = self._merge(kept.get(key, YamlNode(None)), node, inner, schema_types.join(path, key))
        return YamlNode(kept, above.where, above.kind, above.layer)

    def _without_rivals(
        self,
        below: dict[str, YamlNode],
        above: dict[str, YamlNode],
        section: type[Section] | None,
        annotation: Any,
        path: str,
    ) -> dict[str, YamlNode]:
        kept = dict(below)
        if schema_types.fields_by_name(annotation):
            self._drop_other_objective(kept, above, path)
        if section is None:
            return kept
        for key, node in above.items():
            if node.value is None:
                continue
            for rival in schema_types.mutually_exclusive_keys(section, key):
                if self._drop(kept, rival, key, node, path):
                    self._drop_companions(kept, section, rival, key, node, path)
            old = kept.get(key, YamlNode(None))
            if not isinstance(node.value, dict) and old.value not in (None, node.value):
                self._drop_companions(kept, section, key, key, node, path)
        return kept

    def _drop_companions(
        self, kept: dict[str, YamlNode], section: type[Section], of: str, by: str, above: YamlNode, path: str
    ) -> None:
        for companion in section.companions.get(of, ()):
            self._drop(kept, companion, by, above, path)

    def _drop(self, kept: dict[str, YamlNode], key: str, by: str, above: YamlNode, path: str) -> bool:
        old = kept.get(key)
        if old is None or old.newest() >= above.newest():
            return False
        del kept[key]
        if old.value is not None:
            self._note(schema_types.join(path, key), old, schema_types.join(path, by), above)
        return old.value is not None

    def _drop_other_objective(self, kept: dict[str, YamlNode], above: dict[str, YamlNode], path: str) -> None:
        old, new = kept.get("name"), above.get("name")
        if old is None or new is None or old.value == new.value:
            return
        for key in [key for key in kept if key != "name"]:
            self._drop(kept, key, "name", new, path)

    def _note(self, key: str, old: YamlNode, by: str, above: YamlNode) -> None:
        self.dropped.append(OverriddenValue(key, to_flow_yaml(old.plain()), old.where, by, above.where))

    def _lift(self, below: YamlNode, parts: Sequence[str], value: YamlNode, annotation: Any, path: str) -> YamlNode:
        """The layer that sets one key: mappings down to it; a list on the way is copied with one item changed."""
        if not parts:
            return value
        part, rest = parts[0], parts[1:]
        if isinstance(below.value, list):
            return self._with_item(below, part, rest, value, annotation, path)
        section = schema_types.section_of(annotation, below.plain())
        inner = schema_types.child(section, annotation, part)
        old = below.value.get(part, YamlNode(None)) if isinstance(below.value, dict) else YamlNode(None)
        lifted = self._lift(old, rest, value, inner, schema_types.join(path, part))
        return YamlNode({part: lifted}, value.where, value.kind, value.layer)

    def _with_item(
        self, below: YamlNode, part: str, rest: Sequence[str], value: YamlNode, annotation: Any, path: str
    ) -> YamlNode:
        items = list(below.value)
        if not (part.isascii() and part.isdecimal()) or int(part) >= len(items):
            raise MetalmError(
                f"{path} has no item {part}",
                where=value.where,
                why=f"it is a list of {len(items)} ({below.where}), counted from 0",
                remedy=f"{path}=[...] replaces the list",
            )
        index, inner, inner_path = int(part), schema_types.item(annotation), schema_types.join(path, part)
        above = self._lift(items[index], rest, value, inner, inner_path)
        items[index] = self._merge(items[index], above, inner, inner_path)
        return YamlNode(items, below.where, below.kind, below.layer)


def read_layers(stack: LayerStack, found: RecipeFile) -> int:
    """Put a recipe and what it extends onto the stack, the farthest below.

    Args:
        stack: Where the layers go.
        found: The recipe.

    Returns:
        The number of layers read.

    Raises:
        MetalmError: For a file that cannot be read, a cycle, or too long a chain.
    """
    chain: list[tuple[RecipeFile, YamlNode]] = []
    seen: list[str] = []
    where = ""
    while True:
        identity = str(found.path.resolve())
        seen.append(identity)
        if identity in seen[:-1] or len(seen) > MAX_CHAIN:
            names = " -> ".join([below.name for below, _ in chain] + [found.name])
            what = "recipes extend each other in a circle" if identity in seen[:-1] else "recipes extend too deeply"
            raise MetalmError(what, where=where, why=names, remedy="remove one extends")
        node = read_recipe(found, 0)
        if found.recorded:
            node = with_current_keys(node, stack.schema)
        extends = node.value.pop("extends", YamlNode(None))
        chain.append((found, node))
        if extends.value is None:
            break
        where = extends.where
        if not isinstance(extends.value, str):
            raise MetalmError(
                f"extends: expected a recipe's name or path, got {to_flow_yaml(extends.plain())}",
                where=where,
                remedy="a recipe extends one other; chain them",
            )
        found = find_recipe(extends.value, beside=found.path, where=where)
    for layer, (_, node) in enumerate(reversed(chain), start=1):
        if layer < len(chain):
            node.value.pop("description", None)
        stack.put(_numbered(node, layer))
    return len(chain)


def _numbered(node: YamlNode, layer: int) -> YamlNode:
    value = node.value
    if isinstance(value, dict):
        value = {key: _numbered(inner, layer) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_numbered(inner, layer) for inner in value]
    return YamlNode(value, node.where, node.kind, layer)


def apply_command_line(stack: LayerStack, overrides: Sequence[str], flags: Mapping[str, Any], layer: int) -> None:
    """Put ``KEY=VALUE`` arguments and flags that stand for keys onto the stack, as one layer.

    Args:
        stack: Where they go.
        overrides: Arguments, their values read as YAML.
        flags: Values of flags by dotted key (``{"model.checkpoint": BASE}`` for ``--model BASE``).
        layer: Number of the layer.

    Raises:
        MetalmError: For an argument that is no override, a value that is not YAML, or a list item that is not there.
    """
    pairs = [read_override(override, layer) for override in overrides]
    pairs += [(key, _marked(value, layer)) for key, value in flags.items() if value is not None]
    for key, value in pairs:
        if key.split(".")[0] in ("extends", "command"):
            raise MetalmError(
                f"{key} cannot be set on the command line", where=COMMAND_LINE, remedy="write it in a recipe"
            )
        stack.override(key, value)


def read_override(argument: str, layer: int) -> tuple[str, YamlNode]:
    """The dotted key and the marked value of ``KEY=VALUE``.

    Raises:
        MetalmError: When it is no override, or its value is not YAML.
    """
    if not OVERRIDE.match(argument):
        raise MetalmError(f"{argument} is not an override", where=COMMAND_LINE, remedy="write KEY=VALUE")
    key, _, text = argument.partition("=")
    if "" in key.split("."):
        raise MetalmError(f"{key} is not a dotted key", where=COMMAND_LINE, remedy="write it as train.steps=100")
    # Anchors, aliases and tags mean nothing in one value: *.jsonl is a pattern there.
    if text[:1] in tuple("*&!%@`"):
        return key, YamlNode(text, COMMAND_LINE, "command line", layer)
    try:
        return key, parse(text, COMMAND_LINE, kind="command line", layer=layer)
    except MetalmError as error:
        raise MetalmError(
            f"the value of {key} is not valid YAML",
            where=COMMAND_LINE,
            why=f"{to_flow_yaml(text)}: {error.why or error.what}",
            remedy=f"quote it: '{key}=\"...\"'",
        ) from None


def _marked(value: Any, layer: int) -> YamlNode:
    if isinstance(value, dict):
        value = {key: _marked(inner, layer) for key, inner in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [_marked(inner, layer) for inner in value]
    return YamlNode(value, COMMAND_LINE, "command line", layer)
