"""Sandboxed Jinja with resource limits: expressions of task cards over a row's columns, and texts of templates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MAX_TEXT_LENGTH = 1_000_000
"""Maximum characters of a rendered text."""
ROW_NAME = "row"
"""Name of the whole row in expressions, unless a column has this name."""
MAX_RANGE_LENGTH = 10_000
"""Maximum length of a ``range``."""


class SandboxEnvironment(ImmutableSandboxedEnvironment):
    """Jinja sandbox without private attributes, mutation, and operations that build huge texts."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False)
        self.globals = {"range": _bounded_range}
        for name in ("center", "indent", "format", "xmlattr", "random", "urlize", "pprint"):
            self.filters.pop(name, None)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Allow arithmetic only on numbers and within limits; text repetition and ``%`` formatting are rejected."""
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} works on numbers only")
        if operator == "**" and (abs(left) > 1_000 or abs(right) > 20):
            raise SecurityError("** works on small numbers only")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Reject also string methods that pad or format."""
        if attr in ("ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map", "translate"):
            return False
        return super().is_safe_attribute(obj, attr, value)


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE_LENGTH:
        raise SecurityError(f"a range of more than {MAX_RANGE_LENGTH:,}")
    return numbers


ENVIRONMENT = SandboxEnvironment()


def names_in(source: str, expression: bool = True) -> set[str]:
    """Return the names that an expression (or a template's text) reads.

    Raises:
        TemplateError: The source cannot be parsed.
    """
    return find_undeclared_variables(_parse(source, expression))


def _parse(source: str, expression: bool) -> nodes.Template:
    return ENVIRONMENT.parse("{{ " + source + " }}" if expression else source)


def _plain_parts(source: str, expression: bool) -> list[tuple[bool, str]] | None:
    """Split a source into literal texts (False) and plain names (True); None if it has any other expression."""
    match _parse(source, expression).body:
        case [nodes.Output(nodes=parts)]:
            plain_parts = [_plain_part(part) for part in parts]
            return None if None in plain_parts else [part for part in plain_parts if part is not None]
    return None


def _plain_part(part: nodes.Node) -> tuple[bool, str] | None:
    match part:
        case nodes.TemplateData(data=words):
            return False, words
        case nodes.Name(name=name):
            return True, name
    return None


def compile_expression(source: str) -> Callable[..., Any]:
    """Compile an expression to a function of a mapping.

    Returns:
        ``function(mapping)``; a missing name or attribute raises UndefinedError. The name ``row`` is the whole mapping,
        for columns whose names are not identifiers: ``row["Review Text"]``.

    Raises:
        TemplateError: The expression cannot be parsed.

    Example:
        >>> compile_expression("choices.label.index(key)")({"choices": {"label": ["A", "B"]}, "key": "B"})
        1
    """
    compiled = ENVIRONMENT.compile_expression(source, undefined_to_none=False)

    reads_row = ROW_NAME in names_in(source)
    parts = _plain_parts(source, expression=True) or []
    column = parts[0][1] if len(parts) == 1 and parts[0][0] else None  # fast path for the common case

    def evaluate(values: Any) -> Any:
        if column is not None and column in values:
            return values[column]
        value = compiled({ROW_NAME: values, **values} if reads_row else values)
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        return value

    return evaluate


def compile_text(source: str) -> Callable[..., str]:
    """Compile a template's text to a function of a mapping.

    Raises:
        TemplateError: The text cannot be parsed.
    """
    template = ENVIRONMENT.from_string(source)
    plain_parts = _plain_parts(source, expression=False)

    def render(values: Any) -> str:
        if plain_parts is not None:  # fast path for texts with plain names only
            texts = [values.get(part) if is_name else part for is_name, part in plain_parts]
            if all(isinstance(text, str) for text in texts) and sum(map(len, texts)) <= MAX_TEXT_LENGTH:
                return "".join(texts)
        pieces, size = [], 0
        for piece in template.generate(**values):
            size += len(piece)
            if size > MAX_TEXT_LENGTH:
                raise SecurityError(f"a text of more than {MAX_TEXT_LENGTH:,} characters")
            pieces.append(piece)
        return "".join(pieces)

    return render


__all__ = ["ENVIRONMENT", "SecurityError", "TemplateError", "compile_expression", "compile_text", "names_in"]
