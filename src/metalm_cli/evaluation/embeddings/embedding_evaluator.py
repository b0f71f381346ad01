"""Evaluator of dual encoders: zero-shot classification, retrieval in both directions, and linear probes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.answer_cache import AnswerCache
from metalm_cli.evaluation.answers.ranking import OptionRanking
from metalm_cli.evaluation.embeddings.linear_probe import probe_classes
from metalm_cli.evaluation.embeddings.read_pairs import (
    ReadExample,
    ReadExamples,
    check_readable,
    read_examples,
    text_inputs,
)
from metalm_cli.evaluation.evaluator import (
    Evaluator,
    Prediction,
    ShotResult,
    TaskResult,
    TemplateResult,
    score_template,
)
from metalm_cli.evaluation.metrics import bootstrap, retrieval
from metalm_cli.evaluation.metrics.task_metrics import ChanceLevel, Score
from metalm_cli.evaluation.open_tasks import EvaluatedTask
from metalm_cli.evaluation.prompts import EncodedPrompt, PromptSet
from metalm_cli.evaluation.settings import EMBEDDING_PROTOCOLS, EvaluationSettings
from metalm_cli.inference.embeddings.image_text_model import ImageTextModel
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions import TokenisedSession

RECALL_COUNTS = (1, 5, 10)
"""Numbers of retrieved items."""
RECALL = "recall@1"
"""Metric of retrieval: the mean over images of recall@1 of texts by the image, and of the image by its texts."""


def evaluator_of(
    language_model: LanguageModel, settings: EvaluationSettings, cache: AnswerCache
) -> Evaluator | EmbeddingEvaluator:
    """Return the evaluator of a model.

    Args:
        language_model: The model.
        settings: Settings of the evaluation.
        cache: Answers of earlier evaluations; embeddings are not cached.

    Raises:
        MetalmError: The protocol is not one of the model's.
    """
    is_dual, of_embeddings = isinstance(language_model, ImageTextModel), settings.protocol in EMBEDDING_PROTOCOLS
    if is_dual != of_embeddings:
        raise MetalmError(
            f"the protocol {settings.protocol} is not one of {'a dual encoder' if is_dual else 'a language model'}",
            where=f"--protocol {settings.protocol}",
            why=f"{language_model.source or 'the model'} "
            + ("embeds images and texts, and gives no answers" if is_dual else "is not trained with contrastive"),
            remedy=f"choose {' or '.join(EMBEDDING_PROTOCOLS) if is_dual else 'auto, or another protocol'}",
        )
    if isinstance(language_model, ImageTextModel):
        return EmbeddingEvaluator(language_model, settings)
    return Evaluator(language_model, settings, cache)


class EmbeddingEvaluator:
    """Evaluator of a dual encoder.

    Several templates are one ensemble: the text of a class is embedded with each, and the mean of the embeddings is
    divided by its norm (CLIP, section 3.1.4).

    Args:
        model: The model.
        settings: Settings of the evaluation.

    Raises:
        MetalmError: The settings ask for demonstrations or sampled answers.
    """

    def __init__(self, model: ImageTextModel, settings: EvaluationSettings) -> None:
        self.model, self.settings = model, settings
        unused = {
            "demonstrations (--shots)": any(settings.shots),
            "samples (--samples)": settings.samples > 1,
            "exchanged docks (--exchange-docks)": bool(settings.exchange_docks),
        }
        for name, is_set in unused.items():
            if is_set:
                raise MetalmError(f"a dual encoder has no {name}", remedy="leave the option out")

    def evaluate(
        self, tasks: Sequence[EvaluatedTask], on_progress: Callable[[str], None] = lambda text: None
    ) -> Iterator[TaskResult]:
        """Evaluate tasks one after the other.

        Args:
            tasks: From :func:`~metalm_cli.evaluation.open_tasks.open_evaluation_tasks`, with the same settings.
            on_progress: Called with a progress message.

        Raises:
            MetalmError: A template shows no image, or no example can be read.
        """
        for index, task in enumerate(tasks, 1):
            on_progress(f"{task.card.name} ({index} of {len(tasks)}): reading {len(task.examples)} examples")
            start_time = time.perf_counter()
            read = read_examples(self.model, task, task.examples, self.settings.style)
            check_readable(read, task)
            on_progress(f"{task.card.name} ({index} of {len(tasks)}): embedding")
            if self.settings.protocol == "linear_probe":
                images = [each.image for each in read.examples]
                scores = probe_classes(self.model, task, images, self.settings.style)
                result, metric = self._scored(task, read, scores, start_time), ""
            elif all(reference.options for each in read.examples for reference in each.references):
                result, metric = self._classify(task, read, start_time), ""
            else:
                result, metric = self._retrieve(task, read, start_time), RECALL
            yield TaskResult(task, (ShotResult(0, (result,)),), metric)
            task.release_prompts()

    # -- classification -----------------------------------------------------------------------------------------------

    def _classify(self, task: EvaluatedTask, read: ReadExamples, start_time: float) -> TemplateResult:
        """Classify images by the most similar text among the options of each example."""
        images = self.model.embed([each.image for each in read.examples])
        texts = [_texts_by_option(each) for each in read.examples]
        classes = list(dict.fromkeys(option for options in texts for option in options))
        vectors = class_vectors(self.model, classes)
        index = {option: number for number, option in enumerate(classes)}
        scale = float(self.model.model.logit_scale().detach())
        log_likelihoods = [
            (scale * vectors[[index[option] for option in options]] @ image).double().log_softmax(0).tolist()
            for image, options in zip(images, texts, strict=True)
        ]
        return self._scored(task, read, log_likelihoods, start_time)

    def _scored(
        self, task: EvaluatedTask, read: ReadExamples, log_likelihoods: Sequence[Sequence[float]], start_time: float
    ) -> TemplateResult:
        """Score the option with the highest log-probability of each example."""
        rankings = [OptionRanking(tuple(values), int(np.argmax(values)), {}) for values in log_likelihoods]
        prompts = tuple(_prompt_of(each) for each in read.examples)
        prompt_set = PromptSet(prompts, 0, read.skipped, read.empty, read.note)
        predictions = [
            prompt.reference.options[ranking.best_option] for prompt, ranking in zip(prompts, rankings, strict=True)
        ]
        count = len(task.templates)
        name = task.templates[0].name if count == 1 else f"ensemble of {count}"
        return score_template(self.settings, task, name, 0, prompt_set, predictions, rankings, start_time)

    # -- retrieval ----------------------------------------------------------------------------------------------------

    def _retrieve(self, task: EvaluatedTask, read: ReadExamples, start_time: float) -> TemplateResult:
        """Retrieve the texts of each image among those of all, and the image of each text."""
        examples = read.examples
        texts = [each.references[0].answers for each in examples]
        owners = np.repeat(np.arange(len(texts)), [len(answers) for answers in texts])
        flat = [text for answers in texts for text in answers]
        images = self.model.embed([each.image for each in examples])
        similarity = (images @ self.model.embed(text_inputs(self.model, flat)).T).double().cpu().numpy()
        own_texts = [np.flatnonzero(owners == image).tolist() for image in range(len(examples))]
        text_ranks = retrieval.ranks_of_relevant(similarity, own_texts)
        image_ranks = retrieval.ranks_of_relevant(similarity.T, [[owner] for owner in owners.tolist()])
        by_metric: dict[str, np.ndarray] = {}
        chance: dict[str, float] = {}
        for count in RECALL_COUNTS:
            by_metric[f"image_to_text@{count}"] = (text_ranks < count).astype(float)
            hits = (image_ranks < count).astype(float)
            by_metric[f"text_to_image@{count}"] = np.array([hits[own].mean() for own in own_texts])
            of_texts = [retrieval.chance_of_recall(len(flat), len(own), count) for own in own_texts]
            chance[f"image_to_text@{count}"] = 100 * float(np.mean(of_texts))
            chance[f"text_to_image@{count}"] = 100 * retrieval.chance_of_recall(len(examples), 1, count)
        values = (by_metric["image_to_text@1"] + by_metric["text_to_image@1"]) / 2
        error = bootstrap.standard_error(values)
        rows = [each.example.row for each in examples]
        intervals = {name: _interval(rows, column) for name, column in by_metric.items()}
        extra = {name: 100 * float(column.mean()) for name, column in by_metric.items()}
        score = Score(RECALL, 100 * float(values.mean()), None if error is None else 100 * error, len(rows))
        best = similarity.argmax(1)
        samples = tuple(
            Prediction(each.example.row, each.input, answers[0], flat[best[image]], float(text_ranks[image] == 0))
            for image, (each, answers) in enumerate(zip(examples, texts, strict=True))
        )
        return TemplateResult(
            task.templates[0].name,
            score,
            ChanceLevel(uniform=(chance["image_to_text@1"] + chance["text_to_image@1"]) / 2),
            0,
            read.skipped,
            time.perf_counter() - start_time,
            extra=extra,
            each={"row": rows, "value": values.tolist()},
            samples=samples,
            note=read.note,
            warnings=_recall_messages(extra, intervals, chance, len(flat)),
            also_each={name: {"row": rows, "value": column.tolist()} for name, column in by_metric.items()},
            empty=read.empty,
            extra_intervals={name: bounds for name, bounds in intervals.items() if bounds is not None},
            extra_chance=chance,
        )


def _texts_by_option(each: ReadExample) -> list[tuple[str, ...]]:
    """Texts of each option, one for each template."""
    return list(zip(*(reference.options for reference in each.references), strict=True))


def class_vectors(model: ImageTextModel, classes: Sequence[Sequence[str]]) -> Tensor:
    """Embed classes, each by its texts.

    Args:
        model: The model.
        classes: Texts of each class.

    Returns:
        Vectors of L2 norm 1. ``[classes, d]``
    """
    distinct = list(dict.fromkeys(text for texts in classes for text in texts))
    index = {text: number for number, text in enumerate(distinct)}
    vectors = model.embed(text_inputs(model, distinct))
    return torch.stack([ensemble(vectors[[index[text] for text in texts]]) for texts in classes])


def ensemble(vectors: Tensor) -> Tensor:
    """Mean of vectors of norm 1, divided by its norm; each vector is divided by its norm first.

    Args:
        vectors: ``[n, d]``

    Returns:
        ``[d]``

    >>> ensemble(torch.tensor([[100.0, 0.0], [0.0, 1.0]]))
    tensor([0.7071, 0.7071])
    """
    return normalize(normalize(vectors, dim=-1).mean(0), dim=0)


def _prompt_of(each: ReadExample) -> EncodedPrompt:
    empty = TokenisedSession(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
    return EncodedPrompt(each.example, each.references[0], empty, None, 0, each.input, is_open=False)


def _interval(rows: Sequence[int], values: np.ndarray) -> list[float] | None:
    """95% interval of a mean over images, 0 to 100."""
    bounds = bootstrap.score_interval([bootstrap.Observations(np.array(rows), values)])
    return None if bounds is None else [round(100 * bound, 4) for bound in bounds]


def _recall_messages(
    scores: dict[str, float], intervals: dict[str, list[float] | None], chance: dict[str, float], texts: int
) -> tuple[str, ...]:
    """Describe the recall of each direction, with intervals and chance."""
    messages = []
    for direction in ("image_to_text", "text_to_image"):
        parts = []
        for count in RECALL_COUNTS:
            name = f"{direction}@{count}"
            bounds = intervals[name]
            between = "" if bounds is None else f" [{bounds[0]:.1f}, {bounds[1]:.1f}]"
            parts.append(f"recall@{count} {scores[name]:.1f}{between}, chance {chance[name]:.1f}")
        messages.append(f"{direction.replace('_', ' ')} ({texts} texts): {'; '.join(parts)}")
    return tuple(messages)
