"""What stands at a number of a task mixture: a pure function, each example once an epoch, templates in turn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.config.schema.tasks import Demonstrations, Mixture, TaskData, TemplateOptions
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks, select_tasks
from metalm_cli.errors import MetalmError
from task_fixtures import write_task


def corpus(folder: Path, seed: int = 0, **options: Any) -> TaskCorpus:
    """Two tasks, of 30 and 12 training rows."""
    paths = [write_task(folder, "parity", 40), write_task(folder, "other", 16)]
    templates = options.pop("templates", {})
    data = TaskData(
        tasks=[str(path) for path in paths],
        templates=TemplateOptions(collection=str(folder / "words"), **templates),
        **options,
    )
    return open_training_tasks(data, seed=seed)[0]


def asked(made: TaskCorpus, count: int) -> list[tuple[int, int, str]]:
    found = [made.get(number) for number in range(count)]
    return [(one.task, one.example.row, one.template.name) for one in found]


def test_a_number_tells_everything(tmp_path: Path) -> None:
    one, other = (
        corpus(tmp_path, templates={"template_sampling": "seed"}),
        corpus(tmp_path, templates={"template_sampling": "seed"}),
    )
    assert asked(one, 50) == asked(other, 50)
    assert [one.get(7), one.get(3), one.get(7)] == [other.get(7), other.get(3), other.get(7)]
    assert asked(one, 50) != asked(corpus(tmp_path, seed=1, templates={"template_sampling": "seed"}), 50)


def test_every_example_comes_once_an_epoch_in_proportion(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    seen = Counter((task, row) for task, row, _ in asked(made, 42 * 50))
    rows = {0: 30, 1: 12}
    for task, count in rows.items():
        drawn = [times for (at, _), times in seen.items() if at == task]
        assert len(drawn) == count
        assert max(drawn) - min(drawn) <= 1
    share = sum(times for (task, _), times in seen.items() if task == 0) / seen.total()
    assert share == pytest.approx(30 / 42, abs=0.02)


def test_the_cap_is_a_fixed_sample_of_the_split(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mixture": Mixture(cap_examples=10)}
    rows = [
        {row for task, row, _ in asked(corpus(tmp_path, seed=seed, **options), 400) if task == 0} for seed in (0, 1)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 10
    assert rows[0] != set(range(10))


def test_the_first_template_or_all_in_turn(tmp_path: Path) -> None:
    assert {name for *_, name in asked(corpus(tmp_path), 100)} == {"plain"}
    turned = asked(corpus(tmp_path, templates={"template_sampling": "index"}), 300)
    assert Counter(name for *_, name in turned).keys() == {"plain", "question-first", "write-a-question"}
    first = next(one for one in turned if one[0] == 0)
    again = next(one for one in turned if one[:2] == first[:2] and one != first)
    order = ["plain", "question-first", "write-a-question"]
    assert order.index(again[2]) == (order.index(first[2]) + 1) % 3
    straight = corpus(tmp_path, templates={"template_sampling": "index", "inverted": False, "templates_per_task": 2})
    assert {name for *_, name in asked(straight, 100)} == {"plain", "question-first"}


def test_templates_drawn_by_seed_are_uniform(tmp_path: Path) -> None:
    names = Counter(name for *_, name in asked(corpus(tmp_path, templates={"template_sampling": "seed"}), 900))
    assert all(abs(count - 300) < 3 * (900 * 2 / 9) ** 0.5 for count in names.values())


def test_demonstrations_are_other_examples_of_the_task(tmp_path: Path) -> None:
    made = corpus(tmp_path, demonstrations=Demonstrations(shots=[0, 3]))
    counts: Counter[int] = Counter()
    for number in range(300):
        one = made.get(number)
        counts[len(one.demonstrations)] += 1
        rows = [shown.row for shown in one.demonstrations]
        assert one.example.row not in rows
        assert len(set(rows)) == len(rows)
        assert {shown.task for shown in one.demonstrations} <= {one.example.task}
    assert set(counts) == {0, 1, 2, 3}
    assert all(45 < count < 110 for count in counts.values())


def test_rows_that_are_left_out_give_way_to_others(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    made.tasks[0].left_out = frozenset(range(0, 30, 2))
    rows = {row for task, row, _ in asked(made, 200) if task == 0}
    assert rows == set(range(1, 30, 2))
    made.tasks[0].left_out = frozenset(range(30))
    with pytest.raises(MetalmError, match="parity gives no training example"):
        asked(made, 20)


def test_the_fingerprint_tells_what_stands_where(tmp_path: Path) -> None:
    base = corpus(tmp_path).fingerprint
    assert corpus(tmp_path).fingerprint == base
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"mixture": Mixture(cap_examples=7)},
        {"templates": {"template_sampling": "index"}},
        {"demonstrations": Demonstrations(shots=[1, 1])},
    ]
    prints = [corpus(tmp_path, **change).fingerprint for change in changes]
    assert len({base, *prints}) == len(prints) + 1


def test_holding_everything_out_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="no task is left to train on"):
        select_tasks(TaskData(tasks=["rte"], hold_out=["nli"]))


def test_leak_partners_are_dropped_with_their_reasons() -> None:
    chosen = select_tasks(TaskData(tasks=["core"], hold_out=["nli"]))
    assert chosen.dropped["rte"] == "held out"
    assert chosen.dropped["qqp"] == "its cluster leaks into nli"
    assert "shares data with" in chosen.dropped["squad"]
    assert {card.cluster for card in chosen.cards}.isdisjoint({"nli", "paraphrase"})
    assert {"sst2", "boolq"} <= {card.name for card in chosen.cards}
