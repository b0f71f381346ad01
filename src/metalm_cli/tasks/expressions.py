"""Sandboxed Jinja with resource limits: expressions of task cards over a row's columns, and texts of templates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

from jinja2 import (
    StrictUndefined,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    nodes,
)
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment, SecurityError
from jinja2.utils import Namespace, missing

from metalm_cli.tasks.template_functions import (
    FILTERS,
    TESTS,
    arithmetic,
    bounded_range,
    charge_method,
    is_allowed_method,
)
from metalm_cli.tasks.template_syntax import MAX_SOURCE_LENGTH, ChargeWriter, check_tree, nested_too_deeply
from metalm_cli.tasks.template_values import own, start_picks, zipped
from metalm_cli.tasks.work_budget import charge_values, concatenate, iterate, measured, start_budget

MAX_TEXT_LENGTH = 1_000_000
"""Maximum characters of a rendered text, if its values are short."""
MAX_REPETITIONS = 4
"""A rendered text may also have this many times the characters of its values."""
ROW_NAME = "row"
"""Name of the whole row in expressions, unless a column has this name."""


class UncalledMethodError(TemplateRuntimeError):
    """An expression names a method without calling it, where a text is expected."""


class MissingElementError(UndefinedError):
    """An expression reads an element of a list that the list is too short for."""


class _StrictUndefined(StrictUndefined):
    """Value that is not defined; its error says whether it is an element of a list that is too short."""

    def __init__(self, hint: Any = None, obj: Any = missing, name: Any = None, exc: Any = UndefinedError) -> None:
        is_element = isinstance(name, int) and isinstance(obj, list | tuple)
        is_of_empty_list = name is None and obj is missing and hint is not None  # as first and last describe it
        super().__init__(hint, obj, name, MissingElementError if is_element or is_of_empty_list else exc)


class UnprintableValueError(TemplateRuntimeError):
    """A list, mapping or other value is printed that has no text but Python's notation."""


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
        UnprintableValueError: The value is of another type, whose text in Python's notation no prompt should hold.
    """
    if value is None or isinstance(value, str | int | float | Undefined | _Method):
        return value
    raise UnprintableValueError(
        f"a value of the type {type(value).__name__} is printed, expected a text or a number; join makes a list a text"
    )


class SandboxEnvironment(SandboxedEnvironment):
    """Jinja sandbox without private attributes, and with a bound on time, memory and output.

    Templates change only lists and mappings that they make themselves (:mod:`metalm_cli.tasks.template_values`).

    Syntax trees are checked when they are parsed, and get charges for their work before they are compiled.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    iterate = staticmethod(iterate)
    concatenate = staticmethod(concatenate)
    measured = staticmethod(measured)
    own = staticmethod(own)

    def __init__(self) -> None:
        super().__init__(
            undefined=_StrictUndefined, keep_trailing_newline=False, autoescape=False, finalize=_check_printed_value
        )
        self.globals = {"namespace": Namespace, "range": bounded_range, "zip": zipped}
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE_LENGTH:
            raise TemplateSyntaxError(f"{len(source):,} characters, expected at most {MAX_SOURCE_LENGTH:,}", 1)
        with _as_template_errors():
            tree = super()._parse(source, name, filename)
            check_tree(tree, self)
            return tree

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:
        start_budget()  # constant parts are evaluated by the compiler
        with _as_template_errors():
            return super()._generate(ChargeWriter(self).visit(source), *arguments, **options)

    def _compile(self, source: str, filename: str) -> CodeType:
        with _as_template_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about the code that Jinja makes of {{ 1[0] }}
            return super()._compile(source, filename)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Allow arithmetic only within limits; text repetition and ``%`` formatting are rejected."""
        return arithmetic(operator, left, right, self.binop_table[operator])

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an attribute or item; a method can only be called."""
        return _without_text_if_method(super().getattr(obj, attribute), attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Reject also methods that are not known to be harmless and bounded."""
        if callable(value) and not is_allowed_method(obj, attr):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Leave ``str.format`` to :meth:`is_safe_attribute`, which rejects it; Jinja's wrapper pads without bound."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item or attribute; a method can only be called.

        A key with parts is charged, because its hash is computed.
        """
        if isinstance(argument, tuple):
            charge_values(argument)
        return _without_text_if_method(super().getitem(obj, argument), argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a charge of this class, or a method with a charge for its arguments and result."""
        if __obj in (measured, concatenate, iterate, own):
            return __obj(*args)
        function = __obj.method if isinstance(__obj, _Method) else __obj
        charge_values(*args, *kwargs.values())
        return measured(super().call(__context, charge_method(function, args), *args, **kwargs))


@contextmanager
def _as_template_errors() -> Iterator[None]:
    """Raise errors of the parser and compiler as errors of the template."""
    try:
        yield
    except RecursionError as error:
        raise nested_too_deeply(1) from error
    except (SyntaxError, MemoryError, ValueError, OverflowError) as error:
        raise TemplateSyntaxError(f"it is too large or too deep ({type(error).__name__}: {error!s:.100})", 1) from error


ENVIRONMENT = SandboxEnvironment()
UNEXPECTED_ERRORS = (RuntimeError, MemoryError, AssertionError, AttributeError)
"""Errors of a template besides those of Jinja and of wrong values; a RecursionError is a RuntimeError."""


def _failure(error: Exception) -> TemplateRuntimeError:
    return TemplateRuntimeError(f"{type(error).__name__}: {error!s:.200}")


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
    reads_row = ROW_NAME in names_in(source)
    compiled = ENVIRONMENT.compile_expression(source, undefined_to_none=False)
    parts = _plain_parts(source, expression=True) or []
    column = parts[0][1] if len(parts) == 1 and parts[0][0] else None  # fast path for the common case

    def evaluate(values: Any) -> Any:
        if column is not None and column in values:
            return values[column]
        start_budget()
        try:
            value = compiled({ROW_NAME: values, **values} if reads_row else values)
        except UNEXPECTED_ERRORS as error:
            raise _failure(error) from error
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        return str(value) if isinstance(value, _Method) else value

    return evaluate


def compile_text(source: str) -> Callable[..., str]:
    """Compile a template's text to a function of a mapping, and of a seed of its picks (``choice``).

    Raises:
        TemplateError: The text cannot be parsed.
    """
    template = ENVIRONMENT.from_string(source)
    plain_parts = _plain_parts(source, expression=False)

    def render(values: Any, seed: str = "") -> str:
        if plain_parts is not None:  # fast path for texts with plain names only
            texts = [values.get(part) if is_name else part for is_name, part in plain_parts]
            if all(isinstance(text, str) for text in texts) and sum(map(len, texts)) <= MAX_TEXT_LENGTH:
                return "".join(texts)
        max_length = max(MAX_TEXT_LENGTH, MAX_REPETITIONS * sum(len(v) for v in values.values() if isinstance(v, str)))
        start_budget()
        start_picks(seed)
        pieces, size = [], 0
        try:
            for piece in template.generate(**values):
                size += len(piece)
                if size > max_length:
                    raise SecurityError(f"a text of more than {max_length:,} characters")
                pieces.append(piece)
        except UNEXPECTED_ERRORS as error:
            raise _failure(error) from error
        return "".join(pieces)

    return render


__all__ = [
    "ENVIRONMENT",
    "MissingElementError",
    "SecurityError",
    "TemplateError",
    "UncalledMethodError",
    "UnprintableValueError",
    "compile_expression",
    "compile_text",
    "names_in",
]
