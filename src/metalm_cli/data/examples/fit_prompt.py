"""Fit prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metalm_cli.data.examples.long_inputs import split_into_windows
from metalm_cli.data.examples.truncation import LengthLimits, truncate_example
from metalm_cli.sessions import Session
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Prompt, PromptStyle, Template, prompt_to_session, render


def build_session(
    card: Card,
    example: Example,
    template: Template,
    demonstrations: Sequence[Example],
    style: PromptStyle,
    delimiter: str,
    limits: LengthLimits,
    answered: bool = True,
    budget: float = float("inf"),
) -> tuple[Session, bool, int] | None:
    """The session of an example, cut where it must be; as many demonstrations as fit are kept.

    Args:
        card: Of its task.
        example: The example.
        template: Its wording, and that of its demonstrations.
        demonstrations: Answered examples in front.
        style: How prompts are made.
        delimiter: Between an input and its answer.
        limits: What the session must fit into.
        answered: With the answer, trained; its room is kept free either way.
        budget: Most decoder tokens of all demonstrations.

    Returns:
        The session, whether its long field was cut, and how many demonstrations it has; None if it does not fit.
    """
    whole = render(example, template, style)
    for shown in range(len(demonstrations), -1, -1):
        before = [render(one, template, style) for one in demonstrations[:shown]]

        def make(one: Example, before: Any = before, answered: bool = True) -> Session:
            prompt = whole if one is example else render(one, template, style)
            asked = prompt_to_session(prompt, before, delimiter=delimiter, style=style, answered=answered)
            if not style.windows or card.long_inputs is None:
                return asked
            return split_into_windows(asked, one.fields[card.long_inputs.field], limits)

        if shown and (_tokens(before, limits) > budget or not limits.fits(make(example))):
            continue
        found = truncate_example(example, card, make, limits)
        if found is None:
            return None
        cut_example, was_cut = found
        return make(cut_example, answered=answered), was_cut, shown
    return None


def _tokens(prompts: Sequence[Prompt], limits: LengthLimits) -> int:
    """Decoder tokens of answered prompts, read by the decoder."""
    return sum(len(limits.tokenizer.continuation(f"{one.input} {one.target}")) for one in prompts)
