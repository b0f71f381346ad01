"""Evaluation of a run on the tasks that it was trained on, whose cards it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from card_fixtures import write_card, write_rows
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.request import EvaluationRequest

ALPACA = [{"instruction": "Add 1 and 1.", "input": "", "output": "2"}] * 3


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run that was trained on a card in a folder and on a file of records."""
    monkeypatch.chdir(tmp_path)
    write_card(tmp_path / "cards", name="mine")
    write_card(tmp_path / "cards", name="rte")
    write_rows(tmp_path / "sums.jsonl", ALPACA)
    model = tmp_path / "runs" / "first" / "model"
    model.mkdir(parents=True)
    data = {"tasks": ["./sums.jsonl", "mine", "sst2"], "cards": ["cards", "gone"]}
    (model.parent / "recipe.yaml").write_text(yaml.safe_dump({"command": "finetune", "data": data}))
    return tmp_path


@pytest.mark.parametrize("source", ["runs/first", "runs/first/model"])
def test_a_run_knows_its_cards(desk: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = EvaluationRequest(tasks=("mine", "sums", "rte", "sst2"))
    with pytest.raises(MetalmError, match="no task is named mine"):
        request.select()
    selected = request.with_cards_of_run(source).select()
    assert [card.name for card in selected.selected] == ["mine", "sums", "rte", "sst2"]
    assert selected.selected[1].description == "sums.jsonl, read as Alpaca"
    assert selected.selected[2].description == "Does it follow?"
    monkeypatch.chdir(desk / "runs")
    assert request.with_cards_of_run(str(desk / source)).select().selected == selected.selected


def test_cards_of_the_request_take_precedence(desk: Path) -> None:
    other = write_card(desk / "other", name="mine", splits="{train: 'rows[1:]'}")
    request = EvaluationRequest(tasks=("mine",), card_folders=(other.parent,)).with_cards_of_run("runs/first")
    assert request.select().selected[0].splits == {"train": "rows[1:]"}


@pytest.mark.parametrize("source", ["gpt2", "cards"])
def test_a_model_without_a_run_has_no_cards(desk: Path, source: str) -> None:
    request = EvaluationRequest(tasks=("mine",))
    assert request.with_cards_of_run(source) == request
