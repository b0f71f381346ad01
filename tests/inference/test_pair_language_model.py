"""Loaded encoder–decoders: scores, texts and conversations, against the modules of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import LanguageModel, load
from metalm_cli.inference.batch_generation import generate_all, sample_all
from metalm_cli.inference.generation import DecodingOptions, stream_answer
from metalm_cli.inference.pair_language_model import PairLanguageModel
from metalm_cli.inference.scoring.pair_scorer import PairScorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.inference.scoring.scorers import scorer_of
from metalm_cli.sessions import Causal, Docked, Session
from tiny_seq2seq import KINDS, save_seq2seq, tokenizer_of

CONTEXTS = ("Where did Anna go after the long rain?", "It is cold.", "A story about a boat,", "Is it wet? yes or no")
OPTIONS = ("to the old mill", "yes", "no", "to the old mine")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    loaded = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        save_seq2seq(kind, folder)
        loaded[kind] = load(folder)
    return loaded


def reference_score(kind: str, model: Any, context: str, target: str, *, ended: bool) -> float:
    """Log-probability of a target by the model's own forward pass; BART's ``<s>`` before it is not counted."""
    tokenizer = tokenizer_of(kind)
    source = torch.tensor([tokenizer(context).input_ids])
    labels = tokenizer(text_target=target)["input_ids"]
    first = 1 if kind == "bart" else 0
    start = model.config.decoder_start_token_id
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([[start, *labels[:-1]]])).logits[0]
    log_probs = logits.double().log_softmax(-1)[torch.arange(len(labels)), torch.tensor(labels)]
    return float(log_probs[first : len(labels) if ended else -1].sum())


def test_the_model_is_recognised(models: dict[str, LanguageModel]) -> None:
    assert all(isinstance(model, PairLanguageModel) for model in models.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_the_model_alone(kind: str, batch_size: int, models: dict[str, LanguageModel]) -> None:
    model = models[kind]
    pairs = [(context, option) for context in CONTEXTS for option in OPTIONS]
    sessions = [Session([Docked("text", context), Causal(option, trained=True, end=True)]) for context, option in pairs]
    expected = [reference_score(kind, model.model.seq2seq, *pair, ended=True) for pair in pairs]
    scores = model.log_likelihood(sessions, batch_size=batch_size)
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in expected}) == len(pairs)


def test_all_trained_spans_of_a_session_are_scored(models: dict[str, LanguageModel]) -> None:
    spans = [Causal("It is cold."), Causal("yes", trained=True, end=True), Causal("Why?"), Causal("no", trained=True)]
    model = models["t5"]
    answer = Causal(tuple(model.decoder_tokenizer.encode_target("yes")), end=True)
    parts = [Session(spans[:2]), Session([spans[0], answer, *spans[2:]])]
    together = model.log_likelihood([Session(spans), parts[0]])
    apart = model.log_likelihood(parts)
    assert float(together[0]) == pytest.approx(float(apart.sum()), abs=1e-4)
    assert float(together[1]) == pytest.approx(float(apart[0]), abs=1e-4)


def questions(model: LanguageModel, contexts: Any = CONTEXTS) -> list[OptionQuestion]:
    tokenizer = model.decoder_tokenizer
    options = tuple(np.array(tokenizer.encode_target(text), dtype=np.int64) for text in OPTIONS)
    prefixes = [model.tokenise(Session([Docked("text", context)])) for context in contexts]
    return [OptionQuestion(prefix, options) for prefix in prefixes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 60, None])
def test_options_score_what_each_scores_alone(kind: str, budget: int | None, models: dict[str, LanguageModel]) -> None:
    model = models[kind]
    results = scorer_of(model, budget).score(questions(model))
    for context, result in zip(CONTEXTS, results, strict=True):
        expected = [reference_score(kind, model.model.seq2seq, context, option, ended=False) for option in OPTIONS]
        assert result.log_likelihood.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_encoder_reads_each_context_once(models: dict[str, LanguageModel]) -> None:
    model = models["t5"]
    scorer = scorer_of(model)
    assert isinstance(scorer, PairScorer)
    calls: list[int] = []
    hook = model.model.seq2seq.get_encoder().register_forward_pre_hook(
        lambda _module, _args, inputs: calls.append(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        scorer.score(questions(model, [*CONTEXTS, CONTEXTS[0]]))
        assert sum(calls) == scorer.encoded == len(CONTEXTS)
        scorer.score(questions(model))
        assert sum(calls) == len(CONTEXTS)
    finally:
        hook.remove()


def test_a_shared_prefix_is_part_of_the_context(models: dict[str, LanguageModel]) -> None:
    model = models["t5"]
    (whole,) = questions(model, ["It is cold. Is it wet?"])
    prefix = whole.prefix
    split = len(prefix) // 2
    from metalm_cli.sessions import TokenisedSession

    first, second = (
        TokenisedSession(prefix.ids[part], prefix.trained[part]) for part in (slice(0, split), slice(split, None))
    )
    parts = OptionQuestion(second, whole.options, first)
    expected, actual = scorer_of(model).score([whole])[0], scorer_of(model).score([parts])[0]
    assert actual.log_likelihood.tolist() == pytest.approx(expected.log_likelihood.tolist(), abs=1e-5)


def test_options_without_a_context_follow_an_empty_source(models: dict[str, LanguageModel]) -> None:
    model = models["t5"]
    from metalm_cli.evaluation.answers.ranking import unconditional_session

    options = questions(model)[0].options
    result = scorer_of(model).score([OptionQuestion(unconditional_session(model.decoder_tokenizer), options)])[0]
    expected = [reference_score("t5", model.model.seq2seq, "", option, ended=False) for option in OPTIONS]
    assert result.log_likelihood.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_texts_are_those_of_generate(kind: str, options: dict[str, Any], models: dict[str, LanguageModel]) -> None:
    model, tokenizer = models[kind], tokenizer_of(kind)
    sessions = [Session([Docked("text", context)]) for context in CONTEXTS]
    expected = []
    for context in CONTEXTS:
        bos = {"forced_bos_token_id": tokenizer.bos_token_id} if kind == "bart" else {}
        ids = model.model.seq2seq.generate(
            input_ids=torch.tensor([tokenizer(context).input_ids]),
            max_new_tokens=7 if kind == "bart" else 6,
            do_sample=False,
            forced_eos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            **bos,
            **options,
        )
        expected.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    assert model.generate(sessions, 6, **options) == expected
    assert generate_all(model, sessions, [6] * len(sessions), batch_size=3, **options) == expected


def test_samples_do_not_depend_on_the_batch(models: dict[str, LanguageModel]) -> None:
    sessions = [Session([Causal(context)]) for context in CONTEXTS]
    samples = [sample_all(models["bart"], sessions, [5] * 4, 2, batch_size=size) for size in (1, 8)]
    assert samples[0] == samples[1]
    assert len({text for texts in samples[0] for text in texts}) > 4


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_text_is_streamed_and_ends_at_a_stop_string(kind: str, models: dict[str, LanguageModel]) -> None:
    model = models[kind]
    session = Session([Docked("text", CONTEXTS[0])])
    pieces: list[str] = []
    whole = stream_answer(model, session, DecodingOptions(max_new_tokens=8), pieces.append)
    assert "".join(pieces) == whole.text
    stop = whole.text[2:4]
    assert stream_answer(model, session, DecodingOptions(8, stop=(stop,))).text == whole.text.partition(stop)[0]


def test_a_conversation_reads_all_turns(models: dict[str, LanguageModel]) -> None:
    model = models["t5"]
    conversation = model.start(Session([Causal("It is cold.")]))
    first = conversation.reply(5)
    second = conversation.extend([Causal(" And then?")]).reply(5)
    assert first == model.generate([Session([Causal("It is cold.")])], 5)[0]
    assert second == model.generate([Session([Causal("It is cold." + first + " And then?")])], 5)[0]


def test_positions_of_encoder_and_decoder_are_limits_of_their_own(tmp_path: Path) -> None:
    save_seq2seq("bart", tmp_path, max_position_embeddings=16)
    model = load(tmp_path)
    short, long = (Session([Causal("a b " * count)], "a line") for count in (2, 30))
    assert model.positions_left(model.tokenise(short)) == 14
    with pytest.raises(MetalmError, match="the encoder has 16"):
        model.generate([long])
    target = Session([Causal("a"), Causal(" b c" * 20, trained=True)], "a line")
    with pytest.raises(MetalmError, match="the decoder has 16"):
        model.log_likelihood([target])
    assert len(model.generate([short], 100)) == 1
