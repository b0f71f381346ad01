"""Static analysis of a template's text: the names it reads, and its wordings with markers for expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice, product

from jinja2 import nodes

from metalm_cli.tasks.expressions import ENVIRONMENT, ROW_NAME

FIRST_MARKER = 0xE100
MARKER = "[\ue100-\uefff]"
"""Pattern of the markers of printed expressions in a wording."""
LOOP_MARKER = "\ue010"
"""Marker around the body of a loop."""
BRACE_MARKERS = {"{": "\ue020", "}": "\ue021"}
"""Markers of braces that are written as quoted text."""
MAX_WORDINGS = 64
FIELDS_NAME = "fields"


class TemplateAst:
    """The analysed text of a template.

    Args:
        source: The text, Jinja.

    Raises:
        TemplateError: The text cannot be parsed.

    Example:
        >>> ast = TemplateAst("{{ text }}{% if answer == 'yes' %} (so {{ hypothesis }}){% endif %}")
        >>> sorted(ast.printed_names), sorted(ast.read_names)
        (['hypothesis', 'text'], ['answer', 'hypothesis', 'text'])
        >>> [ast.to_text(wording) for wording in ast.wordings]
        ['{{ text }} (so {{ hypothesis }})', '{{ text }}']
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._markers: dict[str, str] = {}
        self.printed_names: set[str] = set()
        """Names whose values can occur in the text; ``fields`` if all fields are printed, ``row.x`` for a column."""
        self.whole_names: set[str] = set()
        """Names of which the text prints the whole value, not a part of it."""
        self._bound_names: dict[str, set[str]] = {}
        tree = ENVIRONMENT.parse(source)
        self.read_names: set[str] = _names_read(tree)
        """Names that the text prints or tests; ``fields`` if it iterates over all fields, ``row.x`` for a column."""
        self.wordings: list[str] = self._body_wordings(tree.body)
        """The text of every combination of branches, at most 64, with a marker for each printed expression."""

    def to_text(self, wording: str) -> str:
        """Convert a wording, or a part of it, to readable text."""
        expressions = {marker: "{{ " + name + " }}" for name, marker in self._markers.items()}
        braces = {mark: brace for brace, mark in BRACE_MARKERS.items()}
        return "".join(expressions.get(char, braces.get(char, char)) for char in wording if char != LOOP_MARKER)

    def _body_wordings(self, body: Iterable[nodes.Node]) -> list[str]:
        return _concatenate([self._node_wordings(node) for node in body])

    def _node_wordings(self, node: nodes.Node) -> list[str]:
        if isinstance(node, nodes.Output):
            return _concatenate([self._expression_wordings(child) for child in node.nodes])
        if isinstance(node, nodes.If):
            cases = self._body_wordings(node.body)
            for branch in node.elif_:
                cases += self._body_wordings(branch.body)
            return _distinct(cases + self._body_wordings(node.else_))
        if isinstance(node, nodes.For):
            names = self._names_in_value(node.iter)
            self._bound_names.update(dict.fromkeys(_assigned_names(node.target), names))
            return _distinct([LOOP_MARKER + text + LOOP_MARKER for text in self._body_wordings(node.body)])
        if isinstance(node, nodes.Assign):
            self._bound_names.update({name: self._names_in_value(node.node) for name in _assigned_names(node.target)})
            return [""]
        inner = getattr(node, "body", None)
        return self._body_wordings(inner) if isinstance(inner, list) else [""]

    def _expression_wordings(self, node: nodes.Expr) -> list[str]:
        if isinstance(node, nodes.TemplateData):
            return [node.data]
        if isinstance(node, nodes.Const):
            return [re.sub("[{}]", lambda match: BRACE_MARKERS[match[0]], str(node.value))]
        if isinstance(node, nodes.CondExpr):
            otherwise = [""] if node.expr2 is None else self._expression_wordings(node.expr2)
            return _distinct(self._expression_wordings(node.expr1) + otherwise)
        if isinstance(node, nodes.Concat):
            return _concatenate([self._expression_wordings(part) for part in node.nodes])
        names = self._names_in_value(node)
        self.printed_names |= names
        if _field_of(node) or (isinstance(node, nodes.Name) and node.name not in self._bound_names):
            self.whole_names |= names
        label = ", ".join(sorted(names)) or "an expression"
        return [self._markers.setdefault(label, chr(FIRST_MARKER + len(self._markers) % 3000))]

    def _names_in_value(self, node: nodes.Node) -> set[str]:
        """Return the names whose values an expression's value contains."""
        if isinstance(node, nodes.Name):
            return self._bound_names.get(node.name, set() if node.name in ENVIRONMENT.globals else {node.name})
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            field = _field_of(node)
            return {field} if field else self._names_in_value(node.node)
        if isinstance(node, nodes.Compare | nodes.Test | nodes.Not):
            return set()
        if isinstance(node, nodes.CondExpr):
            branches = [node.expr1] if node.expr2 is None else [node.expr1, node.expr2]
            return set().union(*map(self._names_in_value, branches))
        children = [child for child in node.iter_child_nodes() if isinstance(child, nodes.Expr | nodes.Pair)]
        return set().union(*map(self._names_in_value, children)) if children else set()


@lru_cache(maxsize=4096)
def parse_template(source: str) -> TemplateAst:
    """Return the cached :class:`TemplateAst` of a text."""
    return TemplateAst(source)


def _concatenate(parts: Sequence[list[str]]) -> list[str]:
    return _distinct("".join(pieces) for pieces in islice(product(*parts), MAX_WORDINGS))


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(islice(dict.fromkeys(texts), MAX_WORDINGS))


def _assigned_names(target: nodes.Node) -> list[str]:
    return [target.name] if isinstance(target, nodes.Name) else [name.name for name in target.find_all(nodes.Name)]


def _field_of(node: nodes.Node) -> str | None:
    """Return the field that ``fields.x`` or ``fields["x"]`` reads; ``fields`` for ``fields.items()`` and the like.

    A column, which ``row`` reads in the same way, is returned as ``row.x``.
    """
    if not (isinstance(node, nodes.Getattr | nodes.Getitem) and isinstance(node.node, nodes.Name)):
        return None
    owner = node.node.name
    if owner not in (FIELDS_NAME, ROW_NAME):
        return None
    if isinstance(node, nodes.Getattr):
        key = None if node.attr in ("items", "values", "keys") else node.attr
    else:
        key = node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else None
    if key is None:
        return owner
    return key if owner == FIELDS_NAME else f"{ROW_NAME}.{key}"


def _names_read(tree: nodes.Template) -> set[str]:
    from jinja2.meta import find_undeclared_variables

    names = set(find_undeclared_variables(tree))
    for owner in names & {FIELDS_NAME, ROW_NAME}:
        reads = [
            name
            for kind in (nodes.Getattr, nodes.Getitem)
            for node in tree.find_all(kind)
            if (name := _field_of(node)) and getattr(getattr(node, "node", None), "name", "") == owner
        ]
        uses = sum(node.name == owner for node in tree.find_all(nodes.Name))
        names |= set(reads)
        if uses == len(reads) and owner not in reads:
            names.discard(owner)
    return names
