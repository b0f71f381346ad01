"""Prompt builder of training and evaluation: an example and its demonstrations as a session that fits a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metalm_cli.data.examples.long_inputs import split_into_windows
from metalm_cli.data.examples.truncation import LengthLimits, shorten_long_field, truncate_example
from metalm_cli.errors import EmptyRenderingError
from metalm_cli.sessions import Session
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Prompt, PromptStyle, Template, prompt_to_session, render


class PromptRenderer:
    """Renders examples with a template, each example once.

    Args:
        template: The template.
        style: How prompts are rendered.
    """

    def __init__(self, template: Template, style: PromptStyle) -> None:
        self.template, self.style = template, style
        self._prompts: dict[tuple[object, ...], Prompt] = {}

    def __call__(self, example: Example) -> Prompt:
        """The cached prompt of an example.

        Raises:
            MetalmError: The template fails on the example, or renders an empty input or target.
        """
        key = (example.row, *example.inputs.values(), *example.answers)
        if key not in self._prompts:
            self._prompts[key] = self.render(example)
        return self._prompts[key]

    def is_empty(self, example: Example) -> bool:
        """Whether the template renders an empty input or target, so that the example has no prompt.

        Raises:
            MetalmError: The template fails on the example.
        """
        try:
            self(example)
        except EmptyRenderingError:
            return True
        return False

    def render(self, example: Example) -> Prompt:
        """Render an example without the cache, for truncations that are only tried."""
        return render(example, self.template, self.style)


class FittedSession(NamedTuple):
    """A session that fits.

    Args:
        session: The session, with its answer.
        truncated: Whether the long field was truncated.
        shots: Number of its demonstrations.
    """

    session: Session
    truncated: bool
    shots: int


class PromptBuilder:
    """Builds the sessions of a task's examples with one template.

    Args:
        card: Card of the task.
        template: Template of the examples and of their demonstrations.
        style: How prompts are rendered.
        delimiter: Text between an input and its answer: the model's ``target_delimiter``.
        limits: Length limits of a session.
        renderer: Renderer of the template and style whose prompts are used again; default a new one.
    """

    def __init__(
        self,
        card: Card,
        template: Template,
        style: PromptStyle,
        delimiter: str,
        limits: LengthLimits,
        renderer: PromptRenderer | None = None,
    ) -> None:
        self.card, self.style, self.delimiter, self.limits = card, style, delimiter, limits
        self.prompt = renderer or PromptRenderer(template, style)

    def session(self, example: Example, demonstrations: Sequence[Example] = (), *, with_answer: bool) -> Session:
        """Build the session of an example, whether it fits or not.

        Args:
            example: The example.
            demonstrations: Answered examples that precede it.
            with_answer: Include the answer as a training target.
        """
        example = self._shortened(example)
        return self._session(self.prompt(example), example, demonstrations, with_answer)

    def truncate(
        self, example: Example, demonstrations: Sequence[Example] = (), *, with_answer: bool
    ) -> tuple[Example, bool] | None:
        """Truncate the long field of an example so that its session fits.

        Returns:
            The fitting example, and whether it was truncated; None if it does not fit.
        """

        shortened = self._shortened(example)

        def make_session(candidate: Example) -> Session:
            prompt = self.prompt(candidate) if candidate is shortened else self.prompt.render(candidate)
            return self._session(prompt, candidate, demonstrations, with_answer)

        fitted = truncate_example(shortened, self.card, make_session, self.limits, self.style.truncate)
        return None if fitted is None else (fitted[0], fitted[1] or shortened is not example)

    def fit(
        self,
        example: Example,
        demonstrations: Sequence[Example] = (),
        max_demonstration_tokens: float = float("inf"),
    ) -> FittedSession | None:
        """Build the session of an example with its answer, truncated if necessary, with the demonstrations that fit.

        Args:
            example: The example.
            demonstrations: Answered examples that precede it; those that the template renders empty are dropped, then
                the last ones.
            max_demonstration_tokens: Maximum decoder tokens of all demonstrations.

        Returns:
            None if the example does not fit.

        Raises:
            EmptyRenderingError: The template renders an empty input or target for the example.
            MetalmError: The template fails on an example.
        """
        demonstrations = [
            demonstration
            for demonstration in demonstrations
            if not self.prompt.is_empty(self._shortened(demonstration))
        ]
        for shots in range(len(demonstrations), -1, -1):
            used = demonstrations[:shots]
            if shots and (
                self._tokens(used) > max_demonstration_tokens
                or not self.limits.fits(self.session(example, used, with_answer=True))
            ):
                continue
            truncation = self.truncate(example, used, with_answer=True)
            if truncation is None:
                return None
            fitting_example, truncated = truncation
            return FittedSession(self.session(fitting_example, used, with_answer=True), truncated, shots)
        return None

    def _session(
        self, prompt: Prompt, example: Example, demonstrations: Sequence[Example], with_answer: bool
    ) -> Session:
        session = prompt_to_session(
            prompt,
            [self.prompt(self._shortened(demonstration)) for demonstration in demonstrations],
            delimiter=self.delimiter,
            style=self.style,
            with_target=with_answer,
        )
        if not self.style.windows or self.card.long_inputs is None:
            return session
        return split_into_windows(session, example.fields[self.card.long_inputs.field], self.limits)

    def _shortened(self, example: Example) -> Example:
        """The example with its long field shortened as the style says; the same object if nothing is removed."""
        tokens = self.style.long_field_tokens
        if tokens is None:
            return example
        return shorten_long_field(example, self.card, tokens, self.style.truncate, self.limits.tokenizer)

    def _tokens(self, demonstrations: Sequence[Example]) -> int:
        """Decoder positions of demonstrations: the tokens of their texts and answers, and their images."""
        prompts = [self.prompt(self._shortened(demonstration)) for demonstration in demonstrations]
        encode = self.limits.tokenizer.encode_continuation
        return sum(
            len(encode(f"{prompt.text} {prompt.target}"))
            + sum(self.limits.image_positions.get(part.encoder, 0) for part in prompt.parts if part.image is not None)
            for prompt in prompts
        )
