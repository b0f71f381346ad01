"""Expressions over columns and texts of templates: bare names take a short way, and nobody can tell."""

from __future__ import annotations

import pytest

from metalm_cli.tasks.expressions import (
    ENVIRONMENT,
    MAX_TEXT,
    SecurityError,
    TemplateError,
    compile_expression,
    compile_text,
)

ROW = {"text": "a {{ b }}", "none_of": None, "count": 3, "list": [1, 2], "range": "a column"}


@pytest.mark.parametrize("name", ROW)
def test_a_bare_name_is_the_column_itself(name: str) -> None:
    assert compile_expression(name)(ROW) is ROW[name]
    assert compile_expression(f" {name} ")(ROW) is ROW[name]
    assert compile_expression(f"({name} if true else 0)")(ROW) == ROW[name]


@pytest.mark.parametrize("source", ["missing", "missing ~ ''"])
def test_a_name_that_is_not_there_is_an_error(source: str) -> None:
    for compiled in (compile_expression(source), compile_text("{{ " + source + " }}")):
        with pytest.raises(TemplateError, match="'missing' is undefined"):
            compiled(ROW)


@pytest.mark.parametrize(("source", "value"), [("none", None), ("true", True), ("row", ROW)])
def test_words_of_the_language_are_no_columns(source: str, value: object) -> None:
    assert compile_expression(source)(ROW) == value


@pytest.mark.parametrize("value", ["text", 3, None, ["x"]])
def test_a_text_that_is_one_name_says_its_value(value: object) -> None:
    assert compile_text("{{ value }}")({"value": value}) == str(value)
    assert compile_text("{{ value }}\n")({"value": value}) == str(value)
    assert compile_text("> {{ value }}")({"value": value}) == f"> {value}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ a }}, {{b}}\n", "one, two"),
        ("{{ a -}}  {{ b }}\n\n", "onetwo\n"),
        ("{# no #}{{ a }}{% raw %}{{ a }}{% endraw %}", "one{{ a }}"),
        ("{{ a }}{% if b %}!{% endif %}", "one!"),
        ("{{ a }}{{ n }}", "one3"),
        ("words", "words"),
        ("", ""),
    ],
)
def test_words_and_names_are_joined_as_jinja_joins_them(source: str, said: str) -> None:
    values = {"a": "one", "b": "two", "n": 3}
    assert compile_text(source)(values) == said == ENVIRONMENT.from_string(source).render(values)


def test_one_name_cannot_say_too_much() -> None:
    with pytest.raises(SecurityError, match="characters"):
        compile_text("{{ value }}{{ value }}")({"value": "x" * (MAX_TEXT // 2 + 1)})
