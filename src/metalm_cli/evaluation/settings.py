"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.templates import PromptStyle

Protocol = Literal["finetuned", "in_context", "instruct", "zero_shot", "linear_probe"]
"""``finetuned`` (paper section 3.3): answers are generated greedily, without constraints, and compared literally.
``in_context`` (3.6): options are ranked by their summed log-probability without the end token.
``instruct`` (3.5): options are ranked by their summed log-probability with the end token, as in training.
For tasks without options, these three protocols generate the answer.
``zero_shot``, of dual encoders: the option whose text is the most similar to the image (CLIP, section 3.1); for tasks
without options, texts are retrieved by images and images by texts.
``linear_probe``, of dual encoders: logistic regression on the features of images."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
EMBEDDING_PROTOCOLS: tuple[Protocol, ...] = ("zero_shot", "linear_probe")
"""Protocols of dual encoders."""
PAPER_TEMPLATES = 5
"""Number of templates for each data set in the paper's instruction tuning (3.5), which reports mean and best."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation.

    Args:
        collection: Collection of templates.
        template: ``first``, ``paper`` (the first five), ``all``, a number n (the first n), or a name; inverted
            templates are never used.
        split: Split of the cards; None: validation, or test if a card has no validation split.
        limit: Number of examples per task, drawn without replacement by a fixed seed; None: all.
        length: Decoder positions of a session with its answer; None: those of the model.
        batch_size: Sequences of a forward pass when answers are generated.
        style: Prompt format.
        also_fit: Length limits of other models' encoders, so that all models read the same characters of long inputs.
        protocol: Protocol by which answers are obtained.
        shots: Numbers of demonstrations; each is evaluated separately.
        draw_per_example: Draw demonstrations for each example; else once for the task.
        max_answer_tokens: Maximum number of new tokens of an open answer, or of a rationale with its answer; None: as
            many as the longest reference answer of the evaluated examples of a task has, and at least 32 (64 in
            struct_to_text, 128 in summarization, 256 for rationales).
        end_tokens: Tokens that end an answer beside those of the model, as text or id.
        normalise: Compare answers without case, English articles and the marks around words.
        samples: Number of sampled answers, of which the most frequent counts; 1: greedy. Answers with several samples
            or with a rationale are generated under every protocol, also under those that rank options.
        temperature: Sampling temperature.
        seed: Seed of demonstrations, samples and exchanged docks.
        exchange_docks: Encoder whose docks every example takes from another example of its task, or ``all``; empty:
            each example keeps its own.
    """

    collection: str = "flan"
    template: str = "first"
    split: str | None = None
    limit: int | None = None
    length: int | None = None
    batch_size: int = 16
    style: PromptStyle = field(default_factory=PromptStyle)
    also_fit: tuple[EncoderLimit, ...] = ()
    protocol: Protocol = "finetuned"
    shots: tuple[int, ...] = (0,)
    draw_per_example: bool = False
    max_answer_tokens: int | None = None
    end_tokens: tuple[str | int, ...] = ()
    normalise: bool = False
    samples: int = 1
    temperature: float = 0.7
    seed: int = 0
    exchange_docks: str = ""
