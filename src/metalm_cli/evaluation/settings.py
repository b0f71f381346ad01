"""How tasks are evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.templates import PromptStyle

Protocol = Literal["finetuned", "in_context", "instruct"]
"""``finetuned`` (paper section 3.3): every answer is said greedily, unconstrained, and compared as it is.
``in_context`` (3.6): options are ranked by their summed log-probability without the end token.
``instruct`` (3.5): options are ranked by that of the whole answer as it was trained, with its end token.
Where there are no options, all three say the answer."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
PAPER_TEMPLATES = 5
"""Templates of each data set in the paper's instruction tuning (3.5): their average and the best are reported."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How tasks are evaluated.

    Args:
        collection: Collection of templates.
        template: ``first``, ``paper`` (the first five), ``all``, a number (so many of the first), or a name;
            turned-around ones never count.
        role: Split of the cards; None: validation, or test where a card has no validation split.
        limit: Examples of a task, drawn without replacement by a fixed seed; None: all.
        length: Decoder positions of a session with its answer; None: what the model has.
        batch_size: Sequences of a forward pass that says answers.
        style: How prompts are made.
        also: Encoders of other models that are to read the same characters of long inputs.
        protocol: How answers are found.
        shots: Numbers of demonstrations; each is a setting of its own.
        drawn: Demonstrations are drawn for each example; else once for the task.
        normalise: Compare answers without case, punctuation and articles.
        samples: Sampled answers of which the most frequent counts; 1: greedy. What is sampled, or reasons first, is
            said, also where the protocol would rank options.
        temperature: Of sampled answers.
        seed: Of demonstrations and samples.
    """

    collection: str = "flan"
    template: str = "first"
    role: str | None = None
    limit: int | None = None
    length: int | None = None
    batch_size: int = 16
    style: PromptStyle = field(default_factory=PromptStyle)
    also: tuple[EncoderLimit, ...] = ()
    protocol: Protocol = "finetuned"
    shots: tuple[int, ...] = (0,)
    drawn: bool = False
    normalise: bool = False
    samples: int = 1
    temperature: float = 0.7
    seed: int = 0
