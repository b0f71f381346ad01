"""Batched generation: the same texts as one session at a time, for any batch."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import batch_generation
from metalm_cli.inference.batch_generation import generate_all, plan_batches, sample_all
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.text_streaming import cut_at_stop
from metalm_cli.models.capabilities import measure_left_padding
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, TokenRules
from model_families import make_decoder
from tiny_language_models import (
    DOCKED_SPANS,
    FAMILIES,
    TEXT_SPANS,
    Reference,
    endless_language_model,
    tiny_language_model,
)

TALE = "the dog barked at a girl and ran into the forest where it rained all day"


def prompts(count: int = 9) -> list[Session]:
    """Sessions of many lengths, docked and not, some equal."""
    sessions = [Session(TEXT_SPANS["an untrained beginning"][:1]), Session(DOCKED_SPANS["docks between"])]
    for index in range(count - 2):
        words = " ".join(TALE.split()[index % 4 : index + 3])
        sessions.append(
            Session([Docked("text", words)] if index % 2 else [Causal(words), Docked("text", "It rained.")])
        )
    return sessions


@pytest.mark.parametrize("family", [*FAMILIES, "metalm-decoder"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "length_penalty": 0.6}], ids=["greedy", "beams"])
def test_batched_generation_equals_one_by_one(family, options, monkeypatch) -> None:
    monkeypatch.setitem(tiny_language_model.__globals__["TOKENIZER_KINDS"], "metalm-decoder", "byte")
    language_model = endless_language_model(family, "text")
    sessions = prompts()
    limits = [6, 3, 6, 2, 6, 6, 6, 3, 6]
    alone = [
        language_model.generate([session], limit, **options)[0] for session, limit in zip(sessions, limits, strict=True)
    ]
    assert len(set(alone)) > 2
    assert measure_left_padding(language_model.model.decoder)
    for size in (1, 4, 16):
        assert generate_all(language_model, sessions, limits, batch_size=size, **options) == alone


def test_batched_generation_ends_at_each_document_end() -> None:
    plain = endless_language_model("opt", "text")
    sessions = prompts()
    long_texts = [plain.generate([session], 12)[0] for session in sessions]
    ids = [Reference(plain).greedy(list(session), 12) for session in sessions]
    token = max(
        ids[0][2:],
        key=lambda candidate: len({other_ids.index(candidate) for other_ids in ids if candidate in other_ids}),
    )
    (name,) = plain.tokenizer.convert_ids_to_tokens([token])
    ending = LanguageModel(plain.model, DecoderTokenizer(plain.tokenizer, TokenRules(document=name)), plain.processors)
    alone = [ending.generate([session], 12)[0] for session in sessions]
    assert len({len(text) for text in alone}) > 1
    assert alone != long_texts
    assert generate_all(ending, sessions, [12] * len(sessions), batch_size=5) == alone


def test_a_decoder_that_cannot_be_padded_is_not_padded() -> None:
    def without_positions(module, args, kwargs):
        kwargs.pop("position_ids", None)
        return args, kwargs

    language_model = tiny_language_model("gpt2", "text", tie_word_embeddings=False, n_positions=200)
    sessions = prompts()
    alone = [language_model.generate([session], 5)[0] for session in sessions]
    hook = language_model.model.decoder.transformer.register_forward_pre_hook(without_positions, with_kwargs=True)
    try:
        assert not measure_left_padding(language_model.model.decoder)
        assert [language_model.generate([session], 5)[0] for session in sessions] == alone
        assert generate_all(language_model, sessions, [5] * 9, batch_size=8) == alone
    finally:
        hook.remove()


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "gemma2", "phi", "metalm-decoder"])
def test_families_can_be_padded(family) -> None:
    assert measure_left_padding(make_decoder(family))


def test_positions_end_each_session_as_they_do_alone() -> None:
    language_model = endless_language_model("gpt2", "text", n_positions=24)
    sessions = [Session([Causal(tuple(range(40, 40 + length)))]) for length in (22, 20, 5, 6)]
    alone = [language_model.generate([session], 9)[0] for session in sessions]
    assert generate_all(language_model, sessions, [9] * 4, batch_size=4) == alone
    with pytest.raises(MetalmError, match="the decoder has 24"):
        generate_all(language_model, [Session([Causal(tuple(range(40, 64)))], "full")], [1])


def test_batches_hold_sessions_that_fit_together() -> None:
    lengths, limits = [5, 7, 5, 9, 7, 2], [3, 3, 8, 3, 8, 3]
    positions_left = [20 - length for length in lengths]
    batches = list(plan_batches(lengths, limits, positions_left, 4))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4, 5]
    assert [len(batch) for batch in batches] == [4, 2]
    assert all(
        len({lengths[index] for index in batch}) == 1
        for batch in plan_batches(lengths, limits, positions_left, 4, equal_lengths=True)
    )
    assert all(
        len({limits[index] for index in batch}) == 1
        for batch in plan_batches(lengths, limits, positions_left, 4, equal_limits=True)
    )
    assert list(plan_batches([9, 8], [1, 9], [3, 9], 4)) == [[0], [1]]
    assert list(plan_batches([], [], [], 4)) == []


def test_progress_is_reported(monkeypatch) -> None:
    language_model = endless_language_model("gpt2", "text")
    progress: list[int] = []
    generate_all(language_model, prompts(), [2] * 9, batch_size=4, on_progress=progress.append)
    assert progress == [4, 8, 9]
    calls = []
    real = batch_generation.generate_batch
    monkeypatch.setattr(batch_generation, "generate_batch", lambda *a: calls.append(len(a[1])) or real(*a))
    generate_all(language_model, prompts(), [2] * 9, batch_size=8, num_beams=4)
    assert max(calls) == 2


def test_a_budget_bounds_the_positions_of_a_batch() -> None:
    lengths, limits = [5, 7, 5, 9, 7, 2, 30], [3] * 7
    positions_left = [100] * 7
    batches = list(plan_batches(lengths, limits, positions_left, 99, budget=24))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert batches[0] == [6], "a single session may exceed the budget"
    for batch in batches[1:]:
        assert len(batch) * (max(lengths[index] for index in batch) + 3) <= 24
    assert max(map(len, batches)) > 1
    language_model = endless_language_model("gpt2", "text")
    expected = generate_all(language_model, prompts(), [4] * 9)
    for budget in (1, 60, 10_000):
        assert generate_all(language_model, prompts(), [4] * 9, batch_size=None, budget=budget) == expected


def test_samples_do_not_depend_on_batches() -> None:
    language_model = endless_language_model("gpt2", "text")
    sessions, limits = prompts(), [6, 3, 6, 2, 6, 6, 6, 3, 6]
    samples = sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=1)
    assert [len(texts) for texts in samples] == [3] * 9
    assert sum(len(set(texts)) == 3 for texts in samples) > 6
    for size in (2, 5, 64):
        assert sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=size) == samples
    assert sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=None, budget=100) == samples
    assert sample_all(language_model, sessions, limits, 3, 1.5, seed=8) != samples
    fewer = sample_all(language_model, sessions[2:5], limits[2:5], 2, 1.5, seed=7, keys=[2, 3, 4])
    assert fewer == [texts[:2] for texts in samples[2:5]]
    cold = sample_all(language_model, sessions, limits, 2, 1e-4, seed=7)
    assert cold == [[text, text] for text in generate_all(language_model, sessions, limits)]
    twice = sample_all(language_model, [sessions[0]] * 2, [6] * 2, 2, 1.5, seed=7)
    assert twice[0] == samples[0][:2] != twice[1]
    with pytest.raises(MetalmError, match="got 0 samples"):
        sample_all(language_model, sessions, limits, 0)


def test_sampling_leaves_the_global_generator_alone() -> None:
    language_model = endless_language_model("gpt2")
    state = torch.get_rng_state()
    sample_all(language_model, prompts()[:1], [5], 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_stop_strings_end_each_session_as_they_do_alone(family, monkeypatch) -> None:
    language_model = endless_language_model(family, "text")
    sessions = prompts()
    whole = generate_all(language_model, sessions, [24] * 9)
    stop = [whole[1][3:5], whole[4][6:8]]
    expected = [cut_at_stop(text, stop) for text in whole]
    assert expected != whole
    steps = []
    real = batch_generation.generate_batch
    monkeypatch.setattr(batch_generation, "generate_batch", lambda *a: steps.append(real(*a)) or steps[-1])
    for size in (1, 4):
        assert generate_all(language_model, sessions, [24] * 9, batch_size=size, stop=stop) == expected
    assert min(ids.shape[1] for ids in steps) < 24, "generation ends soon after the stop string"
    beams = {"num_beams": 2, "length_penalty": 1.0}
    wide = generate_all(language_model, sessions, [9] * 9, **beams)
    assert generate_all(language_model, sessions, [9] * 9, stop=stop, **beams) == [
        cut_at_stop(text, stop) for text in wide
    ]


def test_a_batch_that_exceeds_the_memory_is_halved(monkeypatch) -> None:
    language_model = endless_language_model("gpt2", "text")
    sessions = prompts()
    expected = generate_all(language_model, sessions, [4] * 9)
    real, batch_sizes = batch_generation.generate_batch, []

    def limited(language_model, sessions, max_new_tokens, options):
        batch_sizes.append(len(sessions))
        if len(sessions) > limit:
            raise torch.OutOfMemoryError("too much")
        return real(language_model, sessions, max_new_tokens, options)

    monkeypatch.setattr(batch_generation, "generate_batch", limited)
    limit = 2
    progress: list[int] = []
    assert generate_all(language_model, sessions, [4] * 9, batch_size=9, on_progress=progress.append) == expected
    assert batch_sizes[:3] == [9, 4, 2]
    assert progress[-1] == 9
    drawn = sample_all(language_model, sessions, [4] * 9, 1, batch_size=9)
    limit = 9
    assert sample_all(language_model, sessions, [4] * 9, 1, batch_size=9) == drawn
    limit = 0
    with pytest.raises(MetalmError, match="out of memory: session") as caught:
        generate_all(language_model, sessions, [4] * 9)
    assert "up to 4 new tokens" in caught.value.why
