"""What moved: the change of each part against independent computations, after resuming, sharded and of adapters."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tiny_runs as micro
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.part_changes import part_changes
from metalm_cli.training.parts import weight_changes
from metalm_cli.training.parts.weight_changes import START_FILE, changes_since_start, write_start_weights
from metalm_cli.training.trainer import Trainer


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return micro.write_recipe(tmp_path)


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().flatten() for tensor in tensors]).norm())


def last_parts(run: Path) -> dict[str, Any]:
    return dict(part_changes(micro.records(run, "parts")[-1]))


def test_the_change_is_that_of_the_norms_and_frozen_weights_have_their_hash(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, half = nn.Linear(30, 20), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    half[0].requires_grad_(False)
    parts = {"whole": whole, "half": half}
    folder = RunFolder(tmp_path)
    write_start_weights(folder, parts)
    before = {name: [p.detach().clone() for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
    with torch.no_grad():
        for part in parts.values():
            for parameter in part.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape)
    changes = changes_since_start(folder, parts)
    for name, part in parts.items():
        after = [parameter for parameter in part.parameters() if parameter.requires_grad]
        difference = [new - old for new, old in zip(after, before[name], strict=True)]
        assert changes[name].change == pytest.approx(norm(difference) / norm(before[name]), rel=1e-6)
        assert not changes[name].estimated
        assert not changes[name].is_unmoved
    digest = hashlib.sha256()
    for name in ("bias", "weight"):
        tensor = getattr(half[0], name).detach()
        digest.update(f"0.{name} {tuple(tensor.shape)} torch.float32\n".encode() + tensor.numpy().tobytes())
    assert (changes["half"].sha256_before, changes["half"].frozen) == (digest.hexdigest(), 25)
    assert not changes["half"].frozen_changed
    with torch.no_grad():
        half[0].bias[0] += 1e-6
    assert changes_since_start(folder, parts)["half"].frozen_changed


def test_a_large_tensor_is_estimated_and_its_sample_is_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = nn.Linear(700, 500)
    before = [parameter.detach().clone() for parameter in part.parameters()]
    write_start_weights(RunFolder(tmp_path), {"a": part})
    assert (tmp_path / START_FILE).stat().st_size < 4 * (weight_changes.MAX_SAMPLE + 500) + 1000
    with torch.no_grad():
        part.weight[:, ::7] += 0.01  # a seventh of the columns
    change = changes_since_start(RunFolder(tmp_path), {"a": part})["a"]
    exact = norm([new - old for new, old in zip(part.parameters(), before, strict=True)]) / norm(before)
    assert change.estimated
    assert change.change == pytest.approx(exact, rel=0.03)


def test_a_run_reports_the_change_of_its_saved_model(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: dict[str, torch.Tensor] = {}
    make = Trainer.__init__

    def keep_start(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        start.update({name: tensor.detach().clone() for name, tensor in self.root.model.state_dict().items()})

    monkeypatch.setattr(Trainer, "__init__", keep_start)
    run = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, "model.trains.decoder=none", "--out", run) == 0
    saved = load_file(run / "model" / "model.safetensors")
    changes = last_parts(run)
    for part in ("encoders.text", "connectors.text"):
        names = [name for name in saved if name.startswith(f"{part}.")]
        expected = norm([saved[name] - start[name] for name in names]) / norm([start[name] for name in names])
        assert changes[part].change == pytest.approx(expected, rel=1e-5)
    assert changes["decoder"].trained == 0
    assert changes["decoder"].sha256_before == changes["decoder"].sha256_after != ""
    card = (run / "model" / "README.md").read_text()
    assert f"| decoder | - | - | {changes['decoder'].frozen:,} | {changes['decoder'].sha256_before[:12]}" in card
    assert "What moved" in (run / "report.html").read_text()


def test_the_start_is_that_of_the_run_after_resuming_and_continuing(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, "train.checkpoint_every=3", "train.keep_checkpoints=9", "--out", run) == 0
    resumed = micro.interrupted_copy(run, tmp_path / "resumed", 3)
    assert micro.metalm("pretrain", "--resume", "--out", resumed) == 0
    assert micro.records(resumed, "") == micro.records(run, "")
    assert micro.metalm("pretrain", "--resume", "--out", run) == 0, "a finished run"
    assert len(micro.records(run, "parts")) == 1
    assert micro.metalm("pretrain", recipe, "train.steps=9", "train.checkpoint_every=3", "train.keep_checkpoints=9",
                        "--resume", "--out", run) == 0  # fmt: skip
    first, last = (part_changes(record) for record in micro.records(run, "parts"))
    assert last["connectors.text"].change > first["connectors.text"].change


def test_a_run_of_an_earlier_version_resumes_without_the_report(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, "train.checkpoint_every=3", "train.keep_checkpoints=9", "--out", run) == 0
    resumed = micro.interrupted_copy(run, tmp_path / "resumed", 3)
    (resumed / START_FILE).unlink()
    assert micro.metalm("pretrain", "--resume", "--out", resumed) == 0
    assert not micro.records(resumed, "parts")
    assert "What moved" not in (resumed / "model" / "README.md").read_text()
    (resumed / START_FILE).write_bytes(b"damaged")
    assert micro.metalm("pretrain", "--resume", "--out", resumed) == 1


def test_a_part_that_trains_and_has_not_moved_is_a_warning(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ["model.encoders.text.learning_rate=1e-12", "train.steps=21", "train.batch_size=1"]
    assert micro.metalm("pretrain", recipe, *rates, "--out", tmp_path / "run") == 0
    output = capsys.readouterr().err
    assert output.count("warning: encoders.text trains, but its weights have not moved") == 2
    assert "have not moved in 20 steps: no row has used it, or its learning rate (1e-12) is too low" in output
    assert "warning: decoder" not in output
    assert "warning: connectors.text" not in output


def test_a_frozen_part_that_changes_is_a_warning(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Trainer.update

    def careless(self: Any, *arguments: Any) -> Any:
        with torch.no_grad():
            next(self.root.model.decoder.parameters())[0, 0] += 1e-3
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "update", careless)
    assert micro.metalm("pretrain", recipe, "model.trains.decoder=none", "--out", tmp_path / "run") == 0
    assert "warning: frozen weights of decoder have changed in the run" in capsys.readouterr().err
    assert "changed: " in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_move_and_the_weights_below_them_keep_their_hash(recipe: Path, tmp_path: Path, precision: str) -> None:
    adapters = ["model.lora={rank: 2, parts: [decoder]}", f"train.precision={precision}"]
    assert micro.metalm("pretrain", recipe, *adapters, "--out", tmp_path / "run") == 0
    changes = last_parts(tmp_path / "run")
    for part in ("decoder", "encoders.text"):
        assert changes[part].frozen > 0
        assert not changes[part].frozen_changed
    assert changes["decoder"].change > 1e-4
    assert changes["encoders.text"].trained == 0


@pytest.mark.slow
def test_two_sharded_processes_report_the_same(recipe: Path, tmp_path: Path) -> None:
    line = ["pretrain", recipe, "train.steps=21", "model.encoders.text.learning_rate=1e-12", "--out"]
    codes, outputs = micro.run_processes([*line, tmp_path / "two"], tmp_path, environment=micro.FSDP)
    assert codes == [0, 0], outputs
    assert outputs[0].count("warning: encoders.text trains") == 2
    assert micro.metalm(*line, tmp_path / "one") == 0
    single, sharded = (last_parts(tmp_path / name) for name in ("one", "two"))
    for name, change in sharded.items():
        assert change.change == pytest.approx(single[name].change, rel=1e-2)
