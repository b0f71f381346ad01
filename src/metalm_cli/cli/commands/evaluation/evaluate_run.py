"""One call of ``metalm evaluate``: models one after another on the same inputs, their results written and compared."""

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

ANSWERS = "answers.sqlite"
"""Answers that are kept, beside the results."""
TRAINED_FOR = {"finetune": "finetuned", "instruct": "instruct"}
"""Protocol by the command that made a model; all others are scored in context."""


@dataclass
class EvaluationRun:
    """What is to be done.

    Args:
        sources: The models; the others are compared with the first.
        places: The results file of each.
        cards: All cards.
        chosen: Those to evaluate.
        settings: How; its protocol and template may still be open, and collection and style are set by ``given``.
        given: Collection of templates and fields of the style that were asked for; others are as the first model was
            trained.
        data_root: Where data sets lie.
        offline: Open no connection.
        held_out: Refuse tasks that are not held out by the lineage.
        fresh: Use no answers from before.
        samples: Write every answer.
    """

    sources: Sequence[str]
    places: Sequence[Path]
    cards: Cards
    chosen: Sequence[Card]
    settings: EvaluationSettings
    given: Mapping[str, Any]
    data_root: Path | None
    offline: bool
    held_out: bool
    fresh: bool
    samples: bool

    def run(self, contamination: Sequence[Path]) -> None:
        """Evaluate, write, print.

        Raises:
            MetalmError: Something is wrong; what was scored before is written.
        """
        from metalm_cli.evaluation.contamination import find_overlap as compare_words
        from metalm_cli.evaluation.contamination import training_files
        from metalm_cli.evaluation.open_tasks import open_evaluation_tasks

        files = training_files(contamination) if contamination else []
        seen = [self._seen(source) for source in self.sources]
        with console.stderr().status("reading the tasks"):
            tasks, missing = open_evaluation_tasks(
                self.cards, self.chosen, self.settings, data_root=self.data_root, offline=self.offline
            )
        report_missing(missing, len(self.chosen))
        found = None
        if files:
            with console.stderr().status("comparing with the training data"):
                found = compare_words(tasks, files)
        language_models = self._loaded()
        records = []
        for at, language_model in enumerate(language_models):
            records.append(self._evaluated(at, language_model, tasks, missing, seen[at], found))
            language_model.to("cpu")
        self._compared(records)

    def _seen(self, source: str) -> Mapping[str, SeenLabel]:
        """How new the tasks are to a model; decides the protocol if that is open.

        Raises:
            MetalmError: They must be held out, and are not.
        """
        from metalm_cli.provenance.model_history import read_history

        folder = Path(source).expanduser()
        past = read_history(folder if folder.is_dir() else None, source)
        known = {name: self.cards[name] for name in past.tasks if name in self.cards.paths}
        seen = {card.name: past.of(card, known) for card in self.chosen}
        if source == self.sources[0]:
            self.inherit_prompt_style(past.worded)
        if self.settings.protocol not in ("finetuned", "in_context", "instruct"):
            protocol: Any = TRAINED_FOR.get(past.command, "in_context")
            self.settings = replace(self.settings, protocol=protocol)
            print_note(f"protocol {protocol} ({how_it_was_trained(past.command)})")
            self.places = [with_protocol_in_name(place, protocol) for place in self.places]
        if not self.settings.template:
            self.settings = replace(
                self.settings, template="paper" if self.settings.protocol == "instruct" else "first"
            )
        wrong = {name: one for name, one in seen.items() if one.label != "held out"}
        if self.held_out and wrong:
            raise MetalmError(
                f"{len(wrong)} of {len(seen)} tasks are not held out from {source}",
                why="\n    ".join(f"{name}: {one.label}; {one.why}" for name, one in wrong.items()),
                remedy="leave these tasks out, name a model that has not seen them, or leave --require-held-out out",
            )
        return seen

    def inherit_prompt_style(self, trained: Mapping[str, Any]) -> None:
        """Put tasks into words as is asked for, and else as they were when the first model was trained."""
        from metalm_cli.templates import PromptStyle

        usual = {"collection": self.settings.collection, **asdict(self.settings.style)}
        own = [f"{name} {value}" for name, value in trained.items() if name not in self.given and value != usual[name]]
        if own:
            print_note(f"worded   {', '.join(own).lower()} (as the model was trained)")
        worded = {**usual, **trained, **self.given}
        collection = worded.pop("collection")
        self.settings = replace(self.settings, collection=collection, style=PromptStyle(**worded))

    def _loaded(self) -> list[LanguageModel]:
        """The models. Where there are several, all read what each of them can read."""
        from metalm_cli.data.examples.truncation import EncoderLimit
        from metalm_cli.evaluation.prompts import LENGTH
        from metalm_cli.inference import load
        from metalm_cli.sessions import TextProcessor

        language_models = []
        for source in self.sources:
            with console.stderr().status(f"loading {source}"):
                language_models.append(load(source, offline=self.offline))
        if len(language_models) > 1:
            readers = tuple(
                EncoderLimit(one, one.max_length)
                for language_model in language_models
                for one in language_model.processors.values()
                if isinstance(one, TextProcessor)
            )
            lengths = [language_model.model.positions or LENGTH for language_model in language_models]
            length = min([*lengths, *([self.settings.length] if self.settings.length else [])])
            self.settings = replace(self.settings, also=(*self.settings.also, *readers), length=length)
        return language_models

    def _evaluated(
        self,
        at: int,
        language_model: LanguageModel,
        tasks: Sequence[EvaluatedTask],
        missing: Mapping[str, str],
        seen: Mapping[str, SeenLabel],
        contamination: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Ask a model, write what is there even if a task fails, and print."""
        from metalm_cli.evaluation.answer_cache import AnswerCache
        from metalm_cli.evaluation.evaluator import Evaluator
        from metalm_cli.evaluation.results.result_writer import model_record, result_record
        from metalm_cli.runs.folder import environment

        source, place = self.sources[at], self.places[at]
        device, created = best_device(), datetime.now(UTC).isoformat(timespec="seconds")
        facts = model_record(source, language_model.to(device))
        kept = AnswerCache(None if self.fresh else place.parent / ANSWERS, facts["weights_sha256"])
        results: list[TaskResult] = []
        made: dict[str, Any] = {}
        try:
            with console.stderr().status(f"asking {source}") as status:
                for result in Evaluator(language_model, self.settings, kept).evaluate(
                    tasks, lambda text: status.update(text)
                ):
                    results.append(result)
        finally:
            kept.close()
            if results:
                made = result_record(
                    facts,
                    self.settings,
                    results,
                    missing,
                    seen=seen,
                    complete=len(results) == len(tasks),
                    environment=environment(device),
                    created=created,
                    contamination=contamination,
                )
                write(place, made, results if self.samples else None)
        if kept.summary():
            print_note(f"answers  {kept.summary()}")
        if all(one.score is None for result in results for one in result.wordings):
            reasons = dict.fromkeys(one.note for result in results for one in result.wordings if one.note)
            raise MetalmError(
                "nothing could be scored",
                where=str(place),
                why="; ".join(reasons) or "no example fits the positions of the model",
                remedy="ask for fewer demonstrations, or use a model with more positions",
            )
        self._show(made, place)
        return made

    def _show(self, made: Mapping[str, Any], place: Path) -> None:
        from metalm_cli.cli.commands.evaluation.results import print_record

        print_record(made)
        for text in describe_contamination(made):
            print_note(text)
        print_note(f"results  {place}")

    def _compared(self, records: Sequence[Mapping[str, Any]]) -> None:
        if len(records) < 2:
            return
        from metalm_cli.cli.commands.evaluation.results import print_comparison

        for other, place in zip(records[1:], self.places[1:], strict=True):
            print_comparison(records[0], other, str(self.places[0]), str(place))


def describe_contamination(made: Mapping[str, Any]) -> list[str]:
    """What a check against training data found, in words; nothing where none was asked for."""
    found = made.get("contamination")
    if found is None:
        return []
    named = [f"{name} {len(one['rows'])} of {one['of']}" for name, one in found["tasks"].items() if one["rows"]]
    what = f"{', '.join(named)} examples share" if named else "no example shares"
    return [f"{what} 13 words in a row with the training data of {len(found['files'])} files"]


def write(place: Path, made: Mapping[str, Any], results: Sequence[TaskResult] | None) -> None:
    """Write a results file, and every answer beside it."""
    from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
    from metalm_cli.evaluation.results.result_writer import samples_jsonl

    text = json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with explain_write_errors(place, "cannot write results", Exit.FAILED):
        place.parent.mkdir(parents=True, exist_ok=True)
    if results is not None:
        write_atomically(samples_path(place), samples_jsonl(results).encode())
    write_atomically(place, text.encode())


def report_missing(missing: Mapping[str, str], chosen: int) -> None:
    """Name the tasks without data.

    Raises:
        MetalmError: None is left.
    """
    if len(missing) == chosen:
        raise MetalmError(
            f"no data is at hand for {'this task' if chosen == 1 else f'any of these {chosen} tasks'}",
            why="\n    ".join(f"{name}: {why}" for name, why in missing.items()),
            remedy="give --data-root DIR, or METALM_DATA, where the data lies; or name another --split",
        )
    for name, why in missing.items():
        print_note(f"missing  {name}: {why}")


def print_note(text: str) -> None:
    """Say something on stderr."""
    console.stderr().print(text, markup=False, soft_wrap=True)


def best_device() -> str:
    """The device to use."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def how_it_was_trained(command: str) -> str:
    return f"the model was made by metalm {command}" if command else "nothing says how the model was trained"


def with_protocol_in_name(place: Path, protocol: str) -> Path:
    """A results file that names its protocol instead of ``auto``."""
    if not place.name.startswith("auto-"):
        return place
    stem = place.stem.replace("auto-", f"{protocol}-", 1)
    numbered = (place.with_name(f"{stem}{'' if n == 1 else f'-{n}'}.json") for n in range(1, 100_000))
    return next(path for path in numbered if not path.exists())
