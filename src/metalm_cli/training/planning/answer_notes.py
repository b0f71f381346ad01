"""Notes of a plan about the answers of its tasks: classes without validation examples, options of the same tokens."""

from __future__ import annotations

from collections.abc import Mapping

from metalm_cli.data.examples.answer_classes import AnswerClasses, lacking_classes_note
from metalm_cli.data.examples.prompt_builder import PromptRenderer
from metalm_cli.data.examples.task_corpus import TaskCorpus, TrainingTask
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.answer_tokens import AnswerTokens, same_tokens
from metalm_cli.evaluation.prompts import with_rendered_answers
from metalm_cli.sessions import DecoderTokenizer
from metalm_cli.tasks import Example

SAMPLED_ROWS = 100
"""Training rows of a task, evenly spaced, that a note is based on."""


def answer_notes(corpus: TaskCorpus, validation: Mapping[int, AnswerClasses], tokenizer: DecoderTokenizer) -> list[str]:
    """Describe what a sample of each task's training examples shows about its answers.

    Args:
        corpus: The tasks.
        validation: Classes of the validation examples, by index of the task.
        tokenizer: Tokenizer of the decoder.

    Raises:
        MetalmError: A template fails on an example.
    """
    tokens = AnswerTokens(tokenizer)
    notes = []
    for index, task in enumerate(corpus.tasks):
        examples = _sampled_examples(task)
        classes = AnswerClasses()
        for example in examples:
            classes.add(example, task.card)
        task_notes = [_same_tokens_note(task, examples, corpus, tokens)]
        if index in validation:
            task_notes.append(lacking_classes_note(classes, validation[index]))
        notes += [f"{task.card.name}: {note}" for note in task_notes if note]
    return notes


def _sampled_examples(task: TrainingTask) -> list[Example]:
    examples = []
    count = min(SAMPLED_ROWS, task.row_count)
    for number in range(count):
        try:
            examples.append(task.example(number * task.row_count // count))
        except MetalmError:  # a row that does not fit its card is an error where it is trained on
            continue
    return examples


def _same_tokens_note(task: TrainingTask, examples: list[Example], corpus: TaskCorpus, tokens: AnswerTokens) -> str:
    """Describe the examples whose options the model cannot learn to distinguish; an empty text if there are none."""
    template = next((template for template in task.templates if not template.inverted), task.templates[0])
    renderer = PromptRenderer(template, corpus.style)
    references = [
        with_rendered_answers(example, renderer)
        for example in examples
        if example.options and not renderer.is_empty(example)
    ]
    affected = same_tokens(references, lambda _, option: tokens.ids(option))
    if not affected:
        return ""
    first, second = affected[0]
    return (
        f"{len(affected)} of {len(references)} sampled examples have options that are the same tokens, such as "
        f"{first!r:.60} and {second!r:.60}; the model cannot learn to distinguish them: use a decoder whose tokenizer "
        "has their characters, or other words (verbalizers of the card)"
    )
