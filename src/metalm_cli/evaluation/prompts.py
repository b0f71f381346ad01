"""Examples as what a model reads: fitted, with their demonstrations in front, tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from metalm_cli.data.examples.long_inputs import split_into_windows
from metalm_cli.data.examples.truncation import LengthLimits, truncate_example
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.question_rows import join_sessions
from metalm_cli.sessions import Session, TokenisedSession
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template, prompt_to_session, render
from metalm_cli.templates.template import ANSWER

NEW_TOKENS = {"struct_to_text": 64, "summarization": 128}
"""Most new tokens in clusters whose answers are written freely, with beams."""
ANSWER_TOKENS = 32
"""Most new tokens of an open answer."""
RATIONALE_TOKENS = 256
"""Most new tokens of a rationale with its answer."""
TOKENS_BEYOND_OPTION = 2
"""New tokens beyond the longest option: its end, and one that shows that a text goes on."""
LENGTH = 2048
"""Decoder positions of a session where the model states none."""


@dataclass(frozen=True)
class EncodedPrompt:
    """An example as it is asked.

    Args:
        example: As it fits, with what templates read.
        right: Answers and options as the template has them said.
        prefix: What is read for this example alone.
        before: What stands in front for others too; None for nothing.
        limit: Most new tokens of an answer.
        input: The prompt as one text, without demonstrations.
    """

    example: Example
    right: Example
    prefix: TokenisedSession
    before: TokenisedSession | None
    limit: int
    input: str

    @property
    def whole(self) -> TokenisedSession:
        """All that is read."""
        return self.prefix if self.before is None else join_sessions(self.before, self.prefix)


@dataclass(frozen=True)
class PromptSet:
    """The examples of a task in one wording, with so many demonstrations.

    Args:
        prompts: Those that fit.
        cut: Examples whose long field was cut; demonstrations never cut it further.
        skipped: Examples that do not fit even so, or not beside their demonstrations.
        note: What demonstrations leave no room for; where they leave none at all, how many would.
    """

    prompts: tuple[EncodedPrompt, ...]
    cut: int
    skipped: int
    note: str = ""


def build_prompts(
    language_model: LanguageModel, task: EvaluatedTask, template: Template, shots: int, settings: EvaluationSettings
) -> PromptSet:
    """Put the examples of a task into words, fit them, and tokenise them.

    Args:
        language_model: Who is to read them.
        task: The task.
        template: The wording.
        shots: Demonstrations in front of each. An example that does not fit beside them is left out and counted: it is
            never cut for them, and never asked with fewer.
        settings: The other settings.

    Raises:
        MetalmError: The model has too few positions for an answer, or no encoder that the template docks into.
    """
    style, delimiter = settings.style, language_model.decoder_tokenizer.rules.target_delimiter
    said = [with_rendered_answers(example, template, style) for example in task.examples]
    limits = [max_new_tokens(language_model, task.card, example, style) for example in said]
    room = length_limits(language_model, settings, max(limits))

    def make(example: Example) -> Session:
        asked = prompt_to_session(render(example, template, style), delimiter=delimiter, style=style, answered=False)
        long = task.card.long_inputs
        return (
            split_into_windows(asked, example.fields[long.field], room) if style.windows and long is not None else asked
        )

    fitted = [truncate_example(example, task.card, make, room) for example in task.examples]
    cut, skipped = sum(one is not None and one[1] for one in fitted), fitted.count(None)
    fronts: dict[tuple[int, ...], TokenisedSession] = {}
    before: TokenisedSession | None
    prompts, crowded = [], []
    for one, right, limit in zip(fitted, said, limits, strict=True):
        if one is None:
            continue
        example = one[0]
        shown = task.demonstrations(example, shots, settings)
        rest = make(example)
        whole = with_demonstrations(rest, example, shown, template, delimiter, style)
        if shown and not room.fits(whole):
            crowded.append(example)
            continue
        if shown and style.layout == "docks":
            key = tuple(demonstration.row for demonstration in shown)
            front = list(whole)[: len(whole) - len(rest)]
            if key not in fronts:
                fronts[key] = language_model.tokenise(Session(front, whole.name))
            prefix = language_model.tokenise(rest, is_continuation=True)
            before = None if settings.drawn else fronts[key]
            prefix = join_sessions(fronts[key], prefix) if settings.drawn else prefix
        else:
            before, prefix = None, language_model.tokenise(whole)
        text = render(example, template, style).input
        prompts.append(EncodedPrompt(example, right, prefix, before, limit, text))
    note = ""
    if crowded and not prompts:
        fits = _most(task, template, crowded, shots, settings, make, room, (delimiter, style))
        note = f"{_shown(shots)} not fit into {room.length:,} positions beside any example: at most {fits} can"
    elif crowded:
        note = f"{_shown(shots)} not fit beside {len(crowded)} of {len(task.examples)} examples, which are in no score"
    return PromptSet(tuple(prompts), cut, skipped + len(crowded), note)


def with_demonstrations(
    rest: Session, example: Example, shown: Sequence[Example], template: Template, delimiter: str, style: PromptStyle
) -> Session:
    """The session of an example with its demonstrations."""
    if not shown:
        return rest
    prompt, before = render(example, template, style), [render(one, template, style) for one in shown]
    if style.layout == "joined":
        return prompt_to_session(prompt, before, delimiter=delimiter, style=style, answered=False)
    front = prompt_to_session(prompt, before, delimiter=delimiter, style=style, answered=False)
    asked = prompt_to_session(prompt, delimiter=delimiter, style=style, answered=False)
    return Session([*list(front)[: len(front) - len(asked)], *rest], rest.name)


def _most(
    task: EvaluatedTask,
    template: Template,
    examples: Sequence[Example],
    shots: int,
    settings: EvaluationSettings,
    make: Callable[[Example], Session],
    room: LengthLimits,
    how: tuple[str, PromptStyle],
) -> int:
    """Most demonstrations that fit beside some example."""

    def fits(example: Example, count: int) -> bool:
        return room.fits(
            with_demonstrations(make(example), example, task.demonstrations(example, count, settings), template, *how)
        )

    return next((count for count in range(shots - 1, 0, -1) if any(fits(one, count) for one in examples)), 0)


def _shown(shots: int) -> str:
    return "1 demonstration does" if shots == 1 else f"{shots} demonstrations do"


def length_limits(language_model: LanguageModel, settings: EvaluationSettings, new: int) -> LengthLimits:
    """What inputs must fit into, so that an answer has room.

    Args:
        language_model: The model.
        settings: Their ``length`` counts the answer.
        new: Most new tokens.

    Raises:
        MetalmError: There is no room, or the length is more than the model has.
    """
    has = language_model.model.positions
    length = (
        settings.length
        or has
        or getattr(language_model.model.decoder.config, "max_position_embeddings", None)
        or LENGTH
    )
    if has is not None and length > has:
        raise MetalmError(f"sessions of {length} positions: the decoder has {has}", remedy="ask for fewer")
    if length <= new:
        raise MetalmError(
            f"sessions of {length} positions hold no answer of up to {new} tokens and its question",
            remedy="allow longer sessions, or use a model with more positions",
        )
    return LengthLimits.of(language_model.tokenise, length - new, settings.also)


def max_new_tokens(language_model: LanguageModel, card: Card, example: Example, style: PromptStyle) -> int:
    """Most new tokens of an answer: of the longest option and a little more, or by cluster."""
    if asks_for_rationale(card, style):
        return RATIONALE_TOKENS
    if not example.options:
        return NEW_TOKENS.get(card.cluster, ANSWER_TOKENS)
    tokenizer = language_model.decoder_tokenizer
    delimiter = tokenizer.rules.target_delimiter
    return TOKENS_BEYOND_OPTION + max(len(tokenizer.continuation(delimiter + option)) for option in example.options)


def asks_for_rationale(card: Card, style: PromptStyle) -> bool:
    """Whether a rationale is asked for before the answer, and the data set has some."""
    return style.rationale and card.answer.rationale is not None


def with_rendered_answers(example: Example, template: Template, style: PromptStyle) -> Example:
    """The example with answers and options as the template has them said."""
    if template.target == ANSWER:
        return example

    def said(answer: str) -> str:
        return render(replace(example, answers=(answer,)), template, replace(style, rationale=False)).target

    return replace(example, answers=tuple(map(said, example.answers)), options=tuple(map(said, example.options)))
