"""Expressions over columns and texts of templates; the fast path of plain names behaves like Jinja."""

from __future__ import annotations

import pytest

from metalm_cli.tasks.expressions import (
    ENVIRONMENT,
    MAX_TEXT_LENGTH,
    SecurityError,
    TemplateError,
    UncalledMethodError,
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
def test_words_of_the_language_are_not_columns(source: str, value: object) -> None:
    assert compile_expression(source)(ROW) == value


@pytest.mark.parametrize("value", ["text", 3, None])
def test_a_text_that_is_a_single_name_renders_its_value(value: object) -> None:
    assert compile_text("{{ value }}")({"value": value}) == str(value)
    assert compile_text("{{ value }}\n")({"value": value}) == str(value)
    assert compile_text("> {{ value }}")({"value": value}) == f"> {value}"


@pytest.mark.parametrize(
    ("source", "text"),
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
def test_words_and_names_are_joined_as_jinja_joins_them(source: str, text: str) -> None:
    values = {"a": "one", "b": "two", "n": 3}
    assert compile_text(source)(values) == text == ENVIRONMENT.from_string(source).render(values)


def test_names_cannot_render_too_long_a_text() -> None:
    with pytest.raises(SecurityError, match="characters"):
        compile_text("{{ value }}" * 5)({"value": "x" * MAX_TEXT_LENGTH})


def test_a_long_value_is_rendered_whole() -> None:
    assert compile_text("> {{ value }}")({"value": "x" * 2 * MAX_TEXT_LENGTH}) == "> " + "x" * 2 * MAX_TEXT_LENGTH


@pytest.mark.parametrize("value", [["x"], {"a": 1}, (1, 2), map(str, [1])])
def test_a_value_in_the_notation_of_python_is_not_printed(value: object) -> None:
    with pytest.raises(TemplateError, match="expected a text or a number"):
        compile_text("> {{ value }}")({"value": value})


@pytest.mark.parametrize("source", ["a.title", "a['title']", "a.title ~ '!'", "a.title | string", "[a.title] | join"])
def test_a_method_without_its_brackets_has_no_text(source: str) -> None:
    for compiled in (compile_expression(source), compile_text("> {{ " + source + " }}")):
        with pytest.raises(UncalledMethodError, match=r"title is a method of the value.*title\(\)"):
            compiled({"a": "one"})


def test_methods_can_be_called() -> None:
    source = "{{ a.title() }}{% for x in a | list %}{{ loop.cycle('-', '+') }}{% endfor %}"
    assert compile_text(source)({"a": "one"}) == "One-+-"
    assert compile_expression("a.split('n')")({"a": "one"}) == ["o", "e"]
