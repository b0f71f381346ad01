"""Evaluation of one or more models on the same inputs; results are written, printed and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli import console
from metalm_cli.common.paths import expand_user
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.results.result_paths import samples_path

if TYPE_CHECKING:
    from metalm_cli.evaluation.evaluator import TaskResult
    from metalm_cli.evaluation.open_tasks import EvaluatedTask
    from metalm_cli.evaluation.results.schema import ResultRecord
    from metalm_cli.evaluation.settings import EvaluationSettings
    from metalm_cli.inference import LanguageModel
    from metalm_cli.provenance.model_history import ModelHistory, SeenLabel
    from metalm_cli.tasks import Card, Cards

ANSWERS_FILE = "answers.sqlite"
"""Name of the answer cache, next to the results."""


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation of models, as ``metalm evaluate`` runs it.

    Args:
        sources: Models; the second and later ones are compared with the first.
        paths: Results file of each model.
        cards: All cards.
        selected: Cards to evaluate.
        data_root: Folder of local data sets.
        offline: Do not open network connections.
        require_held_out: Fail if the lineage does not show that all tasks were held out.
        ignore_cache: Ignore the answers of earlier evaluations.
        save_samples: Write every answer.
    """

    sources: Sequence[str]
    paths: Sequence[Path]
    cards: Cards
    selected: Sequence[Card]
    data_root: Path | None
    offline: bool
    require_held_out: bool
    ignore_cache: bool
    save_samples: bool

    def run(
        self, requested: EvaluationSettings, prompt_options: Mapping[str, Any], contamination: Sequence[Path]
    ) -> None:
        """Evaluate the models, write the results and print them.

        Args:
            requested: Settings that the user has set.
            prompt_options: Template collection and fields of the prompt style that the user has set.
            contamination: Files of training data to compare the examples with.

        Raises:
            MetalmError: An evaluation fails; tasks that were scored before are written.
        """
        from metalm_cli.evaluation.contamination import find_overlap, training_files
        from metalm_cli.evaluation.open_tasks import open_evaluation_tasks
        from metalm_cli.evaluation.resolve_settings import resolve_settings, with_shared_limits
        from metalm_cli.inference import load

        files = training_files(contamination) if contamination else []
        settings, notes = resolve_settings(requested, prompt_options, _history(self.sources[0]))
        for note in notes:
            print_note(note)
        with console.stderr().status("reading the tasks"):
            tasks, missing = open_evaluation_tasks(
                self.cards, self.selected, settings, data_root=self.data_root, offline=self.offline
            )
        report_missing(missing, len(self.selected))
        seen_labels = [self._seen_labels(source, tasks) for source in self.sources]
        overlap = None
        if files:
            with console.stderr().status("comparing with the training data"):
                overlap = find_overlap(tasks, files)
        language_models = []
        for source in self.sources:
            with console.stderr().status(f"loading {source}"):
                language_models.append(load(source, offline=self.offline))
        settings = with_shared_limits(settings, language_models)
        paths = [with_protocol_in_name(path, settings.protocol) for path in self.paths]
        records = []
        for source, path, language_model, labels in zip(self.sources, paths, language_models, seen_labels, strict=True):
            records.append(
                self._evaluate_model(source, path, language_model, settings, tasks, missing, labels, overlap)
            )
            language_model.to("cpu")
        _print_comparisons(records, paths)

    def _seen_labels(self, source: str, tasks: Sequence[EvaluatedTask]) -> Mapping[str, SeenLabel]:
        """Label the tasks as seen or held out in a model's training, by their names and by the content of their files.

        Raises:
            MetalmError: Held-out tasks are required, and a task was not held out.
        """
        history = _history(source)
        known = {name: self.cards[name] for name in history.tasks if name in self.cards.paths}
        files = {task.card.name: task.source.files for task in tasks}
        labels = {card.name: history.label_for(card, known, files.get(card.name, ())) for card in self.selected}
        not_held_out = {name: label for name, label in labels.items() if label.label != "held out"}
        if self.require_held_out and not_held_out:
            raise MetalmError(
                f"{len(not_held_out)} of {len(labels)} tasks are not held out from {source}",
                why="\n    ".join(f"{name}: {label.label}; {label.why}" for name, label in not_held_out.items()),
                remedy="leave out these tasks, use a model that has not seen them, or omit --require-held-out",
            )
        return labels

    def _evaluate_model(
        self,
        source: str,
        path: Path,
        language_model: LanguageModel,
        settings: EvaluationSettings,
        tasks: Sequence[EvaluatedTask],
        missing: Mapping[str, str],
        seen_labels: Mapping[str, SeenLabel],
        contamination: Mapping[str, Any] | None,
    ) -> ResultRecord:
        """Evaluate a model and print its results; if a task fails, the results of earlier tasks are still written."""
        from metalm_cli.evaluation.answer_cache import AnswerCache
        from metalm_cli.evaluation.evaluator import Evaluator
        from metalm_cli.evaluation.results.result_writer import model_hash, model_record, result_record
        from metalm_cli.runs.folder import environment

        device, created = best_device(), datetime.now(UTC).isoformat(timespec="seconds")
        model_facts = model_record(source, language_model.to(device))
        answer_cache = AnswerCache(None if self.ignore_cache else path.parent / ANSWERS_FILE, model_hash(model_facts))
        results: list[TaskResult] = []
        record: ResultRecord | None = None
        try:
            with console.stderr().status(f"evaluating {source}") as status:
                for result in Evaluator(language_model, settings, answer_cache).evaluate(
                    tasks, lambda text: status.update(text)
                ):
                    results.append(result)
        finally:
            answer_cache.close()
            if results:
                record = result_record(
                    model_facts,
                    settings,
                    results,
                    missing,
                    seen=seen_labels,
                    complete=len(results) == len(tasks),
                    environment=environment(device),
                    created=created,
                    contamination=contamination,
                )
                write_results(path, record, results if self.save_samples else None)
        if answer_cache.summary():
            print_note(f"answers  {answer_cache.summary()}")
        if record is None or all(wording.score is None for result in results for wording in result.template_results):
            reasons = dict.fromkeys(
                wording.note for result in results for wording in result.template_results if wording.note
            )
            raise MetalmError(
                "nothing could be scored",
                where=str(path),
                why="; ".join(reasons) or "no example fits into the model's positions",
                remedy="use fewer demonstrations, a lower --max-answer-tokens, or a model with more positions",
            )
        self._print_record(record, path)
        return record

    def _print_record(self, record: ResultRecord, path: Path) -> None:
        from metalm_cli.cli.commands.evaluation.results import print_record

        print_record(record)
        for text in describe_contamination(record):
            print_note(text)
        print_note(f"results  {path}")


def _history(source: str) -> ModelHistory:
    from metalm_cli.provenance.model_history import read_history

    folder = expand_user(source)
    return read_history(folder if folder.is_dir() else None, source)


def _print_comparisons(records: Sequence[ResultRecord], paths: Sequence[Path]) -> None:
    """Compare the first model with each other one."""
    from metalm_cli.cli.commands.evaluation.results import print_comparison

    first, *others = (
        record.model_copy(update={"name": str(path)}) for record, path in zip(records, paths, strict=True)
    )
    for other in others:
        print_comparison(first, other)


def describe_contamination(record: ResultRecord) -> list[str]:
    """Describe the overlap with training data in a line; no line if it was not checked."""
    contamination = record.contamination
    if contamination is None:
        return []
    overlaps = [
        f"{name} {len(task['rows'])} of {task['of']}" for name, task in contamination["tasks"].items() if task["rows"]
    ]
    sentence = f"{', '.join(overlaps)} examples share" if overlaps else "no example shares"
    return [f"{sentence} 13 words in a row with the training data of {len(contamination['files'])} files"]


def write_results(path: Path, record: ResultRecord, results: Sequence[TaskResult] | None) -> None:
    """Write a results file, and optionally every answer next to it."""
    from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
    from metalm_cli.evaluation.results.result_writer import samples_jsonl

    with explain_write_errors(path, "cannot write results", Exit.FAILED):
        path.parent.mkdir(parents=True, exist_ok=True)
    if results is not None:
        write_atomically(samples_path(path), samples_jsonl(results).encode())
    write_atomically(path, record.to_json().encode())


def report_missing(missing: Mapping[str, str], selected_count: int) -> None:
    """Print the tasks without data.

    Raises:
        MetalmError: No task has data.
    """
    if len(missing) == selected_count:
        raise MetalmError(
            f"no data found for {'this task' if selected_count == 1 else f'any of these {selected_count} tasks'}",
            why="\n    ".join(f"{name}: {why}" for name, why in missing.items()),
            remedy="pass --data-root DIR, or set METALM_DATA, to the folder of the data; or choose another --split",
        )
    for name, why in missing.items():
        print_note(f"missing  {name}: {why}")


def print_note(text: str) -> None:
    """Print a line to standard error; a closed terminal or a full disk does not end the command."""
    with suppress(OSError):
        console.stderr().print(text, markup=False, soft_wrap=True)


def best_device() -> str:
    """Device to evaluate on: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def with_protocol_in_name(result_path: Path, protocol: str) -> Path:
    """Replace ``auto`` in the name of a results file by the protocol, with a number if the file exists."""
    if not result_path.name.startswith("auto-"):
        return result_path
    stem = result_path.stem.replace("auto-", f"{protocol}-", 1)
    numbered = (
        result_path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}.json") for number in range(1, 100_000)
    )
    return next(candidate for candidate in numbered if not candidate.exists())
