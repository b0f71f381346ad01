"""Cards of natural language inference, applied to rows in the hub's format."""

from __future__ import annotations

from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.registry import Cards

THREE = ("yes", "it is not possible to tell", "no")
CAT = {"premise": "A cat sleeps on a mat.", "hypothesis": "An animal sleeps."}


def read(task: str, row: dict[str, Any]) -> Any:
    return ExampleMaker(Cards()[task])(row, 0, lambda: "row 0")


@pytest.mark.parametrize(
    ("task", "row", "fields", "words"),
    [
        ("mnli", {**CAT, "idx": 0}, CAT, THREE),
        ("snli", CAT, CAT, THREE),
        ("anli_r1", {**CAT, "uid": "1", "reason": ""}, CAT, ("yes", "it's impossible to say", "no")),
        ("anli_r2", {**CAT, "uid": "1", "reason": ""}, CAT, ("yes", "it's impossible to say", "no")),
        ("anli_r3", {**CAT, "uid": "1", "reason": ""}, CAT, ("yes", "it's impossible to say", "no")),
        ("cb", {**CAT, "idx": 0}, CAT, ("yes", "no", "it's impossible to say")),
        ("rte", {"sentence1": "It rains.", "sentence2": "It is wet.", "idx": 0},
         {"premise": "It rains.", "hypothesis": "It is wet."}, ("yes", "no")),
        ("wnli", {"sentence1": "The cup fell on the dish. It broke.", "sentence2": "The dish broke.", "idx": 0},
         {"premise": "The cup fell on the dish. It broke.", "hypothesis": "The dish broke."}, ("no", "yes")),
        ("qnli", {"question": "Where is Oslo?", "sentence": "Oslo is in Norway.", "idx": 0},
         {"question": "Where is Oslo?", "sentence": "Oslo is in Norway."}, ("yes", "no")),
    ],
)  # fmt: skip
def test_each_class_has_its_word(
    task: str, row: dict[str, Any], fields: dict[str, str], words: tuple[str, ...]
) -> None:
    for label, word in enumerate(words):
        example = read(task, {**row, "label": label})
        assert (dict(example.fields), example.options, example.answers, example.label) == (
            fields,
            words,
            (word,),
            label,
        )


def test_snli_leaves_out_what_annotators_did_not_agree_on() -> None:
    assert read("snli", {**CAT, "label": -1}) is None


@pytest.mark.parametrize("task", ["mnli", "cb"])
def test_an_unlabelled_row_is_an_error_elsewhere(task: str) -> None:
    with pytest.raises(MetalmError, match="got -1"):
        read(task, {**CAT, "label": -1})


@pytest.mark.parametrize("task", ["mnli", "snli", "anli_r1", "anli_r2", "anli_r3", "cb"])
def test_a_class_name_means_the_same_in_every_card(task: str) -> None:
    answers = {name: read(task, {**CAT, "label": name}).answers[0] for name in ("entailment", "contradiction")}
    assert answers == {"entailment": "yes", "contradiction": "no"}


def test_rounds_of_anli_read_their_own_splits() -> None:
    for number in (1, 2, 3):
        card = Cards()[f"anli_r{number}"]
        assert card.splits == {"train": f"train_r{number}", "validation": f"dev_r{number}", "test": f"test_r{number}"}
        assert card.templates == "anli"


def test_mnli_has_a_split_of_mismatched_genres() -> None:
    assert Cards()["mnli"].splits["validation"] == "validation_matched"
    assert Cards()["mnli"].splits["mismatched"] == "validation_mismatched"
