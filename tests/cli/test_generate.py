"""``metalm generate`` on a run that trained for a second, as users call it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import metalm_cli
from metalm_cli.cli.commands.evaluation import generate as command
from metalm_cli.sessions import Causal, Docked, Session
from tiny_runs import ForkedCommand, metalm

SHORT = ["--max-new-tokens", 6]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Working directory with a run, and an empty standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("METALM_CHECKPOINTS", raising=False)
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    set_stdin(monkeypatch, "")
    return tmp_path


def set_stdin(monkeypatch: pytest.MonkeyPatch, text: str | bytes, terminal: bool = False) -> None:
    """Replace standard input by a text."""

    class Input(io.TextIOWrapper):
        def isatty(self) -> bool:
            return terminal

    raw = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(raw), encoding="utf-8"))


def expected(spans: list[Any], count: int = 6, **options: Any) -> str:
    return metalm_cli.load("runs/mine").generate([Session(spans)], max_new_tokens=count, **options)[0]


def test_a_text_is_docked_and_answered(desk, capsys) -> None:
    assert metalm("generate", "runs/mine", "It rained.", *SHORT) == 0
    out, err = capsys.readouterr()
    assert out == expected([Docked("text", "It rained.")]).strip() + "\n"
    assert "cut off after 6 tokens" in err
    assert metalm("generate", "runs/mine/model", "It rained.", "--as", "causal", *SHORT) == 0
    assert capsys.readouterr().out == expected([Causal("It rained.")]) + "\n"
    assert metalm("generate", "runs/mine", "It rained.", "--prompt", "The", "--beams", 3, *SHORT) == 0
    assert capsys.readouterr().out == expected([Docked("text", "It rained."), Causal(" The")], num_beams=3) + "\n"


def test_the_newest_run_answers_a_text_alone(desk, capsys, monkeypatch) -> None:
    answer = expected([Docked("text", "Who barked?")]).strip() + "\n"
    capsys.readouterr()
    assert metalm("generate", "Who barked?", *SHORT) == 0
    out, err = capsys.readouterr()
    assert out == answer
    assert "runs/mine (the newest run of pretraining)" in err
    for arguments in (["-"], ["runs/mine"], ["runs/mine", "-"], []):
        set_stdin(monkeypatch, "Who barked?\n")
        assert metalm("generate", *arguments, *SHORT) == 0
        assert capsys.readouterr().out == answer


def test_sampling_follows_its_seed(desk, capsys) -> None:
    answers = []
    for seed in (0, 0, 1):
        assert metalm("generate", "It rained.", "--sample", "--temperature", 2, "--top-p", 0.9, "--seed", seed) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]


def test_a_stop_text_ends_the_answer(desk, capsys) -> None:
    answer = expected([Causal("It rained.")], 20)
    assert metalm("generate", "It rained.", "--as", "causal", "--stop", answer[4:6], "--stop", "never generated") == 0
    out, err = capsys.readouterr()
    assert out == answer[: answer.index(answer[4:6])] + "\n"
    assert "cut off" not in err


def test_control_characters_are_escaped_on_a_terminal(monkeypatch, capsys) -> None:
    write_piece = command._piece_writer()
    write_piece("a\x1b[31m\n")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    command._piece_writer()("b\x1b[31m\n")
    assert capsys.readouterr().out == "a\x1b[31m\nb\\x1b[31m\n"


WRONG: dict[str, tuple[list[Any], str]] = {
    "no text": (["runs/mine"], "the text is empty"),
    "blank": (["runs/mine", "  "], "the text is empty"),
    "no model": (["runs/none/", "a"], "no model folder"),
    "no image": (["runs/mine", "a", "--image", "none.png"], "the image does not exist"),
    "text as image": (["runs/mine", "a", "--image", "text.png"], "an image cannot be read"),
    "blind": (["runs/mine", "a", "--image", "real.png"], "no encoder that reads images"),
    "no chat": (["runs/mine", "a", "--chat"], "the tokenizer has no chat template"),
    "docked chat": (["runs/mine", "a", "--chat", "--as", "docked"], "--chat and --as docked exclude each other"),
    "temperature alone": (["runs/mine", "a", "--temperature", 2], "--temperature does nothing without --sample"),
    "seed alone": (["runs/mine", "a", "--seed", 2], "--seed does nothing without --sample"),
    "penalty alone": (["runs/mine", "a", "--length-penalty", 2], "--length-penalty does nothing without --beams"),
    "cold": (["runs/mine", "a", "--sample", "--temperature", 0], "got temperature 0"),
    "top p": (["runs/mine", "a", "--sample", "--top-p", 2], "top-p 2"),
    "both": (["runs/mine", "a", "--sample", "--beams", 2], "cannot be combined"),
    "empty stop": (["runs/mine", "a", "--stop", ""], "a stop string is empty"),
    "too long": (["runs/mine", "dog " * 300], "tokens, the encoder 'text' reads"),
    "no out": (["runs/mine", "--input", "in.jsonl"], "--out is missing"),
    "no input": (["runs/mine", "--out", "out.jsonl"], "--input is missing"),
    "text and input": (["runs/mine", "a", "--input", "in.jsonl", "--out", "out.jsonl"], "TEXT and --input"),
    "image and input": (["--image", "a", "--input", "in.jsonl", "--out", "out.jsonl"], "--image and --input"),
    "out is input": (["--input", "in.jsonl", "--out", "./in.jsonl"], "--out is the same file as --input"),
    "out is a folder": (["--input", "in.jsonl", "--out", "runs"], "--out is a folder"),
    "no such input": (["--input", "none.jsonl", "--out", "out.jsonl"], "cannot be read"),
    "batch alone": (["runs/mine", "a", "--batch-tokens", 99], "--batch-tokens does nothing"),
    "surrogate": (["runs/mine", "a\udc80"], "TEXT is not UTF-8"),
    "steering": (["runs/mine", "a", "--as", "docks"], "docked"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_an_error_before_anything_is_written(name, desk, capsys) -> None:
    arguments, message = WRONG[name]
    (desk / "in.jsonl").write_text('{"text": "a"}\n')
    (desk / "text.png").write_text("no image")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(desk / "real.png")
    assert metalm("generate", *arguments) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert "bug" not in err
    assert out == ""
    assert not (desk / "out.jsonl").exists()
    assert (desk / "in.jsonl").read_text() == '{"text": "a"}\n'


def test_standard_input_that_is_not_text(desk, capsys, monkeypatch) -> None:
    set_stdin(monkeypatch, b"\xff\xfe")
    assert metalm("generate", "-") == 2
    assert "not UTF-8" in capsys.readouterr().err
    set_stdin(monkeypatch, "", terminal=True)
    assert metalm("generate", "runs/mine") == 2
    assert "no text is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("runs/mine", True),
        ("gpt2", False),
        ("owner/name", True),
        ("./here/it/is", True),
        ("Is it in and/or out?", False),
        ("-", False),
        ("", False),
        ("x" * 5000, False),
        ("a\nb/c", False),
    ],
)
def test_which_single_argument_is_a_model(desk, text, model, monkeypatch) -> None:
    assert command._names_model(text) == model
    (desk / "checkpoints" / "gpt2").mkdir(parents=True)
    monkeypatch.setenv("METALM_CHECKPOINTS", str(desk / "checkpoints"))
    assert command._names_model("gpt2")


def test_a_reader_that_goes_away_ends_it_quietly(desk) -> None:
    read, write = os.pipe()
    os.close(read)

    def broken() -> None:
        sys.stdout = open(write, "w", encoding="utf-8")  # noqa: SIM115

    process = ForkedCommand(["generate", "runs/mine", "It rained."], desk / "log", before=broken)
    os.close(write)
    assert process.wait() == 0
    assert process.printed() == ""


# -- files ------------------------------------------------------------------------------------------------------------

LINES = [{"text": f"She had {number} red balls and a {'dog' * (number % 9)}.", "id": number} for number in range(60)]


@pytest.fixture
def source(desk: Path) -> Path:
    path = desk / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def read_answers(path: Path) -> dict[int, dict[str, Any]]:
    return {row["line"]: row for row in map(json.loads, path.read_text().splitlines()[1:])}


def test_the_lines_of_a_file_are_answered(source, desk, capsys) -> None:
    files = ["--input", source, "--out", desk / "new" / "out.jsonl"]
    assert metalm("generate", *files, *SHORT, "--batch-tokens", 500) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "0 of 60 lines\n" in err
    assert "60 of 60 lines\n" in err
    rows = read_answers(desk / "new" / "out.jsonl")
    assert [rows[line]["id"] for line in range(1, 61)] == list(range(60))
    assert rows[8]["text"] == expected([Docked("text", LINES[7]["text"])]).strip()
    assert metalm("generate", *files, "--max-new-tokens", 7) == 2
    assert "answers of another run" in capsys.readouterr().err


def test_lines_with_errors_are_counted(desk, capsys) -> None:
    rows = [{"text": "dog " * 300}, {"text": "It rained."}]
    (desk / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert metalm("generate", "--input", "in.jsonl", "--out", "out.jsonl", *SHORT) == 1
    assert "1 of 2 lines could not be read" in capsys.readouterr().err
    assert "error" in read_answers(desk / "out.jsonl")[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_command_continues(number, source, desk) -> None:
    def slow() -> None:
        from metalm_cli.inference.append_only_jsonl import OutputFile

        real = OutputFile.append

        def append(self: Any, records: Any) -> None:
            real(self, records)
            if records:
                time.sleep(0.4)

        OutputFile.append = append  # type: ignore[method-assign]

    arguments = ["generate", "runs/mine", "--input", source, "--out", desk / "out.jsonl", *SHORT]
    process = ForkedCommand([*arguments, "--batch-tokens", 200], desk / "log", before=slow)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if (desk / "out.jsonl").exists() and (desk / "out.jsonl").read_bytes().count(b"\n") > 8:
            break
        time.sleep(0.02)
    os.kill(process.pid, number)
    code = process.wait()
    before = (desk / "out.jsonl").read_bytes()
    assert 8 < before.count(b"\n") < 60
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        with open(desk / "out.jsonl", "ab") as file:
            file.write(b'{"line": 3, "te')
    else:
        assert code == 75
        assert "of 60 lines are answered; the same command continues" in process.printed()
    assert metalm(*arguments) == 0
    assert (desk / "out.jsonl").read_bytes().startswith(before)
    assert metalm(*arguments[:-4], "--out", desk / "whole.jsonl", *SHORT) == 0
    assert read_answers(desk / "out.jsonl") == read_answers(desk / "whole.jsonl")
    assert len(read_answers(desk / "out.jsonl")) == 60


def test_a_stop_while_the_model_is_loaded_continues_too(source, desk, monkeypatch, capsys) -> None:
    def stopped(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "_load", stopped)
    assert metalm("generate", "runs/mine", "--input", source, "--out", "out.jsonl", *SHORT) == 75
    assert "stopped by SIGTERM: no line was answered by this command; the same command" in capsys.readouterr().err


def test_a_disk_that_fills_up_after_the_header_fails_and_continues(source, desk, monkeypatch, capsys) -> None:
    from metalm_cli.inference.append_only_jsonl import OutputFile

    write = OutputFile._write

    def full(self: Any, data: bytes) -> None:
        if b'"format"' not in data:
            raise self._write_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(self, data)

    arguments = ["generate", "runs/mine", "--input", source, "--out", "out.jsonl", *SHORT]
    monkeypatch.setattr(OutputFile, "_write", full)
    assert metalm(*arguments) == 1
    assert "no space left: the output file cannot be written" in capsys.readouterr().err
    monkeypatch.setattr(OutputFile, "_write", write)
    assert metalm(*arguments) == 0


@pytest.mark.parametrize("out", ["fifo", "/dev/full", "/dev/null"])
def test_an_output_that_is_not_a_file(source, desk, out, capsys) -> None:
    if out == "fifo":
        os.mkfifo(out)
    assert metalm("generate", "runs/mine", "--input", source, "--out", out, *SHORT) == 2
    assert "it is not a regular file" in capsys.readouterr().err


def test_an_end_token_ends_an_answer(desk, capsys) -> None:
    assert metalm("generate", "runs/mine", "It rained.", "--as", "causal", *SHORT) == 0
    whole = capsys.readouterr().out
    language_model = metalm_cli.load("runs/mine")
    ids = language_model.decoder_tokenizer.encode_continuation(whole.removesuffix("\n"))
    assert metalm("generate", "runs/mine", "It rained.", "--as", "causal", *SHORT, "--end-token", str(ids[0])) == 0
    out, err = capsys.readouterr()
    assert out == "\n"
    assert "the answer is empty: the model ends it with its first token" in err
    beginning = whole.removesuffix("\n")[:2]
    assert metalm("generate", "runs/mine", "It rained.", "--as", "causal", *SHORT, "--stop", beginning) == 0
    assert "the answer is empty: it begins with a --stop text" in capsys.readouterr().err
    lines = desk / "in.jsonl"
    lines.write_text('{"text": "It rained."}\n')
    files = ["--input", lines, "--out", desk / "out.jsonl"]
    assert metalm("generate", "runs/mine", *files, "--as", "causal", *SHORT, "--end-token", str(ids[0])) == 0
    header, answer = map(json.loads, (desk / "out.jsonl").read_text().splitlines())
    assert answer["text"] == ""
    assert ids[0] in header["model"]["end_ids"]
    capsys.readouterr()
    assert metalm("generate", "runs/mine", *files, "--as", "causal", *SHORT) == 2, "other end tokens, other answers"
    assert metalm("generate", "runs/mine", "It rained.", "--end-token", "1000000") == 2
    assert "the end token 1000000 is not a token id of the decoder" in capsys.readouterr().err
