"""What is imported from promptsource renders as promptsource's own code does, without changing the row."""

from __future__ import annotations

import copy
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import promptsource_reference as reference
from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.tasks import Cards, Example
from metalm_cli.templates.importers import promptsource
from metalm_cli.templates.importers.answers import answer_of
from metalm_cli.templates.importers.column_names import ANSWER
from metalm_cli.templates.importers.draft import ImportRefused
from metalm_cli.templates.importers.separate import separate
from metalm_cli.templates.importers.trial_render import render_drafts
from metalm_cli.templates.render import PromptStyle, render
from metalm_cli.templates.template import Template

ROWS: list[dict[str, Any]] = [
    {
        "story": f"Ada met Bo on day {number}. They ||| talked.",
        "questions": {"text": ["Who met Bo?", "Whom did Ada meet?"], "scores": [number, 2]},
        "people": [{"name": "Ada", "age": 30 + number}, {"name": "Bo", "age": 31}, {"name": "Ada", "age": 7}],
        "votes": ["a", "b", "b", "a", "c"][number:],
        "options": ["in the park", "at home", "at sea"],
        "gold": number,
        "summary": "A meeting.",
        "items": {"price": [3]},
    }
    for number in range(3)
]
ORIGINALS: dict[str, tuple[str, str | None]] = {
    "plain": ("Read: {{ story }} Sum it up. ||| {{ summary }}", None),
    "in-branches": (
        "{% if gold == 0 %}First: {{ story }} ||| {{ summary }}{% elif gold == 1 %}{{ summary }} What came before?"
        " ||| {{ story }}{% endif %}",
        None,
    ),
    "shared-pick": (
        "{% set pair = [0, 1] | choice %}{{ ['Tell', 'Say'] | choice }}: {{ questions.text[pair] }}"
        " ||| {{ questions.scores[pair] }} of {{ questions['scores'] | length }}",
        None,
    ),
    "list": (
        "{% set names = [] %}{% for person in people %}{% if person.age > 10 %}"
        "{{ names.append(person['name']) or '' }}{% endif %}{% endfor %}Who of {{ people | map(attribute='name') |"
        " unique | join(', ') }} is grown up? ||| {{ names | join(' and ') }}",
        None,
    ),
    "namespace": (
        "{% set ns = namespace(total=0) %}{% for person in people %}{% set ns.total = ns.total + person.age %}"
        "{% endfor %}{{ story }} How old are they together? ||| {{ ns.total }}",
        None,
    ),
    "pairs": (
        "{% for text, score in zip(questions.text, questions.scores) %}{{ loop.index }}. {{ text }} ({{ score }})\n"
        "{% endfor %}||| {{ votes | most_frequent | join('/') }}",
        None,
    ),
    "name-of-a-method": ("{{ story }} Price? ||| {{ items['price'][0] }}", None),
    "own-choices": ("{{ story }} Where? {{ answer_choices | join(', ') }} ||| {{ answer_choices[gold] }}", "x|||y|||z"),
    "row-choices": (
        "{{ story }} Where? {{ answer_choices | join(', ') }} ||| {{ answer_choices[gold] }}",
        "{{ options | join('|||') }}",
    ),
}


TARGETS = {
    "{{ answer_choices[label] }}": ("choice", "{{ ANSWER }}"),
    "{{ answer_choices[label | int] }}": ("choice", "{{ ANSWER }}"),
    "{% if label != 3 %}\n{{ answer_choices[label] }}\n{% endif %}": (
        "choice",
        "{% if label != 3 %}\n{{ ANSWER }}\n{% endif %}",
    ),
    "{% if label %} {{ answer_choices[1] }} {% else %} {{ answer_choices[0] }} {% endif %}": ("choice", "{{ ANSWER }}"),
    "{{ answers['text'][0] }}": ("value", "{{ ANSWER }}"),
    "{{ answers.text | choice }}": ("value", "{{ ANSWER }}"),
    "{{ first }} and {{ second }}": ("text", "{{ ANSWER }}"),
}
"""Targets, with what they are and what is left of them around the answer."""


def test_targets_that_mean_the_same_are_the_same_answer() -> None:
    answers = [answer_of(target) for target in TARGETS]
    assert [(answer.kind, answer.replaced.replace(ANSWER, "ANSWER")) for answer in answers if answer is not None] == [
        *TARGETS.values()
    ]
    label, as_integer, under_condition, branches, first, pick, _ = answers
    assert label == as_integer == under_condition
    assert branches == answer_of("{{ answer_choices[1 if label else 0] }}") != label
    assert first == pick == answer_of("{{ answers.text }}")
    assert answer_of("{{ [first, second] | choice }} and {{ third }}") is None
    assert answer_of("a constant") is None


def test_original_tasks_are_inverted_only_if_their_answer_is_another() -> None:
    originals: dict[str, tuple[str, str | None]] = {
        "first": ("{{ story }} Where? ||| {{ answer_choices[gold] }}", "x|||y|||z"),
        "labelled": ("Where is {{ story }}? ||| {% if gold != -1 %}{{ answer_choices[gold] }}{% endif %}", "x|||y|||z"),
        "summary": ("{{ story }} Sum it up. ||| {{ summary }}", None),
    }
    templates, refused = import_originals(originals)
    assert not refused
    assert {name: template.inverted for name, template in templates.items()} == {
        "first": False,
        "labelled": False,
        "summary": True,
    }
    assert templates["labelled"].target == "{% if row.gold != -1 %}{{ answer }}{% endif %}"
    (file,) = promptsource.read(yaml.safe_dump(entries_of(originals)), {}, "made_up")
    assert file.notes == ["the answer, which a card for them needs, is {{ answer_choices[gold] }}"]


def test_a_row_that_lacks_an_element_has_no_prompt() -> None:
    templates, _ = import_originals({"third": ("{{ story }} Who? ||| {{ votes[2] }}", None)})
    template = templates["third"].model_copy(update={"target": "{{ row.votes[2] }}"})
    assert render(example_of(ROWS[0]), template).target == "b"
    with pytest.raises(EmptyRenderingError, match="has no prompt") as caught:
        render(example_of({**ROWS[0], "votes": ["a"]}), template)
    assert "no element 2" in caught.value.why
    with pytest.raises(MetalmError, match="fails on made_up"):
        render(example_of(ROWS[0]), template.model_copy(update={"target": "{{ row.voices[2] }}"}))


def entries_of(originals: dict[str, tuple[str, str | None]]) -> dict[str, Any]:
    entries = {
        name: {"name": name, "jinja": jinja, "answer_choices": choices, "metadata": {"original_task": True}}
        for name, (jinja, choices) in originals.items()
    }
    return {"dataset": "made_up", "templates": entries}


def import_originals(originals: dict[str, tuple[str, str | None]]) -> tuple[dict[str, Template], dict[str, str]]:
    (file,) = promptsource.read(yaml.safe_dump(entries_of(originals)), {}, "made_up")
    answer = render_drafts(file)
    return {values["name"]: Template(**values) for values in answer["templates"]}, dict(answer["refused"])


def tidied(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\n{3,}", "\n\n", text) for text in texts)


def example_of(row: dict[str, Any], answer: str = "answer") -> Example:
    fields = {name: value for name, value in row.items() if isinstance(value, str)}
    return Example("made_up", row.get("gold", 0), fields, (answer,), raw=row)


@pytest.mark.parametrize("name", ORIGINALS)
def test_imported_templates_render_as_promptsource_does(name: str) -> None:
    jinja, choices = ORIGINALS[name]
    templates, refused = import_originals({name: ORIGINALS[name]})
    assert not refused
    for row in ROWS:
        before = copy.deepcopy(row)
        expected = [tidied(texts) for texts in reference.renderings(jinja, choices, row)]
        outcomes = [texts for texts in expected if len(texts) == 2 and all(texts)]
        reads_answer = "answer" in templates[name].names
        example = example_of(row, outcomes[0][1] if outcomes and reads_answer else "answer")
        if outcomes:
            prompt = render(example, templates[name])
            assert (prompt.input, prompt.target) in outcomes
        else:
            with pytest.raises(MetalmError, match="renders an empty"):
                render(example, templates[name])
        assert row == before


def test_picks_depend_on_the_row_and_are_the_same_in_the_input_and_the_target() -> None:
    templates, _ = import_originals({"pick": ("{% set x = votes | choice %}Repeat {{ x }} ||| {{ x }}", None)})
    prompts = [render(Example("set", number, {}, ("a",), raw=ROWS[0]), templates["pick"]) for number in range(40)]
    assert all(prompt.input == f"Repeat {prompt.target}" for prompt in prompts)
    assert {prompt.target for prompt in prompts} == {"a", "b", "c"}
    again = [render(Example("set", number, {}, ("a",), raw=ROWS[0]), templates["pick"]) for number in range(40)]
    assert again == prompts


def test_choices_of_a_template_replace_the_options_of_the_card() -> None:
    template = Template(name="one", input="{{ options }} {{ choices[0] }}", target="{{ answer }}", choices="Yes ||| No")
    example = Example("set", 0, {}, ("no",), ("yes", "no"), 1)
    prompt = render(example, template)
    assert (prompt.input, prompt.target) == ("OPTIONS:\n- Yes\n- No Yes", "No")
    assert render(example, template, PromptStyle(options=False)).input == "Yes"
    with pytest.raises(MetalmError, match="fails on set") as caught:
        render(Example("set", 0, {}, ("no",), ("yes", "no", "so"), 1), template)
    assert "2 choices, the row has 3 options" in str(caught.value.why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no separator", "no-separator"),
        ("a ||| b ||| c", "several-separators"),
        ("{% for x in y %} a ||| b {% endfor %}", "a loop repeats"),
        ("{% if a %} x ||| y", "not valid Jinja"),
        ("{% raw %}{{{% endraw %} ||| y", "raw is not allowed"),
    ],
)
def test_texts_that_cannot_be_separated_are_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ImportRefused, match=why):
        separate(text)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("votes.append('x')", "unsafe"),
        ("people[0].update({'name': 'x'})", "unsafe"),
        ("''.__class__", "not allowed"),
        ("'%1000000000d' | format(1)", "renders on no made-up row|format takes"),
        ("zip.__globals__", "not allowed"),
        ("namespace.__init__.__globals__", "not allowed"),
    ],
)
def test_a_template_changes_no_row_and_reaches_nothing_else(expression: str, why: str) -> None:
    templates, refused = import_originals({"bad": (f"{{{{ {expression} }}}} {{{{ votes | join }}}} ||| x", None)})
    row = copy.deepcopy(ROWS[0])
    if "bad" in templates:
        with pytest.raises(MetalmError) as caught:
            render(example_of(row), templates["bad"])
        assert re.search(why, str(caught.value.why))
    else:
        assert re.search(why, refused["bad"])
    assert row == ROWS[0]


@pytest.mark.slow
def test_the_originals_are_taken_or_refused_for_a_named_defect(data_root: Path) -> None:
    archive = data_root / "importers" / "promptsource" / "templates.tar.gz"
    if not archive.is_file():
        pytest.skip(f"promptsource's templates are not in {archive.parent}")
    cards = {card.name: card for card in Cards().all()}
    verdicts: Counter[str] = Counter()
    with tarfile.open(archive) as members:
        for member in members:
            if not member.name.endswith(".yaml"):
                continue
            stream = members.extractfile(member)
            assert stream is not None
            (file,) = promptsource.read(stream.read().decode(), cards, member.name)
            answer = render_drafts(file)
            verdicts["taken"] += len(answer["templates"])
            verdicts.update(why.partition(":")[0] for _, why in answer["refused"])
    total = verdicts.total()
    assert total > 2000
    assert verdicts["taken"] >= 0.95 * total
    assert verdicts.keys() <= {"taken", "stray-escape", "unused-field", "target-in-input", "rendering fails"}
