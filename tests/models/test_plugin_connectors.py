"""Connectors of plug-ins with fewer positions than outputs: used like those of metalm, and named where they fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.connectors import set_compression
from metalm_cli.sessions import DockInput, TextProcessor
from metalm_cli.sessions.compression import Compression
from model_families import TEXTS, batch_with, model_recipe
from tiny_models import tokenizer_of

OBJECTS = """
import torch


class Pairs(torch.nn.Module):
    def __init__(self, width, target, factor=2):
        super().__init__()
        self.factor, self.layer = factor, torch.nn.Linear(width, target)

    def forward(self, outputs, mask, grid):
        return self.layer(outputs[:, :: self.factor])
"""
POSITIONS = """
def every_second(outputs, grid, *, factor=2):
    return -(-outputs // factor)


def none(outputs, grid):
    return outputs // 2


def all_of_them(outputs, grid):
    return outputs


def broken(outputs, grid):
    return outputs / 0
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder on Python's path; names that the test adds are taken back."""
    monkeypatch.setattr(registry.connectors, "_entries", dict(registry.connectors._entries))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pair_objects", raising=False)
    return tmp_path


def test_a_connector_with_fewer_positions_of_a_plug_in(added: Path, tokenizers: dict[str, Path]) -> None:
    (added / "pair_objects.py").write_text(OBJECTS)
    (added / "pair_positions.py").write_text(POSITIONS)
    for name in ("every_second", "none", "all_of_them", "broken"):
        registry.connectors.add(name, "pair_objects:Pairs", positions=f"pair_positions:{name}", origin="pairs 1.0")

    def assemble(kind: str) -> Any:
        recipe = model_recipe(tokenizers)
        connector = recipe.connector.model_copy(update={"kind": kind})
        recipe = recipe.model_copy(update={"connector": connector})
        return build_metalm(recipe, seed=0, sample=lambda count: iter(()))

    assembly = assemble("every_second")
    batch = batch_with(assembly, TEXTS)
    processor = assembly.processors["text"]
    counts = [len(dock.output_positions) for dock in map(processor.prepare, TEXTS)]
    assert len(batch.docks["text"].positions) == sum(-(-count // 2) for count in counts)
    table = batch.docks["text"]
    with torch.no_grad():
        vectors = assembly.model.eval().dock_vectors("text", table)
        outputs = assembly.model.encoders["text"](**table.inputs).last_hidden_state
        layer = assembly.model.connectors["text"].layer
        expected = [layer(outputs[row, 1 : 1 + count : 2]) for row, count in enumerate(counts)]
    torch.testing.assert_close(vectors, torch.cat(expected))
    with pytest.raises(MetalmError, match="none leaves no position for 1 outputs") as error:
        assemble("none")
    assert error.value.where == "model.connector.kind"
    with pytest.raises(MetalmError, match="does not give one finite vector for each position"):
        assemble("all_of_them")
    with pytest.raises(MetalmError, match="positions of the connector broken cannot be computed") as error:
        assemble("broken")
    assert "ZeroDivisionError" in error.value.why


def test_a_processor_that_does_not_apply_a_compression_is_named() -> None:
    class Deaf(TextProcessor):
        def dummy(self) -> DockInput:
            return replace(super().dummy(), compressed=None)

    processor = Deaf("text", tokenizer_of("wordpiece"), 32)
    with pytest.raises(MetalmError, match="'text' does not work with a connector of kind stack") as error:
        set_compression(processor, Compression("stack", {"factor": 2}), "model.connector")
    assert error.value.where == "model.connector.kind"
    assert "Deaf" in error.value.why
