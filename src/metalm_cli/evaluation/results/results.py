"""Results of an evaluation in Python: scores, means and intervals by name, predictions, and the result file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from metalm_cli.common.atomic_files import explain_write_errors, write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.evaluator import TaskResult
from metalm_cli.evaluation.results.result_paths import samples_path
from metalm_cli.evaluation.results.result_writer import MEAN, named_scores, samples_jsonl, score_name
from metalm_cli.evaluation.results.schema import ResultRecord, SampleRecord, SettingRecord


@dataclass(frozen=True, repr=False)
class Results:
    """Results of a model.

    With several numbers of demonstrations (``shots=(0, 4)``), methods need the number: ``scores(shots=4)``.

    Args:
        record: Contents of the result file.
        task_results: Results of each task, with the predictions.
    """

    record: ResultRecord
    task_results: tuple[TaskResult, ...] = field(default=(), repr=False)

    def scores(self, shots: int | None = None) -> dict[str, float | None]:
        """Return the score of each task, 0 to 100; None for a task of which no example fits the model.

        Args:
            shots: Number of demonstrations.

        Raises:
            MetalmError: The results have other numbers of demonstrations, or several and ``shots`` is None.
        """
        return {name: setting.score for name, setting in self._settings(shots).items()}

    def intervals(self, shots: int | None = None) -> dict[str, tuple[float, float] | None]:
        """Return the 95% interval of each task's score over examples; None for fewer than two examples.

        Raises:
            MetalmError: As :meth:`scores`.
        """
        return {
            name: None if setting.interval is None else (setting.interval[0], setting.interval[1])
            for name, setting in self._settings(shots).items()
        }

    def clusters(self, shots: int | None = None) -> dict[str, float]:
        """Return the mean score of each cluster: over its core tasks, or over all tasks if no task is core.

        Raises:
            MetalmError: As :meth:`scores`.
        """
        return {name: mean.value for name, mean in self.record.clusters[str(self._shots(shots))].items()}

    def mean(self, shots: int | None = None) -> float | None:
        """Return the mean over clusters; None if nothing could be scored.

        Raises:
            MetalmError: As :meth:`scores`.
        """
        mean = self.record.mean[str(self._shots(shots))]
        return None if mean is None else mean.value

    def named_scores(self) -> dict[str, float]:
        """Return all scores by name: of tasks, of clusters, ``mean``, and aggregates of the suite.

        With several numbers of demonstrations, names are ``rte@0``, ``rte@4``, ….
        """
        scores = named_scores(self.record.tasks, self.record.shots)
        suite = self.record.suite
        for shots, aggregates in ({} if suite is None else suite.aggregates).items():
            for aggregate in aggregates:
                if aggregate.value is not None:
                    scores.setdefault(score_name(aggregate.name, int(shots), self.record.shots), aggregate.value)
        return scores

    def aggregates(self, shots: int | None = None) -> dict[str, float | None]:
        """Return the aggregates of the suite by name, 0 to 100; empty without a suite.

        ``record.suite`` has their intervals, and the tasks of each.

        Raises:
            MetalmError: As :meth:`scores`.
        """
        number = self._shots(shots)
        suite = self.record.suite
        return {} if suite is None else {each.name: each.value for each in suite.aggregates[str(number)]}

    @property
    def samples(self) -> list[SampleRecord]:
        """Predictions for all examples, with inputs and targets."""
        return [SampleRecord.model_validate_json(line) for line in samples_jsonl(self.task_results).splitlines()]

    def save(self, path: str | Path, *, samples: bool = False) -> Path:
        """Write the result file, as ``metalm evaluate`` does.

        Args:
            path: The file; its folder is created.
            samples: Also write every prediction, to ``<stem>.samples.jsonl`` beside it.

        Returns:
            The path of the result file.

        Raises:
            MetalmError: A file cannot be written.
        """
        path = Path(path)
        with explain_write_errors(path, "cannot write results", Exit.FAILED):
            path.parent.mkdir(parents=True, exist_ok=True)
        if samples:
            write_atomically(samples_path(path), samples_jsonl(self.task_results).encode())
        write_atomically(path, self.record.to_json().encode())
        return path

    def __repr__(self) -> str:
        lines = [f"Results of {self.record.source} ({self.record.protocol})"]
        for shots in self.record.shots:
            demonstrations = f", {shots} shots" if len(self.record.shots) > 1 else ""
            intervals = self.intervals(shots)
            for name, score in self.scores(shots).items():
                interval = intervals[name]
                width = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
                lines.append(f"  {name}{demonstrations}: " + ("no score" if score is None else f"{score:.2f}{width}"))
            lines += self._aggregate_lines(shots, demonstrations)
            mean = None if self.record.suite is not None else self.mean(shots)
            if mean is not None and len(self.record.tasks) > 1:
                lines.append(f"  {MEAN}{demonstrations}: {mean:.2f}")
        lines += [f"  {name}: missing, {why}" for name, why in self.record.missing.items()]
        return "\n".join(lines)

    def _aggregate_lines(self, shots: int, demonstrations: str) -> list[str]:
        suite = self.record.suite
        if suite is None:
            return []
        return [
            f"  {suite.name}: {each.name}{demonstrations}: "
            + ("no score" if each.value is None else f"{each.value:.2f}")
            + (f" ({len(each.of)} of {len(suite.tasks)} tasks)" if len(each.of) < len(suite.tasks) else "")
            for each in suite.aggregates[str(shots)]
        ]

    def _settings(self, shots: int | None) -> dict[str, SettingRecord]:
        number = self._shots(shots)
        settings = {name: task.with_shots(number) for name, task in self.record.tasks.items()}
        return {name: setting for name, setting in settings.items() if setting is not None}

    def _shots(self, shots: int | None) -> int:
        """Return the number of demonstrations to report."""
        numbers = self.record.shots
        if shots is None and len(numbers) == 1:
            return numbers[0]
        if shots not in numbers or shots is None:
            available = ", ".join(map(str, numbers))
            raise MetalmError(
                "the number of demonstrations is not given"
                if shots is None
                else f"no results with {shots} demonstrations",
                why=f"the results have {available}",
                remedy=f"pass shots={numbers[-1]}",
            )
        return shots
