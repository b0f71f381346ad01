"""Names of columns in imported templates: a card's fields, or columns that are read through ``row``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jinja2 import TemplateError, nodes
from jinja2.meta import find_undeclared_variables

from metalm_cli.tasks import Card
from metalm_cli.tasks.column_types import DRAFT_RESERVED_NAMES
from metalm_cli.tasks.expressions import ENVIRONMENT, ROW_NAME, names_in
from metalm_cli.templates.importers.draft import ImportRefused
from metalm_cli.templates.importers.row_shapes import TEXT_FILTERS, TEXT_METHODS

CHOICES = "answer_choices"
"""promptsource's name of the answer choices."""
ANSWER = "the_answer_of_the_card"
"""Name of the answer until columns are renamed; a column may be named ``answer``."""
UNUSED = "_"
"""Name of values that a template does not use."""


class ColumnNames:
    """New names of the columns that texts of a template read.

    A column that is only printed, or changed as a text, is a field; the others are read through ``row``, because fields
    are texts: columns that are lists, mappings or numbers to calculate with.

    Args:
        card: Card whose fields are used, if known; a column that is none of its fields is read through ``row``.
        texts: All texts of the template, in which :data:`ANSWER` stands for the answer.

    Raises:
        ImportRefused: A text is not valid.
    """

    def __init__(self, card: Card | None, texts: Sequence[str]) -> None:
        trees = [_parse(text) for text in texts]
        names = set().union(*map(find_undeclared_variables, trees)) - {ANSWER, CHOICES, UNUSED, *ENVIRONMENT.globals}
        structured = set().union(*map(_structured_names, trees))
        fields = {name: name for name in names - DRAFT_RESERVED_NAMES} if card is None else _fields_by_column(card)
        self.names = {
            name: fields[name] if name in fields and name not in structured else _column(name) for name in names
        }

    def rename(self, text: str) -> str:
        """Rename the columns in a text; local names stay, and a column whose name is assigned becomes a local name."""
        tree = _parse(text)
        free = find_undeclared_variables(tree)
        stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
        shadowed = sorted(name for name in free & stored if name in self.names and name != UNUSED)
        renamed = {name: self.names[name] for name in free - stored if name in self.names}
        renamed |= {CHOICES: "choices", ANSWER: "answer"}
        pieces: list[str] = []
        tokens = [(kind, value) for _, kind, value in ENVIRONMENT.lex(text)]
        for index, (kind, value) in enumerate(tokens):
            if kind == "name" and value in renamed and not _is_attribute(tokens, index):
                value = renamed[value]
            pieces.append(value)
        first_values = [f"{{% set {name} = {self.names[name]} %}}" for name in shadowed if self.names[name] != name]
        return "".join([*first_values, *pieces])


def _column(name: str) -> str:
    """Return the expression of a column; a column with the name of a method of mappings is read by its key.

    >>> _column("label"), _column("items")
    ('row.label', "row['items']")
    """
    return f"{ROW_NAME}['{name}']" if hasattr(dict, name) else f"{ROW_NAME}.{name}"


def _is_attribute(tokens: Sequence[tuple[str, str]], index: int) -> bool:
    """Whether a name is an attribute, a filter, or the name of an argument."""
    before = next((value for kind, value in reversed(tokens[:index]) if kind != "whitespace"), "")
    after = next((value for kind, value in tokens[index + 1 :] if kind != "whitespace"), "")
    return before in (".", "|") or (after == "=" and before in ("(", ","))


def _parse(text: str) -> nodes.Template:
    try:
        return ENVIRONMENT.parse(text)
    except TemplateError as error:
        raise ImportRefused(f"not valid Jinja: {error!s:.300}") from error


def _fields_by_column(card: Card) -> dict[str, str]:
    """Return the field of each column that a field is, perhaps without the spaces at its ends.

    A field name that the card does not read as a column is the column of another copy of the data.
    """
    columns = {
        re.sub(r"\s*\|\s*trim\Z|\.strip\(\)\Z", "", source.strip()): name for name, source in card.fields.items()
    }
    own = {column: name for column, name in columns.items() if column.isidentifier()}
    return {name: name for name in card.fields if name not in card.columns} | own


def _structured_names(tree: nodes.Template) -> set[str]:
    """Return the names that are used otherwise than as texts."""
    as_text: set[int] = set()
    for node in tree.find_all((nodes.Output, nodes.Filter, nodes.Call, nodes.Concat, nodes.Compare, nodes.Add)):
        as_text |= {id(child) for child in _texts_in(node)}
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load" and id(name) not in as_text}


def _texts_in(node: nodes.Node) -> list[nodes.Node]:
    """Return the parts of a node that it uses as texts."""
    match node:
        case nodes.Output() | nodes.Concat():
            return list(node.nodes)
        case nodes.Filter(node=nodes.Name() as value, name=name) if name in TEXT_FILTERS:
            return [value]
        case nodes.Call(node=nodes.Getattr(node=nodes.Name() as value, attr=name)) if name in TEXT_METHODS:
            return [value]
        case nodes.Compare(expr=left, ops=[nodes.Operand(op="eq" | "ne", expr=right)]):
            return [side for side, other in ((left, right), (right, left)) if _is_text(other)]
        case nodes.Add(left=left, right=right):
            return [side for side, other in ((left, right), (right, left)) if _is_text(other)]
    return []


def _is_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def expression_tree(source: str) -> nodes.Expr:
    """Parse an expression."""
    expression = printed_expression("{{ " + source + " }}")
    assert expression is not None, "an expression of a card is one expression"
    return expression


def printed_expression(text: str) -> nodes.Expr | None:
    """Return the expression that a text consists of; None for any other text."""
    match _parse(text.strip()).body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None


def bracketed_keys(text: str) -> Iterator[tuple[int, int, nodes.Expr]]:
    """Yield the places of ``answer_choices[key]`` in a text, with the key."""
    for match in re.finditer(rf"\b{CHOICES}\s*\[", text):
        depth = 1
        for end in range(match.end(), len(text)):
            depth += (text[end] == "[") - (text[end] == "]")
            if depth == 0:
                try:
                    names_in(text[match.end() : end])
                    yield match.start(), end + 1, expression_tree(text[match.end() : end])
                except (TemplateError, ImportRefused, AssertionError):
                    pass  # a slice, or a bracket in a text
                break
