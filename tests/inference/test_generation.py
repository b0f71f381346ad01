"""Generation from texts and images: the sessions, and streaming with the same text as generation."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import generation
from metalm_cli.inference.generation import DecodingOptions, Generation, generate_answers, stream_answer
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.sampling import SamplingOptions
from metalm_cli.inference.text_sessions import PromptRoute, image_encoder, text_encoder, text_to_session
from metalm_cli.inference.text_streaming import cut_at_stop
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, TokenRules
from model_families import noise_image
from tiny_language_models import FAMILIES, endless_language_model, tiny_language_model

TEXTS = ["It rained all day.", "The girl had a red ball, and a dog.", "Who barked?"]

GREEDY = DecodingOptions()


def stream(
    language_model: LanguageModel, session: Session, decoding: DecodingOptions = GREEDY, key: int = 1
) -> tuple[Generation, list]:
    pieces: list[str] = []
    answer = stream_answer(language_model, session, decoding, pieces.append, key)
    assert "".join(pieces) == answer.text
    return answer, pieces


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chat_has_the_ids_of_the_template(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = tiny_language_model(family, "text")
    route = PromptRoute("chat", prompt="So")
    with pytest.raises(MetalmError, match="no chat template"):
        text_to_session(language_model, "Hi", route=route)
    template = (
        "{{ bos_token or '' }}"
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = language_model.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", template)
    ids = language_model.tokenise(
        text_to_session(language_model, "Who barked?", route=PromptRoute("chat"))
    ).ids.tolist()
    turns = [{"role": "user", "content": "Who barked?"}]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == expected, "the start token of the template is not doubled"
    assert text_to_session(language_model, "Hi", route=route).spans[1] == Causal("So"), "no delimiter before it"
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('only systems speak') }}")
    with pytest.raises(MetalmError, match="the chat template of the tokenizer fails") as error:
        text_to_session(language_model, "Hi", route=route)
    assert error.value.why == "only systems speak"


def test_a_text_is_docked_or_causal() -> None:
    language_model = tiny_language_model("gpt2", "text")
    assert list(text_to_session(language_model, "Hi")) == [Docked("text", "Hi")]
    assert list(text_to_session(language_model, "Hi", route=PromptRoute("causal"))) == [Causal("Hi")]
    assert list(text_to_session(language_model, "Hi", route=PromptRoute(prompt="So"))) == [
        Docked("text", "Hi"),
        Causal(" So"),
    ]
    assert list(text_to_session(language_model, "", route=PromptRoute(prompt="So"))) == [Causal("So")]
    with pytest.raises(MetalmError, match="line 3 has no text"):
        text_to_session(language_model, "", name="line 3")


def test_an_image_comes_first() -> None:
    both, image = tiny_language_model("gpt2", "text", "vision"), noise_image(0)
    assert list(text_to_session(both, "What?", image)) == [Docked("vision", image), Docked("text", "What?")]
    assert list(text_to_session(both, "", image)) == [Docked("vision", image)]
    sees = tiny_language_model("gpt2", "vision")
    assert text_encoder(sees) is None
    assert list(text_to_session(sees, "What?", image)) == [Docked("vision", image), Causal("What?")]


def test_a_fused_encoder_reads_image_and_text_together(monkeypatch) -> None:
    language_model, image = tiny_language_model("gpt2", "text"), noise_image(0)
    monkeypatch.setattr(language_model.model.encoder_ios["text"], "kind", "fused", raising=False)
    assert image_encoder(language_model) == ("text", True)
    assert list(text_to_session(language_model, "What?", image)) == [Docked("text", {"image": image, "text": "What?"})]
    assert list(text_to_session(language_model, "What?", image, PromptRoute("causal"))) == [
        Docked("text", {"image": image}),
        Causal("What?"),
    ]


@pytest.mark.parametrize(("encoders", "why"), [((), "without encoders"), (("text",), r"text \(text\)")])
def test_an_image_needs_an_encoder(encoders, why) -> None:
    with pytest.raises(MetalmError, match="no encoder that reads images") as caught:
        text_to_session(tiny_language_model("gpt2", *encoders), "What?", noise_image(0))
    assert re.search(why, caught.value.why)
    assert caught.value.remedy


@pytest.mark.parametrize("beams", [0, 257, 100_000])
def test_the_number_of_beams_is_bounded(beams) -> None:
    with pytest.raises(MetalmError, match=r"expected 1 to 256") as caught:
        DecodingOptions(beams=beams)
    assert caught.value.remedy
    assert DecodingOptions(beams=256).generate_options()["num_beams"] == 256


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "llama without encoders"])
def test_streaming_equals_generating(family) -> None:
    language_model = endless_language_model(family.split()[0], *(() if " " in family else ("text", "vision")))
    count = 0
    for text, place in itertools.product(TEXTS, ("docked", "causal")):
        session = text_to_session(language_model, text, route=PromptRoute(place))  # type: ignore[arg-type]
        answer, pieces = stream(language_model, session, DecodingOptions(12))
        (expected,) = language_model.generate([session], max_new_tokens=12)
        assert answer.text == (expected.strip() if place == "docked" else expected)
        assert (answer.tokens, answer.finish_reason) == (12, "limit")
        count += len(pieces)
    assert count > 12, "texts come in pieces, not at the end"


def test_an_image_is_answered() -> None:
    language_model = endless_language_model("gpt2", "text", "vision")
    answers = {
        stream(language_model, text_to_session(language_model, "What?", noise_image(n)), DecodingOptions(8))[0].text
        for n in range(4)
    }
    assert len(answers) > 1
    session = text_to_session(language_model, "What?", noise_image(1))
    assert (
        stream(language_model, session, DecodingOptions(8))[0].text == language_model.generate([session], 8)[0].strip()
    )


def test_stop_strings_and_beams_end_a_stream() -> None:
    language_model = endless_language_model("gpt2", "text")
    session = text_to_session(language_model, TEXTS[0], route=PromptRoute("causal"))
    whole = stream(language_model, session, DecodingOptions(20))[0].text
    stop = (whole[5:8],)
    answer, _ = stream(language_model, session, DecodingOptions(20, stop=stop))
    assert answer.text == cut_at_stop(whole, stop) != whole
    assert answer.finish_reason == "stop"
    assert answer.tokens < 20
    wide, pieces = stream(language_model, session, DecodingOptions(6, beams=3, length_penalty=0.6))
    assert [wide.text] == language_model.generate([session], 6, num_beams=3, length_penalty=0.6)
    assert len(pieces) == 1


def test_a_stream_ends_with_the_document_or_the_positions() -> None:
    plain = endless_language_model("opt", "text")
    session = Session([Docked("text", "It rained."), Causal(" She said:")])
    ids = generation.generate_batch(plain, [plain.tokenise(session)], 9, {})[0].tolist()
    end = next(end for end in range(2, 9) if ids[end] not in ids[:end])
    (name,) = plain.tokenizer.convert_ids_to_tokens(ids[end : end + 1])
    ending = LanguageModel(plain.model, DecoderTokenizer(plain.tokenizer, TokenRules(document=name)), plain.processors)
    answer, _ = stream(ending, session, DecodingOptions(9))
    assert (answer.finish_reason, answer.tokens) == ("end", end + 1)
    assert answer.text == plain.tokenizer.decode(ids[:end])
    short = endless_language_model("gpt2", n_positions=23)
    answer, _ = stream(short, Session([Causal(tuple(range(40, 60)))]), DecodingOptions(9))
    assert (answer.finish_reason, answer.tokens) == ("positions", 3)


def test_constraints_of_a_checkpoint_are_disabled(monkeypatch) -> None:
    language_model = endless_language_model("gpt2", "text")
    session = text_to_session(language_model, TEXTS[0])
    before = stream(language_model, session, DecodingOptions(20))[0].text
    monkeypatch.setattr(language_model.model.decoder.generation_config, "repetition_penalty", 5.0)
    monkeypatch.setattr(language_model.model.decoder.generation_config, "no_repeat_ngram_size", 1)
    assert stream(language_model, session, DecodingOptions(20))[0].text == before


DECODINGS: dict[str, DecodingOptions] = {
    "greedy": DecodingOptions(9),
    "sampled": DecodingOptions(9, sampling=SamplingOptions(1.3, 0.9, 4)),
    "beams": DecodingOptions(6, beams=2),
    "stopped": DecodingOptions(9, stop=("e", " the")),
}


@pytest.mark.parametrize("name", DECODINGS)
def test_many_answers_equal_those_of_single_sessions(name) -> None:
    language_model, decoding = endless_language_model("llama", "text"), DECODINGS[name]
    sessions: dict[int, Any] = {}
    for number, (text, place) in enumerate(itertools.product(TEXTS, ("docked", "causal")), 3):
        session = text_to_session(language_model, text, route=PromptRoute(place))  # type: ignore[arg-type]
        sessions[number] = session, language_model.tokenise(session)
    alone = {
        number: stream(language_model, session, decoding, number)[0].text for number, (session, _) in sessions.items()
    }
    assert len(set(alone.values())) > 2
    for budget in (20, 90, None):
        answers = dict(itertools.chain(*generate_answers(language_model, sessions, decoding, budget)))
        assert answers == alone
    if name == "sampled":
        assert stream(language_model, sessions[3][0], decoding, 4)[0].text != alone[3]


def test_invalid_decoding_is_an_error(monkeypatch) -> None:
    with pytest.raises(MetalmError, match="cannot be combined"):
        DecodingOptions(beams=2, sampling=SamplingOptions())
    with pytest.raises(MetalmError, match="stop string is empty"):
        DecodingOptions(stop=("a", ""))

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(generation, "generate_batch", out_of_memory)
    language_model = endless_language_model("gpt2", "text")
    with pytest.raises(MetalmError, match="out of memory"):
        stream_answer(language_model, text_to_session(language_model, "Hi"))


@pytest.mark.parametrize("penalty", [float("nan"), float("inf"), float("-inf")])
def test_a_length_penalty_that_is_not_finite_is_an_error(penalty: float) -> None:
    with pytest.raises(MetalmError, match="expected a finite number"):
        DecodingOptions(beams=2, length_penalty=penalty)
