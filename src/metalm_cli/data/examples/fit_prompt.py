"""Fitting an example into a session: the long field is truncated, and demonstrations are dropped."""

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
    with_answer: bool = True,
    max_demonstration_tokens: float = float("inf"),
) -> tuple[Session, bool, int] | None:
    """Build the session of an example, truncated if necessary, with as many demonstrations as fit.

    Args:
        card: Card of the task.
        example: The example.
        template: Template of the example and of its demonstrations.
        demonstrations: Answered examples that precede the example.
        style: How prompts are rendered.
        delimiter: Text between an input and its answer.
        limits: Length limits of the session.
        with_answer: Include the answer as a training target; its length is reserved either way.
        max_demonstration_tokens: Maximum decoder tokens of all demonstrations.

    Returns:
        The session, whether its long field was truncated, and its number of demonstrations; None if it does not fit.
    """
    full_prompt = render(example, template, style)
    for shots in range(len(demonstrations), -1, -1):
        demonstration_prompts = [render(demonstration, template, style) for demonstration in demonstrations[:shots]]

        def make_session(
            candidate: Example, demonstration_prompts: Any = demonstration_prompts, with_answer: bool = True
        ) -> Session:
            prompt = full_prompt if candidate is example else render(candidate, template, style)
            session = prompt_to_session(
                prompt, demonstration_prompts, delimiter=delimiter, style=style, with_target=with_answer
            )
            if not style.windows or card.long_inputs is None:
                return session
            return split_into_windows(session, candidate.fields[card.long_inputs.field], limits)

        if shots and (
            _demonstration_tokens(demonstration_prompts, limits) > max_demonstration_tokens
            or not limits.fits(make_session(example))
        ):
            continue
        truncation = truncate_example(example, card, make_session, limits)
        if truncation is None:
            return None
        fitting_example, truncated = truncation
        return make_session(fitting_example, with_answer=with_answer), truncated, shots
    return None


def _demonstration_tokens(prompts: Sequence[Prompt], limits: LengthLimits) -> int:
    """Decoder tokens of prompts with their answers."""
    return sum(len(limits.tokenizer.encode_continuation(f"{prompt.input} {prompt.target}")) for prompt in prompts)
