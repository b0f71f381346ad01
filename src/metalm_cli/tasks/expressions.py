"""Sandboxed Jinja with resource limits: expressions of task cards over a row's columns, and texts of templates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateRuntimeError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MAX_TEXT_LENGTH = 1_000_000
"""Maximum characters of a rendered text, if its values are short."""
MAX_REPETITIONS = 4
"""A rendered text may also have this many times the characters of its values."""
ROW_NAME = "row"
"""Name of the whole row in expressions, unless a column has this name."""
MAX_RANGE_LENGTH = 10_000
"""Maximum length of a ``range``."""


class UncalledMethodError(TemplateRuntimeError):
    """An expression names a method without calling it, where a text is expected."""


class _Method:
    """A method that an expression names; it can be called, and has no text (Python's would hold a memory address)."""

    def __init__(self, method: Callable[..., Any], name: str) -> None:
        self.method, self.name = method, name

    def __str__(self) -> str:
        raise UncalledMethodError(f"{self.name} is a method of the value, not a text: call it, {self.name}()")

    def __repr__(self) -> str:
        return f"the method {self.name}"


def _without_text_if_method(value: Any, name: Any) -> Any:
    return _Method(value, str(name)) if callable(value) and not isinstance(value, Undefined) else value


def _check_printed_value(value: Any) -> Any:
    """Accept texts, numbers, booleans and none as printed values; undefined values and methods raise their own errors.

    Raises:
        TemplateRuntimeError: The value is of another type, whose text in Python's notation no prompt should hold.
    """
    if value is None or isinstance(value, str | int | float | Undefined | _Method):
        return value
    raise TemplateRuntimeError(
        f"a value of the type {type(value).__name__} is printed, expected a text or a number; join makes a list a text"
    )


class SandboxEnvironment(ImmutableSandboxedEnvironment):
    """Jinja sandbox without private attributes, mutation, and operations that build huge texts."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False, finalize=_check_printed_value
        )
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

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute or item; a method can only be called."""
        return _without_text_if_method(super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item or attribute; a method can only be called."""
        return _without_text_if_method(super().getitem(obj, argument), argument)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method, a macro or a global function."""
        return super().call(context, obj.method if isinstance(obj, _Method) else obj, *args, **kwargs)

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
        return str(value) if isinstance(value, _Method) else value

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
        max_length = max(MAX_TEXT_LENGTH, MAX_REPETITIONS * sum(len(v) for v in values.values() if isinstance(v, str)))
        pieces, size = [], 0
        for piece in template.generate(**values):
            size += len(piece)
            if size > max_length:
                raise SecurityError(f"a text of more than {max_length:,} characters")
            pieces.append(piece)
        return "".join(pieces)

    return render


__all__ = [
    "ENVIRONMENT",
    "SecurityError",
    "TemplateError",
    "UncalledMethodError",
    "compile_expression",
    "compile_text",
    "names_in",
]
