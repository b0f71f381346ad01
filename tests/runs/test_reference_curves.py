"""Reference curves: recording, the band, and what is said of a run that leaves it."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.config import resolve, split_arguments
from metalm_cli.config.locate import REFERENCE, shipped_names, shipped_root
from metalm_cli.errors import MetalmError
from metalm_cli.runs.reference_curves.band import SHARE, WIDTH, train_band, validation_band
from metalm_cli.runs.reference_curves.compare import Compared, compare_with_curve
from metalm_cli.runs.reference_curves.curve import ReferenceCurve, curve_names, find_curve, read_curve, write_curve
from metalm_cli.runs.reference_curves.record import record_curve
from metalm_cli.runs.reference_curves.run_losses import Losses, RunLosses, read_run_losses
from metalm_cli.runs.reference_curves.settings import setting_differences
from metalm_cli.runs.resume_check import recipe_record

SETTINGS = recipe_record(resolve("pretrain", "small").recipe)


def _run(seed: int, values: list[float], **changes: Any) -> RunLosses:
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "seed": seed}}
    run = RunLosses(
        path=Path(f"seed-{seed}"),
        recipe="small",
        settings=settings,
        environment={"torch": "2.13", "device": "cpu"},
        sources=[],
        validation_sources=[],
        start={},
        train=Losses(tuple(range(10, 10 * len(values) + 1, 10)), tuple(values)),
        validation=Losses(),
    )
    return replace(run, **changes)


@pytest.fixture
def curve() -> ReferenceCurve:
    return record_curve([_run(0, [7.0, 6.0, 5.0, 4.0]), _run(1, [7.1, 6.1, 5.1, 4.1]), _run(2, [6.9, 5.9, 4.9, 3.9])])


def test_the_band_is_four_deviations_of_the_seeds_and_of_a_share_of_the_mean() -> None:
    band = train_band([1, 2, 3, 4], [[10.0, 10.0, 10.0, 2.0], [10.0, 10.0, 10.0, 4.0]])
    assert (band.lower[0], band.upper[0]) == pytest.approx((10 - WIDTH * SHARE * 10, 10 + WIDTH * SHARE * 10))
    pooled = (0 + 0 + 2.0) / 3  # of the records 2, 3 and 4; the variance of 2.0 and 4.0 is 2.0
    half = WIDTH * math.sqrt(pooled + (SHARE * 3) ** 2)
    assert band.upper[3] == pytest.approx(3 + half)
    validation = validation_band([4], [[3.0], [3.0]], band)
    assert validation.upper == pytest.approx((3 + half,))


def test_a_single_record_outside_does_not_leave_the_band(curve: ReferenceCurve) -> None:
    single = compare_with_curve(_run(3, [7.0, 9.0, 5.0, 4.0]), curve)
    assert single.is_inside
    assert "in the band up to step 40, but for single records (step 20: loss 9" in "\n".join(single.lines())
    twice = compare_with_curve(_run(3, [7.0, 6.0, 9.0, 9.0]), curve)
    assert twice.train.left_at == 2
    assert "leaves the band at step 30: loss 9, band 4.434 to 5.566 (above); 2 of 4 records are outside" in "\n".join(
        twice.lines()
    )


def test_a_loss_that_is_not_finite_leaves_at_once(curve: ReferenceCurve) -> None:
    text = "\n".join(compare_with_curve(_run(3, [7.0, math.nan, 5.0, 4.0]), curve).lines())
    assert "at step 20: the loss is not finite" in text
    assert "a learning rate that is too high" in text


def test_other_logging_is_averaged_to_the_common_steps(curve: ReferenceCurve) -> None:
    finer = Losses(tuple(range(5, 41, 5)), (7.5, 6.5, 6.5, 5.5, 5.5, 4.5, 4.5, 3.5))
    assert compare_with_curve(_run(3, [], train=finer), curve).train.losses == (7.0, 6.0, 5.0, 4.0)
    coarser = compare_with_curve(_run(3, [], train=Losses((20, 40), (6.5, 4.5))), curve)
    assert coarser.is_inside
    assert coarser.train.band.steps == (20, 40)


def test_settings_come_first_and_the_causes_name_them(curve: ReferenceCurve) -> None:
    model = {**SETTINGS["model"], "trains": {**SETTINGS["model"]["trains"], "decoder": "none"}}
    run = _run(3, [8.0] * 4)
    settings = {**run.settings, "model": model, "train": {**run.settings["train"], "learning_rate": 0.02, "steps": 200}}
    lines = list(compare_with_curve(replace(run, settings=settings), curve).lines())
    assert lines[1:5] == [
        "settings differ (curve → run):",
        "  train.steps 300 → 200",
        "  train.learning_rate 0.002 → 0.02 (10 times)",
        "  model.trains.decoder null → none",
    ]
    assert lines[-1] == (
        "usual causes: learning rate and schedule (train.steps, train.learning_rate), then "
        "parts that are frozen or have adapters (model.trains.decoder)"
    )


def test_data_start_and_versions_that_differ(curve: ReferenceCurve) -> None:
    source: Any = {
        "name": "text",
        "kind": "file",
        "location": "",
        "revision": None,
        "rows": 5,
        "share": 1.0,
        "files": [],
    }
    run = _run(3, [3.0] * 4, sources=[source], start={"model": "small, 9 steps"}, environment={"torch": "2.14"})
    text = "\n".join(compare_with_curve(run, curve).lines())
    assert "data differ: text: the source is new" in text
    assert "start differs (curve → run): model from scratch → small, 9 steps" in text
    assert "versions differ (curve → run): torch 2.13 → 2.14, device cpu → ?" in text
    assert text.endswith("usual causes: the data, then what the run starts from")


def test_without_a_difference_the_causes_are_the_general_ones(curve: ReferenceCurve) -> None:
    above, below = ("\n".join(compare_with_curve(_run(3, [loss] * 4), curve).lines()) for loss in (8.0, 1.0))
    assert "settings, data and start are those of the curve" in above
    assert "a part that does not train" in above
    assert "answers or validation rows among what the model reads" in below


def test_a_shorter_run_and_runs_that_cannot_be_compared(curve: ReferenceCurve) -> None:
    text = "\n".join(compare_with_curve(_run(3, [7.0, 6.0]), curve).lines())
    assert "the run ends before the curve: compared up to step 20 of 40" in text
    with pytest.raises(MetalmError, match="share no logged step"):
        compare_with_curve(_run(3, [], train=Losses((3,), (7.0,))), curve)
    with pytest.raises(MetalmError, match="of recipe world, and the curve of small"):
        compare_with_curve(_run(3, [7.0], recipe="world"), curve)


def test_validation_is_compared_on_equal_data(curve: ReferenceCurve) -> None:
    with_validation = curve.model_copy(update={"validation_steps": [40], "validation_losses": [[4.0], [4.1], [3.9]]})
    run = _run(3, [7.0, 6.0, 5.0, 4.0], validation=Losses((40,), (6.0,)))
    assert "validation, step 40: loss 6, band 3.488 to 4.512 (outside, above)" in list(
        compare_with_curve(run, with_validation).lines()
    )
    other = {**SETTINGS["data"], "validation": {**SETTINGS["data"]["validation"], "documents": 5}}
    elsewhere = replace(run, settings={**run.settings, "data": other})
    assert compare_with_curve(elsewhere, with_validation).validation is None


def test_only_what_can_change_the_loss_counts_as_a_setting() -> None:
    logged = {**SETTINGS["train"], "seed": 9, "log_every": 1, "validate_every": 7, "keep_checkpoints": 9}
    assert setting_differences(SETTINGS, {**SETTINGS, "train": logged}) == []
    without = {key: value for key, value in SETTINGS["train"].items() if key != "epsilon"}  # of an earlier version
    assert setting_differences({**SETTINGS, "train": without}, SETTINGS) == []


def test_runs_that_do_not_make_a_curve(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="at least two different seeds"):
        record_curve([_run(0, [7.0]), _run(0, [7.0])])
    other = _run(1, [7.0])
    trained = other.settings["train"]
    with pytest.raises(MetalmError, match="may differ in their seed only") as error:
        record_curve(
            [_run(0, [7.0]), replace(other, settings={**other.settings, "train": {**trained, "batch_size": 4}})]
        )
    assert error.value.why == "train.batch_size 8 → 4"
    with pytest.raises(MetalmError, match="not finite"):
        record_curve([_run(0, [7.0]), _run(1, [math.nan])])
    with pytest.raises(MetalmError, match="no training loss to compare"):
        read_run_losses(tmp_path)


def test_files_of_curves_come_back_and_broken_ones_are_refused(curve: ReferenceCurve, tmp_path: Path) -> None:
    path = tmp_path / "curve.yaml"
    write_curve(path, curve)
    assert read_curve(path) == curve
    write_atomically(path, path.read_bytes().replace(b"seeds: [0, 1, 2]", b"seeds: [0, 1]"))
    with pytest.raises(MetalmError, match="expected 2 lists of 4 losses"):
        read_curve(path)
    with pytest.raises(MetalmError, match=r"recipe paper/language-1\.3b has no reference curve"):
        find_curve("paper/language-1.3b")


@pytest.mark.parametrize("name", curve_names())
def test_shipped_curves_are_those_of_the_recipes_as_they_are(name: str) -> None:
    path = find_curve(name)
    shipped = read_curve(path)
    assert path.stat().st_size < 10_000
    assert "/model" not in path.read_text(encoding="utf-8")
    assert (shipped.recipe, shipped.seeds) == (name, [0, 1, 2])
    _, command, *arguments = shlex.split(shipped.command)
    resolved = resolve(command, *split_arguments(arguments))
    differences = setting_differences(shipped.settings, recipe_record(resolved.recipe))
    assert not differences, f"record it again: python benchmarks/reference_curves.py {name}"


@pytest.mark.parametrize("name", curve_names())
def test_each_seed_of_a_shipped_curve_is_in_the_band_of_the_others(name: str) -> None:
    shipped = read_curve(find_curve(name))
    for left_out in range(len(shipped.seeds)):
        others = [losses for seed, losses in enumerate(shipped.losses) if seed != left_out]
        compared = Compared(train_band(shipped.steps, others), tuple(shipped.losses[left_out]))
        assert compared.left_at is None, shipped.seeds[left_out]


def test_curves_are_no_recipes() -> None:
    assert (shipped_root("recipes") / REFERENCE).is_dir()
    assert not [name for name in shipped_names(include_bases=True) if name.startswith(REFERENCE)]
    with pytest.raises(MetalmError, match="no shipped recipe"):
        resolve("pretrain", "reference/small")


# -- real runs ------------------------------------------------------------------------------------------------------

STEPS = ["train.steps=30", "train.validate_every=15"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curve of three seeds of the tiny recipe, recorded by the real command."""
    folder = tmp_path_factory.mktemp("reference")
    recipe = micro.write_recipe(folder)
    assert micro.metalm("pretrain", recipe, *STEPS, "--seeds", "0,1,2", "--out", folder / "seeds") == 0
    curve = folder / "curve.yaml"
    assert micro.metalm("report", folder / "seeds", "--record-reference", curve) == 0
    return curve


def _compared(recorded: Path, out: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    recipe = recorded.parent / "micro.yaml"
    assert micro.metalm("pretrain", recipe, *STEPS, "train.seed=3", *changes, "--out", out) == 0
    capsys.readouterr()
    assert micro.metalm("report", out, "--reference", recorded) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_fourth_seed_is_inside(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _compared(recorded, tmp_path / "run", capsys)
    assert "settings, data and start are those of the curve" in text
    assert "is in the band at all 30 records up to step 30" in text
    assert text.count("(inside)") == 2


@pytest.mark.parametrize(
    ("change", "difference", "cause"),
    [
        (
            "train.learning_rate=3e-2",
            "train.learning_rate 0.003 → 0.03 (10 times)",
            "learning rate and schedule (train.learning_rate)",
        ),
        (
            "model.decoder.trains=none",
            "model.decoder.trains null → none",
            "parts that are frozen or have adapters (model.decoder.trains)",
        ),
    ],
)
def test_another_rate_or_a_frozen_part_leaves_it(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, difference: str, cause: str
) -> None:
    text = _compared(recorded, tmp_path / "run", capsys, change)
    assert f"settings differ (curve → run): {difference}" in text
    assert "the training loss leaves the band at step" in text
    assert text.endswith(f"usual causes: {cause}")


def test_training_compares_itself(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metalm_cli.runs.reference_curves import curve as curves

    recipe = recorded.parent / "micro.yaml"
    assert micro.metalm("pretrain", recipe, "--compare-reference", "--out", tmp_path / "run") == 2
    assert "recipe micro has no reference curve" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(curves, "find_curve", lambda name: {"micro": recorded}[name])
    short = [*STEPS, "train.steps=6", "train.warmup_steps=2"]
    assert micro.metalm("pretrain", recipe, *short, "--compare-reference", "--out", tmp_path / "run") == 0
    text = " ".join(capsys.readouterr().err.split())
    differ = "settings that differ from the reference curve of micro (curve → run): train.steps 30 → 6"
    assert text.index(differ) < text.index("step 1/6") < text.index("the run ends before the curve")
    assert json.loads((tmp_path / "run" / "data.json").read_bytes())["start"] == {}
