"""What a name or a number decides is checked before data is opened, and before weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.data.documents import open_corpus
from metalm_cli.data.examples import open_examples, task_selection
from metalm_cli.evaluation import open_tasks, run_evaluation
from metalm_cli.inference import generate_file
from metalm_cli.models import assembly
from metalm_cli.training import pretraining, run
from task_fixtures import TASK_SECTIONS, write_task

RECIPE = "command: finetune\n" + micro.MODEL + TASK_SECTIONS.replace("sequence_length: 128", "sequence_length: 64")
STUDY = """name: mine
description: A study of the tests
scales: {tiny: {duration: seconds}}
stages:
- name: tuned
  summary: a
  purpose: a
  command: finetune FOLDER/micro.yaml
  overrides: {data.tasks: [FOLDER/other.yaml]}
evaluations: [{name: scores, title: a, summary: a, purpose: a, models: [tuned], options: --task world_reviews}]
claims: []
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with three tasks, a template that reads a missing field, and a run folder that is in use."""
    root = tmp_path_factory.mktemp("checks")
    for name in ("parity", "other", "long", "broken"):
        write_task(root, name, 12)
    (root / "words" / "broken.yaml").write_text("templates:\n- {name: plain, input: '{{ txt }} {{ options }}'}\n")
    micro.write_recipe(root, RECIPE.replace("FOLDER", str(root)))
    micro.write_recipe(root, name="pretrain.yaml")
    (root / "used").mkdir()
    (root / "used" / "recipe.yaml").write_text("command: finetune\n")
    return root


@pytest.fixture
def _reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening data, and building or loading a model, fail the test."""

    def refuse(what: str) -> Callable[..., Any]:
        def called(*_: Any, **__: Any) -> Any:
            pytest.fail(f"{what} before the check")

        return called

    for module in (open_examples, task_selection, open_tasks):
        monkeypatch.setattr(module, "open_examples", refuse("data is opened"))
    for module in (open_corpus, pretraining):
        monkeypatch.setattr(module, "open_corpus", refuse("data is opened"))
    for module in (assembly, run):
        monkeypatch.setattr(module, "build_from_recipe", refuse("a model is built"))
    monkeypatch.setattr(run_evaluation, "load", refuse("a model is loaded"))


BAD_FINETUNING = [
    ("data.tasks=[FOLDER/parity.yaml, othr]", "no task is named othr"),
    ("data.hold_out=[nly]", "no cluster or task is named nly"),
    ("data.templates.collection=flam", "there is no template collection flam"),
    ("data.tasks=[FOLDER/parity.yaml, FOLDER/broken.yaml]", "template plain of broken reads txt, which the card does"),
    ("data.tasks=[FOLDER/parity.yaml, rte]", "the collection FOLDER/words has no templates for rte"),
    ("data.validation.role=tset", "no task has a tset split"),
    ("data.mixture={strategy: explicit, weights: {parity: 1, othr: 2}}", "do not match the tasks: othr"),
    ("data.mixture.groups=[{weight: 1, tasks: [nly]}]", "a group of the mixture is empty"),
    ("data.match_input_lengths_of=[{tokenizer: FOLDER/none, length: 64}]", "no model folder FOLDER/none"),
    ("data.sequence_length=65", "data.sequence_length: got 65, expected at most the 64 positions that this gpt2"),
    ("model={checkpoint: FOLDER/runs/typo}", "no model folder FOLDER/runs/typo"),
    ("train.trackers=[trackio]", "trackio"),
    ("train.evaluate={tasks: [nly]}", "no task is named nly"),
    ("train.evaluate={tasks: [parity], template: nice}", "parity has no template nice"),
    ("train.evaluate={tasks: [parity], split: dev}", "task parity has no dev split"),
    ("train.evaluate={tasks: [parity], best_by: maen}", "no score is named maen"),
]


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize(("override", "message"), BAD_FINETUNING)
def test_finetuning(folder: Path, capsys: Any, override: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else object())
    line = ["finetune", folder / "micro.yaml", override.replace("FOLDER", str(folder)), "--dry-run"]
    assert micro.metalm(*line) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message.replace("FOLDER", str(folder)) in error, error


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize(("override", "message"), [case for case in BAD_FINETUNING if "data." in case[0]][:8])
def test_recipe_check_finds_the_same(folder: Path, capsys: Any, override: str, message: str) -> None:
    assert micro.metalm("recipe", "check", folder / "micro.yaml", override.replace("FOLDER", str(folder))) == 2
    assert message.replace("FOLDER", str(folder)) in " ".join(capsys.readouterr().err.split())
    assert micro.metalm("recipe", "check", folder / "micro.yaml") == 0


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.decoder={checkpoint: FOLDER/typo}"], "no model folder FOLDER/typo"),
        (["model.encoders.text.tokenizer=FOLDER/typo", "model.encoders.text.max_length=8"], "no model folder"),
        (["data.sequence_length=65"], "got 65, expected at most the 64 positions that this gpt2 model reads"),
        (["model.encoders.text.max_length=65"], "at most the 64 positions that the encoder 'text' reads"),
        (["train.evaluate={tasks: [rt]}"], "no task is named rt"),
        (["--out", "FOLDER/used"], "FOLDER/used"),
        (["stages=[{name: one}, {name: two}]", "--out", "FOLDER/used"], "FOLDER/used"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "plan"])
def test_pretraining(folder: Path, capsys: Any, arguments: list[str], message: str, dry_run: list[str]) -> None:
    line = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    assert micro.metalm("pretrain", folder / "pretrain.yaml", *line, *dry_run) == 2
    assert message.replace("FOLDER", str(folder)) in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER/typo", "--task", "world_reviews"], "no model folder FOLDER/typo"),
        (["FOLDER/used", "--task", "world_reviews"], "the run is not finished and has no model yet"),
        (["FOLDER/used", "--task", "world_reviews"], "finish it: metalm finetune --resume --out FOLDER/used"),
        (["FOLDER/used", "--task", "world_reviws"], "no task is named world_reviws"),
    ],
)
def test_evaluation(folder: Path, capsys: Any, arguments: list[str], message: str) -> None:
    line = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    assert micro.metalm("evaluate", *line, "--offline") == 2
    assert message.replace("FOLDER", str(folder)) in " ".join(capsys.readouterr().err.split())


def test_generation(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.setattr(generate_file, "read_input_file", lambda _: pytest.fail("the input is read before the check"))
    files = ["--input", folder / "in.jsonl", "--out", folder / "out.jsonl"]
    assert micro.metalm("generate", folder / "typo", *files, "--offline") == 2
    assert "no model folder" in capsys.readouterr().err
    assert not (folder / "out.jsonl").exists()


def test_a_study_checks_the_tasks_of_all_stages(folder: Path, capsys: Any) -> None:
    path = folder / "mine.yaml"
    path.write_text(STUDY.replace("FOLDER", str(folder)))
    assert micro.metalm("reproduce", path, "--dry-run") == 0
    path.write_text(STUDY.replace("FOLDER/other", f"{folder}/othr").replace("FOLDER", str(folder)))
    capsys.readouterr()
    assert micro.metalm("reproduce", path, "--dry-run") == 2
    error = capsys.readouterr().err
    assert "the stage tuned of the study mine cannot run" in error
    assert "no task cards found" in error
