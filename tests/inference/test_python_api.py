"""The package as Python users meet it: names, reprs, texts as prompts, stop texts, streaming and errors."""

from __future__ import annotations

import threading
import time
import traceback

import pytest

import metalm_cli as metalm
from metalm_cli.errors import MetalmError
from metalm_cli.inference.generation import DecodingOptions, stream_answer
from metalm_cli.inference.text_sessions import text_to_session
from metalm_cli.inference.text_streaming import pieces_of
from metalm_cli.sessions import Causal, Docked, Session
from tiny_language_models import FAMILIES, endless_language_model, tiny_language_model
from tiny_seq2seq import KINDS, save_seq2seq

TEXTS = ["It rained all day.", "The girl had a red ball, and a dog."]
LIMIT = 12


def test_dir_lists_the_exports() -> None:
    assert dir(metalm) == sorted(metalm.__all__)
    assert metalm.load is metalm.load
    assert metalm.MetalmError is MetalmError


def test_objects_say_what_they_are() -> None:
    model = tiny_language_model("gpt2", "text")
    model.source = "runs/mine"
    lines = repr(model).splitlines()
    assert lines[0] == "LanguageModel runs/mine (torch.float32, cpu)"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == ["decoder", "encoders.text", "connectors.text"]
    decoder = sum(parameter.numel() for parameter in model.model.decoder.parameters())
    assert lines[1] == f"  decoder: GPT2LMHeadModel, {decoder:,} parameters"
    session = Session([Causal("It rained")])
    length = len(model.tokenise(session))
    assert repr(model.start(session)) == f"Conversation of {length} positions with runs/mine"
    assert repr(metalm.Prefix(model, session)) == f"Prefix of {length} positions for runs/mine"


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoders", [(), ("text",)])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_read_as_by_the_command(family: str, encoders: tuple[str, ...]) -> None:
    model = endless_language_model(family, *encoders)
    expected = [stream_answer(model, text_to_session(model, text), DecodingOptions(LIMIT)).text for text in TEXTS]
    assert model.generate(TEXTS, max_new_tokens=LIMIT) == expected
    assert any(expected)


def test_sessions_and_texts_mix_and_sessions_keep_their_whole_text() -> None:
    model = endless_language_model("gpt2", "text")
    session = Session([Docked("text", TEXTS[0])])
    whole, answer = model.generate([session, TEXTS[0]], max_new_tokens=LIMIT)
    assert answer == whole.strip()
    assert whole == model.decode(
        model.continue_one(model.tokenise(session), LIMIT, model.default_options())[0].tolist()
    )


@pytest.mark.parametrize(
    ("prompts", "got"), [("one text", "one str"), (Session([Causal("a")]), "one Session"), ([3], "int")]
)
def test_other_prompts_are_refused(prompts, got) -> None:
    with pytest.raises(MetalmError, match=got):
        tiny_language_model().generate(prompts)


# -- stop texts and streaming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("docked", [False, True])
def test_a_stop_text_ends_the_answer_and_the_generation(docked: bool, monkeypatch) -> None:
    model = endless_language_model("gpt2", "text")
    session = Session([Docked("text", TEXTS[0]) if docked else Causal(TEXTS[0])])
    (whole,) = model.generate([session], max_new_tokens=LIMIT)
    stop = whole[len(whole) // 2 :][:2]
    lengths = []
    continue_one = model.continue_one
    monkeypatch.setattr(model, "continue_one", lambda *a: (lengths.append((ids := continue_one(*a)).shape[1]), ids)[1])
    assert model.generate([session], max_new_tokens=LIMIT, stop=stop) == [whole[: whole.index(stop)]]
    assert model.generate([session], max_new_tokens=LIMIT, stop=["no such text", stop]) == [whole[: whole.index(stop)]]
    assert max(lengths) < LIMIT
    with pytest.raises(MetalmError, match="stop string is empty"):
        model.generate([session], stop="")


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_pieces_are_the_text(family: str) -> None:
    model = endless_language_model(family, "text")
    for prompt in (TEXTS[0], Session([Causal(TEXTS[0])]), Session([Docked("text", TEXTS[0])])):
        (text,) = model.generate([prompt], max_new_tokens=LIMIT)
        pieces = list(model.stream(prompt, max_new_tokens=LIMIT))
        assert "".join(pieces) == text
        assert len(pieces) > 1
        stop = text[len(text) // 2 :][:2]
        assert ["".join(model.stream(prompt, LIMIT, stop=stop))] == model.generate([prompt], LIMIT, stop=stop)
    assert "".join(model.stream(TEXTS[0], LIMIT, num_beams=2)) == model.generate(TEXTS[:1], LIMIT, num_beams=2)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_decoder_generates_streams_and_stops(kind: str, tmp_path) -> None:
    save_seq2seq(kind, tmp_path)
    model = metalm.load(tmp_path)
    (text,) = model.generate(TEXTS[:1], max_new_tokens=LIMIT)
    assert "".join(model.stream(TEXTS[0], max_new_tokens=LIMIT)) == text
    assert model.generate(TEXTS[:1], LIMIT, stop=text[1:]) == [text[: text.index(text[1:])]]
    assert repr(model).splitlines()[1].startswith("  seq2seq: ")


def test_a_closed_stream_ends_its_thread() -> None:
    threads = threading.active_count()

    def endless(on_text) -> None:
        while True:
            on_text("one")
            time.sleep(0.001)

    pieces = pieces_of(endless)
    assert next(pieces) == "one"
    assert threading.active_count() == threads + 1
    pieces.close()
    assert threading.active_count() == threads


def test_errors_of_a_stream_are_raised() -> None:
    model = tiny_language_model()
    with pytest.raises(MetalmError, match="positions"):
        model.stream(Session([Causal("a " * 500)]))

    def fail(on_text) -> None:
        on_text("one")
        raise ValueError("broken")

    pieces = pieces_of(fail)
    assert next(pieces) == "one"
    with pytest.raises(ValueError, match="broken"):
        next(pieces)


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: metalm.load("runs/nope", offline=True),
        lambda: metalm.evaluate("runs/nope", tasks=["rte"], offline=True),
        lambda: metalm.load_docks("nope"),
    ],
)
def test_a_wrong_path_is_one_short_error(call, tmp_path, monkeypatch) -> None:
    """The traceback has the lines of the caller and one of the package, and shows no earlier error."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(metalm.MetalmError, match="nope") as caught:
        call()
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    files = [line.split('"')[1] for line in lines if line.startswith("  File ")]
    assert files == [__file__, __file__, metalm.__file__]
    assert sum("Error: " in line for line in lines) == 1, lines
