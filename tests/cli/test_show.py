"""``metalm show`` on the shipped recipes, made small."""

from __future__ import annotations

import pytest

from metalm_cli.cli import console
from metalm_cli.cli.app import run

SMALL = [
    "data.sources.0.world.documents=200",
    "model.decoder.tokenizer.new.vocab_size=400",
    "data.sequence_length=64",
    "model.decoder.config.hidden_size=16",
    "model.encoders.text.config.hidden_size=16",
    "data.validation.documents=0",
    "train.batch_size=2",
]
ENCODER = [
    "data.sources.0.world.documents=200",
    "model.encoders.text.tokenizer.new.vocab_size=400",
    "data.sequence_length=32",
    "model.encoders.text.config.hidden_size=16",
    "model.encoders.text.config.num_hidden_layers=1",
]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    console.stdout.cache_clear()
    yield
    console.stdout.cache_clear()


def test_show_prints_the_first_rows_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "small", *SMALL, "--count", "3"]) == 0
    text = capsys.readouterr().out
    assert "docked: read by the encoder 'text'" in text
    assert "small · step 1, row 1 · 64 positions" in text
    assert "small · step 1, row 2" in text
    assert "small · step 2, row 1" in text
    assert "[text " in text
    assert "of the world with seed 0" in text
    assert "\x1b" not in text


def test_the_rows_are_those_that_the_run_reads() -> None:
    from accelerate.state import AcceleratorState

    from metalm_cli.config import resolve
    from metalm_cli.data.sampling.loader import StepRowDataset, loader
    from metalm_cli.data.sampling.row_slots import RowSlot
    from metalm_cli.training.first_rows import first_rows, prepare
    from metalm_cli.training.pretraining import Pretraining
    from metalm_cli.training.run_options import RunCallbacks, RunOptions

    resolved = resolve("pretrain", "small", [*SMALL, "train.seed=3", "train.precision=fp32"])
    recipe = resolved.recipe
    rows_of_show = list(first_rows(recipe, *prepare(recipe, None, True), 4))
    views = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test of this process may have set bf16
    real = Pretraining(recipe, resolved.to_yaml(), RunOptions("small", offline=True, dry_run=True), views)
    real.prepare()
    writer = real.objective.writer(recipe.data, 3)
    stream = StepRowDataset(
        [0, 1], lambda index, _: RowSlot(index, 2, real.corpus.reader(lambda _number: True), writer)
    )
    steps = loader(stream, 0)
    read = [row for _ in range(2) for row in next(steps).rows]
    assert [row.ids.tolist() for row in rows_of_show] == [row.ids.tolist() for row in read]
    assert [row.numbers for row in rows_of_show] == [row.numbers for row in read]
    assert [[dock.key for _, dock in row.docks] for row in rows_of_show] == [
        [dock.key for _, dock in row.docks] for row in read
    ]


def test_positions_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "small", *SMALL, "-n", "1", "--positions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("reads" in line and "predicts" in line for line in lines)
    assert sum(line.split()[0].isdigit() for line in lines if line.split()) == 64


def test_colours_on_a_terminal_and_none_with_no_color(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.stdout.cache_clear()
    assert run(["show", "small", *SMALL, "-n", "2"]) == 0
    coloured = capsys.readouterr().out
    assert "\x1b[37;44m" in coloured or "\x1b[37m\x1b[44m" in coloured
    assert "[text " not in coloured.replace("\x1b[", "")
    monkeypatch.setenv("NO_COLOR", "1")
    console.stdout.cache_clear()
    assert run(["show", "small", *SMALL, "-n", "2"]) == 0
    assert "[text " in capsys.readouterr().out


def test_encoder_objectives_show_masked_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "encoder-rtd", "data.sources.0.hub=null", *ENCODER, "-n", "1"]) == 0
    text = capsys.readouterr().out
    assert "the generator fills it" in text
    assert "(‹[MASK]›=" in text


def test_errors_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "small", "data.sources.0.path=nowhere.jsonl", "--offline"]) == 2
    assert "no data files found" in capsys.readouterr().err
    assert run(["show", "small", "train.stepz=3"]) == 2
    assert "stepz" in capsys.readouterr().err
