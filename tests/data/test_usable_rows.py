"""Which rows of a task train: draws are uniform over the rows that can train, and shares are what was requested."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from card_fixtures import CARD_VALUES
from metalm_cli.config.schema.tasks import DemonstrationOptions, MixtureConfig, TaskDataConfig, TemplateOptions
from metalm_cli.data.examples import session_writer
from metalm_cli.data.examples.pack_examples import TaskSession, pack_sessions
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.errors import MetalmError
from metalm_cli.sessions import DecoderTokenizer, SessionTokeniser, TokenRules
from metalm_cli.training.planning.fit_warnings import fit_warnings
from tiny_models import tokenizer_of

LABELLED = "label | string | trim"
MIN_P = 1e-4


class Tasks:
    """Folder of tasks whose texts begin with the number of their row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, labels: Sequence[str], *, texts: Sequence[str] = (), **card: Any) -> str:
        """Add a task of CSV rows; rows without a label are left out."""
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(zip(texts or [f"{row} arrived." for row in range(len(labels))], labels, strict=True))
        values = {"splits": {"train": "rows"}, "validation_share": 0, "row_filter": LABELLED, **card}
        values["answer"] = {"label": "label", "class_names": ["no", "yes"], "verbalizers": {"no": "no", "yes": "yes"}}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**CARD_VALUES, "name": name, "file": f"{name}.csv", **values}))
        (self.folder / "words").mkdir(exist_ok=True)
        template = {"name": "plain", "input": "{{ text }}"}
        (self.folder / "words" / f"{name}.yaml").write_text(yaml.safe_dump({"templates": [template]}))
        return str(path)

    def corpus(self, *paths: str, seed: int = 0, **options: Any) -> TaskCorpus:
        data = TaskDataConfig(
            tasks=list(paths), templates=TemplateOptions(collection=str(self.folder / "words")), **options
        )
        return open_training_tasks(data, seed=seed, cache=self.folder / "cache")[0]


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    return Tasks(tmp_path)


def builder_of(corpus: TaskCorpus, length: int) -> SessionBuilder:
    tokenise = SessionTokeniser(DecoderTokenizer(tokenizer_of("byte"), TokenRules()), {})
    return SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, length))


def row_of(session: TaskSession) -> int:
    """Row of a session, which its text begins with."""
    text = tokenizer_of("byte").decode(session.tokenised.ids, skip_special_tokens=True)
    return int(text.split()[0])


def draws_of(corpus: TaskCorpus, count: int) -> Counter[tuple[int, int]]:
    planned_examples = [corpus.get(number) for number in range(count)]
    return Counter((planned.task, planned.example.row) for planned in planned_examples)


def uniformity(draws: Counter[Any], rows: int) -> float:
    """P-value of the hypothesis that draws are uniform over ``rows`` rows, of which absent ones were never drawn."""
    return float(stats.chisquare([*draws.values(), *[0] * (rows - len(draws))]).pvalue)


def test_labelled_rows_before_and_behind_a_block_without_labels(tasks: Tasks) -> None:
    labels = ["yes", "no"] * 50 + [""] * 850 + ["no"] * 50
    part = tasks.add("part", labels, splits={"train": "rows[:-50]"})
    whole = tasks.add("whole", ["yes", "no"] * 270)
    corpus = tasks.corpus(part, whole)
    assert [task.row_count for task in corpus.tasks] == [100, 540]
    assert [info.share for info in corpus.sources] == [100 / 640, 540 / 640]
    assert corpus.sources[0].left_out == {"left out by row_filter": 850}
    draws = draws_of(corpus, 640)
    assert max(draws.values()) <= 2, "a first epoch of both tasks"
    assert {row for task, row in draws if task == 0} <= set(range(100))
    assert sum(times for (task, _), times in draws.items() if task == 0) == pytest.approx(100, abs=15)
    epochs = draws_of(corpus, 40 * 640)
    assert max(epochs.values()) - min(epochs.values()) <= 2
    assert len(epochs) == 640


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cap", [None, 30])
def test_draws_are_uniform_over_usable_rows(tasks: Tasks, seed: int, cap: int | None) -> None:
    labels = [""] * 300 + ["yes"] * 40 + [""] * 500 + ["no"] * 20 + [""] * 100
    usable = {*range(300, 340), *range(840, 860)}
    corpus = tasks.corpus(tasks.add("part", labels), seed=seed, mixture=MixtureConfig(cap_examples=cap))
    rows = {row for _, row in draws_of(corpus, 600)}
    assert rows == usable if cap is None else (len(rows) == cap and rows < usable)
    partial_epochs = Counter[int]()
    for epoch in range(60):  # within an epoch every row comes once: the first draws of many epochs must be uniform
        first = epoch * len(rows)
        partial_epochs.update(corpus.get(number).example.row for number in range(first, first + 10))
    assert uniformity(partial_epochs, len(rows)) > MIN_P


def test_a_long_block_without_labels_does_not_end_a_run(tasks: Tasks) -> None:
    corpus = tasks.corpus(tasks.add("big", [""] * 12_000 + ["yes"] * 1_000))
    draws = draws_of(corpus, 1_000)
    assert set(draws.values()) == {1}
    assert len(draws) == 1_000
    with pytest.raises(MetalmError, match="task none has no usable training example") as caught:
        tasks.corpus(tasks.add("none", [""] * 20))
    assert "leaves out all 20 rows" in caught.value.why
    assert caught.value.exit_code == 2


def test_the_filter_is_evaluated_once(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tasks.add("part", ["yes", ""] * 20)
    assert tasks.corpus(path).tasks[0].row_count == 20
    monkeypatch.setattr("metalm_cli.tasks.example.ExampleMaker.includes", lambda *_: pytest.fail("it is cached"))
    monkeypatch.setattr("metalm_cli.data.examples.task_corpus.TrainingTask.example", lambda *_: None)
    assert tasks.corpus(path).tasks[0].rows.array().tolist() == list(range(0, 40, 2))


@pytest.mark.parametrize(("rows", "seed"), [(60, 0), (60, 1), (60, 2), (6_000, 0)])
def test_a_row_that_does_not_fit_gives_way_to_an_independent_draw(tasks: Tasks, rows: int, seed: int) -> None:
    texts = [f"{row} " + "word " * (2 if row < rows // 2 else 60) for row in range(rows)]
    path = tasks.add("pairs", ["yes", "no"] * (rows // 2), texts=texts, long_inputs=None)
    builder = builder_of(tasks.corpus(path, seed=seed), 100)
    count = 40 * 60
    sessions = [builder.session(number) for number in range(count)]
    drawn = Counter(row_of(session) for session in sessions)
    assert max(drawn) < rows // 2
    assert uniformity(drawn, rows // 2) > MIN_P
    replaced = sum(session.counts["too_long_examples"] for session in sessions)
    assert replaced == pytest.approx(count / 2, rel=0.1), "the counter counts examples, not draws"
    assert max(session.counts["too_long_examples"] for session in sessions) == 1
    assert pack_sessions(sessions[:50]).counts["too_long_examples"] <= 50
    assert builder.misses <= 2 * rows, "a row that does not fit is tokenised once"
    fresh = builder_of(tasks.corpus(path, seed=seed), 100)
    for number in (count - 1, 700, 3):
        assert fresh.session(number).tokenised.ids.tolist() == sessions[number].tokenised.ids.tolist()


def test_shares_hold_where_rows_do_not_fit(tasks: Tasks) -> None:
    texts = [f"{row} " + "word " * (60 if row % 10 else 2) for row in range(200)]
    paths = [
        tasks.add("long", ["yes", "no"] * 100, texts=texts, long_inputs=None),
        tasks.add("short", ["yes", "no"] * 100),
    ]
    builder = builder_of(tasks.corpus(*paths), 100)
    tasks_drawn = Counter(builder.session(number).task for number in range(builder.corpus.plan.block_size))
    assert tasks_drawn[0] == tasks_drawn[1]


def test_a_task_of_which_nothing_fits(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_writer, "MAX_DRAWS", 20)
    path = tasks.add("long", ["yes", "no"] * 50, texts=["word " * 60] * 100, long_inputs=None)
    with pytest.raises(MetalmError, match="20 examples drawn from long do not fit into 100 positions") as caught:
        builder_of(tasks.corpus(path), 100).session(0)
    assert "data.sequence_length" in caught.value.remedy


@pytest.mark.parametrize("copies", [2, 19])
def test_no_demonstration_has_the_input_of_the_example_or_of_another_one(tasks: Tasks, copies: int) -> None:
    texts = [f"{row // copies} is asked." for row in range(20 * copies)]
    path = tasks.add("twice", ["yes", "no"] * (10 * copies), texts=texts)
    corpus = tasks.corpus(path, demonstrations=DemonstrationOptions(shots=[3, 3]))
    for number in range(300):
        planned = corpus.get(number)
        inputs = [example.fields["text"] for example in (planned.example, *planned.demonstrations)]
        assert len(set(inputs)) == len(inputs) == 4


def test_there_are_fewer_demonstrations_than_requested_only_without_other_inputs(tasks: Tasks) -> None:
    path = tasks.add("same", ["yes", "no"] * 30, texts=["the same"] * 59 + ["another"])
    corpus = tasks.corpus(path, demonstrations=DemonstrationOptions(shots=[2, 2]))
    shots = [len(corpus.get(number).demonstrations) for number in range(60)]
    assert max(shots) == 1
    assert sum(shots) > 40


def test_a_json_lines_task_is_filtered_in_its_slice(tasks: Tasks, tmp_path: Path) -> None:
    path = Path(tasks.add("lines", ["yes"]))
    rows = [{"text": f"{row} arrived.", "label": "yes" if row % 3 == 0 else ""} for row in range(90)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(path.read_text().replace("lines.csv", "lines.jsonl").replace("train: rows", "train: rows[10:-20]"))
    (task,) = tasks.corpus(str(path)).tasks
    assert [task.example(position).row for position in range(task.row_count)] == list(range(12, 70, 3))


def with_template(tasks: Tasks, name: str, text: str) -> None:
    path = tasks.folder / "words" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"templates": [{"name": "some", "input": text}]}))


def test_a_row_that_its_template_renders_empty_gives_way_and_is_counted(tasks: Tasks) -> None:
    texts = [f"{row} arrived." for row in range(60)]
    path = tasks.add("pairs", ["yes", "no"] * 30, texts=texts)
    with_template(tasks, "pairs", "{% if row.text.split()[0] | int < 20 %}{{ text }}{% endif %}")
    demonstrations = DemonstrationOptions(shots=(1, 1))
    for options in ({}, {"demonstrations": demonstrations}):
        builder = builder_of(tasks.corpus(path, **options), 400)
        sessions = [builder.session(number) for number in range(300)]
        empty = sum(session.counts["empty_examples"] for session in sessions)
        assert empty == pytest.approx(200, rel=0.15)
        assert not any(session.counts["too_long_examples"] for session in sessions)
        rendered = [tokenizer_of("byte").decode(session.tokenised.ids) for session in sessions]
        numbers = [int(word) for text in rendered for word in text.split() if word.isdecimal()]
        assert numbers
        assert max(numbers) < 20
    (warning,) = fit_warnings(builder, sessions)
    assert warning == (
        f"warning: pairs: {empty} of 300 sampled examples are left out by their template, which renders an empty input "
        f"or target: some ({empty}); others of the task replace them"
    )


def test_a_task_whose_templates_render_nothing(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_writer, "MAX_DRAWS", 20)
    path = tasks.add("pairs", ["yes", "no"] * 30)
    with_template(tasks, "pairs", "{% if text == 'none' %}{{ text }}{% endif %}")
    with pytest.raises(MetalmError, match="20 examples drawn from pairs are left out") as caught:
        builder_of(tasks.corpus(path), 100).session(0)
    assert "render an empty input or target for 20 of them" in caught.value.why
