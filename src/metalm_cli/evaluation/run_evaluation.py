"""Evaluation as a program: ``metalm_cli.evaluate``, which shares its code with ``metalm evaluate`` and the trainer.

Settings are resolved once, before inference, and do not change. Nothing is printed: callbacks receive what happens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import did_you_mean
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.answer_cache import AnswerCache
from metalm_cli.evaluation.contamination import find_overlap, training_files
from metalm_cli.evaluation.embeddings.embedding_evaluator import evaluator_of
from metalm_cli.evaluation.evaluator import TaskResult
from metalm_cli.evaluation.opened_evaluation import (
    EvaluationCallbacks,
    OpenedEvaluation,
    check_held_out,
    ignore,
    open_evaluation,
    report_missing,
)
from metalm_cli.evaluation.request import AUTO, EvaluationRequest
from metalm_cli.evaluation.resolve_settings import with_shared_limits
from metalm_cli.evaluation.results.result_paths import result_paths, with_protocol_in_name
from metalm_cli.evaluation.results.result_writer import model_hash, model_record, result_record
from metalm_cli.evaluation.results.results import Results
from metalm_cli.evaluation.select_tasks import TaskSelection
from metalm_cli.evaluation.suites import Suite
from metalm_cli.evaluation.suites.suite_results import with_suite
from metalm_cli.inference import LanguageModel, load
from metalm_cli.inference.evaluation_mode import evaluation_mode
from metalm_cli.models.checkpoint_io import find_model_folder
from metalm_cli.provenance.model_history import ModelHistory, SeenLabel, read_history
from metalm_cli.runs.folder import environment

ANSWERS_FILE = "answers.sqlite"
"""Name of the answer cache, next to the results."""


@dataclass(frozen=True)
class RunSettings:
    """Where an evaluation reads and writes, and what it checks.

    Args:
        data_root: Folder of local data sets.
        offline: Do not open network connections.
        require_held_out: Fail if the lineage does not show that all tasks were held out.
        contamination: Files of training data to compare the examples with.
        out: Result file of each model; empty: none. It is also written, as incomplete, if the evaluation ends early.
        save_samples: Write every prediction beside it.
        answers: Whether answers are cached next to the result file, and cached answers are used.
    """

    data_root: Path | None = None
    offline: bool = False
    require_held_out: bool = False
    contamination: tuple[Path, ...] = ()
    out: tuple[Path, ...] = ()
    save_samples: bool = False
    answers: bool = True


@dataclass(frozen=True)
class EvaluatedModel:
    """Model to evaluate.

    Args:
        source: Its path, hub id or name.
        language_model: The model, if it is loaded.
        history: What it was trained on.
    """

    source: str
    language_model: LanguageModel | None = field(default=None, repr=False)
    history: ModelHistory = field(default_factory=lambda: ModelHistory({}, ()), repr=False)

    @classmethod
    def of(cls, model: str | Path | LanguageModel) -> EvaluatedModel:
        """Return a model that is named or loaded, with its history.

        Raises:
            MetalmError: The value is neither.
        """
        if not isinstance(model, str | Path | LanguageModel):
            raise MetalmError(
                f"got a {type(model).__name__} as the model, expected a path, a hub id or a loaded model",
                remedy='pass a run folder, or what metalm_cli.load("runs/first") returns',
            )
        loaded = model if isinstance(model, LanguageModel) else None
        source = str(model) if loaded is None else loaded.source
        folder = expand_user(source) if source else None
        history = read_history(folder if folder is not None and folder.is_dir() else None, source or "the model")
        return cls(source or "a loaded model", loaded, history)

    def check(self, end_tokens: Sequence[str | int], offline: bool) -> None:
        """Check, before data is read, that a model can be loaded as far as its name decides it.

        Args:
            end_tokens: Further tokens that end an answer.
            offline: Do not access the network.

        Raises:
            MetalmError: No model is found, or end tokens are set for a model that is loaded.
        """
        if self.language_model is None:
            find_model_folder(self.source, offline=offline, weights=False)
        elif end_tokens:
            raise MetalmError(
                "end_tokens are set for a model that is loaded", remedy="pass end_tokens to metalm_cli.load instead"
            )


def evaluate(
    model: str | Path | LanguageModel,
    *,
    suite: str | Path | Suite | None = None,
    tasks: str | Path | Sequence[str | Path] | None = None,
    cluster: str | Sequence[str] | None = None,
    cards: str | Path | Sequence[str | Path] | None = None,
    shots: int | Sequence[int] | None = None,
    protocol: str | None = None,
    templates: str | Path | None = None,
    template: str | int | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    offline: bool = False,
    out: str | Path | None = None,
    on_progress: Callable[[str], None] = ignore,
    on_note: Callable[[str], None] = ignore,
    **settings: Any,
) -> Results:
    """Evaluate a model on tasks, as ``metalm evaluate`` does.

    Args:
        model: A run folder, a model folder, a hub id, or a model that :func:`metalm_cli.load` returned. A loaded model
            is evaluated on its device and in its data type; a named one in float32, on a GPU if there is one.
        suite: A suite, or its name or file. Arguments take precedence over its settings.
        tasks: Names of tasks, or paths of task cards.
        cluster: Names of clusters, or the groups ``core``, ``non_core``, ``world``, ``lexical``, ``all``.
        cards: Folders of user cards.
        shots: Number of demonstrations, or several. Default: the suite's, else 0.
        protocol: ``finetuned``, ``in_context`` or ``instruct``. Default: the suite's, else as the model was trained.
        templates: Template collection or its folder. Default: the suite's, else as in the model's training, else flan.
        template: ``first``, ``paper``, ``all``, a number, or a name. Default: ``first``, or ``paper`` for ``instruct``.
        split: Split to score. Default: validation, else test.
        limit: Maximum number of examples per task, always the same ones.
        seed: Seed of drawn demonstrations and sampled answers.
        data_root: Folder of local data sets. Default: ``METALM_DATA``.
        offline: Do not open network connections.
        out: New result file, which is also written, as incomplete, if the evaluation is interrupted. Answers are
            cached next to it, and are not computed again by a later evaluation.
        on_progress: Called with what is being done.
        on_note: Called with what was decided, inherited from training or is missing.
        **settings: Further settings of :class:`~metalm_cli.evaluation.request.EvaluationRequest` (``all_cards``,
            ``style``, ``batch_size``, ``max_answer_tokens``, ``normalise``, ``samples``, ``temperature``, …).

    Returns:
        The results.

    Raises:
        MetalmError: An argument, the model or the data is unusable, or nothing could be scored.
    """
    _reject_unknown(settings)
    settings |= {"protocol": protocol, "split": split, "limit": limit, "seed": seed, "suite": suite}
    try:
        request = _request(settings, tasks, cluster, cards, shots, templates, template)
        request = request.with_cards_of_run(model.source if isinstance(model, LanguageModel) else str(model))
        run_settings = RunSettings(
            data_root=None if data_root is None else expand_user(data_root),
            offline=offline,
            out=() if out is None else tuple(result_paths(["model"], expand_user(out), AUTO, (), False)),
        )
    except TypeError as error:
        raise MetalmError("an argument of evaluate is of another type", why=str(error)) from error
    callbacks = EvaluationCallbacks(on_progress, on_note)
    selection = request.select(run_settings.data_root, offline)
    return evaluate_models([model], request, selection, run_settings, callbacks)[0]


def _request(
    settings: dict[str, Any],
    tasks: str | Path | Sequence[str | Path] | None,
    cluster: str | Sequence[str] | None,
    cards: str | Path | Sequence[str | Path] | None,
    shots: int | Sequence[int] | None,
    templates: str | Path | None,
    template: str | int | None,
) -> EvaluationRequest:
    """Return the request of the arguments of :func:`evaluate`, with its suite read.

    Raises:
        MetalmError: Nothing is selected, or a value is unknown or out of range.
        TypeError: A value is of another type.
    """
    if settings["suite"] is None and not tasks and not cluster:
        raise MetalmError(
            "no tasks are selected", remedy='pass tasks=["rte"], cluster="nli", cluster="core", or a suite'
        )
    return EvaluationRequest(
        tasks=_strings(tasks),
        clusters=_strings(cluster),
        card_folders=tuple(map(Path, _strings(cards))),
        shots=None if shots is None else (shots,) if isinstance(shots, int) else tuple(shots),
        templates=None if templates is None else str(templates),
        template=None if template is None else str(template),
        **settings,
    ).with_suite()


def _reject_unknown(settings: Mapping[str, Any]) -> None:
    """Raise an error if a further setting of :func:`evaluate` is not a field of the request."""
    further = {request_field.name for request_field in fields(EvaluationRequest)} - {"clusters", "card_folders"}
    for name in settings.keys() - further:
        known = sorted(further | (inspect.signature(evaluate).parameters.keys() - {"settings"}))
        raise MetalmError(
            f"evaluate has no argument {name}",
            why=f"the arguments are {', '.join(known)}",
            remedy=did_you_mean(name, known) or "leave it out",
        )


def _strings(names: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """Names or paths as texts; a single one may be given without a list."""
    return () if names is None else tuple(map(str, [names] if isinstance(names, str | Path) else names))


def evaluate_models(
    models: Sequence[str | Path | LanguageModel],
    request: EvaluationRequest,
    selection: TaskSelection,
    run_settings: RunSettings,
    callbacks: EvaluationCallbacks,
) -> list[Results]:
    """Evaluate one or more models on the same inputs.

    Args:
        models: The models; the training of the first decides settings that are open.
        request: Tasks and settings, with those of a suite.
        selection: From :meth:`EvaluationRequest.select`.
        run_settings: Where to read and write, and what to check.
        callbacks: Receivers of what happens.

    Raises:
        MetalmError: An evaluation fails; results of tasks that were scored before are written.
    """
    files = training_files(run_settings.contamination) if run_settings.contamination else []
    evaluated = [EvaluatedModel.of(model) for model in models]
    for model in evaluated:
        model.check(request.end_tokens, run_settings.offline)
    opened = open_evaluation(
        request, selection, evaluated[0].history, callbacks, run_settings.data_root, run_settings.offline
    )
    report_missing(opened, callbacks)
    labels = [opened.seen_labels(model.history) for model in evaluated]
    for model in evaluated:
        if note := model.history.training_note():
            callbacks.on_note(f"{model.source} was {note}")
    if run_settings.require_held_out:
        for model, model_labels in zip(evaluated, labels, strict=True):
            check_held_out(model.source, model_labels)
    if files:
        callbacks.on_progress("comparing with the training data")
        opened = replace(opened, contamination=find_overlap(opened.tasks, files))
    language_models = []
    for model in evaluated:
        callbacks.on_progress(f"loading {model.source}")
        language_models.append(_load(model, opened.settings.end_tokens, run_settings.offline))
    opened = replace(opened, settings=with_shared_limits(opened.settings, language_models))
    taken: list[Path] = []
    for out in run_settings.out:
        taken.append(with_protocol_in_name(out, opened.settings.protocol, taken))
    paths: Sequence[Path | None] = taken or [None] * len(models)
    results = []
    for model, language_model, model_labels, path in zip(evaluated, language_models, labels, paths, strict=True):
        with _placed_for_evaluation(language_model, is_own=model.language_model is None):
            results.append(
                evaluate_opened(opened, language_model, model.source, model_labels, run_settings, callbacks, path)
            )
    return results


def _load(model: EvaluatedModel, end_tokens: tuple[str | int, ...], offline: bool) -> LanguageModel:
    """Return a model that is loaded, or load the one that is named.

    Raises:
        MetalmError: It cannot be loaded.
    """
    if model.language_model is not None:
        return model.language_model
    return load(model.source, offline=offline, end_tokens=end_tokens)


def evaluate_opened(
    opened: OpenedEvaluation,
    language_model: LanguageModel,
    source: str,
    seen_labels: Mapping[str, SeenLabel],
    run_settings: RunSettings,
    callbacks: EvaluationCallbacks,
    path: Path | None = None,
) -> Results:
    """Evaluate a loaded model on opened tasks; if a task fails, the results of earlier tasks are still written.

    Args:
        opened: From :func:`open_evaluation`.
        language_model: The model, on its device.
        source: Name of the model in the result file.
        seen_labels: From :meth:`OpenedEvaluation.seen_labels`.
        run_settings: Whether predictions are written and answers cached.
        callbacks: Receivers of what happens.
        path: Result file; None: nothing is written, and answers are not cached.

    Raises:
        MetalmError: A task fails, or nothing could be scored.
    """
    device, created = language_model.device.type, datetime.now(UTC).isoformat(timespec="seconds")
    model_facts = model_record(source, language_model)
    answers = path.parent / ANSWERS_FILE if path is not None and run_settings.answers else None
    answer_cache = AnswerCache(answers, model_hash(model_facts))
    task_results: list[TaskResult] = []
    results: Results | None = None
    try:
        callbacks.on_progress(f"evaluating {source}")
        evaluator = evaluator_of(language_model, opened.settings, answer_cache)
        for task_result in evaluator.evaluate(opened.tasks, callbacks.on_progress):
            task_results.append(task_result)
    finally:
        answer_cache.close()
        if task_results:
            record = result_record(
                model_facts,
                opened.settings,
                task_results,
                opened.missing,
                seen=seen_labels,
                complete=len(task_results) == len(opened.tasks),
                environment=environment(device),
                created=created,
                contamination=opened.contamination,
            )
            if opened.selection.suite is not None:
                record = with_suite(record, opened.selection.suite)
            results = Results(record, tuple(task_results))
            if path is not None:
                results.save(path, samples=run_settings.save_samples)
    if answer_cache.summary():
        callbacks.on_note(f"answers  {answer_cache.summary()}")
    template_results = [result for task_result in task_results for result in task_result.template_results]
    if results is None or all(result.score is None for result in template_results):
        raise MetalmError(
            "nothing could be scored",
            where=source if path is None else str(path),
            why="; ".join(dict.fromkeys(result.note for result in template_results if result.note))
            or "no example fits into the model's positions",
            remedy="use fewer demonstrations, a lower --max-answer-tokens, or a model with more positions",
        )
    callbacks.on_results(results, path)
    return results


@contextmanager
def _placed_for_evaluation(language_model: LanguageModel, is_own: bool) -> Iterator[None]:
    """Context manager that evaluates an own model on the best device and then frees it, and others where they are.

    Args:
        language_model: The model.
        is_own: Whether the evaluation has loaded the model.
    """
    if is_own:
        language_model.to(best_device())
        try:
            yield
        finally:
            language_model.to("cpu")
        return
    with evaluation_mode(language_model.model):
        yield


def best_device() -> str:
    """Device to evaluate on: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
