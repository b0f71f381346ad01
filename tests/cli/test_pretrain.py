"""``metalm pretrain`` as users run it: written files, training from an existing model, shipped recipes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import tiny_runs as micro
from metalm_cli.config import resolve

SHIPPED = ["small", "small-gpt-same-decoder", "small-gpt-same-total"]
FROM_THE_HUB = ["pile", "connector-only", "encoder-mlm", "encoder-rtd", "paper/language-1.3b"]
PARTS = ["decoder", "encoders/decoder"]
CAUSAL = ["model.encoders=null", "objective={name: causal}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    out = folder / "first"
    assert micro.metalm("pretrain", micro.write_recipe(folder), "train.sample_continuations=1", "--out", out) == 0
    return out


def lineage(run: Path) -> dict[str, Any]:
    return json.loads((run / "model" / "lineage.json").read_text())


# -- written files ----------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = micro.write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert micro.metalm("pretrain", recipe, "--dry-run") == 0
    assert micro.metalm("pretrain", recipe, "--dry-run", "--out", tmp_path / "run") == 0
    assert list(tmp_path.iterdir()) == [recipe]
    output = capsys.readouterr().out
    for word in ("decoder", "encoders.text", "memory", "probe", "steps: 6", "micro.yaml:26", "defaults"):
        assert word in output


def test_the_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "checkpoints",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "start_weights.safetensors",
        "model",
        "recipe.yaml",
        "report.html",
        "sessions.json",
        "tokenizers",
    }
    again = resolve("pretrain", str(finished / "recipe.yaml"), [], {}).recipe
    assert again.train.steps == 6
    assert again.data.sources[0].world is not None
    for record in micro.records(finished):
        assert record.keys() >= {
            "step",
            "split",
            "loss",
            "bits_per_byte",
            "lr",
            "tokens",
            "trained_tokens",
            "docked_positions",
            "examples",
            "grad_norm",
        }


def test_data_counts_are_printed_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, more = tmp_path / "run", ["data.validation.hold_out_every=2"]
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), "train.log_every=6", *more, "--out", out) == 0
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "| data: " in text)
    last = micro.records(out)[-1]
    assert last["split_documents"] > 0
    assert f"{last['tokens']:,} source tokens of {last['examples']} documents, {last['split_documents']} of" in line
    assert f"{last['docked_tokens']:,} tokens docked at {last['docked_positions']:,} positions" in line
    assert f"{last['padded_positions']} positions padded" in line
    assert f"{last['cut_spans']} cut, {last['empty_spans']} empty, {last['too_long_spans']} too long" in line
    [source] = json.loads((out / "data.json").read_text())["sources"]
    assert source["left_out"] == {"validation": source["rows"] - source["usable"]}
    assert source["usable"] < source["rows"]


def test_the_model_folder(finished: Path) -> None:
    model = finished / "model"
    files = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
    assert files >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "processors/text/tokenizer.json",
        "lineage.json",
        "README.md",
    }
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    card = (model / "README.md").read_text()
    saved = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert saved == yaml.safe_load((finished / "recipe.yaml").read_text())
    validation = micro.records(finished, "validation")[-1]
    assert f"| bits_per_byte | {validation['bits_per_byte']:.4f} |" in card
    facts = lineage(finished)
    assert facts["steps"] == 6
    assert facts["tokens"] == micro.records(finished)[-1]["tokens"]
    assert [source["kind"] for source in facts["data"]] == ["world"]
    assert facts["ancestors"] == []


def test_without_out_a_run_is_named_after_its_recipe_and_latest_links_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = micro.write_recipe(tmp_path)
    assert micro.metalm("pretrain", recipe, "train.steps=2") == 0
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "latest")
    assert run.name.startswith("micro-")
    assert (tmp_path / "runs" / "latest").resolve() == run


def test_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "runs"
    assert micro.metalm("pretrain", recipe, "train.steps=2", "--seeds", "0,1", "--out", out) == 0
    runs = [out / "seed-0", out / "seed-1"]
    assert micro.losses(runs[0]) != micro.losses(runs[1])
    summary = json.loads((out / "seeds.json").read_text())
    last = [micro.records(run, "validation")[-1]["loss"] for run in runs]
    assert summary["seeds"] == [0, 1]
    assert summary["validation"]["loss"]["values"] == last
    assert summary["validation"]["loss"]["mean"] == pytest.approx(sum(last) / 2)
    assert summary["validation"]["loss"]["stdev"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    assert "bits_per_byte: mean" in capsys.readouterr().out
    for wrong in ("0,0", "one", "-1", ""):
        assert micro.metalm("pretrain", recipe, "--seeds", wrong, "--out", tmp_path / "wrong") == 2
    assert not (tmp_path / "wrong").exists()


def test_samples_are_shown(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        micro.metalm(
            "pretrain", micro.write_recipe(tmp_path), "train.sample_continuations=1", "--out", tmp_path / "run"
        )
        == 0
    )
    assert capsys.readouterr().err.count("sample |") == 1
    micro.assert_same_run(finished, tmp_path / "run", 6)


def test_tensorboard_gets_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra trackers is not installed")
    out = tmp_path / "run"
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), "train.trackers=[tensorboard]", "--out", out) == 0
    assert list((out / "trackers").rglob("events.*"))


# -- training from an existing model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["run", "model"])
def test_training_a_finished_model_further(finished: Path, tmp_path: Path, what: str) -> None:
    base = finished if what == "run" else finished / "model"
    text = yaml.safe_load(micro.RECIPE)
    del text["model"]
    recipe = micro.write_recipe(tmp_path, yaml.safe_dump(text))
    out = tmp_path / "second"
    assert micro.metalm("pretrain", recipe, "train.learning_rate=1e-12", "--model", base, "--out", out) == 0
    before, after = (load_file(run / "model" / "model.safetensors") for run in (finished, out))
    assert micro.difference(before, after) < 1e-6, "the second run starts with the weights of the first"
    (ancestor,) = lineage(out)["ancestors"]
    assert ancestor["checkpoint"] == str(base)
    assert ancestor["lineage"] == lineage(finished)
    assert micro.metalm("pretrain", recipe, "train.steps=2", "--model", out, "--out", tmp_path / "third") == 0
    assert lineage(tmp_path / "third")["ancestors"][0]["lineage"]["ancestors"] == [ancestor]


def test_ancestors_are_found_where_the_run_found_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name in ``METALM_CHECKPOINTS``, and in the home folder; a damaged lineage is an error before training."""
    text = yaml.safe_load(micro.RECIPE)
    del text["model"]
    recipe = micro.write_recipe(tmp_path, yaml.safe_dump(text))
    (tmp_path / "kept").mkdir()
    shutil.copytree(finished / "model", tmp_path / "kept" / "base")
    monkeypatch.setenv("METALM_CHECKPOINTS", str(tmp_path / "kept"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, name in enumerate(("owner/base", "~/kept/base")):
        out = tmp_path / f"run-{number}"
        assert micro.metalm("pretrain", recipe, "train.steps=2", "--model", name, "--out", out) == 0
        assert lineage(out)["ancestors"] == [{"checkpoint": name, "part": "model", "lineage": lineage(finished)}]
    (tmp_path / "kept" / "base" / "lineage.json").write_text('{"format": ')
    capsys.readouterr()
    assert micro.metalm("pretrain", recipe, "train.steps=2", "--model", name, "--out", tmp_path / "bad") == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert str(tmp_path / "kept" / "base" / "lineage.json") in message
    assert not (tmp_path / "bad").exists()


def test_an_encoder_named_decoder_keeps_a_tokenizer_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.models import part_loader

    text = yaml.safe_load(micro.RECIPE)
    text["model"]["encoders"] = {"decoder": text["model"]["encoders"]["text"]}
    text["model"]["encoders"]["decoder"]["tokenizer"]["new"]["vocab_size"] = 350
    recipe, out = micro.write_recipe(tmp_path, yaml.safe_dump(text)), tmp_path / "run"
    assert micro.metalm("pretrain", recipe, "train.checkpoint_every=3", "--out", out) == 0
    tokenizers = [json.loads((out / "tokenizers" / part / "tokenizer.json").read_text()) for part in PARTS]
    assert [len(tokenizer["model"]["vocab"]) for tokenizer in tokenizers] == [400, 350]
    again = micro.interrupted_copy(out, tmp_path / "again", 3)
    monkeypatch.delattr(part_loader, "train_tokenizer")  # a resumed run trains no tokenizer
    assert micro.metalm("pretrain", "--out", again, "--resume") == 0
    micro.assert_same_run(out, again, 6)


def test_a_causal_twin_is_saved_as_its_own_class(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    out = tmp_path / "twin"
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *CAUSAL, "--out", out) == 0
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert type(model) is GPT2LMHeadModel
    trained = micro.checkpoint(out, 6)["model"]
    assert torch.equal(trained["model.decoder.transformer.wte.weight"], model.transformer.wte.weight)
    assert micro.records(out)[-1]["docked_positions"] == 0


@pytest.mark.parametrize("objective", ["mlm", "rtd"])
def test_a_trained_encoder_is_saved_as_its_own_class_and_docks(tmp_path: Path, objective: str) -> None:
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "encoder"
    settings = ["model.decoder=null", f"objective={{name: {objective}}}", "train.steps=2"]
    assert micro.metalm("pretrain", recipe, *settings, "--out", out) == 0
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["model_type"] == "electra"
    assert (out / "model" / "generator").is_dir() == (objective == "rtd")
    docked = tmp_path / "docked"
    encoder = f"model.encoders.text={{checkpoint: {out / 'model'}}}"
    assert micro.metalm("pretrain", recipe, encoder, "train.steps=2", "--out", docked) == 0
    assert lineage(docked)["ancestors"][0]["lineage"] == lineage(out)


def test_twins_are_validated_on_the_same_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.training.validation import validator

    scored: list[Counter[int]] = []
    score = validator.Validator.__call__

    def watched(self: Any, *rest: Any) -> dict[str, float]:
        batches = [self.objective.collate(batch) for batch in self.batches]
        scored.append(Counter(target for batch in batches for target in batch.decoder.targets.tolist()))
        return score(self, *rest)

    monkeypatch.setattr(validator.Validator, "__call__", watched)
    recipe = micro.write_recipe(tmp_path)
    same = "data.validation.objective={name: semi_causal, span_length: [4, 8], span_fraction: 0.25}"
    for name, settings in (("metalm", []), ("twin", [*CAUSAL, same]), ("other", CAUSAL)):
        assert micro.metalm("pretrain", recipe, *settings, "train.steps=2", "--out", tmp_path / name) == 0
    metalm, twin, other = scored
    assert twin == metalm
    assert other.total() > metalm.total()


# -- what ships -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_small_recipes_run(tmp_path: Path, name: str) -> None:
    settings = ["train.steps=2", "train.warmup_steps=1", "data.validation.documents=2", "train.log_every=1"]
    assert micro.metalm("pretrain", name, *settings, "--out", tmp_path / "run") == 0
    assert len(micro.losses(tmp_path / "run")) == 2


def test_every_shipped_recipe_is_tested_here() -> None:
    from metalm_cli.config.locate import find_recipe, shipped_names
    from metalm_cli.config.resolution import command_of

    tested = {*SHIPPED, *FROM_THE_HUB, "paper/gpt-same-decoder", "paper/gpt-same-total"}
    tested |= {"docked", "align"}  # tests/training/test_pretrained_rates.py, tests/training/test_distillation.py
    tested |= {"compress", "passages"}  # resolved by tests/config/test_shipped.py; their studies run their stages
    # The demo's recipes are run by test_demo.
    shipped = [name for name in shipped_names() if not name.startswith("demo/")]
    assert {name for name in shipped if command_of(find_recipe(name)) == "pretrain"} == tested


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_recipes_that_need_the_hub_say_so_offline(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("METALM_DATA", "METALM_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)
    assert micro.metalm("pretrain", name, "--offline", "--out", tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert "remedy:" in message
    assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


def test_a_shipped_recipe_on_local_checkpoints(
    checkpoints: Any, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = checkpoints("stories260k-llama")
    settings = [
        f"model.decoder={{checkpoint: {llama}}}",
        "data.sequence_length=256",
        "train.steps=2",
        "train.warmup_steps=1",
    ]
    settings += ["data.validation.documents=2", "train.batch_size=2", "model.encoders.text.tokenizer=same"]
    assert micro.metalm("pretrain", "small", *settings, "--data-root", data_root, "--dry-run") == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
