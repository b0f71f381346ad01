"""Shapes of the columns that a template reads, inferred from how it reads them, and made-up rows of these shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from metalm_cli.tasks.expressions import ENVIRONMENT, ROW_NAME

MAX_ROWS = 24
"""Number of different made-up rows."""
MIN_LIST_LENGTH = 2
LIST_FILTERS = frozenset(
    [
        "batch",
        "choice",
        "first",
        "groupby",
        "join",
        "last",
        "list",
        "map",
        "max",
        "min",
        "most_frequent",
        "random",
        "reject",
        "rejectattr",
        "select",
        "selectattr",
        "slice",
        "sort",
        "sum",
        "unique",
    ]
)
NUMBER_FILTERS = frozenset({"abs", "float", "int", "round"})
TEXT_FILTERS = frozenset(
    {"capitalize", "lower", "replace", "string", "title", "trim", "truncate", "upper", "wordcount"}
)
SAME_TEXT = frozenset({"capitalize", "lower", "string", "strip", "trim"})
"""Filters and methods that change the case or the ends of a text only."""
KEPT_FILTERS = frozenset({"list", "reject", "rejectattr", "select", "selectattr", "sort", "unique"})
ELEMENT_FILTERS = frozenset({"choice", "first", "last", "max", "min", "random"})
TEXT_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "endswith",
        "find",
        "isdecimal",
        "isdigit",
        "isupper",
        "lower",
        "lstrip",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
    ]
)
MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})
NUMBER_OPERATORS = (nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)


@dataclass
class Shape:
    """What is known of a value.

    Args:
        keys: Shapes of its values by key, for a mapping.
        element: Shape of its elements, for a list.
        is_number: Whether it is a number.
        is_text: Whether it is a text.
        is_iterated: Whether it is read as a whole list, not letter by letter.
        values: Values that it is compared with, or that a list of the template holds.
    """

    keys: dict[str, Shape] = field(default_factory=dict)
    element: Shape | None = None
    is_number: bool = False
    is_text: bool = False
    is_iterated: bool = False
    values: list[Any] = field(default_factory=list)

    def key(self, name: str) -> Shape:
        """Return the shape of a value by its key."""
        return self.keys.setdefault(name, Shape())

    def elements(self) -> Shape:
        """Return the shape of the elements."""
        if self.element is None:
            self.element = Shape()
        return self.element

    @property
    def is_structured(self) -> bool:
        """Whether it is more than a text: a mapping, a list, or a number that is calculated with."""
        return bool(self.keys) or self.element is not None or self.is_number

    def sample(self, name: str, variant: int) -> Any:
        """Return a made-up value of the shape; variants differ in lengths, numbers and texts.

        In every second pair of variants equal variants have equal texts, so that a column can hold a value of another.
        """
        if self.keys and (self.element is None or not self.element.is_structured):
            return {key: shape.sample(f"{name} {key}", variant) for key, shape in self.keys.items()}
        if self.element is not None and not self.is_text and (self.is_iterated or variant // 4 % 2 == 0):
            length = MIN_LIST_LENGTH + variant % 5
            return [self.element.sample(f"{name} {index}", variant + index) for index in range(length)]
        if self.values and variant % (len(self.values) + 1) < len(self.values):
            return self.values[variant % (len(self.values) + 1)]
        if self.is_number:
            return variant % 3
        subject = name if variant // 2 % 2 else "any"
        return f"A made-up text ({subject}), number {variant}. It goes on" + " and on" * (variant % 3) + ". And it ends"


class _Reader:
    """Reads how a template uses the columns of a row."""

    def __init__(self, names: Shape) -> None:
        self.names = names
        self.locals: dict[str, Shape] = {}

    def read(self, node: nodes.Node) -> Shape:
        """Note how a node uses columns, and return the shape of its value."""
        if isinstance(node, NUMBER_OPERATORS):
            return self._read_number_operator(node)
        method = getattr(self, f"_read_{type(node).__name__}", None)
        if method is not None:
            shape: Shape = method(node)
            return shape
        for child in node.iter_child_nodes():
            self.read(child)
        return Shape()

    def _read_Name(self, node: nodes.Name) -> Shape:
        if node.name in self.locals:
            return self.locals[node.name]
        return self.names.key(node.name)

    def _read_Const(self, node: nodes.Const) -> Shape:
        return Shape(values=[node.value])

    def _read_List(self, node: nodes.List) -> Shape:
        items = [self.read(item) for item in node.items]
        return Shape(
            element=items[0] if items else Shape(), values=[shape.values[0] for shape in items if shape.values]
        )

    def _read_Getattr(self, node: nodes.Getattr) -> Shape:
        return self.read(node.node).key(node.attr)

    def _read_Getitem(self, node: nodes.Getitem) -> Shape:
        owner = self.read(node.node)
        if isinstance(node.arg, nodes.Slice):
            for part in (node.arg.start, node.arg.stop, node.arg.step):
                if part is not None:
                    self.read(part).is_number = not isinstance(part, nodes.Const)
            return owner
        if isinstance(node.arg, nodes.Const):
            return owner.key(node.arg.value) if isinstance(node.arg.value, str) else owner.elements()
        argument = self.read(node.arg)
        if isinstance(node.node, nodes.Dict):
            argument.values += [pair.key.value for pair in node.node.items if isinstance(pair.key, nodes.Const)]
        elif not argument.is_text and not argument.values:
            argument.is_number = True
        return owner.elements()

    def _read_Filter(self, node: nodes.Filter) -> Shape:
        shape = self.read(node.node) if node.node is not None else Shape()
        for argument in [*node.args, *(pair.value for pair in node.kwargs)]:
            self.read(argument)
        if node.name in LIST_FILTERS:
            shape.is_iterated = True
            element = shape.elements()
            attribute = _attribute(node)
            if attribute is not None:
                element = element.key(attribute)
            if node.name in ELEMENT_FILTERS:
                return element
            return shape if node.name in KEPT_FILTERS else Shape(element=element)
        if node.name in NUMBER_FILTERS:
            shape.is_number = True
            return Shape(is_number=True)
        if node.name in TEXT_FILTERS:
            shape.is_text = True
            return shape if node.name in SAME_TEXT else Shape(is_text=True)
        return shape if node.name == "default" else Shape(is_number=node.name == "length")

    def _read_Call(self, node: nodes.Call) -> Shape:
        arguments = [self.read(argument) for argument in node.args]
        for pair in node.kwargs:
            self.read(pair.value)
        if isinstance(node.node, nodes.Name):
            return self._read_function(node.node.name, arguments)
        if not isinstance(node.node, nodes.Getattr):
            return Shape()
        return self._read_method(self.read(node.node.node), node.node.attr, arguments)

    def _read_function(self, name: str, arguments: list[Shape]) -> Shape:
        if name == "zip":
            for argument in arguments:
                argument.is_iterated = True
                argument.elements()
            return Shape(element=Shape(keys={}, element=arguments[0].elements() if arguments else None))
        if name == "range":
            for argument in arguments:
                argument.is_number = True
            return Shape(element=Shape(is_number=True))
        return Shape()

    def _read_method(self, owner: Shape, name: str, arguments: list[Shape]) -> Shape:
        if name in TEXT_METHODS:
            owner.is_text = True
            if name in SAME_TEXT:
                return owner
            return Shape(element=Shape(is_text=True)) if "split" in name else Shape(is_text=True)
        if name in MAPPING_METHODS:
            return Shape(element=owner.elements())
        if name == "index" and arguments:
            value = owner.values[0] if owner.values else None
            if isinstance(value, str) and owner.element is None:
                arguments[0].values += list(value)
            else:
                arguments[0].values += owner.values
            return Shape(is_number=True)
        if name == "append" and arguments:
            owner.element = arguments[0]
        return Shape()

    def _read_Compare(self, node: nodes.Compare) -> Shape:
        left = self.read(node.expr)
        for operand in node.ops:
            right = self.read(operand.expr)
            if operand.op in ("in", "notin"):
                left.values += right.values
                right.values = [] if isinstance(operand.expr, nodes.Name) else right.values
                continue
            for side, other in ((left, operand.expr), (right, node.expr)):
                value = _constant(other)
                if value is None:
                    continue
                side.values += [value]
                if isinstance(value, int | float) and not isinstance(value, bool):
                    side.is_number = True
                    side.values += [value + 1, value - 1]
            if operand.op in ("lt", "lteq", "gt", "gteq"):
                left.is_number = right.is_number = True
        return Shape()

    def _read_Add(self, node: nodes.Add) -> Shape:
        left, right = self.read(node.left), self.read(node.right)
        for side, other in ((left, node.right), (right, node.left)):
            value = _constant(other)
            side.is_number = side.is_number or isinstance(value, int | float)
            side.is_text = side.is_text or isinstance(value, str)
        return Shape(is_number=left.is_number, is_text=left.is_text or right.is_text)

    def _read_For(self, node: nodes.For) -> Shape:
        values = self.read(node.iter)
        values.is_iterated = True
        names = node.target.items if isinstance(node.target, nodes.Tuple) else [node.target]
        outer = dict(self.locals)
        for name in names:
            if isinstance(name, nodes.Name):
                self.locals[name.name] = values.elements() if len(names) == 1 else Shape(is_text=True)
        self.locals["loop"] = Shape()
        for child in (*node.body, *node.else_, *([node.test] if node.test is not None else [])):
            self.read(child)
        self.locals = outer
        return Shape()

    def _read_Assign(self, node: nodes.Assign) -> Shape:
        value = self.read(node.node)
        if isinstance(node.target, nodes.Name):
            self.locals[node.target.name] = value
        elif isinstance(node.target, nodes.Tuple):
            self.locals.update({name.name: Shape() for name in node.target.find_all(nodes.Name)})
        return Shape()

    def _read_number_operator(self, node: nodes.BinExpr) -> Shape:
        for side in (node.left, node.right):
            self.read(side).is_number = True
        return Shape(is_number=True)

    def _read_CondExpr(self, node: nodes.CondExpr) -> Shape:
        self.read(node.test)
        if node.expr2 is not None:
            self.read(node.expr2)
        return self.read(node.expr1)


def _attribute(node: nodes.Filter) -> str | None:
    named = [pair.value for pair in node.kwargs if pair.key == "attribute"]
    first = node.args[:1] if node.name in ("selectattr", "rejectattr") else []
    arguments = named or first
    value = _constant(arguments[0]) if arguments else None
    return value if isinstance(value, str) else None


def _constant(node: nodes.Node | None) -> Any:
    if isinstance(node, nodes.Neg):
        value = _constant(node.node)
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, nodes.Const) else None


def column_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Infer the shapes of the columns that texts of a template read through ``row``."""
    names = Shape()
    for text in texts:
        _Reader(names).read(ENVIRONMENT.parse(text))
    return names.key(ROW_NAME).keys


def made_up_rows(columns: Mapping[str, Shape]) -> Iterator[dict[str, Any]]:
    """Make up rows of these columns."""
    for variant in range(MAX_ROWS):
        yield {name: shape.sample(name, variant) for name, shape in columns.items()}
