"""YAML 1.2 (core schema) parsing, with the location of every value, and one-line output.

PyYAML implements YAML 1.1, in which ``no`` is a boolean, ``1e-4`` a string, ``012`` ten and ``1:30`` ninety. Only its
scanner and parser are used here; scalars are resolved by the core schema of YAML 1.2 (section 10.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from metalm_cli.common.unicode_text import well_formed
from metalm_cli.errors import MetalmError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Maximum number of values in a file; aliased values count once for each use."""
MAX_DEPTH = 40
MAX_INTEGER = 2**63 - 1
"""Greatest absolute value of a whole number."""

LayerKind = Literal["default", "recipe", "command line"]


@dataclass(slots=True)
class YamlNode:
    """A value with its location.

    Args:
        value: A scalar, a ``dict[str, YamlNode]`` or a ``list[YamlNode]``.
        where: ``file:line`` of the key (or list item), or ``command line``.
        kind: Kind of the value's layer.
        layer: Number of the layer; later layers have greater numbers.
        is_shipped: Whether a shipped recipe sets it.
    """

    value: Any
    where: str = ""
    kind: LayerKind = "recipe"
    layer: int = 0
    is_shipped: bool = False

    def plain(self) -> Any:
        """The value without locations: scalars, lists and dictionaries."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def newest_layer(self) -> int:
        """The greatest layer number within this value."""
        children: list[YamlNode] = []
        if isinstance(self.value, dict):
            children = list(self.value.values())
        elif isinstance(self.value, list):
            children = self.value
        return max([self.layer, *(node.newest_layer() for node in children)])


_CORE_SCHEMA: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile(r"(?:|~|null|Null|NULL)\Z"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE)\Z"), lambda text: True),
    (re.compile(r"(?:false|False|FALSE)\Z"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,4000}\Z"), int),
    (re.compile(r"0o[0-7]{1,4000}\Z"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,4000}\Z"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)\Z"), lambda text: float("nan")),
]


def parse_scalar(text: str) -> Any:
    """Resolve a plain (unquoted) scalar by the core schema of YAML 1.2.

    >>> [parse_scalar(text) for text in ("no", "1e-4", "012", "1:30", "~", "0x10")]
    ['no', 0.0001, 12, '1:30', None, 16]
    """
    for pattern, convert in _CORE_SCHEMA:
        if pattern.match(text):
            return convert(text)
    return text


def parse_yaml(text: str, name: str, *, kind: LayerKind = "recipe", layer: int = 0) -> YamlNode:
    """Parse one YAML document.

    Args:
        text: The document.
        name: File name for messages; for a command-line argument, ``command line``.
        kind: Kind of the layer that the values belong to.
        layer: Number of that layer.

    Returns:
        The root node. The location of each value is ``name:line`` (``name`` alone on the command line).

    Raises:
        MetalmError: Syntax error, duplicate key, tag, key that is not plain text, alias that contains itself, or
            whole number or document that is too large; with the line.
    """
    if len(text) > MAX_BYTES:
        raise MetalmError("YAML file is too large", where=name, why=f"expected at most {MAX_BYTES:,} characters")
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        is_tag = isinstance(error, yaml.constructor.ConstructorError)
        raise MetalmError(
            "not valid YAML",
            where=_location(name, mark.line if mark else None, kind),
            why=": ".join(part for part in (error.context, error.problem) if part),
            remedy="remove the tag"
            if is_tag
            else "indent with spaces, not tabs; quote text that contains ': ' or starts with a special character",
        ) from None
    except yaml.reader.ReaderError as error:
        where = _location(name, text.count("\n", 0, error.position), kind)
        raise MetalmError("not valid YAML", where=where, why=str(error).splitlines()[0]) from None
    except RecursionError:
        raise MetalmError("not valid YAML", where=name, why="nested too deeply") from None
    if root is None:
        return YamlNode(None, _location(name, 0, kind), kind, layer)
    return _Converter(name, kind, layer).convert(root, root, 0)


def _location(name: str, line: int | None, kind: LayerKind) -> str:
    return name if line is None or kind == "command line" else f"{name}:{line + 1}"


class _Loader(yaml.SafeLoader):
    """Safe loader that rejects explicit tags (after composition, they look like resolved tags)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"tags are not allowed, got {event.tag}", event.start_mark
            )
        return super().compose_node(parent, index)


class _Converter:
    """Converter of PyYAML's node graph to :class:`YamlNode`, which rejects features that recipes do not need."""

    def __init__(self, name: str, kind: LayerKind, layer: int) -> None:
        self.name, self.kind, self.layer = name, kind, layer
        self.count = 0

    def error(self, node: yaml.Node, what: str, why: str = "", remedy: str = "") -> MetalmError:
        return MetalmError(what, where=self.location(node), why=why, remedy=remedy)

    def location(self, node: yaml.Node) -> str:
        return _location(self.name, node.start_mark.line, self.kind)

    def convert(self, node: yaml.Node, located_node: yaml.Node, depth: int) -> YamlNode:
        """Convert a node; its location is the line of ``located_node`` (its key, or the node itself)."""
        self.count += 1
        if depth > MAX_DEPTH:
            raise self.error(
                node, "YAML is nested too deeply", "an alias may contain itself", "write the value without aliases"
            )
        if self.count > MAX_NODES:
            raise self.error(node, "YAML has too many values", f"expected at most {MAX_NODES:,}")
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self.convert_mapping(node, depth)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.convert(item, item, depth + 1) for item in node.value]
        else:
            assert isinstance(node, yaml.ScalarNode)
            value = parse_scalar(node.value) if node.style is None else self.repaired_text(node)
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise self.error(
                    node, "a whole number is too large", f"expected at most {MAX_INTEGER:,}", "quote it if it is text"
                )
        return YamlNode(value, self.location(located_node), self.kind, self.layer)

    def repaired_text(self, node: yaml.ScalarNode) -> str:
        """Return a key or a quoted text. JSON may write a character as two escapes, of which each alone is none."""
        text = well_formed(node.value)
        if "\ufffd" in text and "\ufffd" not in node.value:
            raise self.error(node, "a text holds half of a surrogate pair", remedy="write the character itself")
        return text

    def convert_mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, YamlNode]:
        entries: dict[str, YamlNode] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "a key must be plain text", "got a list or mapping as a key")
            key = self.repaired_text(key_node)
            if key == "<<" and not key_node.style:
                raise self.error(key_node, "merge keys are not allowed", "YAML 1.2 has no <<", "use extends")
            if key in entries:
                raise self.error(
                    key_node,
                    f"duplicate key {key}",
                    f"the key is also on line {lines[key]}",
                    "remove one of the two",
                )
            lines[key] = key_node.start_mark.line + 1
            entries[key] = self.convert(value_node, key_node, depth + 1)
        return entries


class _Dumper(yaml.SafeDumper):
    """Dumper of scalars that YAML 1.1 and YAML 1.2 parsers read as the same value."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    stays_text = isinstance(parse_scalar(value), str)
    style = None if stays_text and value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)


def to_flow_yaml(value: Any) -> str:
    """Format a value as YAML on one line.

    >>> print(to_flow_yaml({"a": [1, "no", 1e-08, "1e-4"]}))
    {a: [1, 'no', 1.0e-08, "1e-4"]}
    """
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
