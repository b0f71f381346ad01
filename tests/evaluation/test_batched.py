"""Many sessions at once: the texts of one by one, whatever stands together."""

from __future__ import annotations

import pytest
from families import make_decoder
from interfaces import DOCKED, FAMILIES, TEXT, Reference, interface_of, talker

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import batched
from metalm_cli.evaluation.batched import batches, continuations, pads_left
from metalm_cli.evaluation.interface import Interface
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, TokenRules

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
    interface = talker(family, "text")
    sessions = prompts()
    limits = [6, 3, 6, 2, 6, 6, 6, 3, 6]
    alone = [interface.generate([one], limit, **options)[0] for one, limit in zip(sessions, limits, strict=True)]
    assert len(set(alone)) > 2
    assert pads_left(interface.model.decoder)
    for size in (1, 4, 16):
        assert continuations(interface, sessions, limits, batch_size=size, **options) == alone


def test_together_ends_where_each_document_ends() -> None:
    plain = talker("opt", "text")
    sessions = prompts()
    long = [plain.generate([one], 12)[0] for one in sessions]
    ids = [Reference(plain).greedy(list(one), 12) for one in sessions]
    token = max(ids[0][2:], key=lambda one: len({other.index(one) for other in ids if one in other}))
    (name,) = plain.tokenizer.convert_ids_to_tokens([token])
    ending = Interface(plain.model, DecoderTokenizer(plain.tokenizer, TokenRules(document=name)), plain.processors)
    alone = [ending.generate([one], 12)[0] for one in sessions]
    assert len({len(one) for one in alone}) > 1
    assert alone != long
    assert continuations(ending, sessions, [12] * len(sessions), batch_size=5) == alone


def test_a_decoder_that_cannot_be_padded_is_not() -> None:
    def without_positions(module, args, kwargs):
        kwargs.pop("position_ids", None)
        return args, kwargs

    interface = interface_of("gpt2", "text", tie_word_embeddings=False, n_positions=200)
    sessions = prompts()
    alone = [interface.generate([one], 5)[0] for one in sessions]
    hook = interface.model.decoder.transformer.register_forward_pre_hook(without_positions, with_kwargs=True)
    try:
        assert not pads_left(interface.model.decoder)
        assert [interface.generate([one], 5)[0] for one in sessions] == alone
        assert continuations(interface, sessions, [5] * 9, batch_size=8) == alone
    finally:
        hook.remove()


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen2", "gemma2", "phi", "metalm-decoder"])
def test_families_can_be_padded(family) -> None:
    assert pads_left(make_decoder(family))


def test_positions_end_each_session_where_they_end_alone() -> None:
    interface = talker("gpt2", "text", n_positions=24)
    sessions = [Session([Causal(tuple(range(40, 40 + length)))]) for length in (22, 20, 5, 6)]
    alone = [interface.generate([one], 9)[0] for one in sessions]
    assert continuations(interface, sessions, [9] * 4, batch_size=4) == alone
    with pytest.raises(MetalmError, match="the decoder has 24"):
        continuations(interface, [Session([Causal(tuple(range(40, 64)))], "full")], [1])


def test_batches_hold_what_can_stand_together() -> None:
    lengths, limits = [5, 7, 5, 9, 7, 2], [3, 3, 8, 3, 8, 3]
    rooms = [20 - one for one in lengths]
    found = list(batches(lengths, limits, rooms, 4))
    assert sorted(at for one in found for at in one) == [0, 1, 2, 3, 4, 5]
    assert [len(one) for one in found] == [4, 2]
    assert all(len({lengths[at] for at in one}) == 1 for one in batches(lengths, limits, rooms, 4, equal_lengths=True))
    assert all(len({limits[at] for at in one}) == 1 for one in batches(lengths, limits, rooms, 4, equal_limits=True))
    assert list(batches([9, 8], [1, 9], [3, 9], 4)) == [[0], [1]]
    assert list(batches([], [], [], 4)) == []


def test_progress_is_told(monkeypatch) -> None:
    interface = talker("gpt2", "text")
    told: list[int] = []
    continuations(interface, prompts(), [2] * 9, batch_size=4, watch=told.append)
    assert told == [4, 8, 9]
    calls = []
    real = batched._continued
    monkeypatch.setattr(batched, "_continued", lambda *a: calls.append(len(a[1])) or real(*a))
    continuations(interface, prompts(), [2] * 9, batch_size=8, num_beams=4)
    assert max(calls) == 2
