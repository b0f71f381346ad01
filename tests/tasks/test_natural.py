"""Tasks without a card file: Natural Instructions' JSON, and JSON lines of input and target."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import zstandard

from metalm_cli.data.examples.open_examples import open_examples
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.task_metrics import metric_value
from metalm_cli.tasks import Card, Cards
from metalm_cli.tasks.natural_instructions import natural_instructions_card
from metalm_cli.templates import TemplateCollection, render


def write_task(path: Path, instances: int = 40, **changes: Any) -> Path:
    """Write a task file."""
    rows = [
        {"id": f"t-{index}", "input": f"word {index}", "output": [f"drow {index}", "w"]} for index in range(instances)
    ]
    content = {
        "Source": ["made up"],
        "Categories": ["Word Semantics", "Other"],
        "Definition": ["Write {the} word backwards.\nNothing else."],
        "Input_language": ["English"],
        "Positive Examples": [{"input": "ab", "output": "ba", "explanation": "turned"}],
        "Instances": rows,
        "Instance License": ["CC0"],
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}, indent=1))
    return path


def card_of(path: Path) -> Card:
    cards = Cards([path])
    return cards[cards.names_in_path(str(path))[0]]


def test_a_task_becomes_a_card(tmp_path: Path) -> None:
    card = card_of(write_task(tmp_path / "task12_odd-man.2_Words.json"))
    assert card.name == "task12_odd_man_2_words"
    assert (card.cluster, card.usage, card.licence, card.language) == ("word_semantics", "train_and_eval", "CC0", "en")
    assert card.description == "Write {the} word backwards."
    assert card.splits == {"train": "instances[:-4]", "validation": "instances[-4:]"}
    assert "made up" in card.citation


@pytest.mark.parametrize(
    ("languages", "output", "language"),
    [
        ((["English"], ["English"]), "собака", "en"),
        ((["English"], ["Russian"]), "собака", "russian"),
        ((["Chinese"], ["English"]), "dog", "zh"),
        ((None, None), "собака", "ru"),
        ((None, None), "dog", "en"),
    ],
)
def test_a_task_is_in_english_only_if_inputs_and_outputs_are(tmp_path: Path, languages, output, language) -> None:
    instances = [{"input": f"dog {index}", "output": [output]} for index in range(20)]
    changes = {"Input_language": languages[0], "Output_language": languages[1], "Instances": instances}
    assert card_of(write_task(tmp_path / "task1_x.json", **changes)).language == language


@pytest.mark.parametrize(
    ("instances", "train", "validation"), [(2000, 1900, 100), (500, 450, 50), (9, 8, 1), (2, 1, 1)]
)
def test_the_last_instances_validate(tmp_path: Path, instances: int, train: int, validation: int) -> None:
    path = write_task(tmp_path / "task1_x.json", instances)
    card = card_of(path)
    opened = {role: open_examples(card, role, card_path=path) for role in card.splits}
    assert {role: len(examples) for role, examples in opened.items()} == {"train": train, "validation": validation}
    first = opened["validation"][0]
    assert first is not None
    assert (first.fields["input"], first.answers) == (f"word {train}", (f"drow {train}", "w"))


def test_one_instance_only_trains(tmp_path: Path) -> None:
    assert card_of(write_task(tmp_path / "task1_x.json", 1)).splits == {"train": "instances"}


def test_test_tasks_are_evaluated_only(tmp_path: Path) -> None:
    paths = [write_task(tmp_path / "tasks" / f"task{number}_x.json", 300) for number in range(3)]
    lists = tmp_path / "splits" / "default"
    lists.mkdir(parents=True)
    (lists / "test_tasks.txt").write_text("task0_x\n")
    (lists / "excluded_tasks.txt").write_text("task1_x\n")
    (lists / "train_tasks.txt").write_text("task2_x\n")
    cards = [card_of(path) for path in paths]
    assert [card.usage for card in cards] == ["eval", "eval", "train_and_eval"]
    assert cards[0].splits == {"test": "instances[:100]"}
    assert len(open_examples(cards[0], "test", card_path=paths[0])) == 100


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({}, "super_ni_rougeL"),
        ({"Categories": ["Cause Effect Classification"]}, "super_ni_em"),
        ({"Categories": ["Textual Entailment"]}, "super_ni_em"),
        (
            {"Instances": [{"input": f"{index}", "output": ["POS", "NEG"][index % 2]} for index in range(20)]},
            "super_ni_em",
        ),
        ({"Instances": [{"input": f"{index}", "output": str(index % 8)} for index in range(20)]}, "super_ni_rougeL"),
        ({"Categories": None}, "super_ni_rougeL"),
    ],
)
def test_the_metric(tmp_path: Path, changes: dict[str, Any], metric: str) -> None:
    assert card_of(write_task(tmp_path / "task1_x.json", **changes)).metric.name == metric


def test_its_definition_is_its_template(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task1_x.json", Definition="Write {{the}} word backwards.")
    card = card_of(path)
    example = open_examples(card, "train", card_path=path)[0]
    assert example is not None
    templates = TemplateCollection("flan").templates_for(card)
    assert [template.name for template in templates] == ["definition", "definition-and-examples"]
    prompt = render(example, templates[0])
    assert prompt.input == "Write {{the}} word backwards.\n\nInput: word 0\nOutput:"
    assert prompt.target == "drow 0"
    assert "Input: ab\nOutput: ba" in render(example, templates[1]).input
    assert render(example, TemplateCollection("plain").templates_for(card)[0]).input == "task1_x\ninput: word 0"


def test_a_collection_that_serves_the_task_comes_first(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task1_x.json")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "task1_x.yaml").write_text('templates:\n  - {name: own, input: "Turn {{ input }}"}\n')
    assert [template.name for template in TemplateCollection(str(mine)).templates_for(card_of(path))] == ["own"]


def test_blank_instances_are_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [{"input": "a", "output": ["b"]}, {"input": " ", "output": ["b"]}, {"input": "a", "output": [""]}]
    rows += [{"input": "a", "output": ["", " c "]}, {"input": "a", "output": "d"}, {"input": "a", "output": []}]
    path = write_task(tmp_path / "task1_x.json", Instances=[*rows, rows[0]])
    opened = open_examples(card_of(path), "train", card_path=path)
    assert [example.answers for example in opened] == [("b",), ("c",), ("d",)]
    assert len(opened) == 6


def test_a_wrong_instance_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_task(
        tmp_path / "task1_x.json", Instances=[{"id": "i-1", "input": "a", "output": ["b"]}, {"id": "i-2"}]
    )
    line = path.read_text().splitlines().index('   "id": "i-2"') + 1
    opened = open_examples(card_of(path), "validation", card_path=path)
    with pytest.raises(MetalmError) as caught:
        list(opened)
    assert caught.value.where == f"{path}:{line}, instance 1"
    copy = pickle.loads(pickle.dumps(open_examples(card_of(path), "train", card_path=path)))
    assert [example.answers for example in copy] == [("b",)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not valid JSON"),
        ("[1]", "the columns input and target; messages"),
        ('{"Definition": ["x"]}', "missing: Instances"),
        ('{"Definition": ["x"], "Instances": {"a": 1}}', "Instances is not a list"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_not_a_task_is_an_error(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "task1_x.json"
    path.write_text(text)
    with pytest.raises(MetalmError) as caught:
        card_of(path)
    assert why in caught.value.why
    assert str(path) in caught.value.where


PAIRS = [{"input": f"{index}+1", "target": str(index + 1)} for index in range(29)] + [
    {"input": "1+1", "target": ["2", "two"]}
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_pairs(tmp_path: Path, ending: str) -> None:
    data = "\n".join(json.dumps(row) for row in PAIRS).encode() + b"\n\n"
    path = tmp_path / f"My sums{ending}"
    packed = {".jsonl": data, ".jsonl.gz": gzip.compress(data), ".jsonl.zst": zstandard.compress(data)}
    path.write_bytes(packed[ending])
    card = card_of(path)
    assert (card.name, card.cluster, card.metric.name) == ("my_sums", "misc", "exact_match")
    assert card.splits == {"train": "rows", "validation": "rows"}
    train, validation = (
        list(open_examples(card, role, card_path=path, cache=tmp_path / "cache")) for role in ("train", "validation")
    )
    assert sorted(example.row for example in [*train, *validation]) == list(range(30))
    assert all(example.answers == ("2", "two") for example in [*train, *validation] if example.row == 29)
    prompt = render(train[1], TemplateCollection("flan").templates_for(card)[0])
    assert (prompt.input, prompt.target) == (f"{train[1].row}+1", str(train[1].row + 1))


def test_pairs_are_scored_with_their_signs(tmp_path: Path) -> None:
    path = tmp_path / "signs.jsonl"
    path.write_text("".join(json.dumps({"input": f"{n}", "target": "+-"[n % 2]}) + "\n" for n in range(20)))
    card = card_of(path).model_copy(update={"validation_share": 0})
    examples = list(open_examples(card, "train", card_path=path, cache=tmp_path / "cache"))
    assert metric_value(card.metric.name, ["-"] * len(examples), examples).value == 50
    assert metric_value(card.metric.name, [example.answers[0] for example in examples], examples).value == 100


def test_targets_that_are_numbers_are_scored_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"input": "1", "target": 3.0}\n{"input": "2", "target": -30}\n{"input": "3", "target": 1.5}\n')
    card = card_of(path).model_copy(update={"validation_share": 0})
    examples = list(open_examples(card, "train", card_path=path, cache=tmp_path / "cache"))
    assert metric_value(card.metric.name, ["3", "-30", "1.5"], examples).value == 100
    assert metric_value(card.metric.name, ["30", "30", "30"], examples).value == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}\n', "its columns are text"),
        (b"no json\n", "begins with 'no json"),
        (b"3\n", "3"),
    ],
)
def test_lines_without_input_and_target_are_an_error(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(MetalmError) as caught:
        card_of(path)
    assert why in caught.value.why
    assert "metalm tasks new" in caught.value.remedy


def test_a_damaged_file_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"input": "a", "target": "b"}\n' * 100)[:-12])
    with pytest.raises(MetalmError, match="damaged or truncated"):
        open_examples(card_of(path), "train", card_path=path, cache=tmp_path / "cache")


def test_real_tasks(data_root: Path) -> None:
    folder = data_root / "natural_instructions"
    if not folder.is_dir():
        pytest.skip("no natural_instructions")
    cards = Cards([folder])
    names = cards.names_in_path(str(folder))
    assert sum(cards[name].usage == "eval" for name in names) == 6
    flan = TemplateCollection("flan")
    for name in names[::6]:
        card = cards[name]
        opened = open_examples(card, next(iter(card.splits)), card_path=cards.paths[name])
        for example in opened:
            assert render(example, flan.templates_for(card)[0]).target == example.answers[0]


@pytest.mark.parametrize("change", [{"Positive Examples": 5}, {"Source": 5}, {"Categories": {"a": 1}}, {"Source": "x"}])
def test_entries_of_other_types_do_not_matter(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "task1_d.json"
    task = {"Definition": ["Turn it."], "Instances": [{"input": "ab", "output": ["ba"]}] * 4, **change}
    path.write_text(json.dumps(task))
    card = natural_instructions_card(path)
    assert TemplateCollection("flan").templates_for(card)[0].name == "definition"


def test_a_missing_reference_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "task1_d.json"
    rows = [{"input": "ab", "output": [None, "ba", float("nan")]}, {"input": "cd", "output": [None]}] * 2
    path.write_text(json.dumps({"Definition": ["Turn it."], "Instances": rows}))
    card = natural_instructions_card(path)
    examples = list(open_examples(card, "train", card_path=path))
    assert {example.answers for example in examples} == {("ba",)}
