"""Suites: the shipped ones, reading, errors, and what their entries select."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from card_fixtures import write_card
from metalm_cli.config.locate import shipped_names
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.settings import Protocol
from metalm_cli.evaluation.suites import list_suites, load_suite, select_suite_tasks
from metalm_cli.evaluation.suites.schema import SuiteFile
from metalm_cli.tasks import Cards
from metalm_cli.templates import TemplateCollection


def write(folder: Path, text: str, name: str = "mine") -> Path:
    """Write a suite; ``text`` is the file without its name and description."""
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\ndescription: d\n{text}", encoding="utf-8")
    return path


def names(name_or_path: str | Path) -> list[str]:
    return [task.card.name for task in select_suite_tasks(load_suite(name_or_path), Cards()).tasks]


# -- shipped suites ---------------------------------------------------------------------------------------------------


def test_the_shipped_suites() -> None:
    assert list_suites() == ["bbh", "core", "glue", "in-context", "lexical", "mmlu", "superglue", "world"]
    assert not [name for name in shipped_names(include_bases=True) if "suites" in name], "suites are not recipes"


@pytest.mark.parametrize("name", list_suites())
def test_a_shipped_suite_can_be_evaluated(name: str) -> None:
    suite, cards = load_suite(name), Cards()
    selection = select_suite_tasks(suite, cards)
    for task in selection.tasks:
        assert set(task.metrics) <= set(get_args(task_metrics.MetricName))
        assert TemplateCollection("flan").templates_for(task.card)
        assert cards[task.card.name] is task.card or cards[task.card.name] == task.card
        if max(suite.file.shots):
            assert task.card.split(task.card.demonstrations, local=True) is not None


@pytest.mark.parametrize("group", ["core", "world", "lexical"])
def test_core_world_and_lexical_are_the_groups_of_these_names(group: str) -> None:
    cards = Cards()
    assert select_suite_tasks(load_suite(group), cards).cards == Cards().select([group])


def test_in_context_has_the_nine_tasks_of_the_paper() -> None:
    suite = load_suite("in-context")
    assert names("in-context") == [
        "story_cloze", "hellaswag", "wsc273", "winogrande", "arc_easy", "arc_challenge", "piqa", "boolq", "copa"
    ]  # fmt: skip
    assert (suite.file.shots, suite.file.protocol) == ([0, 1, 4], "in_context")


def test_glue_and_superglue_score_with_their_own_metrics() -> None:
    glue = {task.card.name: task for task in select_suite_tasks(load_suite("glue"), Cards()).tasks}
    assert len({task.group for task in glue.values()}) == 9
    assert glue["cola"].metrics == ("matthews",)
    assert glue["mrpc"].metrics == glue["qqp"].metrics == ("f1", "accuracy")
    assert glue["stsb"].metrics == ("pearson", "spearman")
    assert glue["mnli"].group == glue["mnli_mismatched"].group
    superglue = {task.card.name: task for task in select_suite_tasks(load_suite("superglue"), Cards()).tasks}
    assert list(superglue) == ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
    assert superglue["record"].metrics == ("squad_f1", "squad_em")


def test_mmlu_and_bbh_are_split_into_their_tasks() -> None:
    assert len(names("mmlu")) == 57
    assert "mmlu_high_school_us_history" in names("mmlu")
    bbh = select_suite_tasks(load_suite("bbh"), Cards()).tasks
    assert (len(bbh), len({task.group for task in bbh})) == (27, 23)


def test_a_file_says_what_the_evaluation_knows() -> None:
    assert set(get_args(SuiteFile.model_fields["protocol"].annotation)) == {"auto", *get_args(Protocol)}


# -- reading ----------------------------------------------------------------------------------------------------------


def test_tasks_clusters_and_suites_each_once(tmp_path: Path) -> None:
    write(tmp_path, "tasks: [rte, {suite: glue}]", "inner")
    path = write(tmp_path, "tasks: [copa, {cluster: coreference}, {suite: inner.yaml}, rte, commonsense]")
    selected = names(path)
    assert selected[:4] == ["copa", "dpr", "winogrande", "wsc"]
    assert selected[4:6] == ["rte", "cola"]
    assert selected[-2:] == ["hellaswag", "piqa"]
    assert len(selected) == len(set(selected)) == 16


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    write(tmp_path, "tasks: [rte]", "inner")
    before = load_suite(write(tmp_path, "tasks: [{suite: inner.yaml}]")).sha256
    assert load_suite(write(tmp_path, "# a comment\ntasks:\n- {suite: inner.yaml}")).sha256 == before
    write(tmp_path, "tasks: [cb]", "inner")
    assert load_suite(tmp_path / "mine.yaml").sha256 != before, "an included suite has changed"
    assert load_suite(write(tmp_path, "tasks: [cb]")).sha256 != load_suite(write(tmp_path, "tasks: [rte]")).sha256


def test_parts_are_read_from_a_column_of_every_split(task_folder) -> None:
    from metalm_cli.data.examples.open_examples import open_examples

    rows = [{"text": f"{kind} {n}", "label": n % 2, "kind": kind} for n in range(3) for kind in ("It's a", "b")]
    task_folder.card("one", rows=rows)
    path = write(task_folder.folder, 'tasks: [{task: one, limit: 2, parts: {column: kind, values: ["It\'s a", b, c]}}]')
    cards = Cards([task_folder.folder / "cards"])
    tasks = select_suite_tasks(load_suite(path), cards).cards
    assert [card.name for card in tasks] == ["one_it_s_a", "one_b", "one_c"]
    texts = [
        [
            dict(example.fields)["text"]
            for example in open_examples(card, "validation", card_path=cards.paths[card.name])
        ]
        for card in tasks
    ]
    assert texts == [["It's a 0", "It's a 1", "It's a 2"], ["b 0", "b 1", "b 2"], []]


def test_a_derived_task_keeps_the_history_of_its_original() -> None:
    from metalm_cli.provenance.model_history import ModelHistory

    cards = Cards()
    tasks = {task.card.name: task.card for task in select_suite_tasks(load_suite("glue"), cards).tasks}
    history = ModelHistory({"mnli": "runs/mine"}, ())
    assert history.label_for(tasks["mnli_mismatched"], {"mnli": Cards()["mnli"]}).label == "seen"
    assert history.label_for(tasks["cola"], {"mnli": Cards()["mnli"]}).label == "held out"


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [rte]\nshot: [1]", "shot: unknown key|mine.yaml:4|remedy: did you mean shots?"),
        ("tasks: [rtee]", "no task is named rtee|mine.yaml:3|did you mean rte?"),
        ("tasks: [rte, {cluster: nlii}]", "no cluster is named nlii|mine.yaml:3|did you mean nli?"),
        ("tasks: [{suite: gleu}]", "no suite is named gleu|mine.yaml:3|did you mean glue?"),
        ("tasks: [{suite: ./none.yaml}]", "suite ./none.yaml not found|mine.yaml:3"),
        ("tasks: []", "tasks: got [], expected a list of texts and mappings (not empty)"),
        ("tasks: rte", "tasks: got rte, expected a list"),
        ("tasks: [{metric: f1}]", "tasks.0: expected one of task, cluster and suite, got none|mine.yaml:3"),
        ("tasks: [{task: rte, suite: glue}]", "expected only one of task, cluster, suite"),
        ("tasks: [{cluster: nli, metric: f1}]", "tasks.0.metric: metric needs task"),
        ("tasks: [{task: mrpc, metric: acuracy}]", "tasks.0.metric: no metric is named acuracy|mine.yaml:3|accuracy?"),
        ("tasks: [{task: mrpc, metric: [f1, f1]}]", "tasks.0.metric: expected different metrics"),
        ("tasks: [{task: mnli, split: matched}]", "task mnli has no matched split|choose one of train, validation"),
        ("tasks: [rte]\naggregate: mean_over_task", "no aggregate is named mean_over_task|mine.yaml:4|_tasks?"),
        ("tasks: [rte]\nalso: [median]", "also: no aggregate is named median|choose one of mean_over_clusters"),
        ("tasks: [rte, {task: rte, limit: 3}]", "two entries are named rte, and differ|set name in one of them"),
        ("tasks: [{task: rte, name: cb}]", "two tasks are named cb|give the task of the suite another name"),
        ("tasks: [rte]\nshots: [-1]", "shots: got [-1]"),
        ("tasks: [rte]\nlimit: many", "limit: got many, expected a whole number"),
        ("tasks: [rte]\nprotocol: fewshot", "protocol: got fewshot, expected auto, finetuned, in_context, instruct, "),
        ("tasks: [ab, cd]", "suite mine has 2 problems|no task is named ab|no task is named cd"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MetalmError) as caught:
        select_suite_tasks(load_suite(write(tmp_path, text)), Cards())
    for part in message.split("|"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a mapping"),
        ("- rte", "is not a mapping"),
        ("{}", "the file is not a suite|it is empty"),
        ("name: mine\ndescription: d", "the file is not a suite|it has no tasks"),
        ("model: {}", "the file is not a suite, but a recipe"),
        ("tasks: [rte", "mine.yaml:1"),
        ("tasks: [rte]", "name: missing|description: missing"),
        ("name: other\ndescription: d\ntasks: [rte]", "suite other has the file name mine.yaml|rename the file"),
    ],
)
def test_a_file_that_is_no_suite(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(MetalmError) as caught:
        load_suite(tmp_path / "mine.yaml")
    for part in message.split("|"):
        assert part in str(caught.value)


def test_a_task_card_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="the file is not a suite, but a task card"):
        load_suite(write_card(tmp_path))


def test_a_suite_that_includes_itself(tmp_path: Path) -> None:
    write(tmp_path, "tasks: [rte, {suite: b.yaml}]", "a")
    write(tmp_path, "tasks:\n- {suite: c.yaml}", "b")
    write(tmp_path, "tasks: [{suite: ./b.yaml}]", "c")
    with pytest.raises(MetalmError) as caught:
        load_suite(tmp_path / "a.yaml")
    error = caught.value
    assert error.what == "suite c includes itself"
    assert error.where.endswith("c.yaml:3")
    assert [Path(name).name for name in error.why.split(" -> ")] == ["b.yaml", "c.yaml", "b.yaml"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("in-contxt", "did you mean in-context?"), ("zzzzz", "metalm suites list"), ("mine", "./mine.yaml")],
)
def test_an_unknown_name(tmp_path: Path, monkeypatch, name: str, remedy: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "tasks: [rte]")
    with pytest.raises(MetalmError) as caught:
        load_suite(name)
    assert remedy in caught.value.remedy
    assert load_suite("./mine.yaml").name == load_suite("mine.yaml").name == "mine"


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(MetalmError, match="is a folder, not a suite"):
        load_suite(tmp_path / "a.yaml")
    with pytest.raises(MetalmError, match="not found"):
        load_suite(os.fspath(tmp_path / "b.yaml"))
