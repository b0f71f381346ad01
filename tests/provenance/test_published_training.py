"""Published training data of checkpoints: the table, and the labels of tasks that follow from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.common.checkpoints.origin import Checkpoint, Origin, write_origin
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.provenance import published_training as table
from metalm_cli.provenance.generalization_levels import generalization_levels
from metalm_cli.provenance.lineage import ancestor_record, dequantised_parts
from metalm_cli.provenance.model_history import ModelHistory, read_history
from metalm_cli.tasks import Cards

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "smollm2-135m-instruct-q4_1"
NO_CARD_YET = {
    *("clues_mnli", "clues_record", "clues_squad_v2", "clues_sst2", "coco_captions", "eli5", "flickr30k", "flickr8k"),
    *("ms_marco", "search_qa", "wikihow", "yahoo_answers", "yelp_review_full"),
}
"""Names in the table that are not those of shipped cards; a card of such a name would be labelled."""


def checkpoint(name: str, folder: Path, place: str = "hub", **origin: str) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    return Checkpoint(name, folder, Origin(place, **origin))


def label(history: ModelHistory, task: str) -> tuple[str, str]:
    cards = Cards()
    seen = history.label_for(cards[task], {name: cards[name] for name in history.tasks if name in cards.paths})
    return seen.label, seen.why


CAPTIONS = {"coco_captions", "flickr30k", "flickr8k"}


def test_the_table_names_cards_and_sources() -> None:
    names: list[str] = []
    cards = set(Cards().names)
    for entry in table.read_published_table().checkpoints:
        names += [name.lower() for name in entry.names]
        tasks = {task for tasks in entry.data_sets.values() for task in tasks}
        assert tasks - cards <= NO_CARD_YET
        assert entry.source.startswith("https://")
        assert entry.data_sets
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        (MINILM, {"snli", "mnli", "qqp", "nq_open", "trivia_qa", "squad", "squad_v2"} | CAPTIONS),
        (SMOLLM2, {"gsm8k"}),
        ("google-bert/bert-base-uncased", set()),
        ("google/electra-base-discriminator", set()),
        ("gpt2", set()),
        (
            "google-t5/t5-base",
            {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "cb", "copa", "wic", "wsc", "dpr"}
            | {"multirc", "record", "boolq", "squad", "cnn_dailymail"},
        ),
    ],
)
def test_shipped_cards_that_a_checkpoint_was_trained_on(name: str, tasks: set[str]) -> None:
    training = table.published_by_name(name)
    assert training is not None
    assert set(training.tasks()) & set(Cards().names) == tasks


def test_flan_t5_was_not_trained_on_its_held_out_benchmarks() -> None:
    training = table.published_by_name("google/flan-t5-base")
    assert training is not None
    core = {card.name for card in Cards().all() if card.core and card.world is None and not card.images}
    assert core <= set(training.tasks())
    assert {"mmlu", "bbh"}.isdisjoint(training.tasks())


def test_other_checkpoints_are_unknown(tmp_path: Path) -> None:
    for name in ("me/all-MiniLM-L6-v2", "textattack/bert-base-uncased-SST-2", "bert-large-uncased-finetuned", "gpt3"):
        assert table.published_training(checkpoint(name, tmp_path / "commit")) is None


def test_a_folder_is_known_by_its_weights_or_suspected_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "all-MiniLM-L6-v2"
    by_name = table.published_training(checkpoint(str(folder), folder, "folder"))
    assert by_name is not None
    assert "snli" in by_name.tasks()
    assert "its weights may be others" in by_name.incomplete  # so that other tasks are unknown, not held out

    copy = tmp_path / "copy"
    assert table.published_training(checkpoint(str(copy), copy, "folder")) is None
    (copy / "model.safetensors").write_bytes(b"weights")
    entry = table.read_published_table().checkpoints[0]
    weights = {hashlib.sha256(b"weights").hexdigest(): 7}
    changed = entry.model_copy(update={"weights": weights})
    monkeypatch.setattr(table, "_entries", lambda: iter([changed]))
    by_weights = table.published_training(checkpoint(str(copy), copy, "folder"))
    assert by_weights is not None
    assert (by_weights.incomplete, "snli" in by_weights.tasks()) == ("", True)


def docked_lineage(tmp_path: Path, *tasks: str) -> dict[str, Any]:
    """Lineage of a MetaLM of MiniLM and SmolLM2 that was finetuned on tasks."""
    encoder = ancestor_record(
        "encoders.text", checkpoint(MINILM, tmp_path / "minilm", "package", detail="minilm 0.1.2")
    )
    origin = {"detail": "smollm2 0.1.2", "sha256": "ab", "dequantised_from": "Q4_1"}
    decoder = ancestor_record("decoder", checkpoint(SMOLLM2, tmp_path / "smollm2", "package", **origin))
    return {"command": "finetune", "tasks": list(tasks), "ancestors": [decoder, encoder]}


def test_tasks_are_labelled_by_the_part_that_has_seen_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "lineage.json").write_text(json.dumps(docked_lineage(tmp_path, "mnli", "sst2")))
    history = read_history(run, "run")
    assert label(history, "mnli")[0] == label(history, "sst2")[0] == "seen"  # the run's own training counts first
    assert label(history, "squad") == (
        "seen by the encoder",
        f"the encoder {MINILM} was trained on SQuAD 2.0, by https://huggingface.co/{MINILM}",
    )
    assert label(history, "gsm8k")[0] == "seen by the decoder"
    kind, why = label(history, "qnli")
    assert kind == "leak partner"
    assert why.startswith(("run was trained on", f"the encoder {MINILM} was trained on"))
    kind, why = label(history, "cola")
    assert kind == "unknown"  # by SmolLM2, whose instructions are only partly known
    assert "the training data of smollm2-135m-instruct-q4_1 is partly known" in why
    assert history.published_notes(["squad", "gsm8k", "snli", "mnli", "squad"]) == [
        f"seen by the encoder ({MINILM}, by its published training data): squad, snli",
        f"seen by the decoder ({SMOLLM2}, by its published training data): gsm8k",
    ]
    levels = generalization_levels(Cards().all(), history.tasks)
    assert (levels["squad"], levels["mnli"]) == ("held_out_instances", "held_out_instances")


def test_a_complete_list_leaves_other_tasks_held_out(tmp_path: Path) -> None:
    encoder = ancestor_record("encoders.text", checkpoint(MINILM, tmp_path / "minilm"))
    history = ModelHistory.of([encoder, {"checkpoint": "gpt2", "part": "decoder", "lineage": None}])
    assert label(history, "cola")[0] == "held out"
    assert label(history, "qqp")[0] == "seen by the encoder"
    assert label(history, "mrpc")[0] == "leak partner"  # its cluster leaks into nli, of which MiniLM has seen two
    unknown = ModelHistory.of([encoder, {"checkpoint": "me/gpt", "part": "decoder", "lineage": None}])
    assert label(unknown, "cola")[0] == "unknown"
    assert label(unknown, "qqp")[0] == "seen by the encoder"


def test_a_checkpoint_that_is_evaluated_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert label(read_history(None, "google-t5/t5-base"), "sst2")[0] == "seen by the decoder"
    assert label(read_history(None, "gpt2"), "sst2")[0] == "held out"
    assert label(read_history(None, "me/gpt2"), "sst2")[0] == "unknown"


def test_lineages_say_where_checkpoints_are_from(tmp_path: Path) -> None:
    lineage = docked_lineage(tmp_path)
    decoder, encoder = lineage["ancestors"]
    assert decoder["description"].startswith("package smollm2 0.1.2, dequantised from Q4_1; trained on FineWeb-Edu, ")
    assert encoder["description"].endswith(f"by https://huggingface.co/{MINILM}")
    assert (decoder["part"], encoder["part"]) == ("decoder", "encoders.text")
    assert dequantised_parts([{"checkpoint": "run", "part": "model", "lineage": lineage}]) == {"decoder": "Q4_1"}
    plain = ancestor_record("model", checkpoint("runs/x", tmp_path / "x", "folder"))
    assert plain == {"checkpoint": "runs/x", "part": "model", "lineage": None}
    assert ModelHistory.of([{"checkpoint": "x", "lineage": None, "published": ["no object"]}]).unknown_ancestors == (
        "x",
    )


def test_reports_and_model_cards_describe_the_checkpoints(tmp_path: Path) -> None:
    from metalm_cli.reports.reading.lineage_view import lineage_view, valid_lineage
    from metalm_cli.training.model_card import checkpoint_list

    lineage = {**docked_lineage(tmp_path), "recipe": "docked"}
    lines = checkpoint_list(lineage).strip().splitlines()
    assert lines[0] == "Started from:"
    assert lines[2].startswith(f"- decoder: `{SMOLLM2}`, package smollm2 0.1.2, dequantised from Q4")
    assert lines[3].startswith(f"- encoders.text: `{MINILM}`, package minilm 0.1.2; trained on SNLI, MultiNLI, ")
    assert checkpoint_list({"ancestors": [{"checkpoint": "x", "lineage": None}]}) == ""
    parents = lineage_view("run", valid_lineage(lineage, []))["parents"]
    assert parents[0]["title"] == f"started from {SMOLLM2}"
    assert parents[0]["detail"].startswith("not made by metalm: package smollm2 0.1.2, dequantised from Q4_1; ")


def test_a_recipe_names_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.provenance.lineage import read_ancestors

    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)
    folders = {"decoder": tmp_path / "gguf", "encoder": tmp_path / "encoder"}
    for folder in folders.values():
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    write_origin(folders["decoder"], Origin("GGUF file", "/x.gguf", "cd", "Q8_0"))
    recipe = FinetuneRecipe.model_validate(
        {
            "command": "finetune",
            "model": {
                "decoder": {"checkpoint": str(folders["decoder"])},
                "encoders": {"text": {"checkpoint": str(folders["encoder"])}},
            },
            "data": {"tasks": ["sst2"]},
            "train": {"steps": 1},
        }
    )
    records = read_ancestors(recipe)
    assert [(record["part"], record.get("origin", {}).get("dequantised_from")) for record in records] == [
        ("decoder", "Q8_0"),
        ("encoders.text", None),
    ]
