"""What a template's text says without a row: its names, and its wording with fields as markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice, product

from jinja2 import nodes

from metalm_cli.tasks.expressions import ENVIRONMENT

FIRST_MARKER = 0xE100
MARKER = "[\ue100-\uefff]"
"""Matches what stands for a printed expression in a wording."""
LOOP = "\ue010"
"""Stands around what a loop repeats."""
QUOTED = {"{": "\ue020", "}": "\ue021"}
"""Stand for braces that are written as quoted text."""
MAX_WORDINGS = 64
FIELDS = "fields"


class TemplateAst:
    """A template's text, taken apart.

    Args:
        source: The text, Jinja.

    Raises:
        TemplateError: It cannot be parsed.

    Example:
        >>> found = TemplateAst("{{ text }}{% if answer == 'yes' %} (so {{ hypothesis }}){% endif %}")
        >>> sorted(found.printed), sorted(found.read)
        (['hypothesis', 'text'], ['answer', 'hypothesis', 'text'])
        >>> [found.shown(wording) for wording in found.wordings]
        ['{{ text }} (so {{ hypothesis }})', '{{ text }}']
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._markers: dict[str, str] = {}
        self.printed: set[str] = set()
        """Names whose values can stand in the text; ``fields`` if it prints them all."""
        self._bound: dict[str, set[str]] = {}
        tree = ENVIRONMENT.parse(source)
        self.read: set[str] = _read(tree)
        """Names that it prints or asks about; ``fields`` if it goes through them all."""
        self.wordings: list[str] = self._body(tree.body)
        """Its text in every case, at most 64: a marker for each printed expression."""

    def to_text(self, wording: str) -> str:
        """A wording, or a part of one, as people read it."""
        named = {marker: "{{ " + name + " }}" for name, marker in self._markers.items()}
        quoted = {mark: brace for brace, mark in QUOTED.items()}
        return "".join(named.get(char, quoted.get(char, char)) for char in wording if char != LOOP)

    def _body(self, body: Iterable[nodes.Node]) -> list[str]:
        return _joined([self._node(node) for node in body])

    def _node(self, node: nodes.Node) -> list[str]:
        if isinstance(node, nodes.Output):
            return _joined([self._expression(child) for child in node.nodes])
        if isinstance(node, nodes.If):
            cases = self._body(node.body)
            for other in node.elif_:
                cases += self._body(other.body)
            return _few(cases + self._body(node.else_))
        if isinstance(node, nodes.For):
            names = self._values(node.iter)
            self._bound.update(dict.fromkeys(_assigned(node.target), names))
            return _few([LOOP + text + LOOP for text in self._body(node.body)])
        if isinstance(node, nodes.Assign):
            self._bound.update({name: self._values(node.node) for name in _assigned(node.target)})
            return [""]
        inner = getattr(node, "body", None)
        return self._body(inner) if isinstance(inner, list) else [""]

    def _expression(self, node: nodes.Expr) -> list[str]:
        if isinstance(node, nodes.TemplateData):
            return [node.data]
        if isinstance(node, nodes.Const):
            return [re.sub("[{}]", lambda found: QUOTED[found[0]], str(node.value))]
        if isinstance(node, nodes.CondExpr):
            other = [""] if node.expr2 is None else self._expression(node.expr2)
            return _few(self._expression(node.expr1) + other)
        if isinstance(node, nodes.Concat):
            return _joined([self._expression(part) for part in node.nodes])
        names = self._values(node)
        self.printed |= names
        label = ", ".join(sorted(names)) or "an expression"
        return [self._markers.setdefault(label, chr(FIRST_MARKER + len(self._markers) % 3000))]

    def _values(self, node: nodes.Node) -> set[str]:
        """Names whose values an expression's value is made of."""
        if isinstance(node, nodes.Name):
            return self._bound.get(node.name, {node.name})
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            field = _field(node)
            return {field} if field else self._values(node.node)
        if isinstance(node, nodes.Compare | nodes.Test | nodes.Not):
            return set()
        if isinstance(node, nodes.CondExpr):
            kept = [node.expr1] if node.expr2 is None else [node.expr1, node.expr2]
            return set().union(*map(self._values, kept))
        children = [child for child in node.iter_child_nodes() if isinstance(child, nodes.Expr | nodes.Pair)]
        return set().union(*map(self._values, children)) if children else set()


@lru_cache(maxsize=4096)
def parse_template(source: str) -> TemplateAst:
    """The :class:`TemplateAst` of a text, kept."""
    return TemplateAst(source)


def _joined(parts: Sequence[list[str]]) -> list[str]:
    return _few("".join(pieces) for pieces in islice(product(*parts), MAX_WORDINGS))


def _few(texts: Iterable[str]) -> list[str]:
    return list(islice(dict.fromkeys(texts), MAX_WORDINGS))


def _assigned(target: nodes.Node) -> list[str]:
    return [target.name] if isinstance(target, nodes.Name) else [name.name for name in target.find_all(nodes.Name)]


def _field(node: nodes.Node) -> str | None:
    """The field that ``fields.x`` or ``fields["x"]`` reads; ``fields`` for ``fields.items()`` and the like."""
    if not (isinstance(node, nodes.Getattr | nodes.Getitem) and isinstance(node.node, nodes.Name)):
        return None
    if node.node.name != FIELDS:
        return None
    if isinstance(node, nodes.Getattr):
        return FIELDS if node.attr in ("items", "values", "keys") else node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else FIELDS


def _read(tree: nodes.Template) -> set[str]:
    from jinja2.meta import find_undeclared_variables

    names = set(find_undeclared_variables(tree))
    if FIELDS not in names:
        return names
    single = [
        field for kind in (nodes.Getattr, nodes.Getitem) for node in tree.find_all(kind) if (field := _field(node))
    ]
    uses = sum(node.name == FIELDS for node in tree.find_all(nodes.Name))
    return (names - {FIELDS}) | set(single) | ({FIELDS} if uses > len(single) else set())
