"""A long field in windows: the same characters, nothing between them lost, as many as fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.config.yaml_nodes import parse
from metalm_cli.config.yaml_records import build_record
from metalm_cli.data.examples.fit_prompt import build_session
from metalm_cli.data.examples.long_inputs import encoder_windows, split_into_windows
from metalm_cli.data.examples.truncation import EncoderLimit, LengthLimits
from metalm_cli.sessions import DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, prompt_to_session, render
from task_fixtures import CARD
from tiny_models import tokenizer_of

TEMPLATE = Template(name="plain", input="{{ text }}\n{{ question }}\n{{ options }}")


def card() -> Card:
    text = CARD.format(name="colours", cluster="misc", train=1, cut="tail")
    return build_record(parse(text, "colours.yaml"), Card, "colours", "task card")


def example(words: int) -> Example:
    text = " ".join(f"word{at}" for at in range(words))
    return Example("colours", 0, {"text": text, "question": "Is it red?"}, ("no",), ("no", "yes"), 0)


def model(encoder: int) -> SessionTokeniser:
    tokenizer = DecoderTokenizer(tokenizer_of("byte"), TokenRules())
    return SessionTokeniser(tokenizer, {"text": TextProcessor("text", tokenizer_of("wordpiece"), encoder)})


def docks(session: Session) -> list[str]:
    return [span.content for span in session if isinstance(span, Docked)]


def test_what_fits_stays_one_dock() -> None:
    limits = LengthLimits.of(model(100), 300)
    session = prompt_to_session(render(example(5), TEMPLATE))
    assert split_into_windows(session, example(5).fields["text"], limits) == session


@pytest.mark.parametrize("words", [40, 90])
def test_windows_are_the_same_characters_in_docks_that_fit(words: int) -> None:
    tokenise = model(48)
    limits = LengthLimits.of(tokenise, 2000)
    one = example(words)
    whole = prompt_to_session(render(one, TEMPLATE))
    made = split_into_windows(whole, one.fields["text"], limits)
    assert len(docks(made)) > 2
    assert "".join(docks(made)) == docks(whole)[0]
    tokenise(made)
    lowered = SessionTokeniser(tokenise.tokenizer, {})
    spans = [span for span in made if not isinstance(span, Docked)]
    assert spans == [span for span in whole if not isinstance(span, Docked)]
    assert lowered(made, require_targets=True).trained.sum() == lowered(whole, require_targets=True).trained.sum()


def test_as_many_windows_as_the_session_holds() -> None:
    limits = LengthLimits.of(model(48), 160)
    found = build_session(card(), example(200), TEMPLATE, (), PromptStyle(windows=True), " ", limits)
    assert found is not None
    session, was_cut, _ = found
    assert was_cut
    assert len(docks(session)) > 2
    assert limits.fits(session)
    single = build_session(card(), example(200), TEMPLATE, (), PromptStyle(), " ", limits)
    assert single is not None
    assert len("".join(docks(session))) > len(docks(single[0])[0])


def test_a_text_that_stands_twice_is_not_told_apart() -> None:
    limits = LengthLimits.of(model(24), 300)
    session = Session([Docked("text", "red blue red blue " * 12)])
    assert split_into_windows(session, "red blue", limits) == session


@given(st.text(alphabet="ab \n\u00e9", max_size=200), st.integers(12, 40))
@settings(max_examples=60, deadline=None)
def test_windows_lose_nothing(text: str, length: int) -> None:
    reader = EncoderLimit.of(tokenizer_of("wordpiece"), length)
    found = encoder_windows(text, [reader])
    assert "".join(found) == text
    assert all(reader.tokens(one) <= length for one in found)
