"""Generation for the lines of a file: valid and invalid lines, and continuing a killed run."""

from __future__ import annotations

import fcntl
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.inference import append_only_jsonl
from metalm_cli.inference import generate_file as file_generation
from metalm_cli.inference.append_only_jsonl import OutputFile
from metalm_cli.inference.generate_file import generate_file, read_input_file
from metalm_cli.inference.generation import DecodingOptions, stream_answer
from metalm_cli.inference.sampling import SamplingOptions
from metalm_cli.inference.text_sessions import PromptRoute, text_to_session
from metalm_cli.sessions import Causal, Docked, Session
from model_families import noise_image
from tiny_language_models import endless_language_model

TALE = ["the", "dog", "barked", "at", "a", "girl", "and", "ran", "into", "the", "forest", "where", "it", "rained"]
ROWS: list[dict[str, Any]] = [
    {"text": " ".join(TALE[index % 5 : index % 5 + 2 + index % 7]), "id": f"row {index}", "label": index}
    for index in range(20)
]
HEADER = {"format": 1, "metalm": "0", "hash": "abc", "model": {}, "settings": {}, "input": {}}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def run(
    source: Path, out: Path, *, model: Any = None, decoding: DecodingOptions | None = None, **options: Any
) -> OutputFile:
    return generate_file(
        "tiny",
        model or endless_language_model("gpt2", "text"),
        read_input_file(source),
        out,
        options.pop("route", PromptRoute()),
        decoding or DecodingOptions(6),
        **options,
    )


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", ROWS)


# -- input ------------------------------------------------------------------------------------------------------------


def test_each_line_is_answered_as_alone(source, tmp_path) -> None:
    language_model = endless_language_model("gpt2", "text")
    progress: list[int] = []
    output_file = run(source, tmp_path / "out.jsonl", budget=60, on_progress=progress.append)
    header, *rows = read(tmp_path / "out.jsonl")
    assert header["input"]["lines"] == 20
    assert header["model"]["source"] == "tiny"
    assert header["settings"]["max_new_tokens"] == 6
    assert (output_file.done, output_file.errors) == (set(range(1, 21)), 0)
    assert sorted(row["line"] for row in rows) == list(range(1, 21))
    assert [row["line"] for row in rows] != list(range(1, 21)), "in the order of generation: the longest first"
    for row in rows:
        source_row = ROWS[row["line"] - 1]
        assert row["id"] == source_row["id"]
        assert (
            row["text"]
            == stream_answer(
                language_model, text_to_session(language_model, source_row["text"]), DecodingOptions(6)
            ).text
        )
    assert progress[0] == 0
    assert progress[-1] == 20
    assert len(progress) > 4


def test_sessions_images_and_blank_lines(tmp_path) -> None:
    noise_image(1).save(tmp_path / "one.png")
    spans = [{"docked": "It rained."}, {"causal": " yes\n"}, {"docked": "one.png", "encoder": "vision"}]
    rows = ["", {"session": spans}, {"input": "What?", "image": "one.png", "id": 7}, "  ", {"image": "one.png"}]
    source = write(tmp_path / "in.jsonl", rows)
    language_model = endless_language_model("gpt2", "text", "vision")
    run(source, tmp_path / "out.jsonl", model=language_model)
    answers = {row["line"]: row for row in read(tmp_path / "out.jsonl")[1:]}
    image = noise_image(1)
    expected = {
        2: Session([Docked("text", "It rained."), Causal(" yes\n"), Docked("vision", image)]),
        3: Session([Docked("vision", image), Docked("text", "What?")]),
        5: Session([Docked("vision", image)]),
    }
    assert {line: row["text"] for line, row in answers.items()} == {
        line: stream_answer(language_model, session, DecodingOptions(6)).text for line, session in expected.items()
    }
    assert answers[3]["id"] == 7
    assert "id" not in answers[2]


def test_the_route_applies_to_texts_and_compressed_files_are_read(tmp_path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[3]).encode()))
    language_model = endless_language_model("gpt2", "text")
    route = PromptRoute("causal", "So")
    run(path, tmp_path / "out.jsonl", route=route)
    (row,) = read(tmp_path / "out.jsonl")[1:]
    session = Session([Causal(ROWS[3]["text"]), Causal(" So")])
    assert row["text"] == language_model.generate([session], max_new_tokens=6)[0]


WRONG = {
    "invalid json": '{"text": ',
    "expected an object, got list": [1],
    "the line has none of text, input, session, image": {"prompt": "Hi"},
    "text and session": {"text": "a", "session": [{"causal": "a"}]},
    "the text is empty": {"text": " "},
    "the text is int, expected a string": {"text": 3},
    "the id is bool": {"text": "a", "id": True},
    "lone surrogate": {"text": "\ud800"},
    "the id contains half": {"text": "a", "id": "\ud800"},
    "the session is not a list": {"session": {"causal": "a"}},
    "the session is not a list of": {"session": []},
    'span 2 is neither {"docked"': {"session": [{"causal": "a"}, {"text": "b"}]},
    "span 1 is neither": {"session": [{"causal": "a", "docked": "b"}]},
    "span 1 has encoder, which a causal": {"session": [{"causal": "a", "encoder": "text"}]},
    "span 1 has kind": {"session": [{"docked": "a", "kind": "b"}]},
    "span 1 is empty": {"session": [{"causal": ""}]},
    "the content of span 1 is list": {"session": [{"docked": ["a"]}]},
    "encoder of span 1 is int": {"session": [{"docked": "a", "encoder": 3}]},
    "a session and an image": {"session": [{"causal": "a"}], "image": "x.png"},
    "x.png does not exist": {"text": "a", "image": "x.png"},
    "the image ": {"text": "a", "image": "x" * 5_000},
    "the image /": {"text": "a", "image": "~nosuch/x.png"},
    "b.png does not exist": {"text": "a", "image": "a\x00b.png"},
    "/x.png does not exist": {"session": [{"docked": {"image": "x.png", "text": "a"}}]},
    "nested too deeply": "[" * 100_000,
}


@pytest.mark.parametrize("why", WRONG)
def test_invalid_lines_are_listed(why, tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a"}, WRONG[why]])
    with pytest.raises(MetalmError, match="a line is invalid") as caught:
        read_input_file(source)
    assert caught.value.why.lower().startswith("line 2: ")
    assert why in caught.value.why.lower() or why in caught.value.why
    assert caught.value.where == str(source)


def test_many_invalid_lines_and_missing_files(tmp_path) -> None:
    with pytest.raises(MetalmError, match="12 lines are invalid") as caught:
        read_input_file(write(tmp_path / "in.jsonl", ["{}"] * 11 + ["[]"]))
    assert len(re.findall(r"line \d+: ", caught.value.why)) == 8
    assert "and 4 more" in caught.value.why
    with pytest.raises(MetalmError, match="has no lines"):
        read_input_file(write(tmp_path / "empty.jsonl", [" "]))
    with pytest.raises(MetalmError, match="cannot be read"):
        read_input_file(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"session": [{"docked": "a", "encoder": "speech"}]}, "no encoder 'speech'"),
        ({"image": "one.png"}, "no encoder that reads images"),
        ({"session": [{"docked": {"image": "one.png"}, "encoder": "vision"}]}, "no encoder 'vision'"),
    ],
)
@pytest.mark.parametrize("encoders", [(), ("text",)])
def test_missing_encoders_are_detected_before_generation(row, what, encoders, tmp_path) -> None:
    noise_image(1).save(tmp_path / "one.png")
    source = write(tmp_path / "in.jsonl", [{"text": "a"}, row])
    if encoders or "speech" not in what:
        with pytest.raises(MetalmError, match=what) as caught:
            run(source, tmp_path / "out.jsonl", model=endless_language_model("gpt2", *encoders))
        assert caught.value.where == f"{source}:2"
        assert not (tmp_path / "out.jsonl").exists()
    else:  # a model without encoders reads docked texts as causal text
        assert run(source, tmp_path / "out.jsonl", model=endless_language_model("gpt2")).errors == 0


def test_a_line_that_the_model_cannot_read_gets_an_error(tmp_path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [{"text": "a b"}, {"text": "dog " * 200, "id": "long"}, {"image": "cut.png"}]
    source = write(tmp_path / "in.jsonl", rows)
    language_model = endless_language_model("gpt2", "text", "vision")
    assert run(source, tmp_path / "out.jsonl", model=language_model).errors == 2
    answers = {row["line"]: row for row in read(tmp_path / "out.jsonl")[1:]}
    assert "text" in answers[1]
    assert "reads 60" in answers[2]["error"]
    assert "text" not in answers[2]
    assert "image cannot be read" in answers[3]["error"]
    again = run(source, tmp_path / "out.jsonl", model=language_model)
    assert again.errors == 2
    assert len(read(tmp_path / "out.jsonl")) == 4


# -- continuing a run -------------------------------------------------------------------------------------------------

SAMPLED = DecodingOptions(6, sampling=SamplingOptions(1.2, 0.95, 3))


@pytest.mark.parametrize("torn", [0, 1, 25])
@pytest.mark.parametrize("decoding", [DecodingOptions(6), SAMPLED], ids=["greedy", "sampled"])
def test_a_killed_run_continues(source, tmp_path, torn, decoding, monkeypatch) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(source, whole, decoding=decoding, budget=1000)
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:8]) + lines[8][:torn])
    before = out.read_bytes()[: len(b"".join(lines[:8]))]
    generated: list[int] = []
    real = file_generation.generate_answers
    monkeypatch.setattr(
        file_generation, "generate_answers", lambda i, some, *a: generated.extend(some) or real(i, some, *a)
    )
    run(source, out, decoding=decoding, budget=40)
    assert out.read_bytes().startswith(before)
    assert sorted(read(out)[1:], key=lambda row: row["line"]) == sorted(read(whole)[1:], key=lambda row: row["line"])
    assert len(generated) == 13, "answered lines are not generated again"
    done = out.read_bytes()
    run(source, out, decoding=decoding)
    assert out.read_bytes() == done


def test_tokenising_ahead_changes_no_answer(source, tmp_path, monkeypatch) -> None:
    run(source, tmp_path / "one.jsonl", decoding=SAMPLED)
    monkeypatch.setattr(file_generation, "TOKENISE_AHEAD", 3)
    run(source, tmp_path / "two.jsonl", decoding=SAMPLED)
    first, second = (
        {row["line"]: row["text"] for row in read(tmp_path / name)[1:]} for name in ("one.jsonl", "two.jsonl")
    )
    assert first == second
    assert [row["line"] for row in read(tmp_path / "two.jsonl")[1:4]] in ([1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2])


def test_an_interrupt_leaves_the_answers(source, tmp_path) -> None:
    def interrupt(done: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", budget=40, on_progress=interrupt)
    left = read(tmp_path / "out.jsonl")
    assert 6 <= len(left) - 1 < 20
    run(source, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[: len(left)] == left
    assert len(read(tmp_path / "out.jsonl")) == 21


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"decoding": DecodingOptions(7)}, "max_new_tokens was 6, is 7"),
        ({"decoding": DecodingOptions(6, stop=("a",))}, "stop was"),
        ({"decoding": SAMPLED}, "sampling was None"),
        ({"route": PromptRoute(prompt="So")}, "prompt was '', is 'So'"),
        ({"family": ("opt", "text")}, "other weights; model: other tokens|other tokens; model: other weights"),
        ({"rows": ROWS[:19]}, "input: another file"),
    ],
)
def test_answers_of_another_run_are_not_changed(source, tmp_path, change, why) -> None:
    out = tmp_path / "out.jsonl"
    run(source, out)
    before = out.read_bytes()
    if "rows" in change:
        write(source, change.pop("rows"))
    model = endless_language_model(*change.pop("family", ("gpt2", "text")))
    with pytest.raises(MetalmError, match="answers of another run") as caught:
        run(source, out, model=model, **change)
    assert re.search(why, caught.value.why)
    assert "--out" in caught.value.remedy
    assert out.read_bytes() == before


def test_a_model_that_has_moved_is_the_same(source, tmp_path) -> None:
    requests, language_model = read_input_file(source), endless_language_model("gpt2", "text")
    for name in ("here", "there"):
        generate_file(name, language_model, requests, tmp_path / "out.jsonl", PromptRoute(), DecodingOptions(2))
    assert len(read(tmp_path / "out.jsonl")) == 21


# -- the output file --------------------------------------------------------------------------------------------------


def test_other_files_are_never_overwritten(tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    for text in ("hello", "hello\n", '{"text": "a"}\n', "\n"):
        out.write_text(text)
        with pytest.raises(MetalmError, match="does not hold answers"):
            OutputFile(out, HEADER, {1, 2})
        assert out.read_text() == text
    with pytest.raises(MetalmError, match="cannot be written"):
        OutputFile(tmp_path, HEADER, {1})
    with pytest.raises(MetalmError, match="cannot be written"):
        OutputFile(out / "below.jsonl", HEADER, {1})


def test_a_corrected_configuration_is_another_run(source, tmp_path) -> None:
    model = endless_language_model("gpt2", "text")
    out = tmp_path / "out.jsonl"
    run(source, out, model=model)
    header, *rows = out.read_text("utf-8").splitlines()
    config = model.model.decoder.config
    before, config.layer_norm_epsilon = config.layer_norm_epsilon, 0.5
    try:
        with pytest.raises(MetalmError, match="answers of another run") as caught:
            run(source, out, model=model)
        assert caught.value.why == "model: another configuration"
    finally:
        config.layer_norm_epsilon = before
    older = json.loads(header)
    del older["model"]["configuration_sha256"]
    older["hash"] = "of an older version"
    out.write_text("\n".join([json.dumps(older), *rows[:5]]) + "\n", "utf-8")
    run(source, out, model=model)
    assert len(read(out)) == 21, "files of older versions, which lack the hash, are continued"


def test_an_incomplete_header_is_rewritten(tmp_path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    whole = json.dumps(HEADER).encode()
    for size in (0, 5, len(append_only_jsonl.HEADER_START), len(whole)):
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(whole[:size])
        with OutputFile(out, HEADER, {1}) as file:
            file.append([{"line": 1, "text": "a"}])
        assert out.read_bytes() == whole + b'\n{"line": 1, "text": "a"}\n'


@pytest.mark.parametrize(
    "row", ["{}", '{"line": 1}', '{"line": 9, "text": "a"}', "[]", '{"line": [1], "text": ""}', "x"]
)
def test_damage_is_named(tmp_path, row) -> None:
    out = write(tmp_path / "out.jsonl", [HEADER, {"line": 2, "text": "b"}, row, {"line": 1, "text": "a"}])
    before = out.read_bytes()
    with pytest.raises(MetalmError, match="damaged") as caught:
        OutputFile(out, HEADER, {1, 2})
    assert caught.value.where == f"{out}:3"
    assert out.read_bytes() == before


def test_two_processes_do_not_write_the_same_answers(tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    with OutputFile(out, HEADER, {1}), pytest.raises(MetalmError, match="another process"):
        OutputFile(out, HEADER, {1})
    OutputFile(out, HEADER, {1}).close()
    with open(out, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_is_an_error(tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    file = OutputFile(out, HEADER, {1, 2})
    file.append([{"line": 1, "text": "a"}])
    with open("/dev/full", "wb", buffering=0) as full:
        file._file, original = full, file._file
        with pytest.raises(MetalmError, match="cannot be written") as caught:
            file.append([{"line": 2, "text": "b"}])
        file._file = original
        assert caught.value.exit_code == Exit.FAILED
        assert "No space" in caught.value.why
    file.close()
    assert len(read(out)) == 2
