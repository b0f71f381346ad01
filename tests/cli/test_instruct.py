"""``metalm instruct`` with a hold-out: the audit, a leaking recipe, a leaking base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_runs

SMALL = (
    "train.steps=2",
    "train.batch_size=4",
    "train.warmup_steps=1",
    "train.micro_batch_size=4",
    "train.precision=fp32",
    "train.validate_every=0",
    "train.checkpoint_every=0",
    "train.sample_continuations=0",
    "data.sequence_length=512",
    "data.validation.examples=1",
)
PREMISE = (
    "The old lighthouse keeper of the northern island climbed {} steps every evening to light the lamp for the ships"
)
CONFIG = "model.decoder.config.n_positions=512"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run."""
    folder = tmp_path_factory.mktemp("base")
    recipe = tiny_runs.write_recipe(folder)
    wide = "model.encoders.text.config.max_position_embeddings=512"
    assert tiny_runs.metalm("pretrain", recipe, CONFIG, wide, "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_card(folder: Path, name: str, cluster: str, **splits: list[dict[str, Any]]) -> Path:
    """Write a card with the columns and templates of rte, and its rows; return the folder of cards."""
    folder_of_rows = folder / "root" / name
    folder_of_rows.mkdir(parents=True)
    for role, split_rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in split_rows)
        (folder_of_rows / f"{role}.jsonl").write_text(text, encoding="utf-8")
    card = {
        "name": name,
        "cluster": cluster,
        "description": "A test.",
        "usage": "train_and_eval" if "train" in splits else "eval",
        "hub": {"id": f"nobody/{name}"},
        "splits": {role: role for role in splits},
        "fields": {"premise": "sentence1", "hypothesis": "sentence2"},
        "answer": {
            "label": "label",
            "class_names": ["entailment", "not_entailment"],
            "verbalizers": {"entailment": "yes", "not_entailment": "no"},
        },
        "long_inputs": {"field": "premise"},
        "metric": {"name": "accuracy", "source": "this test"},
        "templates": "rte",
        "licence": "none",
        "citation": "none",
    }
    (folder / "cards").mkdir(exist_ok=True)
    (folder / "cards" / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    return folder / "cards"


def held_out_row(number: int) -> dict[str, Any]:
    return {"sentence1": PREMISE.format(number), "sentence2": "He lit it.", "label": number % 2}


def instruct(base: Path, folder: Path, *arguments: object) -> int:
    root = ["--data-root", folder / "root", f"data.cards=[{folder / 'cards'}]"]
    out = ["--model", base, "--out", folder / "run", "--offline"]
    return tiny_runs.metalm("instruct", "flan", *SMALL, *root, *out, *arguments)


def training_row(number: int) -> dict[str, Any]:
    return {"sentence1": f"{number} Geese flew south.", "sentence2": "It was autumn.", "label": 0}


def test_the_audit_is_in_the_run_and_the_lineage(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_card(tmp_path, "copied", "misc", train=[training_row(1), held_out_row(1), training_row(2), training_row(3)])
    write_card(tmp_path, "kept", "stories", train=[held_out_row(9)], validation=[held_out_row(1), held_out_row(2)])
    arguments = ("data.tasks=[copied]", "--hold-out", "stories")
    assert instruct(base, tmp_path, *arguments) == 0
    message = " ".join(capfd.readouterr().err.split())
    assert (
        "audit: 1 of 4 training rows overlap with 2 held-out evaluation rows and are left out: 1 of copied with kept"
        in message
    )
    assert "seen in pretraining: 0 of 2" in message
    assert "levels: held-out categories:" in message
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["rows"] == {"copied": [1]}
    assert audit["pairs"][0]["examples"][0]["train"].endswith("copied/train.jsonl:2")
    lineage = json.loads((tmp_path / "run" / "model" / "lineage.json").read_text())
    assert lineage["held_out"] == ["kept"]
    assert lineage["tasks"] == ["copied"]
    assert lineage["audits"][0]["overlapping"] == {"copied": 1}
    assert lineage["levels"]["kept"] == "held_out_category"
    assert lineage["levels"]["copied"] == "held_out_instances"
    assert lineage["levels"]["cola"] == "held_out_task"
    assert instruct(base, tmp_path, *arguments, "--resume", "train.steps=3") == 0


def test_a_leaking_recipe_fails(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_card(tmp_path, "copied", "misc", train=[training_row(1), held_out_row(1)])
    write_card(tmp_path, "kept", "stories", train=[held_out_row(9)], validation=[held_out_row(1), held_out_row(2)])
    arguments = ("data.tasks=[copied]", "--hold-out", "stories", "data.decontaminate=fail")
    assert instruct(base, tmp_path, *arguments) == 2
    message = capfd.readouterr().err
    assert "1 training rows overlap" in message
    assert "copied/train.jsonl:2" in message
    assert "kept/validation.jsonl:1" in message
    assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_a_leaking_recipe_of_real_rows_fails(
    base: Path, tmp_path: Path, data_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from metalm_cli.data.examples.open_examples import open_examples
    from metalm_cli.tasks import Cards

    rte = open_examples(Cards()["rte"], "validation", data_root=data_root, offline=True, cache=tmp_path / "c")
    write_card(tmp_path, "copied", "misc", train=[training_row(1), *(rte.table.load(number) for number in range(30))])
    (tmp_path / "root" / "rte").symlink_to(data_root / "rte")
    arguments = ("data.tasks=[copied]", "--hold-out", "rte", "data.decontaminate=fail")
    assert instruct(base, tmp_path, *arguments) == 2
    assert "30 training rows overlap with held-out evaluation rows: 30 of copied with rte" in capfd.readouterr().err


def test_a_leaking_base_is_refused(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_card(tmp_path, "inferred", "nli", train=[held_out_row(number) for number in range(8)])
    write_card(tmp_path, "copied", "misc", train=[training_row(number) for number in range(8)])
    root = ("--data-root", tmp_path / "root", f"data.cards=[{tmp_path / 'cards'}]", "--offline")
    tuned = tmp_path / "tuned"
    assert tiny_runs.metalm("finetune", "data.tasks=[inferred]", *SMALL, *root, "--model", base, "--out", tuned) == 0
    capfd.readouterr()
    assert instruct(tuned, tmp_path, "data.tasks=[copied]", "--hold-out", "nli") == 2
    message = " ".join(capfd.readouterr().err.split())
    assert "the base model was already trained on held-out tasks (nli)" in message
    assert "inferred (cluster nli): held out" in message
    assert str(tuned) in message
    assert not (tmp_path / "run").exists()
    assert instruct(tuned, tmp_path, "data.tasks=[copied]", "--hold-out", "inferred", "--dry-run") == 2
    assert instruct(tuned, tmp_path, "data.tasks=[copied]", "--hold-out", "sentiment") == 0
    levels = json.loads((tmp_path / "run" / "model" / "lineage.json").read_text())["levels"]
    assert levels["sst2"] == "held_out_category"
    assert levels["inferred"] == "held_out_instances", "the base was trained on it"
    assert levels["rte"] == "held_out_task"


def test_unknown_names_and_nothing_left_are_one_message_each(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_card(tmp_path, "copied", "misc", train=[training_row(1)])
    assert instruct(base, tmp_path, "data.tasks=[copied]", "--hold-out", "nly") == 2
    assert "did you mean nli?" in capfd.readouterr().err
    assert instruct(base, tmp_path, "data.tasks=[copied]", "--hold-out", "misc") == 2
    message = capfd.readouterr().err
    assert "no task is left to train on" in message
    assert "copied: held out" in message
    assert not (tmp_path / "run").exists()


def test_a_base_without_a_lineage_is_reported(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(base / "model", bare)
    (bare / "lineage.json").unlink()
    write_card(tmp_path, "copied", "misc", train=[training_row(1)])
    assert instruct(bare, tmp_path, "data.tasks=[copied]", "--hold-out", "nli", "--dry-run") == 0
    message = "".join(capfd.readouterr().out.split())
    assert f"thetrainingdataof{bare}isunknown" in message
