"""Warnings at the top of a plan, and encoders that nothing docks into, through the real command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_runs as micro
from task_fixtures import TASK_SECTIONS, write_task
from tiny_runs import metalm

MODEL = micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_task(tmp_path, "parity", 24, cluster="nli")
    content = yaml.safe_load("command: finetune\n" + MODEL + TASK_SECTIONS.replace("FOLDER", str(tmp_path)))
    content["data"]["tasks"] = [str(tmp_path / "parity.yaml")]
    return micro.write_recipe(tmp_path, yaml.safe_dump(content))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert metalm("finetune", *arguments, "--dry-run") == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_what_does_not_fit_is_named_at_the_top(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [json.loads(line) for line in (tmp_path / "parity.jsonl").read_text().splitlines()]
    for row in rows[::2]:
        row["question"] = "Is it even? " * 30
    (tmp_path / "parity.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = printed(capsys, recipe, "data.templates.template_sampling=first")
    counts = re.match(r"warning: parity: (\d+) of (\d+) sampled examples do not fit: encoder text: 96 tokens; ", text)
    assert counts is not None, text[:300]
    assert int(counts[1]) == pytest.approx(int(counts[2]) / 2, rel=0.25)
    assert "raise model.encoders.text.max_length if the encoder can read more" in text


def test_a_second_encoder_is_docked_into_or_frozen(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    content = yaml.safe_load(recipe.read_text())
    content["model"]["encoders"]["notes"] = content["model"]["encoders"]["text"]
    recipe.write_text(yaml.safe_dump(content))
    refusal = "nothing docks into the encoder notes where: model.encoders.notes"
    assert refusal in printed(capsys, recipe, code=2)
    frozen = ("model.encoders.notes.trains=none", "model.encoders.notes.connector.trains=none")
    assert "encoders.notes" in printed(capsys, recipe, *frozen)
    templates = tmp_path / "both" / "parity.yaml"
    templates.parent.mkdir()
    parts = [{"text": "{{ text }}"}, {"text": "{{ question }}", "encoder": "notes"}]
    templates.write_text(yaml.safe_dump({"templates": [{"name": "both", "parts": parts}]}))
    assert "encoders.notes" in printed(capsys, recipe, f"data.templates.collection={templates.parent}")


def test_validation_rows_that_are_trained_on_are_named(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    card = tmp_path / "parity.yaml"
    text = card.read_text()
    assert "rows are also trained on" not in printed(capsys, recipe)
    card.write_text(text.replace('validation: "rows[18:]"', 'validation: "rows[12:]"'))
    warning = "warning: parity: 6 of 12 validation rows are also trained on; set `splits` of its card to parts that"
    assert printed(capsys, recipe).startswith(warning)
    card.write_text(text.replace('train: "rows[:18]", validation: "rows[18:]"', "train: rows, validation: rows"))
    shared = printed(capsys, recipe)
    assert "parity: 5% of the rows, by a hash of the input, are for validation, and are not trained on" in shared
    assert "also trained on" not in shared


@pytest.mark.parametrize("objective", ["semi_causal", "reconstruct"])
def test_documents_are_not_docked_into_an_encoder_of_images(tmp_path: Path, capsys: Any, objective: str) -> None:
    content = yaml.safe_load(micro.RECIPE)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {"model_type": "vit", "image_size": 32, "patch_size": 16, **sizes}
    content["model"]["encoders"] = {"vision": {"config": vision}}
    content["objective"] = {"name": objective, "span_length": [4, 8]}
    assert metalm("pretrain", micro.write_recipe(tmp_path, yaml.safe_dump(content)), "--dry-run") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"objective {objective} needs a text encoder where: objective.name" in message
    assert "the encoders of the model: vision" in message


def test_lines_of_a_plan_in_a_narrow_terminal(recipe: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    epochs = ("train.steps=null", "train.epochs=0.01", "train.warmup_steps=20")
    assert metalm("finetune", recipe, *epochs, "train.batch_size=64", "--dry-run") == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("training answers of 1 task,") for line in lines), "singular"
    begin = lines.index("notes")
    notes = lines[begin + 1 : next(number for number in range(begin, len(lines)) if lines[number].startswith("probe"))]
    assert "train.epochs gives 1 step" in " ".join(" ".join(notes).split())
    assert {line[:4] for line in notes} == {"  - ", "    "}, "further lines of a note are indented"
    assert ": description" not in "\n".join(lines), "a default of no section"
