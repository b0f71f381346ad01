"""Cutting the long field, and nothing else, so that every arm of a comparison reads the same characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalm_cli.config.yaml_nodes import parse
from metalm_cli.config.yaml_records import build_record
from metalm_cli.data.examples.truncation import EncoderLimit, LengthLimits, truncate_at_space, truncate_example
from metalm_cli.sessions import DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Template, prompt_to_session, render
from task_fixtures import CARD
from tiny_models import tokenizer_of

TEMPLATE = Template(name="plain", input="{{ text }}\n{{ question }}\n{{ options }}")
QUESTION = "Is the last word of the text a colour?"


def card(how: str = "tail") -> Card:
    text = CARD.format(name="colours", cluster="misc", train=1, cut=how)
    return build_record(parse(text, "colours.yaml"), Card, "colours", "task card")


def example(words: int) -> Example:
    text = " ".join(f"word{at}" for at in range(words))
    return Example("colours", 0, {"text": text, "question": QUESTION}, ("no",), ("no", "yes"), 0)


def made(one: Example) -> Session:
    return prompt_to_session(render(one, TEMPLATE))


def limits(encoder: int | None, length: int = 400, also: int | None = None, kind: str = "byte") -> LengthLimits:
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules())
    processors = {} if encoder is None else {"text": TextProcessor("text", tokenizer_of("wordpiece"), encoder)}
    others = [] if also is None else [EncoderLimit.of(tokenizer_of("wordpiece"), also)]
    return LengthLimits.of(SessionTokeniser(tokenizer, processors), length, others)


def test_what_fits_is_left_alone() -> None:
    assert truncate_example(example(4), card(), made, limits(100)) == (example(4), False)


@pytest.mark.parametrize("how", ["tail", "head", "middle"])
def test_the_long_field_alone_is_cut_and_as_little_as_needed(how: str) -> None:
    bounds = limits(80)
    found = truncate_example(example(200), card(how), made, bounds)
    assert found is not None
    kept, was_cut = found
    assert was_cut
    assert kept.fields["question"] == QUESTION
    assert (kept.options, kept.answers) == (("no", "yes"), ("no",))
    session = made(kept)
    assert bounds.fits(session)
    assert SessionTokeniser(bounds.tokenizer, {"text": TextProcessor("text", tokenizer_of("wordpiece"), 80)})(session)
    words, whole = kept.fields["text"].split(), example(200).fields["text"].split()
    expected = {"tail": whole[: len(words)], "head": whole[len(whole) - len(words) :]}
    if how in expected:
        assert words == expected[how]
        more = whole[: len(words) + 2] if how == "tail" else whole[len(whole) - len(words) - 2 :]
        assert not bounds.fits(made(replace(kept, fields={**kept.fields, "text": " ".join(more)})))
    else:
        assert (words[0], words[-1]) == (whole[0], whole[-1])
        assert "..." in words


class Counting:
    """An encoder's tokenizer that counts what it reads."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.read = backend, 0

    def encode(self, text: str) -> Any:
        self.read += 1
        return self.backend.encode(text)


@pytest.mark.parametrize(("words", "before"), [(4, 0), (20, 1)])
def test_a_dock_is_read_once_and_for_its_limits_only_where_it_could_be_too_long(words: int, before: int) -> None:
    processor = TextProcessor("text", tokenizer_of("wordpiece"), 150)
    counting = processor._backend = Counting(processor._backend)
    tokenise = SessionTokeniser(DecoderTokenizer(tokenizer_of("byte"), TokenRules()), {"text": processor})
    session = made(example(words))
    assert LengthLimits.of(tokenise, 1000).fits(session)
    assert counting.read == before
    tokenise(session)
    assert counting.read == 1


def test_without_a_long_field_nothing_is_cut() -> None:
    bare = card().model_copy(update={"long_inputs": None})
    assert truncate_example(example(200), bare, made, limits(80)) is None


def test_a_question_that_does_not_fit_alone_is_not_cut() -> None:
    assert truncate_example(example(200), card(), made, limits(12)) is None


@pytest.mark.parametrize("encoder", [40, 80, 120])
@pytest.mark.parametrize("length", [150, 400])
def test_a_metalm_and_its_twin_read_the_same_characters(encoder: int, length: int) -> None:
    docked = truncate_example(example(90), card(), made, limits(encoder, length))
    twin = truncate_example(example(90), card(), made, limits(None, length, also=encoder))
    assert docked == twin
    assert docked is not None


def test_the_session_fits_the_decoder_docked_and_lowered() -> None:
    for kind in ("byte", "byte-bos", "llama"):
        bounds = limits(1000, 120, kind=kind)
        found = truncate_example(example(90), card(), made, bounds)
        assert found is not None
        lowered = SessionTokeniser(bounds.tokenizer, {})(made(found[0]))
        assert len(lowered) <= 120
        (dock, *_rest) = made(found[0])
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
    assert truncate_at_space(text, 16, "middle") == "one ... four"
    assert truncate_at_space(text, 0, "tail") == ""
