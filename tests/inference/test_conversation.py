"""Conversations with a cache: the same replies as for a session that is read at once."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal, Docked, Session
from model_families import noise_image
from tiny_language_models import DOCK_TEXT, FAMILIES, Reference, endless_language_model, tiny_language_model

TURNS = [
    [Causal("Once upon a time"), Causal(" there was")],
    [Causal(" a dog. It was wonder")],
    [Causal("ful."), Docked("text", DOCK_TEXT), Docked("vision", noise_image(0))],
    [Docked("text", "It rained."), Causal(" yes", end=True)],
    [Causal(" She said")],
]


def flatten(turns) -> list:
    return [span for turn in turns for span in turn]


@pytest.mark.parametrize("family", FAMILIES)
def test_turn_by_turn_is_the_session_read_at_once(family) -> None:
    language_model = tiny_language_model(family, "text", "vision")
    state = language_model.start(Session(TURNS[0]))
    for turn in range(1, len(TURNS)):
        assert state.extend(TURNS[turn]) is state
        spans = flatten(TURNS[: turn + 1])
        whole = language_model.start(Session(spans))
        assert state.length == whole.length == Reference(language_model).inputs(spans)[0].shape[1]
        torch.testing.assert_close(state.logits, whole.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(state.logits, Reference(language_model).logits(spans), atol=1e-4, rtol=1e-4)
    assert state.length > 60


@pytest.mark.parametrize("family", FAMILIES)
def test_text_in_turns_equals_one_text(family) -> None:
    language_model = tiny_language_model(family)
    text = "Once upon a time there was a little girl named Lily."
    ids = language_model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = language_model.model.decoder(input_ids=ids).logits[0, -1]
    state = language_model.start(Session([Causal("Once upon a time")])).extend([Causal(" there was a")])
    state.extend([Causal(" little girl named Lily.")])
    assert state.length == ids.shape[1]
    torch.testing.assert_close(state.logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_may_begin_with_a_dock(family) -> None:
    language_model = tiny_language_model(family, "text")
    turns = [[Docked("text", DOCK_TEXT)], [Causal(" yes")]]
    state = language_model.start(Session(turns[0])).extend(turns[1])
    torch.testing.assert_close(state.logits, Reference(language_model).logits(flatten(turns)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_is_what_is_generated_and_stays_in_the_session(family) -> None:
    language_model = endless_language_model(family, "text", "vision")
    reference = Reference(language_model)
    spans = flatten(TURNS[:3])
    reply_ids = reference.greedy(spans, 5)
    state = language_model.start(Session(spans))
    length = state.length
    assert state.reply(5) == language_model.tokenizer.decode(reply_ids, skip_special_tokens=True)
    longer_ids = reference.greedy(spans, 10)
    assert state.reply(5) == language_model.tokenizer.decode(longer_ids[5:], skip_special_tokens=True)
    assert state.length == length + 10
    state.extend([Causal(" yes")])
    whole = [*spans, Causal(tuple(longer_ids)), Causal(" yes")]
    torch.testing.assert_close(state.logits, reference.logits(whole), atol=1e-4, rtol=1e-4)


def test_two_conversations_do_not_share_a_cache() -> None:
    language_model = tiny_language_model("llama")
    first, second = (language_model.start(Session([Causal(text)])) for text in ("The girl", "The dog"))
    expected = language_model.start(Session([Causal("The girl had")])).logits
    second.extend([Causal(" barked twice.")])
    torch.testing.assert_close(first.extend([Causal(" had")]).logits, expected, atol=1e-4, rtol=1e-4)


def test_too_many_positions_are_an_error_that_changes_nothing() -> None:
    language_model = tiny_language_model("gpt2", "text", n_positions=24)
    state = language_model.start(Session([Causal((5,) * 20)]))
    with pytest.raises(MetalmError, match="conversation takes 25 positions, the decoder has 24") as caught:
        state.extend([Causal((6,) * 5)])
    assert caught.value.remedy
    assert state.length == 20
    state.extend([Causal((6,) * 4)])
    expected = Reference(language_model).logits([Causal((5,) * 20 + (6,) * 4)])
    torch.testing.assert_close(state.logits, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(MetalmError, match="conversation takes 25"):
        state.extend([Causal((6,))])
    with pytest.raises(MetalmError, match="conversation takes 25"):
        state.reply()
    with pytest.raises(MetalmError, match="conversation takes 25"):
        language_model.start(Session([Causal((5,) * 25)]))


def test_a_reply_ends_where_the_positions_end() -> None:
    language_model = endless_language_model("gpt2", n_positions=24)
    spans = [Causal(tuple(range(40, 60)))]
    reply = language_model.start(Session(spans)).reply(64)
    assert [reply] == language_model.generate([Session(spans)], max_new_tokens=64)
    assert reply == language_model.tokenizer.decode(
        Reference(language_model).greedy(spans, 4), skip_special_tokens=True
    )


def test_nothing_more_to_read_is_an_error() -> None:
    state = tiny_language_model("gpt2").start(Session([Causal("The girl")]))
    with pytest.raises(MetalmError, match="is empty"):
        state.extend([])
    with pytest.raises(MetalmError, match="encoder"):
        state.extend([Docked("vision", noise_image(0))])
    assert state.length == Reference(state.language_model).inputs([Causal("The girl")])[0].shape[1]
