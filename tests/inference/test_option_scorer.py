"""Option scoring: shared questions, options and demonstrations give the scores of each option alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalm_cli.errors import MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring import option_scorer
from metalm_cli.inference.scoring.dock_cache import DockCache
from metalm_cli.inference.scoring.option_scorer import Scorer, score
from metalm_cli.inference.scoring.question_rows import OptionQuestion, join_sessions
from metalm_cli.models.capabilities import measure_cache_reuse
from metalm_cli.sessions import Causal, Docked, Session
from metalm_cli.sessions.spans import Span
from tiny_language_models import (
    DOCKED_SPANS,
    FAMILIES,
    TEXT_SPANS,
    TOKENIZER_KINDS,
    Reference,
    endless_language_model,
    tiny_language_model,
)

TOKENIZER_KINDS.setdefault("metalm-decoder", "byte")
MODELS = [*FAMILIES, "metalm-decoder"]
OPTION_TEXTS = [" yes", " no", " maybe not", " the dog", " the dog ran", " naïve café", "", " yes", " a" * 20]
DEMONSTRATIONS = [
    Docked("text", "A cat."),
    Causal(" animal", end=True),
    Docked("text", "Rain."),
    Causal(" weather", end=True),
]


def prompts(count: int = 6) -> list[list[Span]]:
    """Return prompts: causal, with one dock, with several docks."""
    spans: list[list[Span]] = [
        [Causal("Is it cold?")],
        [Docked("text", "the dog barked at a girl and ran")],
        [Docked("text", "It rained."), Causal(" and then"), Docked("text", "the dog barked at a girl and ran")],
        [Docked("text", "It rained."), Causal("\n")],
        [Causal("x")],
        [Docked("text", "the forest where it rained all day and the girl came home"), Causal(" so")],
    ]
    return spans[:count]


def question(
    language_model: LanguageModel, spans: list[Span], option_texts: list[str], demonstrations: list[Span] | None = None
) -> OptionQuestion:
    options = tuple(
        np.array(language_model.decoder_tokenizer.encode_continuation(text), dtype=np.int64) for text in option_texts
    )
    shared_prefix = None if demonstrations is None else language_model.tokenise(Session(demonstrations))
    prefix = language_model.tokenise(Session(spans), is_continuation=demonstrations is not None)
    return OptionQuestion(prefix, options, shared_prefix)


def score_separately(
    language_model: LanguageModel, spans: list[Span], option_texts: list[str], demonstrations: list[Span] | None = None
) -> np.ndarray:
    """Score each option in a session of its own, one at a time."""
    scores = []
    for text in option_texts:
        ids = tuple(language_model.decoder_tokenizer.encode_continuation(text))
        session = Session([*(demonstrations or []), *spans, Causal(ids, trained=True)])
        scores.append(float(language_model.log_likelihood([session], batch_size=1)[0]) if ids else 0.0)
    return np.array(scores)


@pytest.mark.parametrize("head", ["known", "own"])
@pytest.mark.parametrize("encoders", [(), ("text",)], ids=["decoder", "docked"])
@pytest.mark.parametrize("family", MODELS)
def test_equal_to_one_option_at_a_time(family: str, encoders: tuple[str, ...], head: str) -> None:
    language_model = (
        tiny_language_model(family, *encoders) if head == "known" else endless_language_model(family, *encoders)
    )
    assert language_model.model.traits.supports_packing
    assert measure_cache_reuse(language_model.model.decoder)
    expected = [score_separately(language_model, spans, OPTION_TEXTS) for spans in prompts()]
    assert len({round(float(value), 3) for scores in expected for value in scores}) > 20
    questions = [question(language_model, spans, OPTION_TEXTS) for spans in prompts()]
    for share in (True, False):
        for budget in (1, 70, 4096):
            for result, expected_scores in zip(
                score(language_model, questions, budget=budget, share=share), expected, strict=True
            ):
                np.testing.assert_allclose(result.log_likelihood, expected_scores, atol=1e-4, rtol=0)
    backwards = score(language_model, questions[::-1], budget=150)[::-1]
    for result, expected_scores in zip(backwards, expected, strict=True):
        np.testing.assert_allclose(result.log_likelihood, expected_scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("encoders", [(), ("text",)], ids=["decoder", "docked"])
@pytest.mark.parametrize("family", MODELS)
def test_frozen_demonstrations_are_read_once(family: str, encoders: tuple[str, ...]) -> None:
    language_model = tiny_language_model(family, *encoders)
    expected = [score_separately(language_model, spans, OPTION_TEXTS, DEMONSTRATIONS) for spans in prompts()]
    questions = [question(language_model, spans, OPTION_TEXTS, DEMONSTRATIONS) for spans in prompts()]
    plain = [question(language_model, spans, OPTION_TEXTS) for spans in prompts()]
    assert questions[0].shared_prefix is not None
    for share in (True, False):
        worker = Scorer(language_model, 200, share)
        for result, expected_scores in zip(worker.score(questions), expected, strict=True):
            np.testing.assert_allclose(result.log_likelihood, expected_scores, atol=1e-4, rtol=0)
        if share:
            alone_read = Scorer(language_model, 200, True)
            alone_read.score(plain)
            starts = sum(len(option_question.prefix) for option_question in plain) - sum(
                len(option_question.prefix) for option_question in questions
            )
            assert worker.positions == alone_read.positions - starts + len(questions[0].shared_prefix)
    mixed = score(language_model, [questions[0], plain[1], questions[2]])
    np.testing.assert_allclose(mixed[2].log_likelihood, expected[2], atol=1e-4, rtol=0)
    np.testing.assert_allclose(
        mixed[1].log_likelihood, score_separately(language_model, prompts()[1], OPTION_TEXTS), atol=1e-4, rtol=0
    )


def test_the_reference_of_the_reference() -> None:
    """The scores equal those of Hugging Face modules, span by span."""
    language_model = tiny_language_model("llama", "text", "vision")
    for name, spans in [*TEXT_SPANS.items(), *DOCKED_SPANS.items()]:
        untrained = [Causal(span.content, end=span.end) if isinstance(span, Causal) else span for span in spans]
        scores = score(language_model, [question(language_model, untrained, [" yes it is", " no"])])[0].log_likelihood
        expected = [
            float(Reference(language_model).score([*untrained, Causal(text, trained=True)]))
            for text in (" yes it is", " no")
        ]
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0, err_msg=name)


def test_greedy_is_whether_generation_would_return_the_option() -> None:
    language_model = endless_language_model("gpt2", "text")
    spans = prompts()[1]
    ids = Reference(language_model).greedy(spans, 4)
    prefix = language_model.tokenise(Session(spans))
    options = tuple(
        np.array(option_ids) for option_ids in (ids, ids[:2], [*ids[:3], ids[3] + 1], [ids[0] + 1, *ids[1:]], [])
    )
    scores = score(language_model, [OptionQuestion(prefix, options)])[0]
    assert scores.greedy.tolist() == [True, True, False, False, True]
    assert scores.tokens.tolist() == [4, 2, 4, 4, 0]


OPTION = st.lists(st.integers(3, 250), max_size=9)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 5), st.lists(OPTION, min_size=1, max_size=5)), min_size=1, max_size=4),
    st.sampled_from([1, 40, 4096]),
    st.booleans(),
)
def test_any_options(chosen: list[tuple[int, list[list[int]]]], budget: int, front: bool) -> None:
    """Options may be empty, equal, or prefixes of others, in any number and order."""
    language_model = tiny_language_model("gpt2", "text")
    demonstrations = DEMONSTRATIONS if front else None
    questions, expected = [], []
    for index, options in chosen:
        option_ids = [*options, options[0], [*options[0], 7]]
        base_question = question(language_model, prompts()[index], [], demonstrations)
        questions.append(
            OptionQuestion(
                base_question.prefix,
                tuple(np.array(ids, dtype=np.int64) for ids in option_ids),
                base_question.shared_prefix,
            )
        )
        sessions = [
            Session([*(demonstrations or []), *prompts()[index], Causal(tuple(ids), trained=True)]) if ids else None
            for ids in option_ids
        ]
        expected.append(
            [0.0 if session is None else float(language_model.log_likelihood([session])[0]) for session in sessions]
        )
    for result, expected_scores in zip(score(language_model, questions, budget=budget), expected, strict=True):
        np.testing.assert_allclose(result.log_likelihood, expected_scores, atol=1e-4, rtol=0)


def test_nothing_is_read_or_projected_twice() -> None:
    language_model = tiny_language_model("gpt2")
    worker = Scorer(language_model)
    prefix = language_model.tokenise(Session([Causal("the dog barked")]))
    ids = [np.array(option_ids) for option_ids in ([5, 6, 7], [5, 6, 8], [9], [10], [5, 6, 7])]
    worker.score([OptionQuestion(prefix, tuple(ids))])
    assert worker.positions == len(prefix) + 2  # three options share a head of two tokens
    assert worker.projected == 1 + 2


def test_each_distinct_dock_is_encoded_once() -> None:
    language_model = tiny_language_model("gpt2", "text")
    worker = Scorer(language_model, budget=60)
    read: list[int] = []
    hook = language_model.model.encoders["text"].register_forward_hook(
        lambda _module, _inputs, output: read.append(len(output.last_hidden_state))
    )
    try:
        worker.score([question(language_model, spans, OPTION_TEXTS) for spans in prompts()] * 3)
    finally:
        hook.remove()
    assert sum(read) == worker.docks.encoded == 3
    assert worker.docks.requested > 3


def test_docks_are_evicted_when_the_cache_is_full() -> None:
    language_model = tiny_language_model("gpt2", "text")
    docks = [
        language_model.tokenise(Session([Docked("text", text)])).docks[0][1] for text in ("a dog", "a cat", "a dog")
    ]
    roomy = DockCache(language_model, 1000)
    first = roomy.vectors(docks)
    size = first[0].numel() * first[0].element_size()
    tight = DockCache(language_model, 1000, max_bytes=size)
    for index in (0, 1, 2, 0):
        torch.testing.assert_close(tight.vectors([docks[index]])[0], first[index], atol=1e-5, rtol=0)
    assert tight.encoded == 3


def test_finished_questions_are_reported_once_each() -> None:
    language_model = tiny_language_model("gpt2", "text")
    finished: dict[int, Any] = {}

    def record_finished(numbers: list[int], scores: list[Any]) -> None:
        for number, result in zip(numbers, scores, strict=True):
            assert number not in finished
            finished[number] = result.log_likelihood

    for share in (True, False):
        finished.clear()
        questions = [question(language_model, spans, OPTION_TEXTS) for spans in prompts()]
        results = score(language_model, questions, budget=50, share=share, on_scored=record_finished)
        assert sorted(finished) == list(range(6))
        assert all((finished[index] == result.log_likelihood).all() for index, result in enumerate(results))


def test_a_decoder_that_cannot_share_scores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = tiny_language_model("gpt2", "text")
    monkeypatch.setattr(option_scorer, "measure_cache_reuse", lambda decoder: False)
    worker = Scorer(language_model)
    result = worker.score([question(language_model, prompts()[2], OPTION_TEXTS, DEMONSTRATIONS)])[0]
    assert not worker._caches
    np.testing.assert_allclose(
        result.log_likelihood,
        score_separately(language_model, prompts()[2], OPTION_TEXTS, DEMONSTRATIONS),
        atol=1e-4,
        rtol=0,
    )


def test_a_forest_longer_than_the_positions_fits_if_each_path_does() -> None:
    language_model = tiny_language_model("gpt2", n_positions=16)
    prefix = language_model.tokenise(Session([Causal(tuple(range(40, 50)))]))
    options = tuple(np.arange(60 + offset, 66 + offset) for offset in range(5))
    scores = score(language_model, [OptionQuestion(prefix, options), OptionQuestion(prefix, options[:1])])[
        0
    ].log_likelihood
    expected = [
        float(
            language_model.log_likelihood(
                [Session([Causal(tuple(range(40, 50))), Causal(tuple(option_ids), trained=True)])]
            )[0]
        )
        for option_ids in map(np.ndarray.tolist, options[:1])
    ]
    np.testing.assert_allclose(scores[:1], expected, atol=1e-4)
    with pytest.raises(MetalmError, match="takes 18 positions with its longest option, the decoder has 16"):
        score(language_model, [OptionQuestion(prefix, (np.arange(50, 58),))])


def test_nothing_before_an_option() -> None:
    language_model = tiny_language_model("gpt2")
    empty = language_model.tokenise(Session([Causal("x")]))
    nothing = type(empty)(empty.ids[:0], empty.trained[:0])
    with pytest.raises(MetalmError, match="no prefix before the options"):
        score(language_model, [OptionQuestion(nothing, (np.array([5]),))])
    front = score(language_model, [OptionQuestion(nothing, (np.array([5]),), empty)])
    np.testing.assert_allclose(
        front[0].log_likelihood, score(language_model, [OptionQuestion(empty, (np.array([5]),))])[0].log_likelihood
    )
    assert score(language_model, []) == []
    assert join_sessions(empty, empty).ids.tolist() == [*empty.ids, *empty.ids]
