"""Static rules of the template linter: each rule reports its defect, and only that."""

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
    """Make a card of an entailment task."""
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


def make_template(text: str = GOOD, **values: Any) -> Template:
    return Template.model_validate({"name": "one", "input": text, **values})


def rules(*templates: Template, card: Card | None = None, **values: Any) -> set[str]:
    """Return the rules that a file of these templates breaks."""
    file = TemplateFile.model_construct(templates=list(templates), **{"allow": [], "optional": [], **values})
    return {rule for _, (rule, _) in lint_file(file, card or make_card())}


CHOICES = {"options": "choices", "index": "right"}


@pytest.mark.parametrize(
    ("rule", "template", "changes"),
    [
        ("unknown-field", make_template("{{ premis }} " + GOOD), {}),
        ("unknown-field", make_template("{{ fields.premis }} " + GOOD), {}),
        ("unused-field", make_template("{{ premise }}\n{{ options }}"), {}),
        ("answer-in-input", make_template("{% if answer == 'yes' %}Surely. {% endif %}" + GOOD), {}),
        ("answer-in-input", make_template(GOOD + "\n{{ rationale }}"), {}),
        (
            "answer-in-input",
            make_template("{{ text }} {{ gist }}"),
            {"fields": {"text": "a", "gist": "b"}, "answer": {"text": "b"}},
        ),
        (
            "answer-in-input",
            make_template("{{ text }} {{ right }} {{ options }}"),
            {"fields": {"text": "a", "right": "choices[right]"}, "answer": CHOICES},
        ),
        ("options-not-listed", make_template("{{ premise }} So {{ hypothesis }}, yes or what?"), {}),
        ("options-not-listed", make_template("{{ text }}"), {"fields": {"text": "text"}, "answer": CHOICES}),
        ("stray-n", make_template("{{ premise }}\n{{ hypothesis }}n\n{{ options }}"), {}),
        ("stray-n", make_template("{{ premise }}n{{ hypothesis }}\n{{ options }}"), {}),
        ("stray-n", make_template("{{ premise }}\nIs it so?nOptions: {{ hypothesis }}\n{{ options }}"), {}),
        ("stray-escape", make_template("{{ premise }}\\n{{ hypothesis }}\n{{ options }}"), {}),
        ("stray-braces", make_template(GOOD + " {hypothesis}"), {}),
        ("stray-braces", make_template(GOOD + " }} so"), {}),
        ("lone-brace", make_template(GOOD + " { so"), {}),
        ("stray-separator", make_template(GOOD + " ||| {{ choices[0] }}"), {}),
        ("special-token", make_template("<s> " + GOOD), {}),
        ("special-token", make_template(GOOD + "</s>"), {}),
        ("special-token", make_template("<|endoftext|>" + GOOD), {}),
        ("doubled-space", make_template("{{ premise }}  So: {{ hypothesis }}\n{{ options }}"), {}),
        (
            "doubled-space",
            make_template("{{ premise }} {% if hypothesis %} So: {% endif %}{{ hypothesis }}\n{{ options }}"),
            {},
        ),
        ("trailing-space", make_template("{{ premise }} \n{{ hypothesis }}\n{{ options }}"), {}),
        ("trailing-space", make_template(GOOD + " "), {}),
        ("doubled-punctuation", make_template("{{ premise }}\nIs it so?? {{ hypothesis }}\n{{ options }}"), {}),
        ("doubled-punctuation", make_template("{{ premise }}.. So: {{ hypothesis }}\n{{ options }}"), {}),
        ("loose-punctuation", make_template("{{ premise }} . {{ hypothesis }}\n{{ options }}"), {}),
        ("loose-punctuation", make_template("{{ options }}\n{{ premise }}\n{{ hypothesis }},"), {}),
        ("not-marked-inverted", make_template(target="{{ hypothesis }}"), {}),
        ("wrongly-inverted", make_template(inverted=True), {}),
        (
            "target-in-input",
            make_template(
                "Write of {{ answer }}: {{ premise }}", target="{{ hypothesis }} {{ answer }}", inverted=True
            ),
            {},
        ),
        ("target-in-input", make_template("Say it: {{ premise }}", target="{{ premise }}", inverted=True), {}),
        ("labels-swapped", make_template(target="{{ 'no' if answer == 'yes' else 'yes' }}"), {}),
        ("target-not-an-option", make_template(target="{{ 'true' if answer == 'yes' else 'false' }}"), {}),
        ("target-not-an-option", make_template(target="{{ answer }}."), {}),
    ],
)
def test_each_rule_finds_what_it_is_for(rule: str, template: Template, changes: dict[str, Any]) -> None:
    assert rules(template, card=make_card(**changes)) == {rule}


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
    assert rules(make_template(text)) == set()


def test_declared_exceptions_are_not_reported() -> None:
    short = make_template("{{ premise }} Yes or no?")
    assert rules(short) == {"unused-field"}
    assert rules(short, optional=["hypothesis"]) == set()
    assert rules(short, allow=["unused-field"]) == set()
    assert rules(make_template("{{ premise }} Yes or no?", allow=["unused-field"])) == set()
    with pytest.raises(ValueError, match="no rule is named unused"):
        make_template(allow=["unused"])


def test_fields_that_say_what_it_is_about_and_other_forms_of_a_field_may_be_left_out() -> None:
    fields = {"title": "title", "words": "words | join(', ')", "lines": "words | join('\\n')"}
    card = make_card(fields=fields, answer={"text": "text"})
    assert rules(make_template("Use these: {{ words }}"), card=card) == set()
    assert rules(make_template("Title: {{ title }}"), card=card) == {"unused-field"}


def test_duplicates_differ_only_in_case_spaces_and_punctuation() -> None:
    first = make_template()
    duplicate = make_template(
        "{{premise}}\n\nMUST one grant, that {{hypothesis}} ?\n{{ options }}".replace(" ?", "."), name="two"
    )
    third = make_template("{{ premise }}\nMay one deny that {{ hypothesis }}?\n{{ options }}", name="three")
    assert rules(first, duplicate, third) == {"duplicate"}
    assert rules(first, third) == set()
    inverted = make_template("{{ premise }} Go on.", name="two", target="{{ hypothesis }}", inverted=True)
    other_inverted = make_template(
        "{{ premise }} Go on.", name="three", target="{{ hypothesis }} {{ task }}", inverted=True
    )
    assert rules(first, inverted, other_inverted) == set()


def test_classes_called_by_each_others_names() -> None:
    # In a FLAN baseline, contradiction has the word "neither" and neutral the word "false".
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
    ast = TemplateAst("{{ a }}{% if b %} {{ c }}{% elif d %}, {{ 'x' if e else 'y' }}{% endif %}")
    assert {ast.to_text(wording) for wording in ast.wordings} == {
        "{{ a }} {{ c }}",
        "{{ a }}, x",
        "{{ a }}, y",
        "{{ a }}",
    }
    assert ast.printed_names == {"a", "c"}
    assert ast.read_names == {"a", "b", "c", "d", "e"}
    large_ast = TemplateAst("{{ 'x' if a else 'y' }}" * 40)
    assert len(large_ast.wordings) == 64


def test_a_problem_shows_where_it_is() -> None:
    assert list(text_problems("Read. {{ premise }}n\n{{ options }}")) == [
        ("stray-n", "an n in place of a line break (\\n): Read. {{ premise }}n\\n{{ options }}")
    ]


def write_collection(folder: Path, **files: str) -> TemplateCollection:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    read_templates.cache_clear()
    return TemplateCollection(str(folder))


def test_a_collection_gives_findings_with_their_lines(tmp_path: Path) -> None:
    text = 'templates:\n  - name: one\n    input: "{{ premise }} {{ hypothesis }} {{ options }}"\n  - name: two\n'
    collection = write_collection(
        tmp_path,
        made=text + '    input: "{{ premise }}  Or: {{ hypothesis }} {{ options }}"\n',
        stranger='templates:\n  - {name: one, input: "{{ what }}, "}\n',
        broken="templates:\n  - {name: one, input: x, turnd: true}\n",
    )
    findings = list(lint_collection(collection, [make_card()]))
    assert [
        (finding.rule, finding.template, finding.task, finding.where.rpartition("/")[2]) for finding in findings
    ] == [
        ("doubled-space", "two", "made", "made.yaml:4"),
        ("unreadable", "", "", "broken.yaml:2"),
        ("no-card", "", "", "broken.yaml"),
        ("trailing-space", "one", "", "stranger.yaml:2"),
        ("loose-punctuation", "one", "", "stranger.yaml:2"),
        ("no-card", "", "", "stranger.yaml"),
    ]
    assert findings[0].severity == "warning"
    assert all(finding.remedy for finding in findings)
    assert [finding.rule for finding in lint_collection(collection, [make_card()], include_unserved=False)] == [
        "doubled-space"
    ]


def test_what_the_generic_file_allows_holds_for_all(tmp_path: Path) -> None:
    plain = 'templates:\n  - {name: one, input: "{{ premise }} {{ hypothesis }}"}\n'
    generic = 'templates:\n  - {name: one, input: "{% for text in fields.values() %}{{ text }} {% endfor %}"}\n'
    assert [
        finding.rule for finding in lint_collection(write_collection(tmp_path, made=plain, any=generic), [make_card()])
    ] == [
        "options-not-listed",
    ]
    allowed = "allow: [options-not-listed]\n" + generic
    assert list(lint_collection(write_collection(tmp_path, made=plain, any=allowed), [make_card()])) == []


def test_every_rule_has_a_remedy() -> None:
    assert all(rule.remedy for rule in RULES.values())
    with pytest.raises(MetalmError, match="no template collection"):
        TemplateCollection("nowhere/at/all")
