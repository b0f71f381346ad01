"""Static rules of the template linter: each finds what it is for, and nothing else is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card
from metalm_cli.templates import TemplateCollection, read_templates
from metalm_cli.templates.lint.card_rules import card_problems, swapped_class_names
from metalm_cli.templates.lint.linter import lint_collection, lint_file
from metalm_cli.templates.lint.rules import RULES
from metalm_cli.templates.lint.text_rules import text_problems
from metalm_cli.templates.template import Template, TemplateFile
from metalm_cli.templates.template_ast import TemplateAst

GOOD = "{{ premise }}\nMust one grant that {{ hypothesis }}?\n{{ options }}"


def make_card(**changes: Any) -> Card:
    """A card in the manner of entailment."""
    values: dict[str, Any] = {
        "name": "made",
        "cluster": "nli",
        "description": "made up",
        "file": "rows.jsonl",
        "splits": {"train": "train"},
        "fields": {"premise": "sentence1", "hypothesis": "sentence2"},
        "answer": {
            "label": "label",
            "class_names": ["entailment", "other"],
            "verbalizers": {"entailment": "yes", "other": "no"},
        },
        "metric": {"name": "accuracy", "source": "nobody"},
        "licence": "none",
        "citation": "none",
    }
    return Card.model_validate({**values, **changes})


def template(text: str = GOOD, **values: Any) -> Template:
    return Template.model_validate({"name": "one", "input": text, **values})


def rules(*templates: Template, card: Card | None = None, **values: Any) -> set[str]:
    """Rules that a file of these templates breaks."""
    file = TemplateFile.model_construct(templates=list(templates), **{"allow": [], "optional": [], **values})
    return {rule for _, (rule, _) in lint_file(file, card or make_card())}


CHOICES = {"options": "choices", "index": "right"}


@pytest.mark.parametrize(
    ("wanted", "given", "changes"),
    [
        ("unknown-field", template("{{ premis }} " + GOOD), {}),
        ("unknown-field", template("{{ fields.premis }} " + GOOD), {}),
        ("unused-field", template("{{ premise }}\n{{ options }}"), {}),
        ("answer-in-input", template("{% if answer == 'yes' %}Surely. {% endif %}" + GOOD), {}),
        ("answer-in-input", template(GOOD + "\n{{ rationale }}"), {}),
        (
            "answer-in-input",
            template("{{ text }} {{ gist }}"),
            {"fields": {"text": "a", "gist": "b"}, "answer": {"text": "b"}},
        ),
        (
            "answer-in-input",
            template("{{ text }} {{ right }} {{ options }}"),
            {"fields": {"text": "a", "right": "choices[right]"}, "answer": CHOICES},
        ),
        ("options-not-listed", template("{{ premise }} So {{ hypothesis }}, yes or what?"), {}),
        ("options-not-listed", template("{{ text }}"), {"fields": {"text": "text"}, "answer": CHOICES}),
        ("stray-n", template("{{ premise }}\n{{ hypothesis }}n\n{{ options }}"), {}),
        ("stray-n", template("{{ premise }}n{{ hypothesis }}\n{{ options }}"), {}),
        ("stray-n", template("{{ premise }}\nIs it so?nOptions: {{ hypothesis }}\n{{ options }}"), {}),
        ("stray-escape", template("{{ premise }}\\n{{ hypothesis }}\n{{ options }}"), {}),
        ("stray-braces", template(GOOD + " {hypothesis}"), {}),
        ("stray-braces", template(GOOD + " }} so"), {}),
        ("lone-brace", template(GOOD + " { so"), {}),
        ("stray-separator", template(GOOD + " ||| {{ choices[0] }}"), {}),
        ("special-token", template("<s> " + GOOD), {}),
        ("special-token", template(GOOD + "</s>"), {}),
        ("special-token", template("<|endoftext|>" + GOOD), {}),
        ("doubled-space", template("{{ premise }}  So: {{ hypothesis }}\n{{ options }}"), {}),
        (
            "doubled-space",
            template("{{ premise }} {% if hypothesis %} So: {% endif %}{{ hypothesis }}\n{{ options }}"),
            {},
        ),
        ("trailing-space", template("{{ premise }} \n{{ hypothesis }}\n{{ options }}"), {}),
        ("trailing-space", template(GOOD + " "), {}),
        ("doubled-punctuation", template("{{ premise }}\nIs it so?? {{ hypothesis }}\n{{ options }}"), {}),
        ("doubled-punctuation", template("{{ premise }}.. So: {{ hypothesis }}\n{{ options }}"), {}),
        ("loose-punctuation", template("{{ premise }} . {{ hypothesis }}\n{{ options }}"), {}),
        ("loose-punctuation", template("{{ options }}\n{{ premise }}\n{{ hypothesis }},"), {}),
        ("not-marked-inverted", template(target="{{ hypothesis }}"), {}),
        ("wrongly-inverted", template(inverted=True), {}),
        (
            "target-in-input",
            template("Write of {{ answer }}: {{ premise }}", target="{{ hypothesis }} {{ answer }}", inverted=True),
            {},
        ),
        ("target-in-input", template("Say it: {{ premise }}", target="{{ premise }}", inverted=True), {}),
        ("labels-swapped", template(target="{{ 'no' if answer == 'yes' else 'yes' }}"), {}),
        ("target-not-an-option", template(target="{{ 'true' if answer == 'yes' else 'false' }}"), {}),
        ("target-not-an-option", template(target="{{ answer }}."), {}),
    ],
)
def test_each_rule_finds_what_it_is_for(wanted: str, given: Template, changes: dict[str, Any]) -> None:
    assert rules(given, card=make_card(**changes)) == {wanted}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        'Is "{{ hypothesis }}" borne out?\n{{ premise }}\n{{ options }}',
        "{{ premise }}\n{{ hypothesis }}\nSay yes or no.",
        "e.g., the U.S.? Well... {{ premise }} (etc.), so: {{ hypothesis }}?!\n{{ options }}",
        "Solve for n\n{{ premise }} with n {{ hypothesis }}\n{{ options }}",
        "{% for text in fields.values() %}{{ text }}\n{% endfor %}{{ options }}",
        "{% for name, text in fields.items() %} {{ name }}: {{ text }}{% endfor %}"
        "{% for one in choices %}, {{ one }}{% endfor %}",
        "{{ premise }} A set {{ '{' }}{{ hypothesis }}{{ '}' }}\n{{ options }}",
        "{{ premise }}{{ ' ' if hypothesis else '' }}{{ hypothesis }}\n{{ options }}",
        "{% set shown = premise %}{{ shown }} {{ hypothesis }}\n{{ choices | join(', ') }}",
    ],
)
def test_sound_wording_is_left_alone(text: str) -> None:
    assert rules(template(text)) == set()


def test_what_a_file_declares_is_let_through() -> None:
    short = template("{{ premise }} Yes or no?")
    assert rules(short) == {"unused-field"}
    assert rules(short, optional=["hypothesis"]) == set()
    assert rules(short, allow=["unused-field"]) == set()
    assert rules(template("{{ premise }} Yes or no?", allow=["unused-field"])) == set()
    with pytest.raises(ValueError, match="no rule is named unused"):
        template(allow=["unused"])


def test_fields_that_say_what_it_is_about_and_other_forms_of_a_field_may_be_left_out() -> None:
    fields = {"title": "title", "words": "words | join(', ')", "lines": "words | join('\\n')"}
    card = make_card(fields=fields, answer={"text": "text"})
    assert rules(template("Use these: {{ words }}"), card=card) == set()
    assert rules(template("Title: {{ title }}"), card=card) == {"unused-field"}


def test_duplicates_say_the_same_but_for_case_spaces_and_marks() -> None:
    one = template()
    other = template(
        "{{premise}}\n\nMUST one grant, that {{hypothesis}} ?\n{{ options }}".replace(" ?", "."), name="two"
    )
    third = template("{{ premise }}\nMay one deny that {{ hypothesis }}?\n{{ options }}", name="three")
    assert rules(one, other, third) == {"duplicate"}
    assert rules(one, third) == set()
    turned = template("{{ premise }} Go on.", name="two", target="{{ hypothesis }}", inverted=True)
    again = template("{{ premise }} Go on.", name="three", target="{{ hypothesis }} {{ task }}", inverted=True)
    assert rules(one, turned, again) == set()


def test_classes_called_by_each_others_names() -> None:
    # A baseline of FLAN's: contradiction is called neither, and neutral false.
    assert swapped_class_names(["Yes", "No", "It's impossible to say"], ["true", "neither", "false"]) == [
        (1, 2),
        (2, 1),
    ]
    assert swapped_class_names(["yes", "it is not possible to tell", "no"], ["true", "neither", "false"]) == []
    assert swapped_class_names(["no", "yes"], ["unacceptable", "acceptable"]) == []
    assert swapped_class_names(["red", "blue"], ["blue", "red"]) == []
    answer = {"label": "label", "class_names": ["entailment", "not_entailment"]}
    right = make_card(answer={**answer, "verbalizers": {"entailment": "yes", "not_entailment": "no"}})
    wrong = make_card(answer={**answer, "verbalizers": {"entailment": "no", "not_entailment": "yes"}})
    assert list(card_problems(right)) == []
    assert [rule for rule, _ in card_problems(wrong)] == ["labels-swapped", "labels-swapped"]


def test_a_text_is_read_in_all_its_cases() -> None:
    found = TemplateAst("{{ a }}{% if b %} {{ c }}{% elif d %}, {{ 'x' if e else 'y' }}{% endif %}")
    assert {found.to_text(wording) for wording in found.wordings} == {
        "{{ a }} {{ c }}",
        "{{ a }}, x",
        "{{ a }}, y",
        "{{ a }}",
    }
    assert found.printed_names == {"a", "c"}
    assert found.read_names == {"a", "b", "c", "d", "e"}
    many = TemplateAst("{{ 'x' if a else 'y' }}" * 40)
    assert len(many.wordings) == 64


def test_a_problem_shows_where_it_is() -> None:
    assert list(text_problems("Read. {{ premise }}n\n{{ options }}")) == [
        ("stray-n", "an n stands where \\n was meant: Read. {{ premise }}n\\n{{ options }}")
    ]


def write(folder: Path, **files: str) -> TemplateCollection:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    read_templates.cache_clear()
    return TemplateCollection(str(folder))


def test_a_collection_gives_findings_with_their_lines(tmp_path: Path) -> None:
    text = 'templates:\n  - name: one\n    input: "{{ premise }} {{ hypothesis }} {{ options }}"\n  - name: two\n'
    collection = write(
        tmp_path,
        made=text + '    input: "{{ premise }}  Or: {{ hypothesis }} {{ options }}"\n',
        stranger='templates:\n  - {name: one, input: "{{ what }}, "}\n',
        broken="templates:\n  - {name: one, input: x, turnd: true}\n",
    )
    found = list(lint_collection(collection, [make_card()]))
    assert [(one.rule, one.template, one.task, one.where.rpartition("/")[2]) for one in found] == [
        ("doubled-space", "two", "made", "made.yaml:4"),
        ("unreadable", "", "", "broken.yaml:2"),
        ("no-card", "", "", "broken.yaml"),
        ("trailing-space", "one", "", "stranger.yaml:2"),
        ("loose-punctuation", "one", "", "stranger.yaml:2"),
        ("no-card", "", "", "stranger.yaml"),
    ]
    assert found[0].severity == "warning"
    assert all(one.remedy for one in found)
    assert [one.rule for one in lint_collection(collection, [make_card()], include_unserved=False)] == ["doubled-space"]


def test_what_the_generic_file_allows_holds_for_all(tmp_path: Path) -> None:
    plain = 'templates:\n  - {name: one, input: "{{ premise }} {{ hypothesis }}"}\n'
    generic = 'templates:\n  - {name: one, input: "{% for text in fields.values() %}{{ text }} {% endfor %}"}\n'
    assert [one.rule for one in lint_collection(write(tmp_path, made=plain, any=generic), [make_card()])] == [
        "options-not-listed",
    ]
    allowed = "allow: [options-not-listed]\n" + generic
    assert list(lint_collection(write(tmp_path, made=plain, any=allowed), [make_card()])) == []


def test_every_rule_can_be_told() -> None:
    assert all(rule.remedy for rule in RULES.values())
    with pytest.raises(MetalmError, match="no collection"):
        TemplateCollection("nowhere/at/all")
