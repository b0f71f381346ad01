"""Jinja, sandboxed and bounded: expressions of task cards over a row's columns, and texts of templates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MAX_TEXT = 1_000_000
"""Longest text that a repetition, a padding or a join may make."""
ROW = "row"
"""Name of the whole row in expressions, unless a column has it."""
MAX_RANGE = 10_000
"""Longest ``range``."""


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox without attribute escapes, without mutation, and without operations that make huge texts."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False)
        self.globals = {"range": _range}
        for name in ("center", "indent", "format", "xmlattr", "random", "urlize", "pprint"):
            self.filters.pop(name, None)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers only, and within bounds; no repetition, no ``%`` formatting."""
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} works on numbers only")
        if operator == "**" and (abs(left) > 1_000 or abs(right) > 20):
            raise SecurityError("** works on small numbers only")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also refuses methods of texts that pad or format."""
        if attr in ("ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map", "translate"):
            return False
        return super().is_safe_attribute(obj, attr, value)


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_RANGE:
        raise SecurityError(f"a range of more than {MAX_RANGE:,}")
    return found


ENVIRONMENT = Environment()


def names_in(source: str, expression: bool = True) -> set[str]:
    """Names that an expression (or a template's text) reads.

    Raises:
        TemplateError: It cannot be parsed.
    """
    return find_undeclared_variables(_parsed(source, expression))


def _parsed(source: str, expression: bool) -> nodes.Template:
    return ENVIRONMENT.parse("{{ " + source + " }}" if expression else source)


def _plain_parts(source: str, expression: bool) -> list[tuple[bool, str]] | None:
    """Words (False) and bare names (True) that an expression or a text is made of; None if of anything else."""
    match _parsed(source, expression).body:
        case [nodes.Output(nodes=parts)]:
            found = [_plain_part(part) for part in parts]
            return None if None in found else [part for part in found if part is not None]
    return None


def _plain_part(part: nodes.Node) -> tuple[bool, str] | None:
    match part:
        case nodes.TemplateData(data=words):
            return False, words
        case nodes.Name(name=name):
            return True, name
    return None


def compile_expression(source: str) -> Callable[..., Any]:
    """An expression as a function of its names.

    Returns:
        ``function(mapping)``; a name or an attribute that is not there raises UndefinedError. ``row`` is the whole
        mapping, for columns whose names are no names: ``row["Review Text"]``.

    Raises:
        TemplateError: It cannot be parsed.

    Example:
        >>> compile_expression("choices.label.index(key)")({"choices": {"label": ["A", "B"]}, "key": "B"})
        1
    """
    compiled = ENVIRONMENT.compile_expression(source, undefined_to_none=False)

    whole = ROW in names_in(source)
    parts = _plain_parts(source, expression=True) or []
    bare = parts[0][1] if len(parts) == 1 and parts[0][0] else None  # most are a column's name

    def evaluate(values: Any) -> Any:
        if bare is not None and bare in values:
            return values[bare]
        found = compiled({ROW: values, **values} if whole else values)
        if isinstance(found, Undefined):
            found._fail_with_undefined_error()
        return found

    return evaluate


def compile_text(source: str) -> Callable[..., str]:
    """A template's text as a function of its names.

    Raises:
        TemplateError: It cannot be parsed.
    """
    template = ENVIRONMENT.from_string(source)
    plain = _plain_parts(source, expression=False)

    def render(values: Any) -> str:
        if plain is not None:  # most are: no need of a context
            texts = [values.get(part) if named else part for named, part in plain]
            if all(isinstance(text, str) for text in texts) and sum(map(len, texts)) <= MAX_TEXT:
                return "".join(texts)
        pieces, size = [], 0
        for piece in template.generate(**values):
            size += len(piece)
            if size > MAX_TEXT:
                raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
            pieces.append(piece)
        return "".join(pieces)

    return render


__all__ = ["ENVIRONMENT", "SecurityError", "TemplateError", "compile_expression", "compile_text", "names_in"]
