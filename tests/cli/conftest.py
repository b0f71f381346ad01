"""Fixture of a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_runs import metalm, write_recipe

RUN = [
    "train.steps=2",
    "model.decoder.config.n_positions=256",
    "model.encoders.text.config.max_position_embeddings=128",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a MetaLM."""
    folder = tmp_path_factory.mktemp("runs")
    assert metalm("pretrain", write_recipe(folder), "--out", folder / "run", *RUN) == 0
    return folder / "run"
