"""Tokenised sessions: trained positions, docks, start tokens and errors."""

from __future__ import annotations

from pathlib import PosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import (
    DOCKED_ID,
    Causal,
    DecoderTokenizer,
    Docked,
    Session,
    SessionTokeniser,
    TextProcessor,
    TokenRules,
    build_row,
)
from tiny_models import tokenizer_of

quick = settings(max_examples=60, deadline=None, derandomize=True)
QUESTION, ANSWER = "What colour was the ball?", " red"


def tokeniser(kind: str = "byte", *, encoders: bool = True, keep_special: bool = False, **rules: str) -> Any:
    decoder = DecoderTokenizer(tokenizer_of(kind), TokenRules(**rules))
    text = TextProcessor("text", tokenizer_of("wordpiece"), 32, keep_special)
    return SessionTokeniser(decoder, {"text": text} if encoders else {})


def docked_and_answered(**answer: Any) -> Session:
    return Session([Docked("text", QUESTION), Causal(ANSWER, trained=True, **answer)], name="row 7 of demo")


# -- trained positions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte", "llama"])
def test_a_docked_question_and_a_trained_answer(kind):
    tokenise = tokeniser(kind)
    start = [tokenise.tokenizer.start_id] if kind == "llama" else []
    dock = tokenise.processors["text"].prepare(QUESTION)
    answer = [*tokenise.tokenizer.encode_continuation(ANSWER), tokenise.tokenizer.document_end_id]
    session = tokenise(docked_and_answered(end=True), require_targets=True)
    assert session.ids.tolist() == [*start, *[DOCKED_ID] * dock.positions, *answer]
    assert session.trained.tolist() == [False] * (len(start) + dock.positions) + [True] * len(answer)
    ((position, docked),) = session.docks
    assert position == len(start)
    assert docked.key == dock.key
    assert session.name == "row 7 of demo"


@pytest.mark.parametrize("kind", ["byte", "llama"])
def test_the_first_token_after_a_dock_is_predicted_from_the_docks_last_position(kind):
    tokenise = tokeniser(kind)
    session = tokenise(docked_and_answered(end=True))
    row = build_row([session])
    position, dock = session.docks[0]
    assert row.predict_at[0] == position + dock.positions - 1
    assert row.targets.tolist() == [*tokenise.tokenizer.encode_continuation(ANSWER), tokenise.tokenizer.document_end_id]
    assert row.predict_at.tolist() == list(range(row.predict_at[0], len(row) - 1))


spans = st.lists(
    st.one_of(
        st.builds(Docked, st.just("text"), st.sampled_from(["A dog.", "It rained all day"])),
        st.builds(
            Causal,
            st.sampled_from(["", " yes", "\n", "The dog", (7, 8), (9,)]),
            trained=st.booleans(),
            end=st.booleans(),
        ),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("kind", ["byte", "llama"])
@given(spans=spans)
@quick
def test_exactly_the_marked_tokens_train(kind, spans):
    tokenise = tokeniser_once(kind)
    if not any(isinstance(span, Docked) or span.content or span.end for span in spans):
        with pytest.raises(MetalmError, match="is empty"):
            tokenise(Session(spans))
        return
    session = tokenise(Session(spans))
    first = next(span for span in spans if isinstance(span, Docked) or span.content or span.end)
    causal = isinstance(first, Causal)
    position = int(tokenise.tokenizer.needs_start_token(causal, causal and first.trained))
    assert (
        position == (session.ids[0] == tokenise.tokenizer.start_id)
        or session.ids[0] == tokenise.tokenizer.document_end_id
    )
    assert not session.trained[:position].any()
    is_continuation = False
    for span in spans:
        if isinstance(span, Docked):
            expected = [DOCKED_ID] * tokenise.processors["text"].prepare(span.content).positions
            trained = False
        elif isinstance(span.content, tuple):
            expected, trained = [*span.content], span.trained
        else:
            expected = (tokenise.tokenizer.encode_continuation if is_continuation else tokenise.tokenizer.encode_start)(
                span.content
            )
            trained = span.trained
        if isinstance(span, Causal) and span.end:
            expected = [*expected, tokenise.tokenizer.document_end_id]
        size = len(expected)
        assert session.ids[position : position + size].tolist() == expected
        assert (session.trained[position : position + size] == trained).all()
        position += size
        is_continuation = is_continuation or isinstance(span, Docked) or bool(span.content)
    assert position == len(session)


_TOKENISERS: dict[str, SessionTokeniser] = {}


def tokeniser_once(kind: str) -> SessionTokeniser:
    if kind not in _TOKENISERS:
        _TOKENISERS[kind] = tokeniser(kind)
    return _TOKENISERS[kind]


@pytest.mark.parametrize("trained", [True, False])
def test_an_end_token_trains_if_and_only_if_its_span_does(trained):
    tokenise = tokeniser()
    session = tokenise(Session([Docked("text", QUESTION), Causal(ANSWER, trained=trained, end=True)]))
    assert session.ids[-1] == tokenise.tokenizer.document_end_id
    assert session.trained[-1] == trained


def test_the_text_itself_is_never_searched():
    tokenise = tokeniser()
    session = tokenise(Session([Causal("red", trained=False), Causal(" red", trained=True), Causal(" red")]))
    size = len(tokenise.tokenizer.encode_continuation(" red"))
    assert session.trained.sum() == size
    assert session.trained[-2 * size : -size].all()


# -- start tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spans", "starts"),
    [
        ("byte", [Docked("text", QUESTION), Causal(" x", trained=True)], False),
        ("byte", [Causal("Question:"), Causal(" x", trained=True)], False),
        ("byte", [Causal("A story.", trained=True)], True),
        ("byte", [Causal(""), Causal("A story.", trained=True)], True),
        ("byte", [Causal("", trained=True), Causal("A story.")], False),
        ("llama", [Docked("text", QUESTION), Causal(" x", trained=True)], True),
        ("llama", [Causal("Question:"), Causal(" x", trained=True)], True),
    ],
)
def test_start_tokens(kind, spans, starts):
    tokenise = tokeniser(kind)
    session = tokenise(Session(spans))
    assert (session.ids[0] == tokenise.tokenizer.start_id) == starts
    if starts:
        assert not session.trained[0]


def test_a_session_that_begins_with_a_trained_token_loses_none_of_them():
    tokenise = tokeniser()
    session = tokenise(Session([Causal("A story.", trained=True, end=True)]))
    assert build_row([session]).targets.tolist() == session.ids[1:].tolist()
    assert len(session) == len(tokenise.tokenizer.encode_start("A story.")) + 2


# -- docks ------------------------------------------------------------------------------------------------------------


def test_special_tokens_surround_a_text_and_are_docked_only_with_keep_special():
    content_only, with_special = (
        tokeniser(keep_special=keep)(docked_and_answered()).docks[0][1] for keep in (False, True)
    )
    ids = content_only.arrays["input_ids"]
    assert ids.tolist() == with_special.arrays["input_ids"].tolist()
    assert (ids[0], ids[-1]) == (2, 3)
    assert content_only.output_positions.tolist() == list(range(1, len(ids) - 1))
    assert with_special.output_positions.tolist() == list(range(len(ids)))
    assert (content_only.positions, with_special.positions) == (len(ids) - 2, len(ids))


def test_special_tokens_spelled_out_in_a_docked_text_are_text():
    dock = tokeniser().processors["text"].prepare("a [MASK] b [SEP]")
    assert np.flatnonzero(np.isin(dock.arrays["input_ids"], [2, 3, 4])).tolist() == [0, dock.positions + 1]


def test_without_encoders_docks_are_untrained_text():
    converted = tokeniser(encoders=False)(docked_and_answered(end=True))
    causal = tokeniser(encoders=False)(Session([Causal(QUESTION), Causal(ANSWER, trained=True, end=True)]))
    assert converted.ids.tolist() == causal.ids.tolist()
    assert converted.trained.tolist() == causal.trained.tolist()
    assert not converted.docks
    decoded = tokenizer_of("byte").decode(converted.ids.tolist(), skip_special_tokens=True)
    assert decoded == QUESTION + ANSWER


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([], "row 7 of demo is empty"),
        ([Causal("")], "row 7 of demo is empty"),
        ([Docked("text", ""), Causal("x", trained=True)], "row 7 of demo: .* reads '' as empty"),
        ([Docked("text", " \n"), Causal("x", trained=True)], "row 7 of demo: .* as empty"),
        ([Docked("text", "dog " * 40), Causal("x", trained=True)], "row 7 of demo: .* tokens, .* reads 32"),
        ([Docked("vision", "x.png"), Causal("x", trained=True)], "row 7 of demo docks into an encoder 'vision'"),
        ([Docked("text", 5), Causal("x", trained=True)], "row 7 of demo: .* reads text, got int"),
        ([Docked("text", QUESTION), Causal(ANSWER)], "row 7 of demo has no trained token"),
        ([Docked("text", QUESTION), Causal("", trained=True)], "row 7 of demo has no trained token"),
    ],
)
def test_what_is_refused_names_the_session(spans, message):
    with pytest.raises(MetalmError, match=message) as caught:
        tokeniser()(Session(spans, name="row 7 of demo"), require_targets=True)
    assert caught.value.remedy


def test_a_trained_token_that_nothing_predicts_does_not_count():
    tokenise = tokeniser(start="never")
    with pytest.raises(MetalmError, match="lone token has no trained token"):
        tokenise(Session([Causal((5,), trained=True)], name="lone token"), require_targets=True)


def test_an_image_needs_its_encoder():
    with pytest.raises(MetalmError, match="docks PosixPath content into a model without encoders"):
        tokeniser(encoders=False)(Session([Docked("vision", PosixPath("x.png"))]))


def test_a_session_holds_spans():
    with pytest.raises(TypeError, match="got str"):
        Session(["x"])  # type: ignore[list-item]
    assert len(docked_and_answered()) == 2
