"""Prompts: examples truncated to fit, with their demonstrations, tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metalm_cli.data.examples.prompt_builder import PromptBuilder, PromptRenderer
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.data.sources.image_check import MAX_NAMED
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.answer_lengths import answer_lengths, asks_for_rationale, session_length
from metalm_cli.evaluation.exchanged_docks import check_exchange, exchange_docks
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.question_rows import join_sessions
from metalm_cli.sessions import Session, TextProcessor, TokenisedSession, UnreadableImageError
from metalm_cli.sessions.images import OUTSIDE
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template
from metalm_cli.templates.template import ANSWER_EXPRESSION


@dataclass(frozen=True)
class EncodedPrompt:
    """Tokenised prompt of an example, with its demonstrations.

    Args:
        example: The example, truncated to fit, with the fields that templates read.
        reference: The example with answers and options rendered by the template.
        prefix: Session of this example alone.
        shared_prefix: Session of the demonstrations before it, shared with other examples; None for none.
        max_new_tokens: Maximum number of new tokens of an answer.
        input: The prompt as one text, without demonstrations.
        is_open: Whether the answer is not just one of the options: an open answer, or an answer after a rationale.
    """

    example: Example
    reference: Example
    prefix: TokenisedSession
    shared_prefix: TokenisedSession | None
    max_new_tokens: int
    input: str
    is_open: bool

    @property
    def session(self) -> TokenisedSession:
        """The whole session, with demonstrations."""
        return self.prefix if self.shared_prefix is None else join_sessions(self.shared_prefix, self.prefix)


@dataclass(frozen=True)
class PromptSet:
    """Prompts of a task with one template and a number of demonstrations.

    Args:
        prompts: Prompts of the examples that fit.
        cut: Number of examples whose long field was truncated; demonstrations never truncate it further.
        skipped: Number of examples that do not fit, even truncated, or do not fit with their demonstrations.
        empty: Number of examples for which the template renders an empty input or target.
        note: Message about examples that do not fit with their demonstrations; if none fits, with the largest number
            of demonstrations that would.
    """

    prompts: tuple[EncodedPrompt, ...]
    cut: int
    skipped: int
    empty: int = 0
    note: str = ""


def build_prompts(
    language_model: LanguageModel, task: EvaluatedTask, template: Template, shots: int, settings: EvaluationSettings
) -> PromptSet:
    """Render the examples of a task, truncate them to fit, and tokenise them.

    Examples for which the template renders an empty input or target are left out and counted.

    Args:
        language_model: The model.
        task: The task.
        template: The template.
        shots: Number of demonstrations before each example. An example that does not fit with its demonstrations is
            left out and counted: it is neither truncated further nor evaluated with fewer demonstrations.
        settings: The other settings.

    Raises:
        MetalmError: The length exceeds the positions of the model, or it has no encoder that the template docks into.
    """
    style = style_of_task(language_model, task.card, template, settings.style)
    delimiter = language_model.decoder_tokenizer.rules.target_delimiter
    answer_renderer = task.renderer(template, replace(style, rationale=False))
    renderer = task.renderer(template, style)
    examples = [example for example in task.examples if not renderer.is_empty(example)]
    references = [with_rendered_answers(example, answer_renderer) for example in examples]
    length = session_length(language_model, settings)
    lengths = answer_lengths(language_model, task.card, examples, references, renderer, settings)
    is_open = asks_for_rationale(task.card, style) or not all(reference.options for reference in references)
    builders: dict[int, PromptBuilder] = {}
    for answer_length in lengths:
        limits = LengthLimits.of(language_model.tokenise, length - answer_length.reserved, settings.also_fit)
        builders.setdefault(
            answer_length.reserved, PromptBuilder(task.card, template, style, delimiter, limits, renderer)
        )
    drafts: list[_Draft] = []
    too_long: list[tuple[Example, PromptBuilder]] = []
    cut = skipped = 0
    for example, reference, answer_length in zip(examples, references, lengths, strict=True):
        builder = builders[answer_length.reserved]
        fitted = builder.truncate(example, with_answer=False)
        if fitted is None:
            skipped += 1
            continue
        example, was_cut = fitted
        cut += was_cut
        demonstrations = task.demonstrations(example, shots, settings, renderer)
        session = builder.session(example, demonstrations, with_answer=False)
        if demonstrations and not builder.limits.fits(session):
            too_long.append((example, builder))
            continue
        drafts.append(_Draft(example, reference, demonstrations, session, builder, answer_length.limit))
    if settings.exchange_docks:
        check_exchange(language_model, settings.exchange_docks)
        drafts, unfit = _with_exchanged_docks(drafts, settings)
        skipped += unfit
    prompts, unreadable = _encoded(drafts, _TokenisedPrompts(language_model, style, settings.draw_per_example), is_open)
    notes = [
        _demonstrations_note(task, too_long, shots, length, settings, any_fits=bool(prompts)),
        _images_note(task, unreadable),
    ]
    note = "; ".join(filter(None, notes))
    return PromptSet(
        tuple(prompts), cut, skipped + len(too_long) + len(unreadable), len(task.examples) - len(examples), note
    )


@dataclass(frozen=True)
class _Draft:
    """Prompt of an example before it is tokenised; ``limit`` is the maximum number of new tokens of its answer."""

    example: Example
    reference: Example
    demonstrations: Sequence[Example]
    session: Session
    builder: PromptBuilder
    limit: int

    @property
    def own_spans(self) -> int:
        """Number of spans at the end of the session that are not of demonstrations."""
        return len(self.builder.session(self.example, with_answer=False))


def _encoded(
    drafts: Sequence[_Draft], tokenised: _TokenisedPrompts, is_open: bool
) -> tuple[list[EncodedPrompt], list[str]]:
    """Return the tokenised prompts, and the images that cannot be read, whose prompts are left out."""
    prompts: list[EncodedPrompt] = []
    unreadable: list[str] = []
    for draft in drafts:
        try:
            prefix, shared_prefix = tokenised(draft)
        except UnreadableImageError as error:
            if error.reason == OUTSIDE:
                raise
            unreadable.append(f"{error.where} ({error.reason})")
            continue
        text = draft.builder.prompt(draft.example).input
        prompts.append(EncodedPrompt(draft.example, draft.reference, prefix, shared_prefix, draft.limit, text, is_open))
    return prompts, unreadable


def _with_exchanged_docks(drafts: Sequence[_Draft], settings: EvaluationSettings) -> tuple[list[_Draft], int]:
    """Return the prompts with docks exchanged, and the number of those that do not fit with the docks of others."""
    own_spans = [draft.own_spans for draft in drafts]
    sessions = exchange_docks([draft.session for draft in drafts], own_spans, settings.exchange_docks, settings.seed)
    exchanged = [replace(draft, session=session) for draft, session in zip(drafts, sessions, strict=True)]
    fitting = [draft for draft in exchanged if draft.builder.limits.fits(draft.session)]
    return fitting, len(exchanged) - len(fitting)


class _TokenisedPrompts:
    """Tokenises the sessions of prompts; demonstrations that several prompts share are tokenised once."""

    def __init__(self, language_model: LanguageModel, style: PromptStyle, draw_per_example: bool) -> None:
        self.tokenise, self.style, self.draw_per_example = language_model.tokenise, style, draw_per_example
        self._demonstrations: dict[tuple[int, ...], TokenisedSession] = {}

    def __call__(self, draft: _Draft) -> tuple[TokenisedSession, TokenisedSession | None]:
        """Return the session of a prompt, and that of the demonstrations before it if it is shared."""
        session = draft.session
        if not draft.demonstrations or self.style.layout == "joined":
            return self.tokenise(session), None
        bound = len(session) - draft.own_spans
        key = tuple(demonstration.row for demonstration in draft.demonstrations)
        if key not in self._demonstrations:
            self._demonstrations[key] = self.tokenise(Session(session.spans[:bound], session.name))
        prefix = self.tokenise(Session(session.spans[bound:], session.name), is_continuation=True)
        if self.draw_per_example:
            return join_sessions(self._demonstrations[key], prefix), None
        return prefix, self._demonstrations[key]


def _images_note(task: EvaluatedTask, unreadable: Sequence[str]) -> str:
    """Describe the examples with images that cannot be read; an empty text if there are none."""
    if not unreadable:
        return ""
    names = "; ".join(unreadable[:MAX_NAMED]) + ("; …" if len(unreadable) > MAX_NAMED else "")
    return f"images of {len(unreadable)} of {len(task.examples)} examples cannot be read, which are not scored: {names}"


def style_of_task(language_model: LanguageModel, card: Card, template: Template, style: PromptStyle) -> PromptStyle:
    """Return the style of a task's prompts with the encoder that its inputs go into.

    It is the encoder of the style; else the text encoder that was trained on the task, in a combined model; else the
    one that the template names.

    Args:
        language_model: The model; without encoders the style is returned as it is.
        card: Card of the task.
        template: Template of the prompts.
        style: Style of all tasks.

    Raises:
        MetalmError: The model does not have the encoder of the style, or nothing chooses one of its encoders.
    """
    encoders = list(language_model.processors)
    docked = [part for part in template.input_parts if part.text and "encoder" in (style.route, part.route)]
    named = {part.encoder for part in docked}
    if not encoders or not named or style.route == "decoder":
        return style
    if style.encoder is not None:
        if style.encoder not in encoders:
            raise MetalmError(
                f"the model has no encoder {style.encoder!r}",
                where=language_model.source or "--encoder",
                why=f"its encoders: {', '.join(encoders)}",
                remedy="name one of them (--encoder)",
            )
        return style
    tasks = getattr(language_model.model.config, "encoder_tasks", {})
    trained = [
        name
        for name in encoders
        if isinstance(language_model.processors[name], TextProcessor)
        and {card.name, card.data_name} & set(tasks.get(name, ()))
    ]
    if len(trained) == 1:
        return style if named == set(trained) else replace(style, encoder=trained[0])
    if named <= set(trained or encoders):
        return style
    why = (
        f"{', '.join(trained)} were all trained on it"
        if trained
        else f"none of {', '.join(encoders)} was trained on it"
    )
    raise MetalmError(
        f"nothing chooses the encoder that the inputs of {card.name} go into",
        where=language_model.source,
        why=f"template {template.name} names {', '.join(sorted(named))}; {why}",
        remedy=f"name one: --encoder {(trained or encoders)[0]}",
    )


def _demonstrations_note(
    task: EvaluatedTask,
    too_long: Sequence[tuple[Example, PromptBuilder]],
    shots: int,
    length: int,
    settings: EvaluationSettings,
    *,
    any_fits: bool,
) -> str:
    """Describe the examples that do not fit with their demonstrations; an empty text if there are none."""
    phrase = "1 demonstration does" if shots == 1 else f"{shots} demonstrations do"
    if not too_long:
        return ""
    if any_fits:
        return f"{phrase} not fit with {len(too_long)} of {len(task.examples)} examples, which are not scored"

    def fits(example: Example, builder: PromptBuilder, count: int) -> bool:
        demonstrations = task.demonstrations(example, count, settings, builder.prompt)
        return builder.limits.fits(builder.session(example, demonstrations, with_answer=False))

    counts = range(shots - 1, 0, -1)
    max_shots = next((count for count in counts if any(fits(*entry, count) for entry in too_long)), 0)
    return f"{phrase} not fit into {length:,} positions with any example; at most {max_shots} can"


def with_rendered_answers(example: Example, renderer: PromptRenderer) -> Example:
    """Return the example with its answers and options as the template renders them.

    Args:
        example: The example.
        renderer: Renderer of the template, without rationales.
    """
    if renderer.template.target == ANSWER_EXPRESSION and renderer.template.choices is None:
        return example

    def render_answer(answer: str) -> str:
        return renderer(replace(example, answers=(answer,))).target

    return replace(
        example, answers=tuple(map(render_answer, example.answers)), options=tuple(map(render_answer, example.options))
    )
