"""Rendering: an example and a template become a prompt, prompts become a session."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError

from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.sessions import Causal, Docked, Session
from metalm_cli.tasks import Example
from metalm_cli.tasks.expressions import compile_text
from metalm_cli.templates.template import ANSWER, Template

VERSION = 1
"""Changes when the same template and example give another text; part of cache keys."""
CONCLUSION = "The answer is"
"""Stands between a rationale and its answer."""
_BLANK_LINES = re.compile(r"\n{3,}")

Route = Literal["template", "encoder", "decoder"]
DemonstrationLayout = Literal["docks", "joined"]


@dataclass(frozen=True)
class PromptStyle:
    """How prompts are made, beyond their template.

    Args:
        options: List the options where a template does.
        rationale: Train and ask for the rationale, then the answer, where an example has one.
        route: Where inputs go: as the template says, all docked, or all read by the decoder.
        layout: Demonstrations as docks and answers, or as one text in front of the input.
        windows: A long field that its encoder does not read whole becomes several docks.
    """

    options: bool = True
    rationale: bool = False
    route: Route = "template"
    layout: DemonstrationLayout = "docks"
    windows: bool = False


@dataclass(frozen=True)
class PromptPart:
    """A part of a prompt's input; ``encoder`` is empty where the decoder reads it."""

    text: str
    encoder: str = "text"


@dataclass(frozen=True)
class Prompt:
    """A rendered example.

    Args:
        pieces: The input.
        target: What is to be said.
        name: What errors call it.
    """

    pieces: tuple[PromptPart, ...]
    target: str
    name: str = ""

    @property
    def input(self) -> str:
        """The input as one text."""
        return "\n".join(piece.text for piece in self.pieces)


@lru_cache(maxsize=4096)
def _compiled(source: str) -> Any:
    return compile_text(source)


def options_block(options: Sequence[str]) -> str:
    """Options as prompts list them.

    >>> print(options_block(["yes", "no"]))
    OPTIONS:
    - yes
    - no
    """
    return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options) if options else ""


def context(example: Example, style: PromptStyle) -> dict[str, Any]:
    """What a template may read."""
    return {
        **example.fields,
        "fields": example.fields,
        "task": example.task,
        "answer": example.answers[0],
        "choices": list(example.options),
        "options": options_block(example.options) if style.options else "",
        "rationale": example.rationale,
    }


def render(example: Example, template: Template, style: PromptStyle = PromptStyle()) -> Prompt:
    """Put an example into words.

    Args:
        example: The example.
        template: The wording.
        style: How prompts are made.

    Raises:
        MetalmError: The template fails on this example, or its input or target is empty.
    """
    name = f"{example.task} row {example.row} ({template.name})"
    values = context(example, style)
    try:
        texts = [(part, _tidy(_compiled(part.text)(values))) for part in template.pieces]
        target = _compiled(template.target)(values).strip()
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise MetalmError(f"template {template.name} fails on {example.task}", where=name, why=str(error)) from error
    if style.rationale and example.rationale and template.target == ANSWER:
        target = f"{example.rationale}\n{CONCLUSION} {target}"
    pieces = tuple(PromptPart(text, _encoder(part, style)) for part, text in texts if text)
    if not pieces or not target:
        raise EmptyRenderingError(
            f"template {template.name} renders an empty {'target' if pieces else 'input'}",
            where=name,
            remedy="correct the template; metalm templates lint finds such",
        )
    return Prompt(pieces, target, name)


def _tidy(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", text).strip()


def _encoder(part: Any, style: PromptStyle) -> str:
    route = part.route if style.route == "template" else style.route
    return part.encoder if route == "encoder" else ""


def prompt_to_session(
    prompt: Prompt,
    demonstrations: Sequence[Prompt] = (),
    *,
    delimiter: str = " ",
    style: PromptStyle = PromptStyle(),
    answered: bool = True,
) -> Session:
    """The session of a prompt.

    Args:
        prompt: What is asked.
        demonstrations: Answered prompts in front of it; their answers are not trained.
        delimiter: Between an input and its answer: the model's ``target_delimiter``.
        style: Its layout decides how demonstrations stand.
        answered: With the target, trained and ended; else as far as the input, to be continued.

    Example:
        >>> asked = Prompt((PromptPart("Is fire cold?"),), "no")
        >>> for span in prompt_to_session(asked): print(span)
        Docked(encoder='text', content='Is fire cold?')
        Causal(content=' no', trained=True, end=True)
    """
    spans: list[Causal | Docked] = []
    if style.layout == "joined" and demonstrations:
        prompt = join_demonstrations_as_text(prompt, demonstrations, delimiter)
        demonstrations = ()
    for shown in demonstrations:
        spans += [*_input_spans(shown), Causal(delimiter + shown.target, end=True)]
    spans += _input_spans(prompt)
    if answered:
        spans.append(Causal(delimiter + prompt.target, trained=True, end=True))
    return Session(spans, prompt.name)


def join_demonstrations_as_text(prompt: Prompt, demonstrations: Sequence[Prompt], delimiter: str) -> Prompt:
    """A prompt whose first piece begins with its demonstrations as text, a blank line between them."""
    shown = [f"{one.input}{delimiter}{one.target}" for one in demonstrations]
    first = prompt.pieces[0]
    text = "\n\n".join([*shown, first.text])
    return replace(prompt, pieces=(replace(first, text=text), *prompt.pieces[1:]))


def _input_spans(prompt: Prompt) -> list[Causal | Docked]:
    """Pieces as spans, a newline of the decoder between two, in every arm."""
    spans: list[Causal | Docked] = []
    for at, piece in enumerate(prompt.pieces):
        if at:
            spans.append(Causal("\n"))
        spans.append(Docked(piece.encoder, piece.text) if piece.encoder else Causal(piece.text))
    return spans


def scorable(templates: Sequence[Template]) -> list[Template]:
    """The templates that ask for the answer."""
    return [one for one in templates if not one.inverted]


def template_of_index(templates: Sequence[Template], index: int) -> Template:
    """Template i by example index, as FLAN gives them out."""
    return templates[index % len(templates)]
