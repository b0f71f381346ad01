"""Generation: the texts of full recomputation, up to the document end or the last position."""

from __future__ import annotations

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import LanguageModel
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, TokenRules
from tiny_language_models import (
    DOCKED_SPANS,
    FAMILIES,
    TEXT_SPANS,
    Reference,
    endless_language_model,
    tiny_language_model,
)

PROMPTS = [TEXT_SPANS["an untrained beginning"][:1], DOCKED_SPANS["a dock and an answer"][:1]]
PROMPTS += [DOCKED_SPANS["docks between"], DOCKED_SPANS["an image and a question"][:3]]
COUNT = 8


def decode(language_model, ids: list[int]) -> str:
    return language_model.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_likeliest_token_each_time(family) -> None:
    language_model = endless_language_model(family, "text", "vision")
    reference = Reference(language_model)
    expected = [reference.greedy(spans, COUNT) for spans in PROMPTS]
    assert len({tuple(ids) for ids in expected}) > 1
    sessions = [Session(spans) for spans in PROMPTS]
    assert language_model.generate(sessions, max_new_tokens=COUNT) == [decode(language_model, ids) for ids in expected]
    assert language_model.generate(sessions, max_new_tokens=3) == [decode(language_model, ids[:3]) for ids in expected]
    assert language_model.generate(iter(sessions[2:3]), max_new_tokens=1) == [decode(language_model, expected[2][:1])]


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_find_the_likelier_sequence(family) -> None:
    language_model = endless_language_model(family, "text", "vision")
    reference = Reference(language_model)
    different = 0
    for spans in PROMPTS:
        (text,) = language_model.generate([Session(spans)], max_new_tokens=4, num_beams=3)
        beam_ids = reference.beams(spans, 4, 3)
        assert text == decode(language_model, beam_ids)
        different += beam_ids != reference.greedy(spans, 4)
    assert different


def test_a_continuation_ends_before_the_documents_end(monkeypatch) -> None:
    language_model = endless_language_model("opt", "text")
    spans = [Causal("She said:"), Docked("text", "It rained.")]
    ids = Reference(language_model).greedy(spans, 12)
    end = next(end for end in range(2, 12) if ids[end] not in ids[:end])
    (token,) = language_model.tokenizer.convert_ids_to_tokens(ids[end : end + 1])
    ending = LanguageModel(
        language_model.model,
        DecoderTokenizer(language_model.tokenizer, TokenRules(document=token)),
        language_model.processors,
    )
    generated = []
    generate = ending.model.generate
    monkeypatch.setattr(ending.model, "generate", lambda *a, **k: generated.append(generate(*a, **k)) or generated[-1])
    assert ending.generate([Session(spans)], max_new_tokens=12) == [decode(language_model, ids[:end])]
    assert generated[0].tolist() == [ids[: end + 1]], "nothing is computed after the end"
    assert ending.start(Session(spans)).reply(12) == decode(language_model, ids[:end])
    assert language_model.generate([Session(spans)], max_new_tokens=12) == [decode(language_model, ids)]


def test_a_paragraph_token_is_a_newline_in_the_text() -> None:
    language_model = endless_language_model("opt", "text")
    spans = [Causal("She said:"), Docked("text", "It rained.")]
    ids = Reference(language_model).greedy(spans, 6)
    (token,) = language_model.tokenizer.convert_ids_to_tokens(ids[2:3])
    rules = TokenRules(paragraph=token)
    lines = LanguageModel(
        language_model.model, DecoderTokenizer(language_model.tokenizer, rules), language_model.processors
    )
    (text,) = lines.generate([Session(spans)], max_new_tokens=6)
    assert text.split("\n")[0] == decode(language_model, ids[:2])
    assert text.count("\n") == ids.count(ids[2])
    assert lines.start(Session(spans)).reply(6) == text


def test_an_immediate_document_end_gives_an_empty_text() -> None:
    spans = [Causal("Once upon a time")]
    plain = endless_language_model("gpt2")
    (first,) = plain.tokenizer.convert_ids_to_tokens(Reference(plain).greedy(spans, 1))
    ending = LanguageModel(plain.model, DecoderTokenizer(plain.tokenizer, TokenRules(document=first)), {})
    assert ending.generate([Session(spans)], max_new_tokens=9) == [""]
    assert ending.start(Session(spans)).reply() == ""


def test_a_continuation_ends_where_the_positions_end() -> None:
    language_model = endless_language_model("gpt2", n_positions=24)
    spans = [Causal(tuple(range(40, 60)))]
    ids = Reference(language_model).greedy(spans, 4)
    assert language_model.generate([Session(spans)], max_new_tokens=64) == [decode(language_model, ids)]
    full = Session([Causal(tuple(range(40, 64)))], "question 7")
    with pytest.raises(MetalmError, match="question 7 takes 24 positions, the decoder has 24") as caught:
        language_model.generate([full])
    assert "one more position" in caught.value.why
    assert caught.value.remedy


def test_a_model_without_encoders_continues_docked_texts() -> None:
    language_model = endless_language_model("llama")
    texts = language_model.generate(
        [Session([Docked("text", "The girl")]), Session([Causal("The girl")])], max_new_tokens=6
    )
    assert texts[0] == texts[1] != ""


def test_sampling_is_optional_and_follows_the_seed() -> None:
    language_model = tiny_language_model("gpt2")
    session = Session(TEXT_SPANS["an untrained beginning"][:1])

    def sampled(seed: int) -> str:
        torch.manual_seed(seed)
        return language_model.generate([session], max_new_tokens=9, do_sample=True, temperature=2.0)[0]

    assert sampled(0) == sampled(0) != sampled(1)
    state = torch.get_rng_state()
    language_model.generate([session], max_new_tokens=9)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dock_without_its_encoder_is_an_error() -> None:
    with pytest.raises(MetalmError, match="docks Image content into a model without encoders"):
        tiny_language_model("gpt2").generate([Session([DOCKED_SPANS["an image"][0]])])
