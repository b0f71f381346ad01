"""Scores of sessions: those of Hugging Face modules, for any batch."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal, Docked, Session
from tiny_language_models import (
    DOCK_TEXT,
    DOCKED_SPANS,
    FAMILIES,
    TEXT_SPANS,
    Reference,
    named_sessions,
    tiny_language_model,
)

EXACT = {"atol": 1e-4, "rtol": 1e-5}


def expected(language_model, spans_by_name) -> torch.Tensor:
    reference = Reference(language_model)
    return torch.tensor([reference.score(spans) for spans in spans_by_name.values()], dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_modules_alone(family) -> None:
    language_model = tiny_language_model(family, "text", "vision")
    spans_by_name = {**TEXT_SPANS, **DOCKED_SPANS}
    scores = language_model.log_likelihood(named_sessions(spans_by_name))
    assert scores.dtype == torch.float64
    assert scores.shape == (len(spans_by_name),)
    torch.testing.assert_close(scores, expected(language_model, spans_by_name), **EXACT)
    assert len({round(score, 2) for score in scores.tolist()}) == len(spans_by_name)
    assert scores.max() < -3


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_depend_on_neither_batch_nor_order_nor_duplicates(family) -> None:
    language_model = tiny_language_model(family, "text", "vision")
    all_sessions = named_sessions({**TEXT_SPANS, **DOCKED_SPANS})
    alone = torch.cat([language_model.log_likelihood([session]) for session in all_sessions])
    for size in (1, 2, 7, 16):
        torch.testing.assert_close(language_model.log_likelihood(all_sessions, batch_size=size), alone, **EXACT)
    order = [3, 0, 6, 5, 1, 3, 4, 2, 3]
    scores = language_model.log_likelihood((all_sessions[index] for index in order), batch_size=4)
    torch.testing.assert_close(scores, alone[order], **EXACT)


def test_no_sessions_have_no_scores() -> None:
    assert tiny_language_model().log_likelihood([]).tolist() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_encoders_reads_docked_texts_as_untrained_text(family) -> None:
    language_model = tiny_language_model(family)
    read = {
        "first": [Docked("text", DOCK_TEXT), Causal(" yes", trained=True, end=True)],
        "later": [Causal("Q:"), Docked("text", " " + DOCK_TEXT), Causal(" yes", trained=True), Docked("any", " so")],
    }
    lowered = {
        name: [Causal(span.content) if isinstance(span, Docked) else span for span in spans]
        for name, spans in read.items()
    }
    scores = language_model.log_likelihood(named_sessions(read))
    assert torch.equal(scores, language_model.log_likelihood(named_sessions(lowered)))
    torch.testing.assert_close(scores, expected(language_model, lowered), **EXACT)


def test_a_text_is_scored_as_transformers_does() -> None:
    """The score of a text in one trained span equals the loss that the decoder returns for its labels."""
    language_model = tiny_language_model("llama")
    text = "Once upon a time there was a little girl named Lily."
    ids = torch.tensor([language_model.tokenizer(text).input_ids])
    with torch.no_grad():
        loss = language_model.model.decoder(input_ids=ids, labels=ids).loss
    (score,) = language_model.log_likelihood([Session([Causal(text, trained=True)])]).tolist()
    assert score == pytest.approx(-float(loss) * (ids.shape[1] - 1), rel=1e-5)


def test_scoring_changes_nothing_of_the_model() -> None:
    language_model = tiny_language_model("gpt2", "text")
    before = {name: value.clone() for name, value in language_model.model.state_dict().items()}
    state = torch.get_rng_state()
    language_model.log_likelihood(named_sessions(TEXT_SPANS))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in language_model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in language_model.model.parameters())


# -- bad input --------------------------------------------------------------------------------------------------------

GOOD = Session([Causal("So"), Causal(" yes", trained=True)])


def refused(language_model, session: Session, match: str) -> MetalmError:
    """Return the error for an invalid session among valid ones."""
    with pytest.raises(MetalmError, match=match) as caught:
        language_model.log_likelihood([GOOD, session, GOOD])
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    "spans",
    [
        [Causal("Nothing is trained")],
        [Causal("The answer is empty:"), Causal("", trained=True)],
        [Docked("text", "It rained.")],
        [],
        [Causal("")],
    ],
    ids=["untrained", "empty answer", "dock", "no spans", "no text"],
)
def test_a_session_with_nothing_to_score_is_named(spans) -> None:
    language_model = tiny_language_model("gpt2", "text")
    refused(language_model, Session(spans), "session 1 ")
    refused(language_model, Session(spans, "question 7"), "question 7 ")


def test_a_first_token_that_nothing_predicts_is_an_error() -> None:
    spans = [Causal("The girl", trained=True)]
    language_model = tiny_language_model("gpt2", rules={"start": "never"})
    error = refused(language_model, Session(spans, "question 7"), "first trained token of question 7")
    assert "untrained span before the first" in error.remedy
    refused(language_model, Session(spans), "of session 1")
    # The remedy works.
    assert language_model.log_likelihood([Session([Causal("So"), *spans])])[0] < 0
    assert tiny_language_model("gpt2").log_likelihood([Session(spans)])[0] < 0


def test_a_session_longer_than_the_decoder_reads_is_named() -> None:
    language_model = tiny_language_model("gpt2", n_positions=24)
    fits = Session([Causal((5,) * 23), Causal((6,), trained=True)])
    assert language_model.log_likelihood([fits])[0] < 0
    long = Session([Causal((5,) * 24), Causal((6,), trained=True)], "question 7")
    refused(language_model, long, "question 7 takes 25 positions, the decoder has 24")
    refused(language_model, Session(long), "session 1 takes 25")


def test_a_dock_that_cannot_be_read_is_named() -> None:
    language_model = tiny_language_model("gpt2", "text")
    answer = Causal(" yes", trained=True)
    refused(language_model, Session([Docked("text", "\u200b"), answer]), "session 1: .* as empty")
    refused(language_model, Session([Docked("text", DOCK_TEXT * 9), answer]), "session 1: .* reads 60")
    refused(
        language_model,
        Session([Docked("image", "x"), answer], "question 7"),
        "question 7 docks into an encoder 'image'",
    )
