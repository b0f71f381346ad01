"""Rendering of examples to prompts by templates, and of prompts to sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from jinja2 import TemplateError

from metalm_cli.errors import EmptyRenderingError, MetalmError
from metalm_cli.sessions import Causal, Docked, ImageSource, Session
from metalm_cli.tasks import Example
from metalm_cli.tasks.expressions import ROW_NAME, MissingElementError, compile_text
from metalm_cli.templates.template import ANSWER_EXPRESSION, CHOICES_SEPARATOR, InputPart, Template

RENDER_VERSION = 2
"""Version of the rendering, part of cache keys; increased when the same template and example give another text."""
CONCLUSION_PREFIX = "The answer is"
"""Text between a rationale and its answer."""
TEXT_ENCODER = "text"
"""Name of the encoder that templates dock texts into unless they name another."""
_BLANK_LINES = re.compile(r"\n{3,}")

Route = Literal["template", "encoder", "decoder"]
DemonstrationLayout = Literal["docks", "answered", "joined"]
TruncatedPart = Literal["tail", "head", "middle"]
STYLE_CHOICES = {"route": get_args(Route), "layout": get_args(DemonstrationLayout), "truncate": get_args(TruncatedPart)}
"""Values of the fields of a prompt style that are names."""
STYLE_NUMBERS = ("long_field_tokens",)
"""Fields of a prompt style that are numbers of at least 1."""
STYLE_TEXTS = ("encoder",)
"""Fields of a prompt style that are texts; all fields of other kinds are true or false."""


@dataclass(frozen=True)
class PromptStyle:
    """Options of prompts besides their template.

    Args:
        options: List the answer options where the template does.
        rationale: Train on and request the rationale followed by the answer, for examples that have a rationale.
        route: Route of inputs: as the template defines, all docked, or all read by the decoder.
        layout: Demonstrations as docks and answers, as docks that contain the answers, or as one text in front of the
            input.
        windows: Dock a long field in several windows if its encoder does not read all of it.
        truncate: Part of a long field that is removed where it is truncated; None: as its card says.
        long_field_tokens: Maximum decoder tokens of a long field; None: as many as fit.
        encoder: Encoder that docked inputs go into; None: as the template says.
    """

    options: bool = True
    rationale: bool = False
    route: Route = "template"
    layout: DemonstrationLayout = "docks"
    windows: bool = False
    truncate: TruncatedPart | None = None
    long_field_tokens: int | None = None
    encoder: str | None = None


def is_style_value(name: str, value: object) -> bool:
    """Whether a field of a prompt style can have a value that is set.

    >>> is_style_value("route", "encoder"), is_style_value("options", 1), is_style_value("long_field_tokens", 16)
    (True, False, True)
    """
    if name in STYLE_CHOICES:
        return value in STYLE_CHOICES[name]
    if name in STYLE_TEXTS:
        return isinstance(value, str) and bool(value)
    if name in STYLE_NUMBERS:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return isinstance(value, bool)


@dataclass(frozen=True)
class PromptPart:
    """A part of a prompt's input.

    Args:
        text: The text; empty for an image.
        encoder: Encoder that reads the part; empty: the decoder does.
        image: The image of the part. With a text, both are one dock.
    """

    text: str
    encoder: str = TEXT_ENCODER
    image: ImageSource | None = None

    @property
    def label(self) -> str:
        """The part as a text, with the name of its image."""
        return self.text if self.image is None else f"[image {self.image}]\n{self.text}".rstrip()

    @property
    def content(self) -> Any:
        """What the encoder reads: a text, an image, or a mapping of both."""
        if self.image is None:
            return self.text
        return {"image": self.image, "text": self.text} if self.text else self.image


@dataclass(frozen=True)
class Prompt:
    """A rendered example.

    Args:
        parts: Parts of the input.
        target: Target text.
        name: Name for error messages.
    """

    parts: tuple[PromptPart, ...]
    target: str
    name: str = ""

    @property
    def input(self) -> str:
        """The input as one text, with the names of its images."""
        return "\n".join(piece.label for piece in self.parts)

    @property
    def text(self) -> str:
        """The texts of the input."""
        return "\n".join(piece.text for piece in self.parts if piece.text)


@lru_cache(maxsize=4096)
def _compile_cached(source: str) -> Any:
    return compile_text(source)


def options_block(options: Sequence[str]) -> str:
    """Format options as prompts list them.

    >>> print(options_block(["yes", "no"]))
    OPTIONS:
    - yes
    - no
    """
    return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options) if options else ""


def template_context(example: Example, style: PromptStyle) -> dict[str, Any]:
    """Return the names that a template may read, with their values; ``row`` is the row with its columns."""
    return {
        ROW_NAME: example.raw,
        **example.fields,
        "fields": example.fields,
        "task": example.task,
        "answer": example.answers[0],
        "choices": list(example.options),
        "options": options_block(example.options) if style.options else "",
        "rationale": example.rationale,
    }


def render(example: Example, template: Template, style: PromptStyle = PromptStyle()) -> Prompt:
    """Render an example as a prompt.

    Args:
        example: The example.
        template: The template.
        style: Options of the prompt.

    Raises:
        EmptyRenderingError: Its input or target is empty, or it reads an element of a list that is too short.
        MetalmError: The template fails on this example.
    """
    name = f"{example.task} row {example.row} ({template.name})"
    seed = f"{example.task}\0{example.row}\0{template.name}"
    try:
        if template.choices is not None:
            example = _with_choices(example, template, style, seed)
        values = template_context(example, style)
        row_texts = (*example.fields.values(), *example.answers, *example.options, example.rationale)
        verbatim = [text for text in row_texts if text != _tidied(text)] + _texts_with_blank_lines(example.raw)
        texts = [(part, tidied(_compile_cached(part.text)(values, seed), verbatim)) for part in template.input_parts]
        target = tidied(_compile_cached(template.target)(values, seed), verbatim)
    except MissingElementError as error:
        raise EmptyRenderingError(
            f"template {template.name} has no prompt for an example",
            where=name,
            why=f"it reads an element that a column lacks: {error!s:.300}",
            remedy="test in the template whether the list has the element, or leave the row out",
        ) from error
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise MetalmError(
            f"template {template.name} fails on {example.task}",
            where=name,
            why=f"{error!s:.300}",
            remedy="correct the template; metalm templates show prints its text",
        ) from error
    if style.rationale and example.rationale and template.target == ANSWER_EXPRESSION:
        target = f"{example.rationale}\n{CONCLUSION_PREFIX} {target}"
    parts = tuple(piece for part, text in texts for piece in _pieces(part, text, example, style, name))
    if not parts or not target:
        raise EmptyRenderingError(
            f"template {template.name} renders an empty {'target' if parts else 'input'}",
            where=name,
            remedy="correct the template; metalm templates lint finds such templates",
        )
    return Prompt(parts, target, name)


def _texts_with_blank_lines(row: Mapping[str, Any]) -> list[str]:
    return [value.strip() for value in row.values() if isinstance(value, str) and "\n\n\n" in value.strip()]


def _with_choices(example: Example, template: Template, style: PromptStyle, seed: str) -> Example:
    """Return an example with the template's own answer choices as options, and the answer as one of them.

    Raises:
        ValueError: The example has another number of options, of which the template asks for one.
    """
    rendered = _compile_cached(template.choices or "")(template_context(example, style), seed)
    choices = tuple(choice.strip() for choice in rendered.split(CHOICES_SEPARATOR))
    if not example.options or "answer" not in template.names:
        return replace(example, options=choices)
    if len(choices) != len(example.options):
        raise ValueError(f"the template has {len(choices)} choices, the row has {len(example.options)} options")
    words = dict(zip(example.options, choices, strict=True))
    return replace(example, options=choices, answers=tuple(words.get(answer, answer) for answer in example.answers))


def tidied(text: str, verbatim: Sequence[str] = ()) -> str:
    """Remove the white space that empty fields and options leave in a rendered text: at its ends, and blank lines.

    Args:
        text: A rendered text.
        verbatim: Texts of the row; their own white space stays where the rendered text contains them.

    >>> tidied("\\n\\nRead:\\n\\n\\nf:\\n\\n\\n  x", ["f:\\n\\n\\n  x"])
    'Read:\\n\\nf:\\n\\n\\n  x'
    """
    spans = sorted(
        (match.span() for words in verbatim for match in re.finditer(re.escape(words), text)),
        key=lambda span: (span[0], -span[1]),
    )
    if not spans:
        return _tidied(text)
    pieces: list[str] = []
    position = 0
    for start, end in spans:
        if start >= position:
            pieces += [text[position:start], text[start:end]]
            position = end
    pieces.append(text[position:])
    pieces[::2] = [_BLANK_LINES.sub("\n\n", piece) for piece in pieces[::2]]
    pieces[0], pieces[-1] = pieces[0].lstrip(), pieces[-1].rstrip()
    return "".join(pieces)


def _tidied(text: str) -> str:
    if text.count("\n") < 3:  # fast path: no run of blank lines
        return text.strip()
    return _BLANK_LINES.sub("\n\n", text).strip()


def _pieces(part: InputPart, text: str, example: Example, style: PromptStyle, name: str) -> Iterator[PromptPart]:
    """Yield the pieces of a part: its images, then its text; or the text with the images at its marks.

    Raises:
        MetalmError: A row has another number of images than marks, or an encoder of both does not get one image.
    """
    images = example.images.get(part.image, ()) if part.image is not None else ()
    encoder = _encoder_of(part, style)
    if part.image_mark is not None:
        texts = text.split(part.image_mark)
        if len(texts) != len(images) + 1:
            raise _image_count_error(name, len(images), f"the text has {len(texts) - 1} of {part.image_mark}")
        for index, piece in enumerate(map(_tidied, texts)):
            if index:
                yield PromptPart("", part.image_encoder, images[index - 1])
            if piece:
                yield PromptPart(piece, encoder)
        return
    if text and images and part.encoder == part.image_encoder:
        if len(images) != 1:
            raise _image_count_error(name, len(images), f"the encoder {part.encoder} reads one with the text")
        yield PromptPart(text, part.encoder, images[0])
        return
    yield from (PromptPart("", part.image_encoder, image) for image in images)
    if text:
        yield PromptPart(text, encoder)


def _image_count_error(name: str, count: int, why: str) -> MetalmError:
    return MetalmError(
        "a row has another number of images than its template docks",
        where=name,
        why=f"it has {count} images; {why}",
        remedy="correct the row, or leave such rows out with row_filter of the card",
    )


def _encoder_of(part: Any, style: PromptStyle) -> str:
    route = part.route if style.route == "template" else style.route
    return (style.encoder or part.encoder) if route == "encoder" else ""


def prompt_to_session(
    prompt: Prompt,
    demonstrations: Sequence[Prompt] = (),
    *,
    delimiter: str = " ",
    style: PromptStyle = PromptStyle(),
    with_target: bool = True,
) -> Session:
    """Convert a prompt with demonstrations to a session.

    Args:
        prompt: The prompt.
        demonstrations: Answered prompts in front of it; their answers are not trained.
        delimiter: Text between an input and its answer: the model's ``target_delimiter``.
        style: Options of prompts; its layout determines how demonstrations are included.
        with_target: Append the target, trained and with an end token; else the session ends with the input, for
            generation.

    Example:
        >>> prompt = Prompt((PromptPart("Is fire cold?"),), "no")
        >>> for span in prompt_to_session(prompt): print(span)
        Docked(encoder='text', content='Is fire cold?')
        Causal(content=' no', trained=True, end=True)
    """
    spans: list[Causal | Docked] = []
    if style.layout == "joined" and demonstrations:
        prompt = join_demonstrations_as_text(prompt, demonstrations, delimiter)
        demonstrations = ()
    for demonstration in demonstrations:
        if style.layout == "answered":
            spans.append(_answered_dock(demonstration, delimiter, style))
        else:
            spans += [*_input_spans(demonstration), Causal(delimiter + demonstration.target, end=True)]
    spans += _input_spans(prompt)
    if with_target:
        spans.append(Causal(delimiter + prompt.target, trained=True, end=True))
    return Session(spans, prompt.name)


def join_demonstrations_as_text(prompt: Prompt, demonstrations: Sequence[Prompt], delimiter: str) -> Prompt:
    """Prepend demonstrations as text, separated by blank lines, to the first part of a prompt.

    Raises:
        MetalmError: A prompt has an image.
    """
    _check_texts_only((prompt, *demonstrations), "cannot be joined to one text")
    texts = [f"{demonstration.input}{delimiter}{demonstration.target}" for demonstration in demonstrations]
    first_part = prompt.parts[0]
    text = "\n\n".join([*texts, first_part.text])
    return replace(prompt, parts=(replace(first_part, text=text), *prompt.parts[1:]))


def _check_texts_only(prompts: Sequence[Prompt], problem: str) -> None:
    if any(part.image is not None for prompt in prompts for part in prompt.parts):
        raise MetalmError(
            f"demonstrations with images {problem}",
            where=prompts[0].name,
            remedy="dock them: --demonstration-layout docks (data.demonstrations.demonstration_layout)",
        )


def _answered_dock(demonstration: Prompt, delimiter: str, style: PromptStyle) -> Docked:
    """Dock a demonstration and its answer as one text, into the encoder of its input if that is docked.

    Raises:
        MetalmError: The demonstration has an image.
    """
    _check_texts_only([demonstration], "cannot be docked as one text with their answers")
    encoder = next((part.encoder for part in demonstration.parts if part.encoder), style.encoder or TEXT_ENCODER)
    return Docked(encoder, f"{demonstration.input}{delimiter}{demonstration.target}")


def _input_spans(prompt: Prompt) -> list[Causal | Docked]:
    """Convert the parts of a prompt to spans, with a decoder newline between parts, the same for all models."""
    spans: list[Causal | Docked] = []
    for index, part in enumerate(prompt.parts):
        if index:
            spans.append(Causal("\n"))
        spans.append(Docked(part.encoder, part.content) if part.encoder else Causal(part.text))
    return spans


def scored_templates(templates: Sequence[Template]) -> list[Template]:
    """Return the templates that ask for the answer, which can be scored."""
    return [template for template in templates if not template.inverted]


def template_for_index(templates: Sequence[Template], index: int) -> Template:
    """Return the template of an example by its index, round robin as in FLAN."""
    return templates[index % len(templates)]
