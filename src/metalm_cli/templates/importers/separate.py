"""Separation of a text that renders an input and a target into two texts, without rendering it.

promptsource renders a text first and splits the result at ``|||``. The separator may be inside branches of conditions:
each branch is then split by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from jinja2 import TemplateError

from metalm_cli.tasks.expressions import ENVIRONMENT, names_in
from metalm_cli.templates.importers.draft import ImportRefused

SEPARATOR = "|||"
_ENDS = {"if": ("elif", "else", "endif"), "for": ("else", "endfor")}
_CHANGE = re.compile(r"\.\s*(?:append|extend|insert|pop|update)\s*\(")
"""Call of a method that changes a list or mapping of the template."""
_RANDOM = re.compile(r"\|\s*(?:choice|random)\b(?!\s*\()")


@dataclass
class _Piece:
    """A literal text, an expression or a statement: ``kind`` is ``data``, ``expression`` or the statement's word."""

    kind: str
    source: str


@dataclass
class _Block:
    """A condition or loop: statements that open a branch, with the branch, and the statement that ends it."""

    kind: str
    branches: list[tuple[str, list[_Piece | _Block]]] = field(default_factory=list)
    end: str = ""


_Nodes = list[_Piece | _Block]


def separate(text: str) -> tuple[str, str]:
    """Separate a text at its ``|||``.

    Returns:
        Texts of the input and the target. Statements before the separator whose names the target reads are in both.
        A branch without separator has no target.

    Raises:
        ImportRefused: The text has no separator, or a row can pass more than one.

    Example:
        >>> separate("{% if a %}Say {{ a }}|||{{ b }}{% endif %}")
        ('{% if a %}Say {{ a }}{% endif %}', '{% if a %}{{ b }}{% endif %}')
    """
    try:
        tokens = iter(list(ENVIRONMENT.lex(_with_numbered_picks(text))))
        nodes, _ = _parse(_pieces(tokens), ())
    except TemplateError as error:
        raise ImportRefused(f"not valid Jinja: {error}") from error
    if not any(_holds_separator(node) for node in nodes):
        raise ImportRefused("no-separator: nothing separates the input from the target, expected |||")
    before, after = _split(nodes)
    input_text, target = _source(before), _source(after)
    statements = _statements(before)
    if _assigned(statements) & _names(target):
        target = _source(statements) + target
    return input_text.strip(), target.strip()


def _with_numbered_picks(text: str) -> str:
    """Number the picks at random, so that the input and the target pick the same."""
    places = count(1)
    return _RANDOM.sub(lambda match: f"| choice({next(places)})", text)


def _pieces(tokens: Iterator[tuple[int, str, str]]) -> Iterator[_Piece]:
    for _, kind, value in tokens:
        if kind == "data":
            yield _Piece("data", value)
        elif kind in ("variable_begin", "block_begin"):
            end, source, word = kind.replace("begin", "end"), value, ""
            for _, inner, part in tokens:
                source += part
                word = word or (part if inner == "name" else "")
                if inner == end:
                    break
            yield _Piece("expression" if kind == "variable_begin" else word, source)
        elif kind.startswith("raw"):
            raise ImportRefused("raw is not allowed in templates")


def _parse(pieces: Iterator[_Piece], ends: Sequence[str]) -> tuple[_Nodes, _Piece | None]:
    nodes: _Nodes = []
    for piece in pieces:
        if piece.kind in ends:
            return nodes, piece
        if piece.kind not in _ENDS:
            nodes.append(piece)
            continue
        block, opening = _Block(piece.kind), piece
        while True:
            body, closing = _parse(pieces, _ENDS[piece.kind])
            block.branches.append((opening.source, body))
            if closing is None:
                raise ImportRefused(f"not valid Jinja: {{% {piece.kind} %}} is never ended")
            if closing.kind.startswith("end"):
                block.end = closing.source
                break
            opening = closing
        nodes.append(block)
    return nodes, None


def _holds_separator(node: _Piece | _Block) -> bool:
    if isinstance(node, _Piece):
        return node.kind == "data" and SEPARATOR in node.source
    return any(_holds_separator(inner) for _, body in node.branches for inner in body)


def _split(nodes: _Nodes) -> tuple[_Nodes, _Nodes]:
    """Split a sequence: what follows the separator, or conditions whose branches have one, belongs to the target."""
    before: _Nodes = []
    after: _Nodes = []
    separated = ""
    for node in nodes:
        if not _holds_separator(node):
            prints = not isinstance(node, _Piece) or node.kind == "expression" or bool(node.source.strip())
            is_between = separated == "if" and (not prints or (isinstance(node, _Piece) and node.kind == "set"))
            (after if separated and not is_between else before).append(node)
            continue
        if separated and not (separated == "if" and isinstance(node, _Block)):
            raise ImportRefused("several-separators: more than one ||| between input and target")
        if isinstance(node, _Piece):
            if node.source.count(SEPARATOR) > 1:
                raise ImportRefused("several-separators: more than one ||| between input and target")
            first, _, rest = node.source.partition(SEPARATOR)
            halves_of_node: tuple[_Piece | _Block, _Piece | _Block] = _Piece("data", first), _Piece("data", rest)
        elif node.kind == "if":
            halves = [(opening, *_split(body)) for opening, body in node.branches]
            halves_of_node = (
                _Block("if", [(opening, half) for opening, half, _ in halves], node.end),
                _Block("if", [(opening, half) for opening, _, half in halves], node.end),
            )
        else:
            raise ImportRefused("several-separators: a loop repeats |||")
        separated = node.kind if isinstance(node, _Block) else "data"
        before.append(halves_of_node[0])
        after.append(halves_of_node[1])
    return before, after


def _source(nodes: _Nodes) -> str:
    texts = []
    for node in nodes:
        if isinstance(node, _Piece):
            texts.append(node.source)
        else:
            texts += [opening + _source(body) for opening, body in node.branches] + [node.end]
    return "".join(texts)


def _statements(nodes: _Nodes) -> _Nodes:
    """Return what assigns names or changes values, without what prints."""
    statements: _Nodes = []
    for node in nodes:
        if isinstance(node, _Piece):
            if node.kind == "set":
                statements.append(node)
            elif node.kind == "expression" and _CHANGE.search(node.source):
                statements.append(_Piece("change", "{% if " + node.source.strip("{}-+ \n") + " %}{% endif %}"))
        else:
            branches = [(opening, _statements(body)) for opening, body in node.branches]
            if any(body for _, body in branches):
                statements.append(_Block(node.kind, branches, node.end))
    return statements


def _assigned(nodes: _Nodes) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, _Piece) and node.kind == "set":
            names |= set(re.findall(r"\w+", node.source.partition("set")[2].partition("=")[0]))
        elif isinstance(node, _Block):
            names |= set().union(*(_assigned(body) for _, body in node.branches))
    return names


def _names(text: str) -> set[str]:
    try:
        return names_in(text, expression=False)
    except TemplateError as error:
        raise ImportRefused(f"not valid Jinja: {error}") from error
