"""Syntax of templates and expressions: what they may contain, and the charges that are written into them.

Templates have no macros, blocks, includes or recursive loops, so each part of a template runs once for each item of the
loops around it.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

MAX_SOURCE_LENGTH = 100_000
"""Maximum characters of a template."""
MAX_NODES = 5_000
"""Maximum number of nodes of the syntax tree."""
MAX_DEPTH = 80
"""Maximum depth of nested nodes."""
MAX_LOOP_DEPTH = 5
"""Maximum depth of nested loops."""
MAX_INT_BITS = 4_096
"""Maximum size in bits of a number in a template, and of the operands of arithmetic."""
CHANGING_METHODS = frozenset({"append", "extend", "insert", "pop", "update"})
"""Methods that change lists and mappings, which a template has for those that it makes."""
ALLOWED_NODES: tuple[type[nodes.Node], ...] = (
    nodes.And,
    nodes.Assign,
    nodes.BinExpr,
    nodes.Call,
    nodes.Compare,
    nodes.Concat,
    nodes.CondExpr,
    nodes.Filter,
    nodes.For,
    nodes.Getattr,
    nodes.Getitem,
    nodes.If,
    nodes.Keyword,
    nodes.Literal,
    nodes.NSRef,
    nodes.Name,
    nodes.Operand,
    nodes.Output,
    nodes.Pair,
    nodes.Slice,
    nodes.Template,
    nodes.Test,
    nodes.UnaryExpr,
    nodes.With,
)


def check_tree(tree: nodes.Template, environment: Any) -> None:
    """Check that a template contains only what can be bounded.

    Raises:
        TemplateSyntaxError: It contains a forbidden statement, an unknown filter or test, or is too large or too deep.
    """
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 0)]
    count = 0
    while stack:
        node, depth, loops = stack.pop()
        count += 1
        loops += isinstance(node, nodes.For)
        line = node.lineno or 1
        if problem := _problem_of(node, environment):
            raise TemplateSyntaxError(problem, line)
        if count > MAX_NODES:
            raise TemplateSyntaxError(f"it has more than {MAX_NODES:,} parts", line)
        if depth > MAX_DEPTH:
            raise nested_too_deeply(line)
        if loops > MAX_LOOP_DEPTH:
            raise TemplateSyntaxError(f"more than {MAX_LOOP_DEPTH} nested loops", line)
        stack.extend((child, depth + 1, loops) for child in node.iter_child_nodes())


def nested_too_deeply(line: int) -> TemplateSyntaxError:
    """Error for a template that is nested too deeply."""
    return TemplateSyntaxError("it is nested too deeply", line)


def _problem_of(node: nodes.Node, environment: Any) -> str:
    if not isinstance(node, ALLOWED_NODES):
        return f"{type(node).__name__.lower()} is not allowed in templates"
    if isinstance(node, nodes.For) and node.recursive:
        return "a recursive loop is not allowed in templates"
    if isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value.bit_length() > MAX_INT_BITS:
        return "a number is too large"
    if isinstance(node, nodes.Filter) and node.name not in environment.filters:
        return f"the filter {node.name:.60} is unknown"
    if isinstance(node, nodes.Test) and node.name not in environment.tests:
        return f"the test {node.name:.60} is unknown"
    return ""


class ChargeWriter(NodeTransformer):
    """Writer of charges into a syntax tree: calls of the environment around what copies, compares or loops."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.changes_lists = False

    def visit_For(self, node: nodes.For) -> nodes.Node:
        count = nodes.Const(_node_count(node), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = self._call("iterate", [node.iter, count])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("concatenate", node.nodes)

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        is_constant = all(isinstance(child, nodes.Const) for child in node.iter_child_nodes())
        measured = node if is_constant or getattr(node, "ctx", "") == "store" else self._call("measured", [node])
        return self._call("own", [measured]) if self.changes_lists and not isinstance(node, nodes.Tuple) else measured

    visit_Tuple = visit_Dict = visit_List

    def visit_Template(self, node: nodes.Template) -> nodes.Node:
        self.changes_lists = any(child.attr in CHANGING_METHODS for child in node.find_all(nodes.Getattr))
        return self.generic_visit(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._call("measured", [node]) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        contains = any(operand.op in ("in", "notin") for operand in node.ops)
        if len(operands) == 2 and not contains and any(isinstance(operand, nodes.Const) for operand in operands):
            return node  # a comparison with a word or number of the template takes no longer than that
        node.expr = self._measured_operand(node.expr)
        for operand in node.ops:
            operand.expr = self._measured_operand(operand.expr)
        return node

    def _measured_operand(self, operand: nodes.Expr) -> nodes.Expr:
        return operand if isinstance(operand, nodes.Const) else self._call("measured", [operand])

    def _call(self, name: str, arguments: list[Any]) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name)
        call = nodes.Call(function, arguments, [], None, None, lineno=arguments[0].lineno)
        call.set_environment(self.environment)
        return call


def _node_count(node: nodes.Node) -> int:
    stack, count = [node], 0
    while stack:
        count += 1
        stack.extend(stack.pop().iter_child_nodes())
    return count
