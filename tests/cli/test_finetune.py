"""Bad input to ``metalm finetune``: one error message, exit code 2, nothing written. And the shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from task_fixtures import write_task

RECIPE = """
command: finetune
model:
  decoder:
    config: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2, n_positions: 128}
    tokenizer: {new: {vocab_size: 400, documents: 50}}
data:
  tasks: [FOLDER/parity.yaml]
  templates: {collection: FOLDER/words}
  sequence_length: 128
train: {steps: 2, batch_size: 4, warmup_steps: 0, precision: fp32, checkpoint_every: 0, sample_continuations: 0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path, "parity", 12)
    micro.write_recipe(tmp_path, RECIPE.replace("FOLDER", str(tmp_path)))
    return tmp_path


def failure_message(folder: Path, capsys: Any, *arguments: object, code: int = 2, command: str = "finetune") -> str:
    """Run a command that must fail, and return its error message; no run folder may be written."""
    out = folder / "run"
    capsys.readouterr()
    assert micro.metalm(command, folder / "micro.yaml", *arguments, "--out", out) == code
    message = capsys.readouterr().err
    assert message.count("error:") == 1, message
    assert "Traceback" not in message
    assert "this is a bug" not in message
    assert not out.exists()
    return message


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_rows(folder: Path, change: Any) -> None:
    """Change every row of the task."""
    path = folder / "parity.jsonl"
    task_rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in task_rows))


def test_a_column_that_is_missing(folder: Path, capsys: Any) -> None:
    change_rows(folder, lambda row: {**{key: row[key] for key in ("text", "label")}, "query": row["question"]})
    message = failure_message(folder, capsys)
    assert f"where: {folder}/parity.jsonl:" in message
    assert "'question' is undefined" in message
    assert "the row's columns are text, label, query" in message


def test_a_label_out_of_range(folder: Path, capsys: Any) -> None:
    change_rows(folder, lambda row: {**row, "label": -1})
    message = failure_message(folder, capsys)
    assert "answer.label: got -1, expected 0 to 1 or one of no, yes" in message
    assert "with row_filter" in message


def test_a_text_that_is_empty(folder: Path, capsys: Any) -> None:
    change_rows(folder, lambda row: {**row, "text": "  "})
    assert "fields.text: the text is empty" in failure_message(folder, capsys)


def test_options_without_the_answer(folder: Path, capsys: Any) -> None:
    card = folder / "parity.yaml"
    label = 'answer: {label: label, class_names: [no, yes], verbalizers: {no: "no", yes: "yes"}}'
    edit(card, label, "answer: {options: choices, text: right}")
    change_rows(folder, lambda row: {**row, "choices": ["red", "blue"], "right": "green"})
    assert "the answer 'green' is not among the options red, blue" in failure_message(folder, capsys)


def test_a_typo_in_a_template_field(folder: Path, capsys: Any) -> None:
    edit(folder / "words" / "parity.yaml", "{{ question }}\n      {{ options }}", "{{ qestion }}\n      {{ options }}")
    message = failure_message(folder, capsys)
    assert "reads qestion, which the card does not have" in message
    assert "text, question" in message


def test_a_card_with_several_mistakes_names_them_all(folder: Path, capsys: Any) -> None:
    card = folder / "parity.yaml"
    edit(card, "core: false", "cor: false")
    edit(card, "name: accuracy", "name: acuracy")
    edit(card, "truncate: tail", "truncate: tall")
    message = failure_message(folder, capsys)
    assert "task card parity has 3 problems" in message
    assert "did you mean tail?" in message
    assert "did you mean core?" in message
    assert "did you mean accuracy?" in message


def test_an_invalid_expression(folder: Path, capsys: Any) -> None:
    edit(folder / "parity.yaml", "text: text", 'text: "text |"')
    assert "is not a valid expression" in failure_message(folder, capsys)


def test_a_collection_that_is_not_there(folder: Path, capsys: Any) -> None:
    message = failure_message(folder, capsys, "--templates", "flam")
    assert "there is no template collection flam" in message
    assert "flan" in message


def test_a_task_that_is_not_there(folder: Path, capsys: Any) -> None:
    message = failure_message(folder, capsys, "--task", "rtte")
    assert "no task is named rtte" in message
    assert "did you mean rte?" in message


def test_nothing_is_left_to_train_on(folder: Path, capsys: Any) -> None:
    message = failure_message(folder, capsys, "data.hold_out=[parity]")
    assert "no task is left to train on" in message


def test_unavailable_rows(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALM_DATA", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "cache"))
    message = failure_message(folder, capsys, "--task", "rte", "--task", "cb", "--templates", "plain", "--offline")
    assert "no data for 2 tasks: rte, cb" in message
    assert "--data-root" in message


def test_nothing_fits(folder: Path, capsys: Any) -> None:
    message = failure_message(folder, capsys, "data.sequence_length=16")
    assert "do not fit into 16 positions" in message
    assert "raise data.sequence_length" in message


def test_a_base_that_is_not_a_language_model(folder: Path, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    message = failure_message(folder, capsys, "--model", tmp_path / "base")
    assert "error:" in message


def test_a_recipe_of_another_command(folder: Path, capsys: Any) -> None:
    message = failure_message(folder, capsys, command="instruct")
    assert "command" in message
    assert "instruct" in message


def test_no_model_and_no_run_to_begin_from(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert micro.metalm("finetune", "world", "--out", folder / "run") == 2
    message = capsys.readouterr().err
    assert "no finished run has a model with encoders" in message
    assert "metalm pretrain small" in message


def test_a_broken_row_in_the_middle_stops_the_run_with_its_line(folder: Path, capsys: Any) -> None:
    path = folder / "parity.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], '{"text": "broken', *lines[6:]]) + "\n")
    capsys.readouterr()
    code = micro.metalm("finetune", folder / "micro.yaml", "train.steps=9", "--out", folder / "run")
    message = capsys.readouterr().err
    assert code in (1, 2)
    assert f"{path}:6" in message
    assert "Traceback" not in message


# -- what ships -------------------------------------------------------------------------------------------------------

SHIPPED = ["multitask", "mnli", "single", "world", "flan", "world-flan"]
TWINS = ["multitask-gpt", "mnli-gpt", "single-gpt"]
FAMILIES = ["families/gpt", "families/metalm", "families/encoder-decoder"]
"""Recipes of models from scratch, one of each family."""
_TINY = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32"
_NEW = "{new: {vocab_size: 300, documents: 100}}"
IMAGES = {
    "clip-small": [
        "model.encoders.vision.checkpoint=null",
        f"model.encoders.vision.config={{model_type: vit, image_size: 32, patch_size: 16, {_TINY}}}",
        f"model.encoders.text={{checkpoint: null, config: {{model_type: bert, {_TINY}}}, tokenizer: {_NEW}}}",
    ],
    "paper/vision-language": [
        f"model.decoder.tokenizer={_NEW}",
        "model.decoder.config={num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, intermediate_size: 32}",
        f"model.encoders.vision.config={{image_size: 32, max_position_embeddings: 128, {_TINY}}}",
        "data.workers=0",
    ],
}
"""Recipes of images, and their models made tiny."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of a docked model and of a twin without encoders."""
    folder = tmp_path_factory.mktemp("bases")
    recipe = micro.write_recipe(folder, micro.RECIPE.replace("n_positions: 64", "n_positions: 512"))
    text = ["model.encoders.text.config.max_position_embeddings=300", "train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("pretrain", recipe, *text, "--out", folder / "docked") == 0
    plain = ["model.encoders=null", "objective={name: causal}", "train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("pretrain", recipe, *plain, "--out", folder / "plain") == 0
    return {"docked": folder / "docked", "plain": folder / "plain"}


@pytest.mark.parametrize("name", [*SHIPPED, *TWINS])
def test_the_shipped_recipes_run(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    base = bases["plain" if name in TWINS else "docked"]
    command = "instruct" if "flan" in name else "finetune"
    small = ["data.sequence_length=512", "train.warmup_steps=1", "train.batch_size=8", "train.log_every=1"]
    small += ["train.steps=2", "data.validation.examples=2", "train.precision=fp32", "train.sample_continuations=1"]
    small += [] if "world" in name else ["data.tasks=[world_nli, world_reviews, world_gist]"]
    assert micro.metalm(command, name, "--model", base, *small, "--out", tmp_path / "run") == 0
    assert len(micro.losses(tmp_path / "run")) == 2
    assert "answer" in (tmp_path / "run" / "report.html").read_text()
    lineage = json.loads((tmp_path / "run" / "model" / "lineage.json").read_text())
    assert lineage["command"] == command
    assert lineage["ancestors"][0]["lineage"]["command"] == "pretrain"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_recipes_of_the_families_run(name: str, tmp_path: Path) -> None:
    small = ["train.steps=2", "train.batch_size=8", "train.log_every=1", "train.warmup_steps=1"]
    small += ["data.validation.examples=2", "train.precision=fp32"]
    assert micro.metalm("finetune", name, *small, "--out", tmp_path / "run") == 0
    assert len(micro.losses(tmp_path / "run")) == 2


@pytest.mark.parametrize("name", IMAGES)
def test_the_recipes_of_images_run(name: str, tmp_path: Path) -> None:
    small = ["data.tasks=[world_captions]", "train.steps=2", "train.batch_size=4"]
    small += ["train.log_every=1", "train.warmup_steps=1", "data.validation.examples=4", "train.precision=fp32"]
    assert micro.metalm("finetune", name, *IMAGES[name], *small, "--out", tmp_path / "run") == 0
    assert len(micro.losses(tmp_path / "run")) == 2


@pytest.mark.parametrize("name", ["demo/lexical", "demo/lexical-gpt"])
def test_the_recipes_of_the_lexical_tasks_run(name: str, tmp_path: Path) -> None:
    small = ["train.steps=2", "train.batch_size=8", "train.log_every=1", "train.warmup_steps=1"]
    small += ["data.validation.examples=2", "model.decoder.tokenizer.new.documents=200"]
    if name == "demo/lexical":
        shape = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32"
        small += [f"model.encoders.text.config={{model_type: bert, {shape}}}", "model.encoders.text.tokenizer=same"]
    assert micro.metalm("finetune", name, *small, "--out", tmp_path / "run") == 0
    assert len(micro.losses(tmp_path / "run")) == 2


def test_every_shipped_recipe_is_tested_here() -> None:
    from metalm_cli.config.locate import find_recipe, shipped_names
    from metalm_cli.config.resolution import command_of

    # The demo's recipes are run by test_demo.
    shipped = [name for name in shipped_names() if not name.startswith("demo/")]
    assert {name for name in shipped if command_of(find_recipe(name)) != "pretrain"} == {
        *SHIPPED,
        *TWINS,
        *FAMILIES,
        *IMAGES,
    }


def test_the_plan_says_how_a_file_is_read_and_what_validates(folder: Path, capsys: Any) -> None:
    rows = [{"instruction": "Add the numbers.", "input": f"{n} and 1", "output": str(n + 1)} for n in range(30)]
    path = folder / "sums.json"
    path.write_text(json.dumps([*rows, {"instruction": "Say nothing.", "input": "", "output": ""}]))
    assert micro.metalm("finetune", folder / "micro.yaml", f"data.tasks=[{path}]", "--dry-run") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "sums: sums.json, read as Alpaca" in output
    assert "sums: 5% of the rows, by a hash of the input, are for validation" in output
    assert "1 rows of sums are not trained on" in output
