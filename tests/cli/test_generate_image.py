"""``metalm generate --image`` with saved models."""

from __future__ import annotations

from pathlib import Path

import pytest

import metalm_cli as metalm
from metalm_cli.cli.commands.evaluation import generate as command
from metalm_cli.models.checkpoint_io import save_model
from model_families import noise_image
from tiny_language_models import tiny_language_model
from tiny_runs import metalm as run_metalm


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a picture, and with models: ``seeing`` reads images, ``blind`` texts alone."""
    monkeypatch.chdir(tmp_path)
    noise_image(5).save(tmp_path / "photo.png")
    for name, encoders in (("seeing", ("vision",)), ("blind", ("text",))):
        tiny = tiny_language_model("gpt2", *encoders)
        save_model(tmp_path / name, tiny.model, tiny.decoder_tokenizer, tiny.processors)
    return tmp_path


def test_an_image_and_a_text_are_answered(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_metalm("generate", "./seeing", "the dog", "--image", "photo.png", "--max-new-tokens", 4) == 0
    out = capsys.readouterr().out
    spans = [metalm.Docked("vision", noise_image(5)), metalm.Causal("the dog")]
    assert out == metalm.load("seeing").generate([metalm.Session(spans)], max_new_tokens=4)[0] + "\n"


@pytest.mark.parametrize("lines", [False, True])
def test_a_model_that_reads_no_images_is_an_error_before_its_weights_are_read(
    lines: bool, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_load", lambda *_: pytest.fail("the model is loaded"))
    (desk / "in.jsonl").write_text('{"text": "a"}\n{"text": "b", "image": "photo.png"}\n')
    arguments = ["--input", "in.jsonl", "--out", "out.jsonl"] if lines else ["the dog", "--image", "photo.png"]
    assert run_metalm("generate", "./blind", *arguments) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "the model has no encoder that reads images" in err
    assert "its encoders: text (text)" in err
    assert not (desk / "out.jsonl").exists()


def test_more_positions_than_the_decoder_has_name_those_of_the_image(desk: Path, capsys) -> None:
    text = "the dog ran to a girl " * 90
    assert run_metalm("generate", "./seeing", text, "--image", "photo.png", "--as", "causal") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "positions, the decoder has 256" in err
    assert "1 docked, in 4 positions; generation needs at least one more position" in err
