"""A long field in windows: the same characters without losses, as many windows as fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.config.yaml_nodes import parse_yaml
from metalm_cli.config.yaml_records import build_record
from metalm_cli.data.examples.long_inputs import encoder_windows, split_into_windows
from metalm_cli.data.examples.prompt_builder import PromptBuilder
from metalm_cli.data.examples.truncation import EncoderLimit, LengthLimits
from metalm_cli.sessions import DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.sessions.compression import Compression
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, prompt_to_session, render
from task_fixtures import CARD
from tiny_models import tokenizer_of

TEMPLATE = Template(name="plain", input="{{ text }}\n{{ question }}\n{{ options }}")


def make_card() -> Card:
    text = CARD.format(name="colours", cluster="misc", train=1, cut="tail")
    return build_record(parse_yaml(text, "colours.yaml"), Card, "colours", "task card")


def make_example(words: int) -> Example:
    text = " ".join(f"word{index}" for index in range(words))
    return Example("colours", 0, {"text": text, "question": "Is it red?"}, ("no",), ("no", "yes"), 0)


def make_tokenise(encoder: int, compression: Compression | None = None) -> SessionTokeniser:
    tokenizer = DecoderTokenizer(tokenizer_of("byte"), TokenRules())
    processor = TextProcessor("text", tokenizer_of("wordpiece"), encoder)
    processor.compression = compression
    return SessionTokeniser(tokenizer, {"text": processor})


def docked_texts(session: Session) -> list[str]:
    return [span.content for span in session if isinstance(span, Docked)]


def test_what_fits_stays_one_dock() -> None:
    limits = LengthLimits.of(make_tokenise(100), 300)
    session = prompt_to_session(render(make_example(5), TEMPLATE))
    assert split_into_windows(session, make_example(5).fields["text"], limits) == session


def test_each_window_is_compressed() -> None:
    tokenise = make_tokenise(48, Compression("stack", {"factor": 8}))
    limits = LengthLimits.of(tokenise, 80)
    example = make_example(90)
    session = prompt_to_session(render(example, TEMPLATE))
    windowed = split_into_windows(session, example.fields["text"], limits)
    assert "".join(docked_texts(windowed)) == docked_texts(session)[0]
    assert limits.fits(windowed)
    tokenised = tokenise(windowed)
    outputs = [len(dock.output_positions) for _, dock in tokenised.docks]
    assert [dock.positions for _, dock in tokenised.docks] == [-(-count // 8) for count in outputs]
    assert len(tokenised) <= 80 < sum(outputs)


@pytest.mark.parametrize("words", [40, 90])
def test_windows_are_the_same_characters_in_docks_that_fit(words: int) -> None:
    tokenise = make_tokenise(48)
    limits = LengthLimits.of(tokenise, 2000)
    example = make_example(words)
    session = prompt_to_session(render(example, TEMPLATE))
    windowed = split_into_windows(session, example.fields["text"], limits)
    assert len(docked_texts(windowed)) > 2
    assert "".join(docked_texts(windowed)) == docked_texts(session)[0]
    tokenise(windowed)
    lowered = SessionTokeniser(tokenise.tokenizer, {})
    spans = [span for span in windowed if not isinstance(span, Docked)]
    assert spans == [span for span in session if not isinstance(span, Docked)]
    assert lowered(windowed, require_targets=True).trained.sum() == lowered(session, require_targets=True).trained.sum()


def test_as_many_windows_as_the_session_holds() -> None:
    limits = LengthLimits.of(make_tokenise(48), 160)
    windowed = PromptBuilder(make_card(), TEMPLATE, PromptStyle(windows=True), " ", limits).fit(make_example(200))
    assert windowed is not None
    session, truncated, _ = windowed
    assert truncated
    assert len(docked_texts(session)) > 2
    assert limits.fits(session)
    single = PromptBuilder(make_card(), TEMPLATE, PromptStyle(), " ", limits).fit(make_example(200))
    assert single is not None
    assert len("".join(docked_texts(session))) > len(docked_texts(single[0])[0])


@pytest.mark.parametrize("text", ["red blue", "a text that the template changed"])
def test_a_dock_is_split_as_a_whole_if_its_text_cannot_be_located(text: str) -> None:
    limits = LengthLimits.of(make_tokenise(24), 300)
    session = Session([Docked("text", "red blue red blue " * 12)])
    windowed = split_into_windows(session, text, limits)
    assert len(docked_texts(windowed)) > 1
    assert "".join(docked_texts(windowed)) == docked_texts(session)[0]
    assert limits.fits(windowed)


def test_the_blank_lines_of_a_long_text_are_in_its_windows() -> None:
    limits = LengthLimits.of(make_tokenise(48), 2000)
    example = make_example(90)
    text = example.fields["text"].replace(" word45", "\n\n\n\nword45")
    example = replace(example, fields={**example.fields, "text": text})
    windowed = PromptBuilder(make_card(), TEMPLATE, PromptStyle(windows=True), " ", limits).fit(example)
    assert windowed is not None
    assert not windowed.truncated
    assert text in "".join(docked_texts(windowed.session))


def test_a_window_does_not_end_at_a_space_far_back() -> None:
    text = "第21篇 " + "春天来了山上的花都开了" * 20
    encoder_limit = EncoderLimit.of(tokenizer_of("wordpiece"), 40)
    windows = encoder_windows(text, [encoder_limit])
    assert "".join(windows) == text
    assert len(windows[0]) > 20


@given(st.text(alphabet="ab \n\u00e9", max_size=200), st.integers(12, 40))
@settings(max_examples=60, deadline=None)
def test_windows_lose_nothing(text: str, length: int) -> None:
    encoder_limit = EncoderLimit.of(tokenizer_of("wordpiece"), length)
    windows = encoder_windows(text, [encoder_limit])
    assert "".join(windows) == text
    assert all(encoder_limit.tokens(window) <= length for window in windows)
