"""Evaluation of one or more models on the same inputs; results are written, printed and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli import console
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.results.result_paths import samples_path

if TYPE_CHECKING:
    from metalm_cli.evaluation.evaluator import TaskResult
    from metalm_cli.evaluation.open_tasks import EvaluatedTask
    from metalm_cli.evaluation.settings import EvaluationSettings
    from metalm_cli.inference import LanguageModel
    from metalm_cli.provenance.model_history import SeenLabel
    from metalm_cli.tasks import Card, Cards

ANSWERS_FILE = "answers.sqlite"
"""Name of the answer cache, next to the results."""
PROTOCOL_OF_COMMAND = {"finetune": "finetuned", "instruct": "instruct"}
"""Protocol by the command that trained a model; for all other models it is ``in_context``."""


@dataclass
class EvaluationRun:
    """An evaluation of models, as ``metalm evaluate`` runs it.

    Args:
        sources: Models; the second and later ones are compared with the first.
        paths: Results file of each model.
        cards: All cards.
        selected: Cards to evaluate.
        settings: Evaluation settings. Protocol and template may be undecided; template collection and prompt style
            are replaced by those of ``prompt_options`` or of the first model's training.
        prompt_options: Template collection and fields of the prompt style that the user has set.
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
    settings: EvaluationSettings
    prompt_options: Mapping[str, Any]
    data_root: Path | None
    offline: bool
    require_held_out: bool
    ignore_cache: bool
    save_samples: bool

    def run(self, contamination: Sequence[Path]) -> None:
        """Evaluate the models, write the results and print them.

        Raises:
            MetalmError: An evaluation fails; tasks that were scored before are written.
        """
        from metalm_cli.evaluation.contamination import find_overlap as find_overlap
        from metalm_cli.evaluation.contamination import training_files
        from metalm_cli.evaluation.open_tasks import open_evaluation_tasks

        files = training_files(contamination) if contamination else []
        seen_labels = [self._seen_labels(source) for source in self.sources]
        with console.stderr().status("reading the tasks"):
            tasks, missing = open_evaluation_tasks(
                self.cards, self.selected, self.settings, data_root=self.data_root, offline=self.offline
            )
        report_missing(missing, len(self.selected))
        overlap = None
        if files:
            with console.stderr().status("comparing with the training data"):
                overlap = find_overlap(tasks, files)
        language_models = self._load_models()
        records = []
        for index, language_model in enumerate(language_models):
            records.append(self._evaluate_model(index, language_model, tasks, missing, seen_labels[index], overlap))
            language_model.to("cpu")
        self._print_comparisons(records)

    def _seen_labels(self, source: str) -> Mapping[str, SeenLabel]:
        """Label the tasks as seen or held out in a model's training; also decide an undecided protocol and template.

        Raises:
            MetalmError: Held-out tasks are required, and a task was not held out.
        """
        from metalm_cli.provenance.model_history import read_history

        folder = Path(source).expanduser()
        history = read_history(folder if folder.is_dir() else None, source)
        known = {name: self.cards[name] for name in history.tasks if name in self.cards.paths}
        labels = {card.name: history.label_for(card, known) for card in self.selected}
        if source == self.sources[0]:
            self.inherit_prompt_style(history.prompt_settings)
        if self.settings.protocol not in ("finetuned", "in_context", "instruct"):
            protocol: Any = PROTOCOL_OF_COMMAND.get(history.command, "in_context")
            self.settings = replace(self.settings, protocol=protocol)
            print_note(f"protocol {protocol} ({how_it_was_trained(history.command)})")
            self.paths = [with_protocol_in_name(path, protocol) for path in self.paths]
        if not self.settings.template:
            self.settings = replace(
                self.settings, template="paper" if self.settings.protocol == "instruct" else "first"
            )
        not_held_out = {name: label for name, label in labels.items() if label.label != "held out"}
        if self.require_held_out and not_held_out:
            raise MetalmError(
                f"{len(not_held_out)} of {len(labels)} tasks are not held out from {source}",
                why="\n    ".join(f"{name}: {label.label}; {label.why}" for name, label in not_held_out.items()),
                remedy="leave out these tasks, use a model that has not seen them, or omit --require-held-out",
            )
        return labels

    def inherit_prompt_style(self, trained_style: Mapping[str, Any]) -> None:
        """Set template collection and prompt style: user options first, then the style of the model's training."""
        from metalm_cli.templates import PromptStyle

        defaults = {"collection": self.settings.collection, **asdict(self.settings.style)}
        inherited = [
            f"{name} {value}"
            for name, value in trained_style.items()
            if name not in self.prompt_options and value != defaults[name]
        ]
        if inherited:
            print_note(f"prompts  {', '.join(inherited).lower()} (as in the model's training)")
        style_fields = {**defaults, **trained_style, **self.prompt_options}
        collection = style_fields.pop("collection")
        self.settings = replace(self.settings, collection=collection, style=PromptStyle(**style_fields))

    def _load_models(self) -> list[LanguageModel]:
        """Load the models; if there are several, limit input lengths to what all of them can read."""
        from metalm_cli.data.examples.truncation import EncoderLimit
        from metalm_cli.evaluation.prompts import DEFAULT_LENGTH
        from metalm_cli.inference import load
        from metalm_cli.sessions import TextProcessor

        language_models = []
        for source in self.sources:
            with console.stderr().status(f"loading {source}"):
                language_models.append(load(source, offline=self.offline))
        if len(language_models) > 1:
            encoder_limits = tuple(
                EncoderLimit(processor, processor.max_length)
                for language_model in language_models
                for processor in language_model.processors.values()
                if isinstance(processor, TextProcessor)
            )
            lengths = [language_model.model.max_positions or DEFAULT_LENGTH for language_model in language_models]
            length = min([*lengths, *([self.settings.length] if self.settings.length else [])])
            self.settings = replace(self.settings, also_fit=(*self.settings.also_fit, *encoder_limits), length=length)
        return language_models

    def _evaluate_model(
        self,
        index: int,
        language_model: LanguageModel,
        tasks: Sequence[EvaluatedTask],
        missing: Mapping[str, str],
        seen_labels: Mapping[str, SeenLabel],
        contamination: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Evaluate a model and print its results; if a task fails, the results of earlier tasks are still written."""
        from metalm_cli.evaluation.answer_cache import AnswerCache
        from metalm_cli.evaluation.evaluator import Evaluator
        from metalm_cli.evaluation.results.result_writer import model_record, result_record
        from metalm_cli.runs.folder import environment

        source, path = self.sources[index], self.paths[index]
        device, created = best_device(), datetime.now(UTC).isoformat(timespec="seconds")
        model_facts = model_record(source, language_model.to(device))
        answer_cache = AnswerCache(
            None if self.ignore_cache else path.parent / ANSWERS_FILE, model_facts["weights_sha256"]
        )
        results: list[TaskResult] = []
        record: dict[str, Any] = {}
        try:
            with console.stderr().status(f"evaluating {source}") as status:
                for result in Evaluator(language_model, self.settings, answer_cache).evaluate(
                    tasks, lambda text: status.update(text)
                ):
                    results.append(result)
        finally:
            answer_cache.close()
            if results:
                record = result_record(
                    model_facts,
                    self.settings,
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
        if all(wording.score is None for result in results for wording in result.template_results):
            reasons = dict.fromkeys(
                wording.note for result in results for wording in result.template_results if wording.note
            )
            raise MetalmError(
                "nothing could be scored",
                where=str(path),
                why="; ".join(reasons) or "no example fits into the model's positions",
                remedy="use fewer demonstrations, or a model with more positions",
            )
        self._print_record(record, path)
        return record

    def _print_record(self, record: Mapping[str, Any], path: Path) -> None:
        from metalm_cli.cli.commands.evaluation.results import print_record

        print_record(record)
        for text in describe_contamination(record):
            print_note(text)
        print_note(f"results  {path}")

    def _print_comparisons(self, records: Sequence[Mapping[str, Any]]) -> None:
        if len(records) < 2:
            return
        from metalm_cli.cli.commands.evaluation.results import print_comparison

        for record, path in zip(records[1:], self.paths[1:], strict=True):
            print_comparison(records[0], record, str(self.paths[0]), str(path))


def describe_contamination(record: Mapping[str, Any]) -> list[str]:
    """Describe the overlap with training data in a line; no line if it was not checked."""
    contamination = record.get("contamination")
    if contamination is None:
        return []
    overlaps = [
        f"{name} {len(task['rows'])} of {task['of']}" for name, task in contamination["tasks"].items() if task["rows"]
    ]
    sentence = f"{', '.join(overlaps)} examples share" if overlaps else "no example shares"
    return [f"{sentence} 13 words in a row with the training data of {len(contamination['files'])} files"]


def write_results(path: Path, record: Mapping[str, Any], results: Sequence[TaskResult] | None) -> None:
    """Write a results file, and optionally every answer next to it."""
    from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
    from metalm_cli.evaluation.results.result_writer import samples_jsonl

    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with explain_write_errors(path, "cannot write results", Exit.FAILED):
        path.parent.mkdir(parents=True, exist_ok=True)
    if results is not None:
        write_atomically(samples_path(path), samples_jsonl(results).encode())
    write_atomically(path, text.encode())


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
    """Print a line to standard error."""
    console.stderr().print(text, markup=False, soft_wrap=True)


def best_device() -> str:
    """Device to evaluate on: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def how_it_was_trained(command: str) -> str:
    return f"the model was trained by metalm {command}" if command else "how the model was trained is unknown"


def with_protocol_in_name(result_path: Path, protocol: str) -> Path:
    """Replace ``auto`` in the name of a results file by the protocol, with a number if the file exists."""
    if not result_path.name.startswith("auto-"):
        return result_path
    stem = result_path.stem.replace("auto-", f"{protocol}-", 1)
    numbered = (
        result_path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}.json") for number in range(1, 100_000)
    )
    return next(candidate for candidate in numbered if not candidate.exists())
