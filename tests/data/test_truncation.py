"""Truncation of the long field only, so that all compared models read the same characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from metalm_cli.config.yaml_nodes import parse_yaml
from metalm_cli.config.yaml_records import build_record
from metalm_cli.data.examples.prompt_builder import PromptBuilder
from metalm_cli.data.examples.truncation import (
    EncoderLimit,
    LengthLimits,
    shorten_long_field,
    truncate_at_space,
    truncate_example,
)
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.sessions.compression import Compression
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, prompt_to_session, render
from task_fixtures import CARD
from tiny_models import tokenizer_of

TEMPLATE = Template(name="plain", input="{{ text }}\n{{ question }}\n{{ options }}")
QUESTION = "Is the last word of the text a colour?"


def make_card(cut_from: str = "tail") -> Card:
    text = CARD.format(name="colours", cluster="misc", train=1, cut=cut_from)
    return build_record(parse_yaml(text, "colours.yaml"), Card, "colours", "task card")


def make_example(words: int) -> Example:
    text = " ".join(f"word{index}" for index in range(words))
    return Example("colours", 0, {"text": text, "question": QUESTION}, ("no",), ("no", "yes"), 0)


def make_session(example: Example) -> Session:
    return prompt_to_session(render(example, TEMPLATE))


def make_limits(
    encoder: int | None, length: int = 400, other_encoder: int | None = None, kind: str = "byte"
) -> LengthLimits:
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules())
    processors = {} if encoder is None else {"text": TextProcessor("text", tokenizer_of("wordpiece"), encoder)}
    others = [] if other_encoder is None else [EncoderLimit.of(tokenizer_of("wordpiece"), other_encoder)]
    return LengthLimits.of(SessionTokeniser(tokenizer, processors), length, others)


def test_what_fits_is_left_alone() -> None:
    assert truncate_example(make_example(4), make_card(), make_session, make_limits(100)) == (make_example(4), False)


@pytest.mark.parametrize("cut_from", ["tail", "head", "middle"])
def test_the_long_field_alone_is_cut_and_as_little_as_needed(cut_from: str) -> None:
    limits = make_limits(80)
    truncation = truncate_example(make_example(200), make_card(cut_from), make_session, limits)
    assert truncation is not None
    fitting, truncated = truncation
    assert truncated
    assert fitting.fields["question"] == QUESTION
    assert (fitting.options, fitting.answers) == (("no", "yes"), ("no",))
    session = make_session(fitting)
    assert limits.fits(session)
    assert SessionTokeniser(limits.tokenizer, {"text": TextProcessor("text", tokenizer_of("wordpiece"), 80)})(session)
    words, all_words = fitting.fields["text"].split(), make_example(200).fields["text"].split()
    expected = {"tail": all_words[: len(words)], "head": all_words[len(all_words) - len(words) :]}
    if cut_from in expected:
        assert words == expected[cut_from]
        longer = all_words[: len(words) + 2] if cut_from == "tail" else all_words[len(all_words) - len(words) - 2 :]
        assert not limits.fits(make_session(replace(fitting, fields={**fitting.fields, "text": " ".join(longer)})))
    else:
        assert (words[0], words[-1]) == (all_words[0], all_words[-1])
        assert "..." in words


class CountingTokenizer:
    """An encoder's tokenizer that counts the texts it reads."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.reads = backend, 0

    def encode(self, text: str) -> Any:
        self.reads += 1
        return self.backend.encode(text)


@pytest.mark.parametrize("words", [4, 20])
def test_a_dock_is_read_once(words: int) -> None:
    processor = TextProcessor("text", tokenizer_of("wordpiece"), 150)
    counting = processor._backend = CountingTokenizer(processor._backend)
    tokenise = SessionTokeniser(DecoderTokenizer(tokenizer_of("byte"), TokenRules()), {"text": processor})
    session = make_session(make_example(words))
    assert LengthLimits.of(tokenise, 1000).fits(session)
    tokenise(session)
    assert counting.reads == 1


def test_without_a_long_field_nothing_is_cut() -> None:
    without_long_field = make_card().model_copy(update={"long_inputs": None})
    assert truncate_example(make_example(200), without_long_field, make_session, make_limits(80)) is None


def test_a_question_that_does_not_fit_alone_is_not_cut() -> None:
    assert truncate_example(make_example(200), make_card(), make_session, make_limits(12)) is None


@pytest.mark.parametrize("encoder", [40, 80, 120])
@pytest.mark.parametrize("length", [150, 400])
def test_a_metalm_and_its_twin_read_the_same_characters(encoder: int, length: int) -> None:
    docked = truncate_example(make_example(90), make_card(), make_session, make_limits(encoder, length))
    twin = truncate_example(
        make_example(90), make_card(), make_session, make_limits(None, length, other_encoder=encoder)
    )
    assert docked == twin
    assert docked is not None


def test_a_compressed_dock_counts_with_its_positions_only() -> None:
    processor = TextProcessor("text", tokenizer_of("wordpiece"), 160)
    processor.compression = Compression("stack", {"factor": 8})
    tokenise = SessionTokeniser(DecoderTokenizer(tokenizer_of("byte"), TokenRules()), {"text": processor})
    limits = LengthLimits.of(tokenise, 40)
    truncation = truncate_example(make_example(300), make_card(), make_session, limits)
    assert truncation is not None
    tokenised = tokenise(make_session(truncation[0]))
    encoder_tokens = len(tokenised.docks[0][1].arrays["input_ids"])
    assert 140 < encoder_tokens <= 160, "the encoder's length is the limit"
    assert tokenised.docks[0][1].positions == -(-(encoder_tokens - 2) // 8)
    assert len(tokenised) <= 40
    processor.compression = Compression("stack", {"factor": 2})
    truncation = truncate_example(make_example(300), make_card(), make_session, limits)
    assert truncation is not None
    assert 30 < len(tokenise(make_session(truncation[0]))) <= 40, "the decoder's length is the limit"
    processor.compression = Compression("queries", {"length": 39})
    assert not limits.fits(make_session(make_example(1)))


def test_models_that_are_compared_read_the_same_characters_of_a_compressed_dock() -> None:
    results = []
    for compression in (None, Compression("stack", {"factor": 8})):
        limits = make_limits(150, 100, other_encoder=150)
        limits.encoder_limits["text"].backend.compression = compression
        results.append(truncate_example(make_example(90), make_card(), make_session, limits))
    assert results[0] == results[1] is not None


def test_the_session_fits_the_decoder_docked_and_lowered() -> None:
    for kind in ("byte", "byte-bos", "llama"):
        limits = make_limits(1000, 120, kind=kind)
        truncation = truncate_example(make_example(90), make_card(), make_session, limits)
        assert truncation is not None
        lowered = SessionTokeniser(limits.tokenizer, {})(make_session(truncation[0]))
        assert len(lowered) <= 120
        (dock, *_others) = make_session(truncation[0])
        assert isinstance(dock, Docked)


def test_cutting_at_words() -> None:
    text = "one two three four"
    assert [truncate_at_space(text, keep, "tail") for keep in (3, 5, 9, 13, 17, 18)] == [
        "one",
        "one",
        "one two",
        "one two three",
        "one two three",
        text,
    ]
    assert truncate_at_space(text, 9, "head") == "four"
    assert truncate_at_space("x" * 50, 10, "tail") == "x" * 10
    assert truncate_at_space("one\ttwo\tthree", 9, "tail") == "one\ttwo"
    assert truncate_at_space("    one two", 8, "tail") == "    one"
    assert truncate_at_space(text, 16, "middle") == "one ... four"
    assert truncate_at_space(text, 0, "tail") == ""


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("see " + "A" * 5000, 1000),
        ("第21篇 " + "春天来了山上的花都开了" * 50, 256),
        ("Speaker: " + "x" * 400, 300),
        ("https://example.org/a?b=" + "c" * 300, 200),
    ],
)
def test_a_cut_goes_back_by_a_word_at_most(text: str, keep: int) -> None:
    assert truncate_at_space(text, keep, "tail") == text[:keep]
    assert truncate_at_space(text[::-1], keep, "head") == text[::-1][-keep:]
    middle = truncate_at_space(text, keep, "middle")
    assert keep - 30 <= len(middle) <= keep
    assert middle.startswith(text[:20])


def test_a_very_long_text_is_cut_to_what_fits() -> None:
    text = "a text of many words " * 48_000
    limits = make_limits(100, 400)
    example = replace(make_example(4), fields={"text": text, "question": QUESTION})
    truncation = truncate_example(example, make_card(), make_session, limits)
    assert truncation is not None
    fitting = truncation[0].fields["text"]
    assert text.startswith(fitting)
    assert limits.fits(make_session(truncation[0]))
    longer = replace(example, fields={"text": text[: len(fitting) + 12], "question": QUESTION})
    assert not limits.fits(make_session(longer))


def test_a_dock_that_its_encoder_reads_as_empty_does_not_fit() -> None:
    limits = make_limits(100)
    assert not limits.fits(Session([Docked("text", "\u200b"), Causal(" no", trained=True, end=True)]))
    assert limits.fits(Session([Docked("text", "a\u200b"), Causal(" no", trained=True, end=True)]))


def test_characters_that_a_tokenizer_expands_are_counted_as_tokens() -> None:
    backend = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = NFKC(), Split("", "isolated")
    encoder = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    limit = EncoderLimit.of(encoder, 256)
    limits = LengthLimits(make_limits(None).tokenizer, 2000, {"text": limit})
    text = "\ufdfa" * 40
    assert len(text.encode()) + 4 < 256 < limit.tokens(text)
    example = replace(make_example(4), fields={"text": text, "question": QUESTION})
    truncation = truncate_example(example, make_card(), make_session, limits)
    assert truncation is not None
    assert truncation[1]
    assert max(limit.tokens(span.content) for span in make_session(truncation[0]) if isinstance(span, Docked)) <= 256


@pytest.mark.parametrize("length", [-5, 0])
def test_nothing_fits_where_no_position_is_left(length: int) -> None:
    assert truncate_example(make_example(90), make_card(), make_session, make_limits(40, length)) is None


@pytest.mark.parametrize("kind", ["byte", "llama"])
@pytest.mark.parametrize("cut_from", ["tail", "head", "middle"])
@pytest.mark.parametrize("tokens", [16, 33, 64])
def test_a_long_field_is_shortened_to_decoder_tokens_at_the_end_that_the_recipe_names(
    kind: str, cut_from: str, tokens: int
) -> None:
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules())
    example, card = make_example(200), make_card("tail")
    shortened = shorten_long_field(example, card, tokens, cut_from, tokenizer)
    words, all_words = shortened.fields["text"].split(), example.fields["text"].split()
    assert len(tokenizer.encode_continuation(shortened.fields["text"])) <= tokens
    if cut_from == "tail":
        assert words == all_words[: len(words)]
        longer = all_words[: len(words) + 1]
    elif cut_from == "head":
        assert words == all_words[-len(words) :]
        longer = all_words[-len(words) - 1 :]
    else:
        half = words.index("...")
        assert (words[:half], words[half + 1 :]) == (all_words[:half], all_words[-(len(words) - half - 1) :])
        longer = [*all_words[: half + 1], "...", *all_words[-(len(words) - half) :]]
    assert len(tokenizer.encode_continuation(" ".join(longer))) > tokens
    assert shortened.fields["question"] == QUESTION
    assert shorten_long_field(shortened, card, tokens, cut_from, tokenizer) == shortened
    assert shorten_long_field(example, card, 10_000, cut_from, tokenizer) is example
    assert shorten_long_field(example, make_card("head"), tokens, None, tokenizer) == shorten_long_field(
        example, card, tokens, "head", tokenizer
    )


def test_a_shortened_example_is_counted_as_truncated_with_and_without_an_encoder() -> None:
    style = PromptStyle(long_field_tokens=24, truncate="head")
    for encoder in (80, None):
        limits = make_limits(encoder)
        builder = PromptBuilder(make_card(), TEMPLATE, style, " ", limits)
        fitted = builder.fit(make_example(200), [make_example(90)])
        assert fitted is not None
        assert (fitted.truncated, fitted.shots) == (True, 1)
        long_texts = [str(span.content).partition("\n")[0] for span in fitted.session if isinstance(span, Docked)]
        assert [text.split()[-1] for text in long_texts] == ["word89", "word199"]
        assert all(len(limits.tokenizer.encode_continuation(text)) <= 24 for text in long_texts)
        short = builder.fit(make_example(2))
        assert short is not None
        assert not short.truncated
