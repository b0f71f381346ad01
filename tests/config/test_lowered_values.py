"""Values that give way to those of a later layer, or to the model, so that a short run needs one option only."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalm_cli.config import resolve
from metalm_cli.config.lowered_values import ModelLengths
from metalm_cli.config.recipe_errors import RecipeError
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.training.optim import schedule

STEPS = ["train.steps=20", "train.warmup_steps=2"]


def test_a_short_run_has_a_shorter_warm_up() -> None:
    assert resolve("pretrain", "small").recipe.train.warmup_steps == 30
    short = resolve("pretrain", "small", ["train.steps=20"])
    assert (short.recipe.train.steps, short.recipe.train.warmup_steps) == (20, 2)
    assert list(map(str, short.dropped)) == ["train.warmup_steps is 2 instead of 30: train.steps is 20 (command line)"]
    assert short.provenance["train.warmup_steps"] == short.provenance["train.steps"]
    assert resolve("pretrain", "small", ["train.steps=30"]).dropped == ()
    assert resolve("pretrain", "small", ["train.steps=20", "train.warmup_steps=20"]).recipe.train.warmup_steps == 20
    for line in (["train.warmup_steps=100000"], ["train.steps=20", "train.warmup_steps=21"]):
        with pytest.raises(RecipeError, match=r"train\.warmup_steps"):
            resolve("pretrain", "small", line)


def test_layers_decide_which_value_gives_way(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: small\ntrain: {batch_size: 8, micro_batch_size: 8}\n")
    small = resolve("pretrain", str(own), ["train.batch_size=2"])
    assert (small.recipe.train.batch_size, small.recipe.train.micro_batch_size) == (2, 2)
    assert "train.micro_batch_size is 2 instead of 8: train.batch_size is 2 (command line)" in map(str, small.dropped)
    own.write_text("extends: small\ntrain: {batch_size: 8, micro_batch_size: 16}\n")
    with pytest.raises(RecipeError, match=r"train\.micro_batch_size"):
        resolve("pretrain", str(own))
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(small.to_yaml())
    again = resolve("pretrain", str(recorded))
    assert (again.recipe, again.dropped) == (small.recipe, ())


def test_a_warm_up_is_steps_or_a_share_of_them(tmp_path: Path) -> None:
    share = resolve("pretrain", "small", ["train.steps=20", "train.warmup_steps=0.1"])
    assert (share.recipe.train.warmup_steps, share.dropped) == (0.1, ())
    rates = [schedule(share.recipe.train, step, 20) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates == [schedule(resolve("pretrain", "small", STEPS).recipe.train, step, 20) for step in range(20)]
    own = tmp_path / "own.yaml"
    own.write_text("extends: small\ntrain: {warmup_steps: 0.1}\n")
    for steps, warmup in ((1, 1), (20, 2), (21, 3), (1000, 100)):
        assert resolve("pretrain", str(own), [f"train.steps={steps}"]).recipe.train.warmup_of(steps) == warmup
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(share.to_yaml())
    assert resolve("pretrain", str(recorded)).recipe == share.recipe
    for wrong in ("-0.1", "1.5", "20.0", "-1"):
        with pytest.raises(RecipeError, match=r"train\.warmup_steps: got .* or a number above 0 and below 1"):
            resolve("pretrain", "small", [f"train.warmup_steps={wrong}"])


def test_lengths_of_shipped_recipes_and_defaults_give_way_to_the_model(tmp_path: Path) -> None:
    def read_lengths(recipe: Recipe) -> ModelLengths:
        return ModelLengths(96, "gpt2", {"text": 60})

    short = resolve("pretrain", "pile", ["objective.span_fraction=0.5"], read_lengths=read_lengths)
    assert (short.recipe.data.sequence_length, short.recipe.objective.span_length) == (96, [12, 24])
    assert short.recipe.model.encoders["text"].max_length == 60
    assert list(map(str, short.dropped)) == [
        "data.sequence_length is 96 instead of 1024: this gpt2 model reads 96 positions",
        "model.encoders.text.max_length is 60 instead of 512: the encoder 'text' reads 60 positions",
        "objective.span_length is [12, 24] instead of [64, 128]: data.sequence_length is 96",
    ]
    assert str(short.provenance["data.sequence_length"]) == "the model"
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(short.to_yaml())
    again = resolve("pretrain", str(recorded), read_lengths=read_lengths)
    assert (again.recipe, again.dropped) == (short.recipe, ())
    own = tmp_path / "own.yaml"
    own.write_text("extends: pile\ndata: {sequence_length: 96}\nobjective: {name: semi_causal, span_length: [4, 8]}\n")
    fits = resolve("pretrain", str(own), read_lengths=read_lengths)
    assert [value.key for value in fits.dropped] == ["model.encoders.text.max_length"]
    assert (fits.recipe.data.sequence_length, fits.recipe.objective.span_length) == (96, [4, 8])
    assert resolve("pretrain", "pile", read_lengths=lambda recipe: ModelLengths()).dropped == ()
    lower = resolve("pretrain", "pile", read_lengths=lambda recipe: ModelLengths(encoders={"text": 60}))
    assert lower.recipe.objective.span_length == [15, 30]
    assert "objective.span_length is [15, 30] instead of [64, 128]" in str(lower.dropped[-1])


def test_lengths_that_the_user_sets_are_errors_with_their_place(tmp_path: Path) -> None:
    def read_lengths(recipe: Recipe) -> ModelLengths:
        return ModelLengths(96, "gpt2", {"text": 70})

    own = tmp_path / "own.yaml"
    own.write_text("extends: pile\ndata:\n  sequence_length: 97\n")
    with pytest.raises(RecipeError) as caught:
        resolve("pretrain", str(own), ["model.encoders.text.max_length=71"], read_lengths=read_lengths)
    places = {problem.key: (problem.where, problem.message) for problem in caught.value.problems}
    assert places == {
        "data.sequence_length": (
            f"{own}:3",
            "got 97, expected at most the 96 positions that this gpt2 model reads",
        ),
        "model.encoders.text.max_length": (
            "command line",
            "got 71, expected at most the 70 positions that the encoder 'text' reads",
        ),
    }
    with pytest.raises(RecipeError, match=r"objective\.span_length: got lengths up to 128 with .* 96"):
        resolve("pretrain", "pile", ["objective.span_length=[8, 128]"], read_lengths=read_lengths)


def test_shorter_rows_have_shorter_spans() -> None:
    short = resolve("pretrain", "pile", ["data.sequence_length=96"])
    assert short.recipe.objective.span_length == [12, 24]
    assert list(map(str, short.dropped)) == [
        "objective.span_length is [12, 24] instead of [64, 128]: data.sequence_length is 96 (command line)"
    ]
    assert str(short.provenance["objective.span_length"]) == "command line"
    with pytest.raises(RecipeError, match=r"objective\.span_length: got lengths up to 128"):
        resolve("pretrain", "pile", ["data.sequence_length=96", "objective.span_length=[8, 128]"])


def test_stages_record_their_lowered_lengths(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: pile\nstages:\n- {name: one}\n- {name: two, data: {workers: 1}}\n")
    lengths = ModelLengths(512, "gpt2")
    short = resolve("pretrain", str(own), read_lengths=lambda recipe: lengths)
    assert [stage.resolved.recipe.data.sequence_length for stage in short.stages] == [512, 512]
    recorded = tmp_path / "recorded.yaml"
    recorded.write_text(short.stages_yaml)
    again = resolve("pretrain", str(recorded), read_lengths=lambda recipe: lengths)
    assert [stage.resolved.recipe for stage in again.stages] == [stage.resolved.recipe for stage in short.stages]
    assert again.stages_yaml == short.stages_yaml
