"""Notes about answers in plans and card checks: rows sorted by answer, options of the same tokens."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from card_fixtures import write_rows
from metalm_cli.cli.app import run
from metalm_cli.config.schema.tasks import TaskDataConfig, TemplateOptions
from metalm_cli.data.examples.answer_classes import AnswerClasses, lacking_classes
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks, validation_examples
from metalm_cli.sessions import DecoderTokenizer, TokenRules
from metalm_cli.training.planning.answer_notes import answer_notes
from task_fixtures import make_row, write_task
from tiny_models import tokenizer_of


def sort_rows(folder: Path, name: str) -> None:
    """Sort the rows of a task by label, as a user's file may be."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(sorted(path.read_text().splitlines(True), key=lambda line: json.loads(line)["label"])))


def open_corpus(folder: Path, *names: str) -> TaskCorpus:
    data = TaskDataConfig(
        tasks=[str(folder / name) for name in names], templates=TemplateOptions(collection=str(folder / "words"))
    )
    return open_training_tasks(data, seed=0)[0]


def notes_of(corpus: TaskCorpus, tokenizer: DecoderTokenizer | None = None) -> list[str]:
    validation = {}
    for index, examples in validation_examples(corpus).items():
        validation[index] = AnswerClasses()
        for example in examples:
            validation[index].add(example, examples.card)
    return answer_notes(corpus, validation, tokenizer or DecoderTokenizer(tokenizer_of("byte"), TokenRules()))


@pytest.mark.parametrize(
    ("training", "validation", "lacking"),
    [
        ({"a": 90, "b": 10}, {"a": 10}, []),  # 0.9 ** 10 = 0.35: chance
        ({"a": 90, "b": 10}, {"a": 50}, ["b"]),  # 0.9 ** 50 = 0.005
        ({"a": 50, "b": 50}, {"b": 7}, ["a"]),
        ({"a": 50, "b": 50}, {"b": 6}, []),  # 0.5 ** 6 = 0.016
        ({"a": 50, "b": 50}, {"a": 1, "b": 90}, []),
        ({"a": 2, "b": 2}, {"b": 50}, []),  # too few rows for classes
    ],
)
def test_a_class_that_chance_does_not_leave_out_is_lacking(
    training: dict[str, int], validation: dict[str, int], lacking: list[str]
) -> None:
    classes = [AnswerClasses(Counter(counts), sum(counts.values())) for counts in (training, validation)]
    assert list(lacking_classes(*classes)) == lacking


def test_a_plan_says_that_rows_are_sorted(tmp_path: Path) -> None:
    for name in ("mixed", "ordered"):
        write_task(tmp_path, name, 46, train=36)
    sort_rows(tmp_path, "ordered")
    lines = [{"input": f"Is {n} even?", "target": ["no", "yes"][n >= 200]} for n in range(400)]
    write_rows(tmp_path / "pairs.jsonl", lines)
    write_rows(tmp_path / "open.jsonl", [{"input": f"Say {n}.", "target": str(n)} for n in range(100)])
    notes = notes_of(open_corpus(tmp_path, "mixed.yaml", "ordered.yaml", "pairs.jsonl", "open.jsonl"))
    assert len(notes) == 1, "rows of pairs are chosen by a hash, so that their order does not matter"
    assert notes[0].startswith("ordered: none of the 10 validation examples has the answer 'no' (64% of training)")


def test_tasks_check_says_that_rows_are_sorted(tmp_path: Path, capsys: Any) -> None:
    card = write_task(tmp_path, "parity", 50, train=40)
    assert run(["tasks", "check", str(card)]) == 0
    assert "note:" not in capsys.readouterr().out
    sort_rows(tmp_path, "parity")
    assert run(["tasks", "check", str(card)]) == 0
    assert "note: none of the 10 validation examples has the answer 'no' (62% of training)" in capsys.readouterr().out
    lines = [{"input": f"Is {n} even?", "target": ["no", "yes"][n >= 200]} for n in range(400)]
    pairs = write_rows(tmp_path / "pairs.jsonl", lines)
    assert run(["tasks", "check", str(pairs)]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_plan_names_options_of_the_same_tokens(tmp_path: Path) -> None:
    path = write_task(tmp_path, "lab", 40)
    path.write_text(path.read_text().replace('{no: "no", yes: "yes"}', "{no: 阴性, yes: 阳性}"), encoding="utf-8")
    corpus = open_corpus(tmp_path, "lab.yaml")
    assert notes_of(corpus) == []
    poor = copy.deepcopy(tokenizer_of("byte"))
    poor.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(character, "") for character in "阴阳性"]
    )
    (note,) = notes_of(corpus, DecoderTokenizer(poor, TokenRules()))
    expected = "lab: 30 of 30 sampled examples have options that are the same tokens, such as '阴性' and '阳性'"
    assert note.startswith(expected)


def test_the_row_of_a_task_is_not_needed_for_its_notes(tmp_path: Path) -> None:
    """A row that does not fit its card is an error where it is trained on, which names the row."""
    write_task(tmp_path, "parity", 40)
    rows = [make_row("parity", number, 4) for number in range(40)]
    write_rows(
        tmp_path / "parity.jsonl",
        [{**row, "label": 7 if index == 3 else row["label"]} for index, row in enumerate(rows)],
    )
    assert notes_of(open_corpus(tmp_path, "parity.yaml")) == []
