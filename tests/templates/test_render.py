"""Rendered prompts: the white space of a template is tidied, that of a row is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from card_fixtures import write_rows
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal, Docked
from metalm_cli.tasks import Card, Example
from metalm_cli.tasks.record_files import record_file_card
from metalm_cli.templates import PromptStyle, Template, TemplateCollection, prompt_to_session, render
from metalm_cli.templates.lint.linter import lint_file
from metalm_cli.templates.template import TemplateFile


def make_example(**fields: str) -> Example:
    return Example("made", 0, fields, ("no",), ("no", "yes"), 0)


def test_blank_lines_of_a_template_are_tidied_and_those_of_a_field_stay() -> None:
    template = Template(
        name="code", input="\n{% if false %}x{% endif %}\nRead:\n\n\n\n{{ code }}\n\n\n\n{{ options }}\n"
    )
    code = "def f():\n\n\n\n    return 1"
    expected = f"Read:\n\n{code}\n\nOPTIONS:\n- no\n- yes"
    assert render(make_example(code=code), template).input == expected
    assert render(make_example(code="pass"), template).input == expected.replace(code, "pass")


def pairs_of(folder: Path, rows: list[Any]) -> tuple[Card, list[Example]]:
    path = write_rows(folder / "pairs.jsonl", [*rows, *({"input": f"q{number}", "target": "x"} for number in range(9))])
    card = record_file_card(path)
    examples = open_examples(card, "train", cache=folder / "cache")
    return card, list(examples)[: len(rows)]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("def f(x):\n\n\n\n    # body", "    return x\n"),
        ("\n\n  indented\n\n\n\n\nend  ", "\ttabbed"),
        ("Price?", "1.10"),
    ],
)
def test_pairs_are_sessions_exactly_as_they_stand(tmp_path: Path, source: str, target: str) -> None:
    card, (example,) = pairs_of(tmp_path, [{"input": source, "target": target}])
    (template,) = TemplateCollection("flan").templates_for(card)
    session = prompt_to_session(render(example, template))
    assert list(session) == [Docked("text", source), Causal(" " + target, trained=True, end=True)]


def test_a_number_of_a_pair_keeps_its_spelling(tmp_path: Path) -> None:
    _, (example,) = pairs_of(tmp_path, ['{"input": "Price?", "target": 1.10}'])
    assert example.answers == ("1.10",)


@pytest.mark.parametrize("row", ['{"input": NaN, "target": "x"}', '{"input": "q", "target": NaN}'])
def test_a_missing_value_of_a_pair_is_an_error(tmp_path: Path, row: str) -> None:
    with pytest.raises(MetalmError, match="a row does not match the card"):
        pairs_of(tmp_path, [row])


@pytest.mark.parametrize("text", ["{{ premise.title }}", "{{ premise.title ~ 'x' }}"])
def test_a_method_without_its_brackets_fails_and_the_linter_names_it(text: str) -> None:
    template = Template(name="wrong", input="{{ premise }} " + text)
    with pytest.raises(MetalmError) as caught:
        render(make_example(premise="It rains."), template)
    assert "title is a method of the value, not a text: call it, title()" in caught.value.why
    card = Card.model_validate(
        {
            "name": "made",
            "cluster": "misc",
            "description": "d",
            "file": "x.jsonl",
            "splits": {"train": "rows"},
            "fields": {"premise": "premise"},
            "answer": {"text": "answer"},
            "metric": {"name": "exact_match", "source": "us"},
            "licence": "none",
            "citation": "none",
        }
    )
    problems = [problem for _, problem in lint_file(TemplateFile(templates=[template]), card)]
    assert [rule for rule, message in problems if "title is a method" in message] == ["fails"]


@pytest.mark.parametrize("route", ["template", "decoder"])
def test_answered_demonstrations_are_docks_whatever_the_route_of_the_input(route: Any) -> None:
    style = PromptStyle(layout="answered", route=route)
    template = Template(name="a", input="Q: {{ question }}")
    prompts = [render(make_example(question=text), template, style) for text in "abc"]
    session = prompt_to_session(prompts[-1], prompts[:-1], style=style)
    own = Causal("Q: c") if route == "decoder" else Docked("text", "Q: c")
    assert list(session) == [
        Docked("text", "Q: a no"),
        Docked("text", "Q: b no"),
        own,
        Causal(" no", trained=True, end=True),
    ]
