"""Cards of structure to text, applied to rows in the hub's format: concepts, attributes and triples as text."""

from __future__ import annotations

from typing import Any

from metalm_cli.tasks import Example, ExampleMaker
from metalm_cli.tasks.registry import Cards


def read(task: str, row: dict[str, Any]) -> Example | None:
    """Make the example of a row."""
    return ExampleMaker(Cards()[task])(row, 0, lambda: "a row of the test")


def test_common_gen_joins_its_concepts() -> None:
    row = {"concept_set_idx": 0, "concepts": ["field", "stand", "look"], "target": "He stands in the field, looking."}
    example = read("common_gen", row)
    assert example is not None
    assert example.fields == {"concepts": "field, stand, look"}
    assert example.answers == ("He stands in the field, looking.",)
    assert example.options == ()


def test_e2e_nlg_keeps_its_attributes_as_they_are() -> None:
    row = {"meaning_representation": "name[Alimentum], area[city centre]", "human_reference": "Alimentum is central."}
    example = read("e2e_nlg", row)
    assert example is not None
    assert example.fields == {"attributes": "name[Alimentum], area[city centre]"}
    assert example.answers == ("Alimentum is central.",)


def test_dart_writes_a_triple_a_line_and_takes_all_references() -> None:
    row = {
        "tripleset": [["Mars Hill", "JOINED", "1973"], ["Mars Hill", "LOCATION", "North Carolina"]],
        "target": "Mars Hill of North Carolina joined in 1973.",
        "references": [],
    }
    example = read("dart", row)
    assert example is not None
    assert example.fields == {"triples": "Mars Hill | JOINED | 1973\nMars Hill | LOCATION | North Carolina"}
    assert example.answers == (row["target"],)
    several = read("dart", {**row, "references": ["One.", "Two."]})
    assert several is not None
    assert several.answers == ("One.", "Two.")


def test_web_nlg_reads_the_english_rows_alone() -> None:
    row = {
        "gem_id": "web_nlg_en-train-0",
        "input": ['Aarhus_Airport | cityServed | "Aarhus, Denmark"', "Aarhus | country | Denmark"],
        "target": "Aarhus Airport serves Aarhus in Denmark.",
        "references": [],
    }
    example = read("web_nlg", row)
    assert example is not None
    assert example.answers == (row["target"],)
    assert example.fields["triples"] == 'Aarhus Airport | cityServed | "Aarhus, Denmark"\nAarhus | country | Denmark'
    for other in ("web_nlg_ru-train-0", "web_nlg_en-challenge_train_sample-3"):
        assert read("web_nlg", {**row, "gem_id": other}) is None
