"""What is imported from FLAN renders as FLAN's own code does, on rows with the columns of the hub."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import flan_reference as reference
from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.tasks import Card, Cards, Example
from metalm_cli.tasks.example import ExampleMaker
from metalm_cli.templates.importers import flan
from metalm_cli.templates.importers.trial_render import render_drafts
from metalm_cli.templates.render import render, tidied
from metalm_cli.templates.template import Template

ROWS = json.loads((Path(__file__).parent / "fixtures" / "flan_rows.json").read_text())
"""A made-up row of each of FLAN's keys, with the columns of the hub."""
REAL_ROWS = 12


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    cards = Cards()
    return {name: cards[name] for name, _ in flan.CARD_FIELDS.values()}


def card_of(key: str, cards: Mapping[str, Card]) -> Card:
    return cards[flan.CARD_FIELDS[key][0]]


def example_of(key: str, cards: Mapping[str, Card]) -> Example:
    example = ExampleMaker(card_of(key, cards))(ROWS[key], 0, lambda: key)
    assert example is not None
    return example


def imported(text: str, cards: Mapping[str, Card]) -> dict[str, list[Template]]:
    """The templates that are taken, by FLAN's key."""
    files = flan.read(text, cards, "templates.py")
    return {
        file.origin.rpartition(" ")[2]: [Template(**values) for values in render_drafts(file)["templates"]]
        for file in files
    }


def expected(pattern: tuple[str, str], fields: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(tidied(reference.format_pattern(text, fields)) for text in pattern)


def rendered(template: Template, example: Example) -> tuple[str, ...]:
    prompt = render(example, template)
    return tuple(tidied(text) for text in (prompt.input, prompt.target))


@pytest.mark.parametrize("key", reference.FIELDS)
def test_every_field_of_flan_is_rendered_as_flan_does(key: str, cards: dict[str, Card]) -> None:
    example = example_of(key, cards)
    fields = reference.fields_of(key, ROWS[key], example)
    names = [name for name in fields if name != "options" and (name[:7] != "options" or example.options)]
    target = next(name for name in ("answer", "target", "subject", "summary") if name in fields)
    inputs = [name for name in names if name != target]
    pattern = ("".join(f"{name}: {{{name}}} {{\n" for name in inputs), f"{{{target}}}")
    (file,) = flan.read(f"PATTERNS = {{{key!r}: [{pattern!r}]}}", cards, "templates.py")
    (draft,) = file.drafts
    template = Template(name="all", input=draft.input, target=draft.target)
    assert template.target == "{{ answer }}"
    assert rendered(template, example) == expected(pattern, fields)
    assert all(str(fields[name]).strip() in render(example, template).input for name in inputs)


def originals(data_root: Path) -> Iterator[Path]:
    folder = data_root / "importers" / "flan"
    files = [folder / name for name in ("templates.py", "v2/templates.py", "v2/flan_templates_branched.py")]
    if not any(file.is_file() for file in files):
        pytest.skip(f"FLAN's templates are not in {folder}")
    return (file for file in files if file.is_file())


def real_examples(card: Card, path: Path, data_root: Path) -> list[Example]:
    for role in ("validation", "train", "test"):
        try:
            examples = open_examples(card, role, data_root=data_root, offline=True, card_path=path)
        except MetalmError:
            continue
        return [example for example in islice(examples, REAL_ROWS) if example is not None]
    return []


@pytest.mark.slow
def test_the_originals_render_as_flan_does(data_root: Path, cards: dict[str, Card]) -> None:
    paths = Cards().paths
    compared: Counter[Any] = Counter()
    for file in originals(data_root):
        text = file.read_text()
        patterns = flan.parse_patterns(text)
        if file.parent.name == "flan":
            assert patterns == literal_patterns(text)
        for key, templates in imported(text, cards).items():
            if key not in reference.FIELDS:
                continue
            card = card_of(key, cards)
            for example in [example_of(key, cards), *real_examples(card, paths[card.name], data_root)]:
                fields = reference.fields_of(key, example.raw, example)
                for template in templates:
                    pattern = patterns[key][template.name]
                    if "{fact}" in "".join(pattern) and "fact" not in fields:
                        compared["lacking"] += 1
                        continue
                    want = expected(pattern, fields)
                    assert rendered(template, example) == want, (file.name, key, template.name)
                    compared[file.parent.name, file.name] += 1
    print(compared)
    assert compared.total() > 1000
    assert compared["lacking"] < 0.05 * compared.total()


def literal_patterns(text: str) -> dict[str, dict[str, tuple[str, str]]]:
    """The patterns of the first version, whose file assigns one literal."""
    (value,) = (node.value for node in ast.parse(text).body if isinstance(node, ast.Assign))
    return {
        key: {f"flan-{index}": tuple(pair) for index, pair in enumerate(pairs)}
        for key, pairs in ast.literal_eval(value).items()
    }
