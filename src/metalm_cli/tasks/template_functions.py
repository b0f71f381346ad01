"""Filters, tests and methods of templates and expressions, each charged to the budget of work."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from jinja2 import filters as jinja_filters
from jinja2 import pass_environment
from jinja2 import tests as jinja_tests
from jinja2.runtime import LoopContext
from jinja2.sandbox import SecurityError

from metalm_cli.tasks import work_budget
from metalm_cli.tasks.template_syntax import MAX_INT_BITS
from metalm_cli.tasks.template_values import OwnList, OwnMapping, choice, most_frequent
from metalm_cli.tasks.work_budget import charge, charge_search, charge_text, metered

MAX_RANGE_LENGTH = 10_000
"""Maximum length of a ``range``, of a batch, and of a list of slices."""
MAX_PRECISION = 30
"""Maximum number of decimal places of ``round``."""
MAX_INDENT = 8
MOVED_PER_STEP = 1_000
"""Characters copied that count as one step."""
UNCHANGED_FILTERS = """
    abs capitalize count d default dictsort first float groupby items last length lower map max min reject
    rejectattr reverse select selectattr sort string truncate unique upper
"""
"""Jinja's filters whose cost is proportional to their arguments and result."""
FORMAT = re.compile(r"(?:[^%]|%%|%[-+ 0#]?\d{0,2}(?:\.\d{1,2})?[dfeEgGsxX])*", re.DOTALL)
"""Texts that ``format`` fills in, with a width of at most 99."""
FILTERS_OF_ITEMS = """
    batch dictsort groupby join list map max min most_frequent reject rejectattr select selectattr slice sort sum unique
"""
"""Filters that handle items, or characters of a text, one by one."""
STEPS_PER_ITEM = 3
TEXT_METHODS = """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower
    isnumeric isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind
    rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
"""
METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(TEXT_METHODS.split())),
    (Mapping, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
    (tuple, frozenset({"count", "index"})),
    (OwnList, frozenset({"append", "extend", "insert", "pop"})),
    (OwnMapping, frozenset({"pop", "update"})),
    (float, frozenset({"is_integer"})),
    (datetime.date, frozenset({"date", "isoformat", "strftime", "time", "isoweekday", "weekday"})),
    (datetime.time, frozenset({"isoformat", "strftime"})),
    (LoopContext, frozenset({"cycle", "changed"})),
)
"""Methods that may be called, by type."""


def is_allowed_method(owner: Any, name: str) -> bool:
    """Whether a method may be read and called."""
    return any(isinstance(owner, kind) and name in names for kind, names in METHODS)


def charge_method(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Charge for the text that a method belongs to; return the method, or the replacement that charges its result."""
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(owner, str):
        return method
    charge_text(len(owner))
    charge_search(owner, *arguments)
    if name == "replace":
        return lambda *values: work_budget.replace(owner, *values)
    if name == "join":
        return lambda items: work_budget.join(owner, _texts(items))
    if name in ("split", "rsplit", "splitlines"):
        return lambda *values, **options: OwnList(method(*values, **options))
    return method


def _texts(items: Iterable[Any]) -> list[str]:
    texts = list(items)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"join takes texts, got {type(text).__name__}")
    return texts


def bounded_range(*bounds: int) -> range:
    """Return a range of at most 10,000 numbers."""
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE_LENGTH:
        raise SecurityError(f"a range of more than {MAX_RANGE_LENGTH:,}")
    return numbers


def arithmetic(operator: str, left: Any, right: Any, compute: Callable[[Any, Any], Any]) -> Any:
    """Calculate with numbers within limits; ``+`` also joins texts and lists, ``-`` subtracts dates.

    Raises:
        TypeError: The operator is not for these values.
        SecurityError: It repeats or formats a text, or a number is too large.
    """
    if all(isinstance(side, int | float) for side in (left, right)):
        if any(isinstance(side, int) and side.bit_length() > MAX_INT_BITS for side in (left, right)):
            raise SecurityError(f"{operator} works on smaller numbers only")
        if operator == "**" and (abs(left) > 1_000 or abs(right) > 20):
            raise SecurityError("** works on small numbers only")
    elif operator not in ("+", "-") or not all(
        isinstance(side, Collection | datetime.date | datetime.timedelta) for side in (left, right)
    ):
        error = SecurityError if operator in ("*", "%", "**") else TypeError
        raise error(f"{operator} works on numbers only")
    else:
        work_budget.charge_values(left, right)
    return compute(left, right)


# -- filters whose result can be larger than their arguments, or that take more than one pass -------------------------


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(jinja_filters.make_attrgetter(environment, attribute), value)
    return work_budget.join(str(d), value)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return work_budget.replace(str(value), str(old), str(new), -1 if count is None else count)


@pass_environment
def _sum(environment: Any, value: Iterable[Any], attribute: str | int | None = None, start: int = 0) -> Any:
    if attribute is not None:
        value = map(jinja_filters.make_attrgetter(environment, attribute), value)
    total: Any = start
    for item in value:
        if not isinstance(item, int | float):
            raise TypeError(f"sum takes numbers, got {type(item).__name__}")
        total += item
    return total


def _round(value: Any, precision: int = 0, method: Any = "common") -> float:
    if not isinstance(precision, int) or abs(precision) > MAX_PRECISION:
        raise ValueError(f"round takes a precision of at most {MAX_PRECISION}, got {precision!s:.20}")
    return jinja_filters.do_round(value, precision, method)


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    number = jinja_filters.do_int(value, default, base)
    if isinstance(number, int) and number.bit_length() > MAX_INT_BITS:
        raise ValueError("the number is too large")
    return number


def _checked_count(value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_RANGE_LENGTH:
        raise ValueError(f"expected a number from 1 to {MAX_RANGE_LENGTH:,}, got {value!s:.20}")
    charge(value)
    return value


def _batch(value: Any, linecount: int, fill_with: Any = None) -> Any:
    return jinja_filters.do_batch(value, _checked_count(linecount), fill_with)


def _slice(value: Any, slices: int, fill_with: Any = None) -> Any:
    return jinja_filters.sync_do_slice(value, _checked_count(slices), fill_with)


def _trim(value: Any, chars: str | None = None) -> str:
    charge_search(str(value), chars)
    return str(value).strip(chars)


def _title(value: Any) -> str:
    charge(len(str(value)))
    return jinja_filters.do_title(value)


def _wordcount(value: Any) -> int:
    charge(len(str(value)))
    return jinja_filters.do_wordcount(value)


def _striptags(value: Any) -> str:
    text = str(value)
    charge(text.count("<") * len(text) // MOVED_PER_STEP)  # each tag is removed with a copy of the text
    return str(jinja_filters.do_striptags(text))


@jinja_filters.pass_eval_context
def _tojson(context: Any, value: Any, indent: int | None = None) -> str:
    if indent is not None and (not isinstance(indent, int) or not 0 <= indent <= MAX_INDENT):
        raise ValueError(f"tojson takes an indent of at most {MAX_INDENT}, got {indent!s:.20}")
    return str(jinja_filters.do_tojson(context, value, indent))


def _list(value: Iterable[Any]) -> list[Any]:
    return OwnList(value)


def _format(value: Any, *values: Any) -> str:
    if not FORMAT.fullmatch(str(value)):
        raise ValueError(f"format takes % and a width of at most 99, got {value!s:.40}")
    return str(value) % values


def _escape(value: Any) -> str:
    return str(jinja_filters.escape(value))


FILTERS: dict[str, Callable[..., Any]] = {
    name: metered(function, STEPS_PER_ITEM if name in FILTERS_OF_ITEMS.split() else 0)
    for name, function in {
        **{name: jinja_filters.FILTERS[name] for name in UNCHANGED_FILTERS.split()},
        "batch": _batch,
        "choice": choice,
        "e": _escape,
        "escape": _escape,
        "format": _format,
        "int": _int,
        "join": _join,
        "list": _list,
        "most_frequent": most_frequent,
        "random": choice,
        "replace": _replace,
        "round": _round,
        "safe": str,
        "slice": _slice,
        "striptags": _striptags,
        "sum": _sum,
        "title": _title,
        "tojson": _tojson,
        "trim": _trim,
        "wordcount": _wordcount,
    }.items()
}
"""The filters of templates and expressions."""
_JINJA_TESTS: Mapping[str, Any] = jinja_tests.TESTS
TESTS: dict[str, Callable[..., Any]] = {name: metered(function) for name, function in _JINJA_TESTS.items()}
"""The tests of templates and expressions."""
