"""Learning rates of pretrained weights in runs: from the outside checkpoint through models that continue from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny_runs as micro
from metalm_cli.common.checkpoints.find import find_local_checkpoint
from metalm_cli.config import resolve
from metalm_cli.training import trainer as trainer_module
from task_fixtures import write_task

FINETUNE = """
command: finetune
data: {tasks: [FOLDER/parity.yaml], templates: {collection: FOLDER/words}, sequence_length: 64,
  validation: {examples: 2}}
train: {steps: 2, batch_size: 2, learning_rate: 3e-3, warmup_steps: 0, precision: fp32, log_every: 1,
  validate_every: 0, checkpoint_every: 1, sample_continuations: 0}
"""
SCRATCH = {"decoder": 3e-3, "connectors.text": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an encoder from outside in ``encoder``, a model that docks it in ``first``, and recipes."""
    root = tmp_path_factory.mktemp("rates")
    write_task(root, "parity", 16, cluster="nli")
    recipe = micro.write_recipe(root, name="pretrain.yaml")
    micro.write_recipe(root, FINETUNE.replace("FOLDER", str(root)), "finetune.yaml")
    steps = ["train.steps=1", "train.warmup_steps=0"]
    encoder = ["objective={name: mlm}", *micro.ENCODER_ONLY]
    assert micro.metalm("pretrain", recipe, *encoder, *steps, "--out", root / "mlm") == 0
    (root / "mlm" / "model").rename(root / "encoder")
    (root / "encoder" / "lineage.json").rename(root / "lineage.json")
    assert micro.metalm("pretrain", recipe, docked(root / "encoder"), *steps, "--out", root / "first") == 0
    return root


def docked(encoder: Path) -> str:
    return f"model.encoders.text={{checkpoint: {encoder}, dropout: 0.0}}"


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Peak rates of the optimiser groups of the last run, by part."""
    peaks: dict[str, float] = {}
    make = trainer_module.make_optimizer

    def recorded(*arguments: object) -> object:
        optimizer = make(*arguments)  # type: ignore[arg-type]
        peaks.clear()
        peaks.update({group["name"].rpartition(".")[0]: group["base_lr"] for group in optimizer.param_groups})
        return optimizer

    monkeypatch.setattr(trainer_module, "make_optimizer", recorded)
    return peaks


@pytest.fixture
def finetune(folder: Path, rates: dict[str, float], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Finetune a model of the folder, and return the rates of its parts."""

    def run(model: str, *overrides: str, out: Path | None = None, recipe: str = "finetune.yaml") -> dict[str, float]:
        arguments = [folder / recipe, *overrides, "--model", folder / model, "--out", out or tmp_path / "run"]
        assert micro.metalm("finetune", *arguments) == 0
        return dict(rates)

    return run


def training_of(run: Path) -> dict[str, dict[str, object]]:
    return json.loads((run / "model" / "config.json").read_text())["training"]


def test_a_docked_checkpoint_trains_at_its_default_and_the_rest_at_the_runs_rate(
    folder: Path, rates: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert micro.metalm("pretrain", folder / "pretrain.yaml", docked(folder / "encoder"), "--out", out) == 0
    assert rates == {**SCRATCH, "encoders.text": 1e-4}
    output = " ".join(capsys.readouterr().err.split())
    assert f"encoders.text: default for pretrained weights ({folder / 'encoder'})" in output
    assert "decoder, connectors.text: train.learning_rate" in output
    assert "warning:" not in output
    assert all(part == {"train": "all", "learning_rate": None} for part in training_of(out).values())


def test_an_encoder_that_was_trained_here_from_scratch_has_the_runs_rate(
    folder: Path, rates: dict[str, float], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for file in (folder / "encoder").iterdir():
        (own / file.name).symlink_to(file)
    (own / "lineage.json").symlink_to(folder / "lineage.json")
    out = tmp_path / "run"
    assert micro.metalm("pretrain", folder / "pretrain.yaml", docked(own), "train.steps=2", "--out", out) == 0
    assert rates == {**SCRATCH, "encoders.text": 3e-3}


def test_a_model_that_continues_knows_its_pretrained_encoder(finetune: Callable[..., dict[str, float]]) -> None:
    assert finetune("first") == {**SCRATCH, "encoders.text": 1e-4}


def test_a_set_rate_wins_and_is_saved_and_a_high_one_is_a_warning(
    finetune: Callable[..., dict[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert finetune("first", "model.encoders.text.learning_rate=2e-3")["encoders.text"] == 2e-3
    assert training_of(out)["encoders.text"]["learning_rate"] == 2e-3
    output = " ".join(capsys.readouterr().err.split())
    assert "encoders.text: model.encoders.text.learning_rate" in output
    assert output.count("warning: encoders.text trains at 0.002, 20 times") == 2, "in the plan, and at the start"
    again = finetune(str(out), out=tmp_path / "again")
    assert again == {**SCRATCH, "encoders.text": 2e-3}, "a rate that was set holds for the run that continues"
    assert "encoders.text: saved in the model" in " ".join(capsys.readouterr().err.split())


def test_null_gives_the_runs_rate(finetune: Callable[..., dict[str, float]]) -> None:
    rates = finetune("first", "train.pretrained_learning_rate.encoders=null")
    assert rates == {**SCRATCH, "encoders.text": 3e-3}


def test_adapters_are_new_and_the_connector_keeps_its_rate(finetune: Callable[..., dict[str, float]]) -> None:
    rates = finetune("first", "model.lora={rank: 2}", "model.connector.learning_rate=2e-3")
    assert rates == {"decoder": 3e-3, "encoders.text": 3e-3, "connectors.text": 2e-3}


def test_a_model_without_a_lineage_is_from_outside_but_for_its_connector(
    finetune: Callable[..., dict[str, float]], folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (folder / "first" / "model").iterdir():
        if file.name != "lineage.json":
            (model / file.name).symlink_to(file)
    assert finetune(str(model)) == {"decoder": 1e-4, "encoders.text": 1e-4, "connectors.text": 3e-3}


def test_a_run_of_an_earlier_version_resumes_with_the_rates_it_had(
    finetune: Callable[..., dict[str, float]], rates: dict[str, float], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finetune("first", "train.pretrained_learning_rate={decoder: null, encoders: null, seq2seq: null}")
    whole = load_file(out / "model" / "model.safetensors")
    (out / "checkpoints" / "step-00000002").rename(tmp_path / "removed")
    for path in (out / "data.json", out / "checkpoints" / "step-00000001" / "state.json"):
        record = json.loads(path.read_text())
        del record["recipe"]["train"]["pretrained_learning_rate"]
        path.write_text(json.dumps(record))
    text = (out / "recipe.yaml").read_text()
    lines = "  pretrained_learning_rate:\n    decoder: null\n    encoders: null\n    seq2seq: null\n"
    assert lines in text
    (out / "recipe.yaml").write_text(text.replace(lines, ""))
    rates.clear()
    assert micro.metalm("finetune", "--resume", "--out", out) == 0
    assert rates == {**SCRATCH, "encoders.text": 3e-3}
    resumed = load_file(out / "model" / "model.safetensors")
    assert micro.difference(resumed, whole) == 0
    arguments = ["--model", folder / "first", "--resume", "--out", out, "train.steps=3"]
    assert micro.metalm("finetune", folder / "finetune.yaml", *arguments) == 2, "the shipped recipe has the defaults"


def test_only_the_record_of_a_run_stands_for_the_rates_of_earlier_versions(folder: Path, tmp_path: Path) -> None:
    text = (
        (folder / "finetune.yaml").read_text().replace("command: finetune", "command: finetune\nmodel: {checkpoint: x}")
    )
    recorded = micro.write_recipe(tmp_path, text, "recipe.yaml")
    new = resolve("finetune", str(recorded)).recipe.train.pretrained_learning_rate
    assert (new.decoder, new.encoders, new.seq2seq) == (1e-4, 1e-4, 1e-4)
    (tmp_path / "environment.json").write_text("{}")
    old = resolve("finetune", str(recorded)).recipe.train.pretrained_learning_rate
    assert (old.decoder, old.encoders, old.seq2seq) == (None, None, None)


def test_the_recipe_for_two_checkpoints(checkpoints: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Both are from outside; here with a small decoder, which the command line names."""
    decoder = checkpoints("stories260k-llama")
    encoder = resolve("pretrain", "docked").recipe.model.encoders["text"].checkpoint
    if find_local_checkpoint(encoder) is None:
        pytest.skip(f"{encoder} is not installed (make checkpoints)")
    few = ["data.sources.0.world.documents=100", "data.validation.documents=1", "train.batch_size=1"]
    arguments = ["docked", f"model.decoder.checkpoint={decoder}", *few, "train.micro_batch_size=1", "--offline"]
    assert micro.metalm("pretrain", *arguments, "--dry-run") == 0
    output = " ".join(capsys.readouterr().out.split())
    for part, rate in (("decoder LlamaForCausalLM", "0.0001"), ("encoders.text BertModel", "0.0001")):
        assert output.partition(part)[2].split()[2:4] == ["all", rate]
    assert f"decoder: default for pretrained weights ({decoder})" in output
    assert f"encoders.text: default for pretrained weights ({encoder})" in output
    assert "connectors.text: train.learning_rate" in output
