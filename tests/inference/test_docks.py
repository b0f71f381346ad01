"""Docks encoded once: results of the text in their place, saved and loaded, refused by another model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metalm_cli as metalm
from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.loading import load
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.sessions import Causal, Docked, Session, SessionTokeniser
from metalm_cli.sessions.docks import Docks
from model_families import noise_image
from tiny_language_models import DOCK_TEXT, FAMILIES, Reference, endless_language_model, tiny_language_model
from tiny_seq2seq import save_seq2seq

PASSAGES = [DOCK_TEXT, "It rained.", "the dog barked at a girl and ran"]
QUESTIONS = [" Can a fox hide", " How many legs", " Where?", " Why is it so", " Who barked at a girl"]
CONNECTORS: list[dict[str, Any] | None] = [
    None,
    {"kind": "stack", "factor": 4},
    {"kind": "queries", "length": 3, "layers": 2, "heads": 2},
]


def questions(*more: Any) -> list[Session]:
    return [Session([Causal(question), *more]) for question in QUESTIONS]


def after(dock: Any, sessions: list[Session]) -> list[Session]:
    return [Session([Docked("text", dock), *session]) for session in sessions]


@contextmanager
def counted(language_model: LanguageModel) -> Iterator[dict[str, int]]:
    """Context manager that counts contents read by the text encoder, and positions read by the decoder."""
    counts = {"encoder": 0, "decoder": 0}

    def encoder_hook(_module: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        counts["encoder"] += len(inputs["input_ids"])

    def decoder_hook(_module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        embeds, ids = inputs.get("inputs_embeds"), inputs.get("input_ids", *arguments[:1])
        counts["decoder"] += (ids if embeds is None else embeds[..., 0]).numel()

    assert language_model.model.traits is not None  # measured before the decoder is counted
    handles = [
        language_model.model.encoders["text"].register_forward_pre_hook(encoder_hook, with_kwargs=True),
        language_model.model.decoder.base_model.register_forward_pre_hook(decoder_hook, with_kwargs=True),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def answers() -> list[Session]:
    return questions(Causal(" a yes", trained=True))


# -- docks in place of their text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("connector", CONNECTORS)
def test_results_are_those_of_the_text(connector: dict[str, Any] | None) -> None:
    language_model = endless_language_model("gpt2", "text", connector=connector)
    docks = metalm.encode(language_model, PASSAGES)
    reference = Reference(language_model)
    for passage, dock in zip(PASSAGES, docks, strict=True):
        expected = reference.dock_vectors(Docked("text", passage))
        np.testing.assert_allclose(dock.vectors, expected.detach(), atol=1e-5)
        with counted(language_model) as counts:
            scores = language_model.log_likelihood(after(dock, answers()))
            texts = language_model.generate(after(dock, questions()), max_new_tokens=5)
        assert counts["encoder"] == 0
        by_text = [reference.score(list(session)) for session in after(passage, answers())]
        assert scores.tolist() == pytest.approx(by_text, abs=1e-4)
        assert texts == language_model.generate(after(passage, questions()), max_new_tokens=5)


def test_a_session_mixes_docks_and_contents() -> None:
    language_model = tiny_language_model("gpt2", "text", "vision")
    text, image = PASSAGES[0], noise_image(1)
    (dock,), (picture,) = metalm.encode(language_model, [text]), metalm.encode(language_model, [image], "vision")
    end = Causal(" a yes", trained=True)
    spans = [Docked("vision", image), Docked("text", text), Causal(" or"), Docked("text", PASSAGES[1]), end]
    mixed = [Docked("vision", picture), Docked("text", dock), Causal(" or"), Docked("text", PASSAGES[1]), end]
    expected, actual = language_model.log_likelihood([Session(spans), Session(mixed)])
    assert float(actual) == pytest.approx(float(expected), abs=1e-4)
    with counted(language_model) as counts:
        language_model.log_likelihood([Session(mixed)] * 3)
    assert counts["encoder"] == 1, "only the text that is docked as such, once in a batch"


def test_options_are_scored_with_docks() -> None:
    language_model = tiny_language_model("gpt2", "text")
    (dock,) = metalm.encode(language_model, [DOCK_TEXT])
    options = tuple(np.array(language_model.decoder_tokenizer.encode_continuation(text)) for text in (" yes", " no"))
    results = {}
    for name, content in (("text", DOCK_TEXT), ("dock", dock)):
        shared = language_model.tokenise(Session([Docked("text", content)]))
        prefix = language_model.tokenise(Session([Causal(" so")]), is_continuation=True)
        results[name] = Scorer(language_model).score([OptionQuestion(prefix, options, shared)])[0].log_likelihood
    np.testing.assert_allclose(results["dock"], results["text"], atol=1e-5)


def test_a_conversation_begins_with_a_dock() -> None:
    language_model = endless_language_model("gpt2", "text")
    (dock,) = metalm.encode(language_model, [DOCK_TEXT])
    replies = [
        language_model.start(Session([Docked("text", content)])).extend([Causal(" so")]).reply(5)
        for content in (DOCK_TEXT, dock)
    ]
    assert replies[0] == replies[1] != ""


# -- a shared prefix --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_results_after_a_prefix_are_those_of_whole_sessions(family: str) -> None:
    language_model = endless_language_model(family, "text")
    docks = metalm.encode(language_model, PASSAGES)
    for content in (DOCK_TEXT, docks[0]):
        spans = [Causal("Read:"), Docked("text", content), Causal(" and")]
        prefix = metalm.Prefix(language_model, Session(spans))
        whole = [Session([*spans, *session]) for session in answers()]
        expected = language_model.log_likelihood(whole).tolist()
        assert prefix.log_likelihood(answers()).tolist() == pytest.approx(expected, abs=1e-4)
        whole = [Session([*spans, *session]) for session in questions()]
        for options in ({}, {"num_beams": 2}):
            expected_texts = language_model.generate(whole, max_new_tokens=5, **options)
            assert prefix.generate(questions(), max_new_tokens=5, **options) == expected_texts


def test_many_questions_encode_and_read_a_passage_once() -> None:
    language_model = endless_language_model("gpt2", "text")
    with counted(language_model) as counts:
        prefix = metalm.Prefix(language_model, Session([Docked("text", DOCK_TEXT)]))
        assert counts["encoder"] == 1
        counts["decoder"] = 0
        prefix.log_likelihood(answers())
        prefix.generate(questions(), max_new_tokens=3)
        prefix.log_likelihood(answers())
    assert counts["encoder"] == 1
    tokenise = language_model.tokenise
    scored = sum(len(tokenise(session, is_continuation=True)) for session in answers())
    question_tokens = sum(len(tokenise(session, is_continuation=True)) for session in questions())
    padding = 2 * len(QUESTIONS) * 24
    new_tokens = len(QUESTIONS) * 2
    read = len(prefix) + 2 * scored + question_tokens + new_tokens
    assert read <= counts["decoder"] <= read + padding
    assert counts["decoder"] < 3 * len(QUESTIONS) * len(prefix), "the passage is not read for each question"


def test_any_trained_tokens_after_a_prefix_are_scored() -> None:
    language_model = tiny_language_model("gpt2", "text")
    prefix_spans = [Docked("text", DOCK_TEXT)]
    rests = [
        [Causal(" first", trained=True)],  # predicted by the prefix itself
        [Causal(" so"), Causal(" yes", trained=True), Causal(" and"), Causal(" no", trained=True, end=True)],
        [Docked("text", "Two."), Causal(" yes", trained=True)],
    ]
    sessions = [Session(rest) for rest in rests]
    expected = language_model.log_likelihood([Session([*prefix_spans, *rest]) for rest in rests])
    assert torch.allclose(
        metalm.Prefix(language_model, Session(prefix_spans)).log_likelihood(sessions), expected, atol=1e-4
    )


def test_a_prefix_of_a_decoder_without_encoders() -> None:
    language_model = endless_language_model("gpt2")
    prefix = metalm.Prefix(language_model, Session([Docked("text", DOCK_TEXT)]))
    expected = language_model.generate(after(DOCK_TEXT, questions()), max_new_tokens=5)
    assert prefix.generate(questions(), max_new_tokens=5) == expected
    scores = language_model.log_likelihood(after(DOCK_TEXT, answers()))
    assert torch.allclose(prefix.log_likelihood(answers()), scores, atol=1e-4)


def test_errors_of_a_prefix(tmp_path: Path) -> None:
    save_seq2seq("t5", tmp_path / "t5")
    language_model = tiny_language_model("gpt2", "text")
    prefix = metalm.Prefix(language_model, Session([Docked("text", DOCK_TEXT)]))
    with pytest.raises(MetalmError, match="session 1 has no trained token"):
        prefix.log_likelihood([answers()[0], questions()[0]])
    with pytest.raises(MetalmError, match="expected a list of sessions"):
        prefix.generate(questions()[0])  # type: ignore[arg-type]
    limit = language_model.model.max_positions
    with pytest.raises(MetalmError, match=rf"session 0 takes \d+ positions, the decoder has {limit}"):
        prefix.generate([Session([Causal(" a" * limit)])])
    with pytest.raises(MetalmError, match="an encoder–decoder shares no prefix"):
        metalm.Prefix(load(tmp_path / "t5"), Session([Causal("a")]))


# -- files ------------------------------------------------------------------------------------------------------------


def test_saved_docks_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    language_model = tiny_language_model("gpt2", "text")
    docks = metalm.encode(language_model, PASSAGES)
    docks.save(tmp_path / "passages.safetensors")
    loaded = metalm.load_docks(tmp_path / "passages.safetensors")
    assert len(loaded) == len(docks) == 3
    assert all(np.array_equal(first, second) for first, second in zip(docks.vectors, loaded.vectors, strict=True))
    assert loaded.origin == docks.origin
    assert [len(dock) for dock in loaded[1:]] == [len(dock) for dock in docks][1:]
    assert str(loaded) == f"Docks(3 contents, {sum(map(len, docks))} positions of width 32)"
    expected = language_model.log_likelihood(after(docks[2], answers()))
    assert torch.equal(language_model.log_likelihood(after(loaded[2], answers())), expected)
    Docks([], docks.origin).save(tmp_path / "none")
    assert len(metalm.load_docks(tmp_path / "none")) == 0


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "docks.safetensors"
    metalm.encode(tiny_language_model("gpt2", "text"), PASSAGES).save(path)
    content = path.read_bytes()
    changed_values, changed_header = (bytearray(content) for _ in range(2))
    changed_values[-5] ^= 1
    changed_header[20] ^= 1
    for damaged in (b"", content[:40], content[:-1], changed_values, changed_header):
        path.write_bytes(damaged)
        with pytest.raises(MetalmError, match="the file holds no docks that can be read"):
            metalm.load_docks(path)
    with pytest.raises(MetalmError, match="the file of docks does not exist"):
        metalm.load_docks(tmp_path / "absent")
    with pytest.raises(MetalmError, match="cannot write docks"):
        metalm.encode(tiny_language_model("gpt2", "text"), PASSAGES).save(tmp_path / "absent" / "docks")


# -- other models -----------------------------------------------------------------------------------------------------


def changed(part: str) -> LanguageModel:
    """The model with one weight of a part changed."""
    language_model = tiny_language_model("gpt2", "text")
    language_model.model = copy.deepcopy(language_model.model)
    weight = next(language_model.model.get_submodule(part).parameters())
    weight.data.view(-1)[3] += 1e-3
    return language_model


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (lambda: changed("encoders.text"), "the weights of the encoder differ: sha256 "),
        (lambda: changed("connectors.text"), "the weights of the connector differ: sha256 "),
        (
            lambda: tiny_language_model("gpt2", "text", connector={"kind": "stack", "factor": 4}),
            "connector: the docks have {'kind': 'linear', 'layers': 1}, the model has {'kind': 'stack', 'factor': 4}",
        ),
        (lambda: tiny_language_model("gpt2", "text", n_embd=48), "width of the decoder: the docks have 32, the model"),
    ],
    ids=["encoder", "connector", "kind", "width"],
)
def test_docks_of_another_model_are_refused_by_name(other: Any, why: str) -> None:
    docks = metalm.encode(tiny_language_model("gpt2", "text"), PASSAGES)
    for session in (Session([Docked("text", docks[0])], "the first"), Session([Docked("text", docks[0])])):
        with pytest.raises(MetalmError) as caught:
            other().generate([session])
        assert caught.value.what == f"{session.name or 'session'}: the docks are of another model"
        assert why in caught.value.why
        assert "metalm_cli.encode(model, texts)" in caught.value.remedy


def test_weights_that_change_after_encoding_are_noticed() -> None:
    language_model = changed("connectors.text")
    (dock,) = metalm.encode(language_model, [DOCK_TEXT])
    language_model.generate([Session([Docked("text", dock)])], max_new_tokens=1)
    with torch.no_grad():
        next(language_model.model.connectors.parameters()).add_(1e-3)
    with pytest.raises(MetalmError, match="the docks are of another model"):
        language_model.generate([Session([Docked("text", dock)])], max_new_tokens=1)


def test_wrong_use_is_explained() -> None:
    language_model = tiny_language_model("gpt2", "text", "vision")
    docks = metalm.encode(language_model, PASSAGES)
    for content, message in (
        (docks, "a dock holds all docks of a list"),
        (metalm.encode(language_model, [noise_image(0)], "vision")[0], "the docks are of another model"),
    ):
        with pytest.raises(MetalmError, match=message):
            language_model.generate([Session([Docked("text", content)])])
    with pytest.raises(MetalmError, match="docks EncodedDock content into a model without encoders"):
        tiny_language_model("gpt2").generate([Session([Docked("text", docks[0])])])
    tokenise = SessionTokeniser(language_model.decoder_tokenizer, language_model.processors)
    with pytest.raises(MetalmError, match="encoded docks are read by loaded models only"):
        tokenise(Session([Docked("text", docks[0])]))
    with pytest.raises(MetalmError, match="expected a list of texts"):
        metalm.encode(language_model, DOCK_TEXT)
    with pytest.raises(MetalmError, match="no encoder 'audio'"):
        metalm.encode(language_model, PASSAGES, "audio")
    with pytest.raises(MetalmError, match="the model has no encoder that reads texts"):
        metalm.encode(tiny_language_model("gpt2"), PASSAGES)
    with pytest.raises(MetalmError, match="reads '' as empty") as caught:
        metalm.encode(language_model, ["A text.", ""])
    assert caught.value.where == "texts[1]"
