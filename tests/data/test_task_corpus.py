"""The examples of a task mixture by number: a pure function, each example once an epoch, templates in turn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.config.schema.tasks import DemonstrationOptions, MixtureConfig, TaskDataConfig, TemplateOptions
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks, select_tasks
from metalm_cli.errors import MetalmError
from task_fixtures import write_task


def corpus(folder: Path, seed: int = 0, **options: Any) -> TaskCorpus:
    """Two tasks, of 30 and 12 training rows."""
    paths = [write_task(folder, "parity", 40), write_task(folder, "other", 16)]
    templates = options.pop("templates", {})
    data = TaskDataConfig(
        tasks=[str(path) for path in paths],
        templates=TemplateOptions(collection=str(folder / "words"), **templates),
        **options,
    )
    return open_training_tasks(data, seed=seed)[0]


def examples_of(task_corpus: TaskCorpus, count: int) -> list[tuple[int, int, str]]:
    planned_examples = [task_corpus.get(number) for number in range(count)]
    return [(planned.task, planned.example.row, planned.template.name) for planned in planned_examples]


def test_a_number_determines_the_example(tmp_path: Path) -> None:
    first, second = (
        corpus(tmp_path, templates={"template_sampling": "seed"}),
        corpus(tmp_path, templates={"template_sampling": "seed"}),
    )
    assert examples_of(first, 50) == examples_of(second, 50)
    assert [first.get(7), first.get(3), first.get(7)] == [second.get(7), second.get(3), second.get(7)]
    assert examples_of(first, 50) != examples_of(corpus(tmp_path, seed=1, templates={"template_sampling": "seed"}), 50)


def test_every_example_comes_once_an_epoch_in_proportion(tmp_path: Path) -> None:
    mixture = corpus(tmp_path)
    seen = Counter((task, row) for task, row, _ in examples_of(mixture, 42 * 50))
    rows = {0: 30, 1: 12}
    for task, count in rows.items():
        drawn = [times for (drawn_task, _), times in seen.items() if drawn_task == task]
        assert len(drawn) == count
        assert max(drawn) - min(drawn) <= 1
    share = sum(times for (task, _), times in seen.items() if task == 0) / seen.total()
    assert share == pytest.approx(30 / 42, abs=0.02)


def test_the_cap_is_a_fixed_sample_of_the_split(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mixture": MixtureConfig(cap_examples=10)}
    rows = [
        {row for task, row, _ in examples_of(corpus(tmp_path, seed=seed, **options), 400) if task == 0}
        for seed in (0, 1)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 10
    assert rows[0] != set(range(10))


def test_the_first_template_or_all_in_turn(tmp_path: Path) -> None:
    assert {name for *_, name in examples_of(corpus(tmp_path), 100)} == {"plain"}
    in_turn = examples_of(corpus(tmp_path, templates={"template_sampling": "index"}), 300)
    assert Counter(name for *_, name in in_turn).keys() == {"plain", "question-first", "write-a-question"}
    first = next(example for example in in_turn if example[0] == 0)
    again = next(example for example in in_turn if example[:2] == first[:2] and example != first)
    order = ["plain", "question-first", "write-a-question"]
    assert order.index(again[2]) == (order.index(first[2]) + 1) % 3
    not_inverted = corpus(
        tmp_path, templates={"template_sampling": "index", "inverted": False, "templates_per_task": 2}
    )
    assert {name for *_, name in examples_of(not_inverted, 100)} == {"plain", "question-first"}


def test_the_first_answer_or_each_in_turn(tmp_path: Path) -> None:
    path = write_task(tmp_path, "parity", 6)
    text = path.read_text()
    start = text.index("answer: ")
    path.write_text(text[:start] + "answer: {text: '[question, text]'}\n" + text[text.index("long_inputs: ") :])
    path.write_text(path.read_text().replace("name: accuracy", "name: exact_match"))
    options: dict[str, Any] = {"tasks": [str(path)], "templates": TemplateOptions(collection="plain")}
    first, in_turn = (
        open_training_tasks(TaskDataConfig(**options, answer_sampling=how), seed=0)[0] for how in ("first", "index")
    )
    rows = first.tasks[0].row_count
    assert {first.get(number).example.answers.index(_question(first, number)) for number in range(4 * rows)} == {0}
    places: dict[int, list[int]] = {}
    for number in range(4 * rows):
        example = in_turn.get(number).example
        places.setdefault(example.row, []).append(example.answers.index(_question(in_turn, number)))
    assert all(sorted(order) == [0, 0, 1, 1] and order[0] != order[1] for order in places.values())
    assert in_turn.fingerprint != first.fingerprint


def _question(mixture: TaskCorpus, number: int) -> str:
    return str(mixture.get(number).example.fields["question"])


def test_templates_drawn_by_seed_are_uniform(tmp_path: Path) -> None:
    names = Counter(name for *_, name in examples_of(corpus(tmp_path, templates={"template_sampling": "seed"}), 900))
    assert all(abs(count - 300) < 3 * (900 * 2 / 9) ** 0.5 for count in names.values())


def test_demonstrations_are_other_examples_of_the_task(tmp_path: Path) -> None:
    mixture = corpus(tmp_path, demonstrations=DemonstrationOptions(shots=[0, 3]))
    counts: Counter[int] = Counter()
    for number in range(300):
        planned = mixture.get(number)
        counts[len(planned.demonstrations)] += 1
        rows = [demonstration.row for demonstration in planned.demonstrations]
        assert planned.example.row not in rows
        assert len(set(rows)) == len(rows)
        assert {demonstration.task for demonstration in planned.demonstrations} <= {planned.example.task}
    assert set(counts) == {0, 1, 2, 3}
    assert all(45 < count < 110 for count in counts.values())


def test_rows_that_the_audit_rejects_are_not_counted(tmp_path: Path) -> None:
    for options in ({}, {"mixture": MixtureConfig(cap_examples=20)}):
        whole = corpus(tmp_path, **options)
        trained = set(whole.tasks[0].rows.array().tolist())
        rejected = {row for row in trained if row % 2 == 0}
        mixture = whole.without_rows({"parity": rejected})
        drawn = examples_of(mixture, 400)
        rows = Counter(row for task, row, _ in drawn if task == 0)
        assert set(rows) == trained - rejected
        assert max(rows.values()) - min(rows.values()) <= 1
        left = len(trained) - len(rejected)
        assert [task.row_count for task in mixture.tasks] == [left, 12]
        assert mixture.tasks[0].rate == left / (left + 12)
        assert mixture.tasks[0].rows.array().tolist() == [mixture.tasks[0].rows[n] for n in range(left)]
        assert mixture.fingerprint != whole.fingerprint
        assert whole.without_rows({}).fingerprint == whole.fingerprint


def test_the_fingerprint_changes_with_the_examples_and_their_order(tmp_path: Path) -> None:
    base = corpus(tmp_path).fingerprint
    assert corpus(tmp_path).fingerprint == base
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"mixture": MixtureConfig(cap_examples=7)},
        {"templates": {"template_sampling": "index"}},
        {"demonstrations": DemonstrationOptions(shots=[1, 1])},
    ]
    prints = [corpus(tmp_path, **change).fingerprint for change in changes]
    assert len({base, *prints}) == len(prints) + 1


def test_holding_everything_out_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="no task is left to train on"):
        select_tasks(TaskDataConfig(tasks=["rte"], hold_out=["nli"]))


def test_leak_partners_are_dropped_with_their_reasons() -> None:
    selection = select_tasks(TaskDataConfig(tasks=["core"], hold_out=["nli"]))
    assert selection.dropped["rte"] == "held out"
    assert selection.dropped["qqp"] == "its cluster leaks into nli"
    assert "shares data with" in selection.dropped["squad"]
    assert {card.cluster for card in selection.cards}.isdisjoint({"nli", "paraphrase"})
    assert {"sst2", "boolq"} <= {card.name for card in selection.cards}
