"""Decoders with LongRoPE compute long sessions with other frequencies: no score or text depends on the batch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from metalm_cli.inference import LanguageModel
from metalm_cli.inference.batch_generation import generate_all
from metalm_cli.inference.scoring.option_scorer import score
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.models.capabilities import measure_decoder, measure_length_switch
from metalm_cli.sessions import Causal, DecoderTokenizer, Session, TokenisedSession, TokenRules, build_row, collate
from model_families import gradients, make_decoder, make_metalm
from tiny_models import tokenizer_of

SWITCH = 24
FREQUENCIES = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.5, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": SWITCH,
}
LENGTHS = (40, 6, SWITCH + 1, SWITCH, SWITCH - 1, SWITCH + 2, 12)


@lru_cache(maxsize=1)
def language_model() -> LanguageModel:
    tokenizer = tokenizer_of("byte")
    decoder = make_decoder("llama", vocab_size=len(tokenizer), max_position_embeddings=64, rope_parameters=FREQUENCIES)
    return LanguageModel(make_metalm(decoder), DecoderTokenizer(tokenizer, TokenRules()), {})


def ids_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng([length, seed]).integers(3, 400, length).tolist())


def session_of(length: int) -> Session:
    ids = ids_of(length)
    return Session([Causal(ids[:-4]), Causal(ids[-4:], trained=True)])


def untrained(ids: tuple[int, ...]) -> TokenisedSession:
    return TokenisedSession(np.array(ids, dtype=np.int64), np.zeros(len(ids), dtype=bool))


@torch.no_grad()
def expected_score(ids: tuple[int, ...], trained: int) -> float:
    """Return the log-probability of the last tokens by the decoder's own forward pass on the session alone."""
    logits = language_model().model.decoder(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    targets = range(len(ids) - trained, len(ids))
    return float(sum(logits[position - 1, ids[position]] for position in targets))


def test_the_switch_is_measured() -> None:
    decoder = language_model().model.decoder
    assert measure_length_switch(decoder, 64) == SWITCH
    assert measure_length_switch(decoder, SWITCH) is None
    assert measure_length_switch(make_decoder("llama"), 256) is None
    traits = measure_decoder(decoder, 64)
    assert traits.packs_rows_of(SWITCH)
    assert not traits.packs_rows_of(SWITCH + 1)
    assert f"more than {SWITCH} positions" in traits.notes()[-1]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_do_not_depend_on_the_batch(batch_size: int) -> None:
    expected = [expected_score(ids_of(length), 4) for length in LENGTHS]
    scores = language_model().log_likelihood([session_of(length) for length in LENGTHS], batch_size=batch_size)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 4096])
@pytest.mark.parametrize("shared", [0, 4])
def test_options_are_scored_as_sessions_of_their_own(share: bool, budget: int, shared: int) -> None:
    questions, expected = [], []
    for length in LENGTHS:
        prefix = ids_of(length, 1)
        options = [ids_of(size, 2) for size in (1, 2, 4, 7)]
        option_scores = [expected_score((*prefix, *option), len(option)) for option in options]
        first, rest = untrained(prefix[:shared]), untrained(prefix[shared:])
        options_ids = tuple(np.array(option) for option in options)
        questions.append(OptionQuestion(rest, options_ids, first if shared else None))
        expected.append(option_scores)
    results = score(language_model(), questions, share=share, budget=budget)
    for result, option_scores in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.log_likelihood, option_scores, atol=1e-4)


def test_texts_do_not_depend_on_the_batch() -> None:
    prompts = [Session([Causal(ids_of(length))]) for length in LENGTHS]
    alone = [language_model().generate([prompt], 12)[0] for prompt in prompts]
    assert generate_all(language_model(), prompts, [12] * len(prompts), batch_size=16) == alone


@pytest.mark.parametrize("distributed", [False, True])
def test_training_computes_each_session_as_alone(distributed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several processes, each computes both kinds of rows, even if it has only one of them."""
    model = language_model().model
    sessions = [
        TokenisedSession(np.array(ids_of(length)), np.array([False] + [True] * (length - 1))) for length in LENGTHS
    ]
    expected = 0.0
    model.zero_grad()
    for session in sessions:
        ids = torch.tensor(session.ids)[None]
        logits = model.decoder(input_ids=ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        loss.backward()
        expected += float(loss.detach())
    expected_gradients = gradients(model)
    model.zero_grad()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: distributed)
    passes = []
    model.decoder.model.register_forward_pre_hook(lambda *_: passes.append(1))
    total, _ = model.losses(collate([build_row([session]) for session in sessions], {}))
    total.backward()
    assert len(passes) == 2
    with torch.no_grad():
        model.losses(collate([build_row([sessions[1]])], {}))
    assert len(passes) == (4 if distributed else 3)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-4, rtol=1e-4)
