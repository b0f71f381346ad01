"""Values of earlier layers that give way to a later one, so that a short run needs one option only."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalm_cli.config import resolve
from metalm_cli.config.recipe_errors import RecipeError


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
