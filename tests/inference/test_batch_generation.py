"""Many sessions at once: the texts of one by one, whatever stands together."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import batch_generation
from metalm_cli.inference.batch_generation import generate_all, measure_left_padding, plan_batches, sample_all
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.text_streaming import cut_at_stop
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, TokenRules
from model_families import make_decoder
from tiny_language_models import DOCKED, FAMILIES, TEXT, Reference, interface_of, talker

TALE = "the dog barked at a girl and ran into the forest where it rained all day"


def prompts(count: int = 9) -> list[Session]:
    """Sessions of many lengths, docked and not, some equal."""
    made = [Session(TEXT["an untrained beginning"][:1]), Session(DOCKED["docks between"])]
    for at in range(count - 2):
        words = " ".join(TALE.split()[at % 4 : at + 3])
        made.append(Session([Docked("text", words)] if at % 2 else [Causal(words), Docked("text", "It rained.")]))
    return made


@pytest.mark.parametrize("family", [*FAMILIES, "metalm-decoder"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "length_penalty": 0.6}], ids=["greedy", "beams"])
def test_together_is_what_one_by_one_says(family, options, monkeypatch) -> None:
    monkeypatch.setitem(interface_of.__globals__["READS"], "metalm-decoder", "byte")
    language_model = talker(family, "text")
    sessions = prompts()
    limits = [6, 3, 6, 2, 6, 6, 6, 3, 6]
    alone = [language_model.generate([one], limit, **options)[0] for one, limit in zip(sessions, limits, strict=True)]
    assert len(set(alone)) > 2
    assert measure_left_padding(language_model.model.decoder)
    for size in (1, 4, 16):
        assert generate_all(language_model, sessions, limits, batch_size=size, **options) == alone


def test_together_ends_where_each_document_ends() -> None:
    plain = talker("opt", "text")
    sessions = prompts()
    long = [plain.generate([one], 12)[0] for one in sessions]
    ids = [Reference(plain).greedy(list(one), 12) for one in sessions]
    token = max(ids[0][2:], key=lambda one: len({other.index(one) for other in ids if one in other}))
    (name,) = plain.tokenizer.convert_ids_to_tokens([token])
    ending = LanguageModel(plain.model, DecoderTokenizer(plain.tokenizer, TokenRules(document=name)), plain.processors)
    alone = [ending.generate([one], 12)[0] for one in sessions]
    assert len({len(one) for one in alone}) > 1
    assert alone != long
    assert generate_all(ending, sessions, [12] * len(sessions), batch_size=5) == alone


def test_a_decoder_that_cannot_be_padded_is_not() -> None:
    def without_positions(module, args, kwargs):
        kwargs.pop("position_ids", None)
        return args, kwargs

    language_model = interface_of("gpt2", "text", tie_word_embeddings=False, n_positions=200)
    sessions = prompts()
    alone = [language_model.generate([one], 5)[0] for one in sessions]
    hook = language_model.model.decoder.transformer.register_forward_pre_hook(without_positions, with_kwargs=True)
    try:
        assert not measure_left_padding(language_model.model.decoder)
        assert [language_model.generate([one], 5)[0] for one in sessions] == alone
        assert generate_all(language_model, sessions, [5] * 9, batch_size=8) == alone
    finally:
        hook.remove()


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "gemma2", "phi", "metalm-decoder"])
def test_families_can_be_padded(family) -> None:
    assert measure_left_padding(make_decoder(family))


def test_positions_end_each_session_where_they_end_alone() -> None:
    language_model = talker("gpt2", "text", n_positions=24)
    sessions = [Session([Causal(tuple(range(40, 40 + length)))]) for length in (22, 20, 5, 6)]
    alone = [language_model.generate([one], 9)[0] for one in sessions]
    assert generate_all(language_model, sessions, [9] * 4, batch_size=4) == alone
    with pytest.raises(MetalmError, match="the decoder has 24"):
        generate_all(language_model, [Session([Causal(tuple(range(40, 64)))], "full")], [1])


def test_batches_hold_what_can_stand_together() -> None:
    lengths, limits = [5, 7, 5, 9, 7, 2], [3, 3, 8, 3, 8, 3]
    rooms = [20 - one for one in lengths]
    found = list(plan_batches(lengths, limits, rooms, 4))
    assert sorted(at for one in found for at in one) == [0, 1, 2, 3, 4, 5]
    assert [len(one) for one in found] == [4, 2]
    assert all(
        len({lengths[at] for at in one}) == 1 for one in plan_batches(lengths, limits, rooms, 4, equal_lengths=True)
    )
    assert all(
        len({limits[at] for at in one}) == 1 for one in plan_batches(lengths, limits, rooms, 4, equal_limits=True)
    )
    assert list(plan_batches([9, 8], [1, 9], [3, 9], 4)) == [[0], [1]]
    assert list(plan_batches([], [], [], 4)) == []


def test_progress_is_told(monkeypatch) -> None:
    language_model = talker("gpt2", "text")
    told: list[int] = []
    generate_all(language_model, prompts(), [2] * 9, batch_size=4, watch=told.append)
    assert told == [4, 8, 9]
    calls = []
    real = batch_generation._continued
    monkeypatch.setattr(batch_generation, "_continued", lambda *a: calls.append(len(a[1])) or real(*a))
    generate_all(language_model, prompts(), [2] * 9, batch_size=8, num_beams=4)
    assert max(calls) == 2


def test_a_budget_bounds_the_positions_of_a_batch() -> None:
    lengths, limits = [5, 7, 5, 9, 7, 2, 30], [3] * 7
    rooms = [100] * 7
    found = list(plan_batches(lengths, limits, rooms, 99, budget=24))
    assert sorted(at for one in found for at in one) == list(range(7))
    assert found[0] == [6], "alone it may take more"
    for one in found[1:]:
        assert len(one) * (max(lengths[at] for at in one) + 3) <= 24
    assert max(map(len, found)) > 1
    language_model = talker("gpt2", "text")
    expected = generate_all(language_model, prompts(), [4] * 9)
    for budget in (1, 60, 10_000):
        assert generate_all(language_model, prompts(), [4] * 9, batch_size=None, budget=budget) == expected


def test_samples_do_not_depend_on_batches() -> None:
    language_model = talker("gpt2", "text")
    sessions, limits = prompts(), [6, 3, 6, 2, 6, 6, 6, 3, 6]
    found = sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=1)
    assert [len(one) for one in found] == [3] * 9
    assert sum(len(set(one)) == 3 for one in found) > 6
    for size in (2, 5, 64):
        assert sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=size) == found
    assert sample_all(language_model, sessions, limits, 3, 1.5, seed=7, batch_size=None, budget=100) == found
    assert sample_all(language_model, sessions, limits, 3, 1.5, seed=8) != found
    fewer = sample_all(language_model, sessions[2:5], limits[2:5], 2, 1.5, seed=7, keys=[2, 3, 4])
    assert fewer == [one[:2] for one in found[2:5]]
    cold = sample_all(language_model, sessions, limits, 2, 1e-4, seed=7)
    assert cold == [[one, one] for one in generate_all(language_model, sessions, limits)]
    twice = sample_all(language_model, [sessions[0]] * 2, [6] * 2, 2, 1.5, seed=7)
    assert twice[0] == found[0][:2] != twice[1]
    with pytest.raises(MetalmError, match="got 0 samples"):
        sample_all(language_model, sessions, limits, 0)


def test_sampling_leaves_the_global_generator_alone() -> None:
    language_model = talker("gpt2")
    state = torch.get_rng_state()
    sample_all(language_model, prompts()[:1], [5], 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_stop_texts_end_each_where_it_would_end_alone(family, monkeypatch) -> None:
    language_model = talker(family, "text")
    sessions = prompts()
    whole = generate_all(language_model, sessions, [24] * 9)
    stop = [whole[1][3:5], whole[4][6:8]]
    expected = [cut_at_stop(one, stop) for one in whole]
    assert expected != whole
    steps = []
    real = batch_generation._continued
    monkeypatch.setattr(batch_generation, "_continued", lambda *a: steps.append(real(*a)) or steps[-1])
    for size in (1, 4):
        assert generate_all(language_model, sessions, [24] * 9, batch_size=size, stop=stop) == expected
    assert min(one.shape[1] for one in steps) < 24, "nothing is said long after the stop"
    beams = {"num_beams": 2, "length_penalty": 1.0}
    wide = generate_all(language_model, sessions, [9] * 9, **beams)
    assert generate_all(language_model, sessions, [9] * 9, stop=stop, **beams) == [
        cut_at_stop(one, stop) for one in wide
    ]


def test_a_batch_that_memory_does_not_hold_is_halved(monkeypatch) -> None:
    language_model = talker("gpt2", "text")
    sessions = prompts()
    expected = generate_all(language_model, sessions, [4] * 9)
    real, tried = batch_generation._continued, []

    def small(language_model, sessions, most, options):
        tried.append(len(sessions))
        if len(sessions) > limit:
            raise torch.OutOfMemoryError("too much")
        return real(language_model, sessions, most, options)

    monkeypatch.setattr(batch_generation, "_continued", small)
    limit = 2
    told: list[int] = []
    assert generate_all(language_model, sessions, [4] * 9, batch_size=9, watch=told.append) == expected
    assert tried[:3] == [9, 4, 2]
    assert told[-1] == 9
    drawn = sample_all(language_model, sessions, [4] * 9, 1, batch_size=9)
    limit = 9
    assert sample_all(language_model, sessions, [4] * 9, 1, batch_size=9) == drawn
    limit = 0
    with pytest.raises(MetalmError, match="memory does not hold") as caught:
        generate_all(language_model, sessions, [4] * 9)
    assert "up to 4 new tokens" in caught.value.why
