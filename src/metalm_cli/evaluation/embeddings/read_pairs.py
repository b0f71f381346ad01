"""Images and texts of a task's examples, as the encoders of a dual encoder read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metalm_cli.data.examples.prompt_builder import PromptRenderer
from metalm_cli.data.sources.image_check import MAX_NAMED
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.prompts import with_rendered_answers
from metalm_cli.inference.embeddings.image_text_model import ImageTextModel
from metalm_cli.sessions import UnreadableImageError
from metalm_cli.sessions.images import OUTSIDE
from metalm_cli.sessions.processors import DockInput, UnreadableContentError
from metalm_cli.tasks import Example
from metalm_cli.templates import PromptStyle, prompt_to_session


@dataclass(frozen=True)
class ReadExample:
    """An example whose image and texts can be read.

    Args:
        example: The example.
        references: The example with answers and options as each template renders them.
        image: Input of the image encoder.
        input: The prompt as text.
    """

    example: Example
    references: tuple[Example, ...]
    image: DockInput
    input: str


@dataclass
class ReadExamples:
    """Examples of a task, with the numbers of those that are left out.

    Args:
        examples: Examples that can be read.
        empty: Number of examples for which a template renders an empty input or target.
        skipped: Number of examples whose image or texts cannot be read.
        reasons: Why, for some of them.
    """

    examples: list[ReadExample] = field(default_factory=list)
    empty: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Message about examples that are not scored; empty if there are none."""
        if not self.skipped:
            return ""
        reasons = "; ".join([*self.reasons[:MAX_NAMED], *(["…"] if len(self.reasons) > MAX_NAMED else [])])
        return f"{self.skipped} examples cannot be read, and are not scored: {reasons}"


def read_examples(
    model: ImageTextModel,
    task: EvaluatedTask,
    examples: Iterable[Example],
    style: PromptStyle,
    *,
    texts: bool = True,
) -> ReadExamples:
    """Read the image of each example, and render its answers and options with every template.

    Args:
        model: The model.
        task: The task.
        examples: Its examples.
        style: Prompt format.
        texts: Check that the texts can be read as well.

    Raises:
        MetalmError: A template shows no image, or an image lies outside its folder.
    """
    renderers = [task.renderer(template, style) for template in task.templates]
    read = ReadExamples()
    for example in examples:
        if any(renderer.is_empty(example) for renderer in renderers):
            read.empty += 1
            continue
        try:
            read.examples.append(_read_example(model, task, example, renderers, texts))
        except UnreadableImageError as error:
            if error.reason == OUTSIDE:
                raise
            read.skipped += 1
            read.reasons.append(f"{error.where} ({error.reason})")
        except UnreadableContentError as error:
            read.skipped += 1
            read.reasons.append(f"row {example.row} ({error.what})")
    return read


def _read_example(
    model: ImageTextModel, task: EvaluatedTask, example: Example, renderers: Sequence[PromptRenderer], texts: bool
) -> ReadExample:
    prompt = renderers[0](example)
    image = model.tokenise.image_of(prompt_to_session(prompt, with_target=False))
    references = tuple(with_rendered_answers(example, renderer) for renderer in renderers)
    if texts:
        for reference in references:
            text_inputs(model, reference.options or reference.answers)
    return ReadExample(example, references, image, prompt.input)


def text_inputs(model: ImageTextModel, texts: Iterable[str]) -> list[DockInput]:
    """Return the text encoder's inputs of texts.

    Raises:
        UnreadableContentError: A text is empty, or longer than the encoder reads.
    """
    processor = model.processors[model.model.text_encoder]
    return [processor.prepare(text.strip()) for text in texts]


def check_readable(read: ReadExamples, task: EvaluatedTask) -> None:
    """Check that an example can be read.

    Raises:
        MetalmError: There is none.
    """
    if not read.examples:
        raise MetalmError(
            f"no example of {task.card.name} can be read",
            where=task.source.location,
            why=read.note or f"templates render all {read.empty} examples empty",
            remedy="choose another template, or check the images",
        )
