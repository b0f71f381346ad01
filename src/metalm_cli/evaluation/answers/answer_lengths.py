"""Lengths of answers: the positions that a prompt leaves free, and the number of new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metalm_cli.data.examples.prompt_builder import PromptRenderer
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import PromptStyle

NEW_TOKENS_BY_CLUSTER = {"struct_to_text": 64, "summarization": 128}
"""New tokens of answers in clusters of free text, which is decoded with beam search; more for longer references."""
ANSWER_TOKENS = 32
"""New tokens of an open answer; more for longer references."""
RATIONALE_TOKENS = 256
"""New tokens of a rationale with its answer; more for longer references."""
TOKENS_BEYOND_ANSWER = 2
"""Extra tokens decoded past the longest answer: one for the end token, one to detect that the model continues."""
DEFAULT_LENGTH = 2048
"""Decoder positions of a session if the model does not state a limit."""


def session_length(language_model: LanguageModel, settings: EvaluationSettings) -> int:
    """Return the decoder positions of a session with its answer.

    Args:
        language_model: The model.
        settings: Settings of the evaluation.

    Raises:
        MetalmError: The length of the settings exceeds the positions of the model.
    """
    positions = language_model.model.max_positions
    length = (
        settings.length
        or positions
        or getattr(language_model.model.text_model.config, "max_position_embeddings", None)
        or DEFAULT_LENGTH
    )
    if positions is not None and length > positions:
        raise MetalmError(
            f"sessions of {length} positions: the decoder has {positions}", remedy="choose a lower length"
        )
    return length


@dataclass(frozen=True)
class AnswerLength:
    """Length of an example's answer in tokens.

    Args:
        limit: Maximum number of new tokens; fewer are generated if the prompt leaves fewer positions.
        reserved: Positions that the prompt leaves free: those of the example's own longest option or reference
            answer, but for open answers at most half of the session. They depend on no other example.
    """

    limit: int
    reserved: int


def answer_lengths(
    language_model: LanguageModel,
    card: Card,
    examples: Sequence[Example],
    references: Sequence[Example],
    renderer: PromptRenderer,
    settings: EvaluationSettings,
) -> list[AnswerLength]:
    """Return the length of each example's answer.

    An answer among options is as long as the longest option of its example. Open answers have the limit of the
    settings; without one, that of the longest reference answer of all examples, which says nothing about the answer of
    a single example.

    Args:
        language_model: The model.
        card: Card of the task.
        examples: Its examples.
        references: The examples with answers and options as the template renders them.
        renderer: Renderer of the prompts, with their rationales.
        settings: Settings of the evaluation.
    """
    tokenizer = language_model.decoder_tokenizer
    delimiter = tokenizer.rules.target_delimiter

    def longest(texts: Sequence[str]) -> int:
        return TOKENS_BEYOND_ANSWER + max(len(tokenizer.encode_target(delimiter + text)) for text in texts)

    has_rationale = asks_for_rationale(card, settings.style)
    if not has_rationale and all(reference.options for reference in references):
        return [AnswerLength(tokens, tokens) for tokens in (longest(reference.options) for reference in references)]
    usual = RATIONALE_TOKENS if has_rationale else NEW_TOKENS_BY_CLUSTER.get(card.cluster, ANSWER_TOKENS)
    texts = [
        [renderer(example).target] if has_rationale else [*reference.answers, *reference.options]
        for example, reference in zip(examples, references, strict=True)
    ]
    needed = [max(usual, longest(answers)) for answers in texts]
    if settings.max_answer_tokens is not None:
        needed = [settings.max_answer_tokens] * len(needed)
    most_reserved = session_length(language_model, settings) // 2
    return [AnswerLength(max(needed), min(tokens, most_reserved)) for tokens in needed]


def asks_for_rationale(card: Card, style: PromptStyle) -> bool:
    """Whether the style asks for a rationale before the answer, and the data set has rationales."""
    return style.rationale and card.answer.rationale is not None
