"""Values of a Python file that consist of literals, concatenations and a few known calls; nothing is executed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any

from metalm_cli.templates.importers.draft import ImportRefused

MAX_SIZE = 16 << 20
"""Maximum characters of all values."""
KNOWN_CALLS: Mapping[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": lambda value: value,  # values are never changed in place but by the reader, which copies them
    "dict": dict,
    "list": list,
    "tuple": tuple,
}
"""Calls with one argument that are computed."""


class _NotLiteral(Exception):
    """A value is not made of literals; the message says where."""


class Record(dict[str, Any]):
    """Values of a call of a class that the file defines with fields only: its defaults and the arguments."""


def read_values(text: str) -> dict[str, Any]:
    """Read the values that a file assigns to names.

    Imports, functions and loops are passed over; a name that a loop changes has no value. Classes of annotated fields
    are read as records.

    Raises:
        ImportRefused: The file is not Python, or a statement calls something that is not known.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ImportRefused(f"not valid Python: {error}") from error
    reader = _Reader()
    for statement in body:
        try:
            reader.read(statement)
        except RecursionError as error:
            raise ImportRefused(f"not valid Python: line {statement.lineno} is nested too deeply") from error
    return {name: _value_or_error(value) for name, value in reader.values.items()}


def _value_or_error(value: Any) -> Any:
    return ImportRefused(str(value)) if isinstance(value, _NotLiteral) else value


class _Reader:
    """Reads the statements of a file in order."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.classes: dict[str, dict[str, Any]] = {}
        self.size = 0

    def read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._assign(name, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self._assign(name, value)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=key)], value=value):
                self._change(name, lambda: {self._evaluate(key): self._evaluate(value)}, statement)
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update"), args=[value], keywords=[])
            ):
                self._change(name, lambda: dict(self._evaluate(value)), statement)
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr():
                raise ImportRefused(f"line {statement.lineno} is a call: template files are never executed")
            case ast.ClassDef(name=name, body=body):
                self._define(name, body)
            case _:
                for node in ast.walk(statement):
                    for target in _stored_names(node):
                        if target in self.values:
                            self.values[target] = self._not_literal(target, statement)

    def _assign(self, name: str, value: ast.expr) -> None:
        try:
            self.values[name] = self._evaluate(value)
        except _NotLiteral:
            self.values[name] = self._not_literal(name, value)

    def _change(self, name: str, change: Callable[[], dict[Any, Any]], statement: ast.stmt) -> None:
        try:
            self.values[name] = {**self._known(name), **change()}
        except (_NotLiteral, TypeError, ValueError):
            self.values[name] = self._not_literal(name, statement)

    def _define(self, name: str, body: list[ast.stmt]) -> None:
        fields: dict[str, Any] = {}
        for statement in body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                try:
                    fields[statement.target.id] = None if statement.value is None else self._evaluate(statement.value)
                except _NotLiteral:
                    return
        self.classes[name] = fields

    def _not_literal(self, name: str, node: ast.stmt | ast.expr) -> _NotLiteral:
        return _NotLiteral(f"{name} in line {node.lineno} is not a literal: template files are never executed")

    def _known(self, name: str) -> Any:
        value = self.values.get(name, _NotLiteral(name))
        if isinstance(value, _NotLiteral):
            raise value
        return value

    def _evaluate(self, node: ast.expr) -> Any:
        """Evaluate an expression of literals.

        Raises:
            _NotLiteral: It contains something else.
        """
        match node:
            case ast.Constant(value=str() as value):
                return self._measured(value)
            case ast.Constant(value=bool() | int() | float() | None as value):
                return value
            case ast.List(elts=items):
                return [self._evaluate(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self._evaluate(item) for item in items)
            case ast.Dict(keys=keys, values=values) if None not in keys:
                pairs = zip(keys, values, strict=True)
                return {self._evaluate(key): self._evaluate(value) for key, value in pairs if key is not None}
            case ast.Name(id=name):
                return self._known(name)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                first, second = self._evaluate(left), self._evaluate(right)
                if type(first) is type(second) and isinstance(first, str | list | tuple):
                    return self._measured(first + second)
            case ast.Subscript(value=owner, slice=key):
                return self._item(self._evaluate(owner), self._evaluate(key))
            case ast.Call():
                return self._call(node)
        raise _NotLiteral(ast.dump(node)[:80])

    def _call(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id in self.classes:
            fields = self.classes[node.func.id]
            arguments = dict(zip(fields, map(self._evaluate, node.args), strict=False))
            arguments |= {pair.arg: self._evaluate(pair.value) for pair in node.keywords if pair.arg is not None}
            return Record({**fields, **arguments})
        if not node.keywords and len(node.args) == 1 and (function := KNOWN_CALLS.get(ast.unparse(node.func))):
            try:
                return function(self._evaluate(node.args[0]))
            except (TypeError, ValueError) as error:
                raise _NotLiteral(str(error)) from error
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in ("join", "replace", "strip")
            and not node.keywords
        ):
            owner, values = self._evaluate(node.func.value), [self._evaluate(argument) for argument in node.args]
            if isinstance(owner, str) and all(isinstance(value, str | list | tuple) for value in values):
                try:
                    return self._measured(getattr(owner, node.func.attr)(*values))
                except TypeError as error:
                    raise _NotLiteral(str(error)) from error
        raise _NotLiteral(ast.unparse(node.func)[:80])

    def _item(self, owner: Any, key: Any) -> Any:
        try:
            return owner[key]
        except (LookupError, TypeError) as error:
            raise _NotLiteral(str(error)) from error

    def _measured(self, value: Any) -> Any:
        self.size += len(value)
        if self.size > MAX_SIZE:
            raise ImportRefused(f"more than {MAX_SIZE:,} characters in all")
        return value


def _stored_names(node: ast.AST) -> list[str]:
    """Return the names that a statement changes: assigned, or the owner of an item, attribute or changing method."""
    match node:
        case ast.Assign(targets=targets):
            return [name for target in targets if (name := _root_name(target))]
        case ast.AugAssign(target=target) | ast.Delete(targets=[target]):
            return [name for name in [_root_name(target)] if name]
        case ast.Call(func=ast.Attribute(value=owner)):
            return [name for name in [_root_name(owner)] if name]
    return []


def _root_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
