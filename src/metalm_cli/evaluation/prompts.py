"""Prompts: examples truncated to fit, with their demonstrations, tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metalm_cli.data.examples.prompt_builder import PromptBuilder, PromptRenderer
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.question_rows import join_sessions
from metalm_cli.sessions import Session, TokenisedSession
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle, Template
from metalm_cli.templates.template import ANSWER_EXPRESSION

NEW_TOKENS_BY_CLUSTER = {"struct_to_text": 64, "summarization": 128}
"""Maximum number of new tokens in clusters of free text, which is decoded with beam search."""
ANSWER_TOKENS = 32
"""Maximum number of new tokens of an open answer."""
RATIONALE_TOKENS = 256
"""Maximum number of new tokens of a rationale with its answer."""
TOKENS_BEYOND_OPTION = 2
"""Extra tokens decoded past the longest option: one for the end token, one to detect that the model continues."""
DEFAULT_LENGTH = 2048
"""Decoder positions of a session if the model does not state a limit."""


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
    """

    example: Example
    reference: Example
    prefix: TokenisedSession
    shared_prefix: TokenisedSession | None
    max_new_tokens: int
    input: str

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
        note: Message about examples that do not fit with their demonstrations; if none fits, with the largest number
            of demonstrations that would.
    """

    prompts: tuple[EncodedPrompt, ...]
    cut: int
    skipped: int
    note: str = ""


def build_prompts(
    language_model: LanguageModel, task: EvaluatedTask, template: Template, shots: int, settings: EvaluationSettings
) -> PromptSet:
    """Render the examples of a task, truncate them to fit, and tokenise them.

    Args:
        language_model: The model.
        task: The task.
        template: The template.
        shots: Number of demonstrations before each example. An example that does not fit with its demonstrations is
            left out and counted: it is neither truncated further nor evaluated with fewer demonstrations.
        settings: The other settings.

    Raises:
        MetalmError: The model has too few positions for an answer, or no encoder that the template docks into.
    """
    style, delimiter = settings.style, language_model.decoder_tokenizer.rules.target_delimiter
    answer_renderer = task.renderer(template, replace(style, rationale=False))
    references = [with_rendered_answers(example, answer_renderer) for example in task.examples]
    token_limits = [max_new_tokens(language_model, task.card, example, style) for example in references]
    session_limits = length_limits(language_model, settings, max(token_limits))
    renderer = task.renderer(template, style)
    builder = PromptBuilder(task.card, template, style, delimiter, session_limits, renderer)
    truncated = [builder.truncate(example, with_answer=False) for example in task.examples]
    cut, skipped = sum(result is not None and result[1] for result in truncated), truncated.count(None)
    demonstration_sessions: dict[tuple[int, ...], TokenisedSession] = {}
    shared_prefix: TokenisedSession | None
    prompts, too_long = [], []
    for result, reference, token_limit in zip(truncated, references, token_limits, strict=True):
        if result is None:
            continue
        example = result[0]
        demonstrations = task.demonstrations(example, shots, settings)
        session = builder.session(example, demonstrations, with_answer=False)
        if demonstrations and not session_limits.fits(session):
            too_long.append(example)
            continue
        if demonstrations and style.layout == "docks":
            own_session = builder.session(example, with_answer=False)
            key = tuple(demonstration.row for demonstration in demonstrations)
            demonstration_spans = list(session)[: len(session) - len(own_session)]
            if key not in demonstration_sessions:
                demonstration_sessions[key] = language_model.tokenise(Session(demonstration_spans, session.name))
            prefix = language_model.tokenise(own_session, is_continuation=True)
            shared_prefix = None if settings.draw_per_example else demonstration_sessions[key]
            prefix = join_sessions(demonstration_sessions[key], prefix) if settings.draw_per_example else prefix
        else:
            shared_prefix, prefix = None, language_model.tokenise(session)
        prompts.append(
            EncodedPrompt(example, reference, prefix, shared_prefix, token_limit, builder.prompt(example).input)
        )
    note = ""
    if too_long and not prompts:
        max_shots = _max_fitting_shots(task, builder, too_long, shots, settings)
        note = (
            f"{_demonstrations_phrase(shots)} not fit into {session_limits.length:,} positions with any example; "
            f"at most {max_shots} can"
        )
    elif too_long:
        note = (
            f"{_demonstrations_phrase(shots)} not fit with {len(too_long)} of {len(task.examples)} examples, "
            "which are not scored"
        )
    return PromptSet(tuple(prompts), cut, skipped + len(too_long), note)


def _max_fitting_shots(
    task: EvaluatedTask, builder: PromptBuilder, examples: Sequence[Example], shots: int, settings: EvaluationSettings
) -> int:
    """Return the largest number of demonstrations with which at least one example fits."""

    def fits(example: Example, count: int) -> bool:
        demonstrations = task.demonstrations(example, count, settings)
        return builder.limits.fits(builder.session(example, demonstrations, with_answer=False))

    return next((count for count in range(shots - 1, 0, -1) if any(fits(example, count) for example in examples)), 0)


def _demonstrations_phrase(shots: int) -> str:
    return "1 demonstration does" if shots == 1 else f"{shots} demonstrations do"


def length_limits(language_model: LanguageModel, settings: EvaluationSettings, new_tokens: int) -> LengthLimits:
    """Return the length limits of inputs that leave room for an answer.

    Args:
        language_model: The model.
        settings: Settings of the evaluation; their ``length`` includes the answer.
        new_tokens: Maximum number of new tokens.

    Raises:
        MetalmError: The length leaves no room for an input, or exceeds the positions of the model.
    """
    positions = language_model.model.max_positions
    length = (
        settings.length
        or positions
        or getattr(language_model.model.decoder.config, "max_position_embeddings", None)
        or DEFAULT_LENGTH
    )
    if positions is not None and length > positions:
        raise MetalmError(
            f"sessions of {length} positions: the decoder has {positions}", remedy="choose a lower length"
        )
    if length <= new_tokens:
        raise MetalmError(
            f"sessions of {length} positions cannot hold a prompt and an answer of up to {new_tokens} tokens",
            remedy="allow longer sessions, or use a model with more positions",
        )
    return LengthLimits.of(language_model.tokenise, length - new_tokens, settings.also_fit)


def max_new_tokens(language_model: LanguageModel, card: Card, example: Example, style: PromptStyle) -> int:
    """Return the maximum number of new tokens of an answer: from the longest option, or by cluster."""
    if asks_for_rationale(card, style):
        return RATIONALE_TOKENS
    if not example.options:
        return NEW_TOKENS_BY_CLUSTER.get(card.cluster, ANSWER_TOKENS)
    tokenizer = language_model.decoder_tokenizer
    delimiter = tokenizer.rules.target_delimiter
    return TOKENS_BEYOND_OPTION + max(
        len(tokenizer.encode_continuation(delimiter + option)) for option in example.options
    )


def asks_for_rationale(card: Card, style: PromptStyle) -> bool:
    """Whether the style asks for a rationale before the answer, and the data set has rationales."""
    return style.rationale and card.answer.rationale is not None


def with_rendered_answers(example: Example, renderer: PromptRenderer) -> Example:
    """Return the example with its answers and options as the template renders them.

    Args:
        example: The example.
        renderer: Renderer of the template, without rationales.
    """
    if renderer.template.target == ANSWER_EXPRESSION:
        return example

    def render_answer(answer: str) -> str:
        return renderer(replace(example, answers=(answer,))).target

    return replace(
        example, answers=tuple(map(render_answer, example.answers)), options=tuple(map(render_answer, example.options))
    )
