"""Scores of the demo with chance levels, and paired differences between the models with their intervals."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.demo.expectations import EXPECTED
from metalm_cli.demo.stages import TWIN_NAMES, DemoSize
from metalm_cli.demo.state import last_record
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.evaluation.metrics.bootstrap import Observations
    from metalm_cli.evaluation.results.schema import SettingRecord, TaskRecord

TABLE_TITLES = {
    "in-context": "pretrained models in context, by number of demonstrations (shots)",
    "instructed": "after instruction tuning, no demonstrations",
    "finetuned": "after multi-task finetuning",
    "frozen-score": "after finetuning on one task, the decoder of the MetaLM frozen",
}
"""Titles of the evaluations whose scores are printed by task."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """Scores of two models on a task, 0 to 100, as means over seeds.

    Args:
        task: Name of the task, without ``world_``.
        shots: Number of demonstrations.
        metric: Name of the metric.
        chance: The better of guessing and the best constant answer; None if unknown.
        metalm: Score of the MetaLM, and its 95% interval.
        twin: Score of the twin, and its 95% interval.
        difference: MetaLM minus twin, and its 95% interval, on the same examples.
        held_out: Whether neither model was trained on the task or on a task that leaks into it.
        seed_differences: Difference in each seed.
        seeds_above_chance: Number of seeds in which the MetaLM is above chance, and the same for the twin.
    """

    task: str
    shots: int
    metric: str
    chance: float | None
    metalm: tuple[float, float, float]
    twin: tuple[float, float, float]
    difference: tuple[float, float, float]
    held_out: bool
    seed_differences: tuple[float, ...]
    seeds_above_chance: tuple[int, int]

    def beats_chance(self, side: int) -> bool:
        """Whether a model (0: MetaLM, 1: twin) is above chance by its interval and in each seed."""
        interval = (self.metalm, self.twin)[side]
        return (
            self.chance is not None
            and interval[1] > self.chance
            and self.seeds_above_chance[side] == len(self.seed_differences)
        )

    @property
    def winner(self) -> int:
        """1 (MetaLM) or 2 (twin) if the interval of the difference excludes 0 and all seeds agree; else 0."""
        _, low, high = self.difference
        if low > 0 and all(difference > 0 for difference in self.seed_differences):
            return 1
        return 2 if high < 0 and all(difference < 0 for difference in self.seed_differences) else 0

    @property
    def is_equal(self) -> bool:
        """Whether the difference is 0 in every resample and every seed."""
        return all(abs(difference) < 1e-9 for difference in (*self.difference, *self.seed_differences))


@dataclass(frozen=True, slots=True)
class ClusterMean:
    """Means of two models over clusters and seeds, 0 to 100.

    Args:
        shots: Number of demonstrations.
        clusters: Number of clusters.
        metalm: Mean of the MetaLM.
        twin: Mean of the twin.
        difference: MetaLM minus twin, and its 95% interval.
    """

    shots: int
    clusters: int
    metalm: float
    twin: float
    difference: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _PairedTask:
    """Observations of two models on a task with a number of demonstrations, a list for each seed."""

    task: str
    record: TaskRecord
    setting: SettingRecord
    metalm: list[list[Observations]]
    twin: list[list[Observations]]

    @property
    def pooled(self) -> tuple[list[Observations], list[Observations]]:
        """Observations of all seeds together: all seeds and both models share the resampled examples."""
        return [observations for seed in self.metalm for observations in seed], [
            observations for seed in self.twin for observations in seed
        ]


def seed_folders(size: DemoSize, out: Path) -> list[Path]:
    """Folder of each seed."""
    return [out / f"seed-{seed}" for seed in size.seeds] if len(size.seeds) > 1 else [out]


def result_rows(folders: Sequence[Path], name: str, twin: int = 1) -> list[ResultRow]:
    """Read an evaluation of all seeds: a row for each task and number of demonstrations.

    All seeds and both models share the resampled examples, so the intervals are those of the mean over these seeds.

    Args:
        folders: Folders of the seeds.
        name: Name of the evaluation.
        twin: Number of the twin, from 1.

    Raises:
        MetalmError: Results are missing or damaged.
    """
    from metalm_cli.evaluation.metrics.bootstrap import compare_paired, percentiles, task_samples

    rows = []
    for case in _paired_tasks(folders, name, twin):
        pooled = case.pooled
        scores = compare_paired(*pooled)
        if scores is None:
            continue
        per_seed = [compare_paired(*sides) for sides in zip(case.metalm, case.twin, strict=True)]
        seed_scores = [scores for scores in per_seed if scores is not None]
        chance = _chance(case.setting)
        intervals = [percentiles(100 * task_samples(side)) for side in pooled]
        rows.append(
            ResultRow(
                case.task.removeprefix("world_"),
                case.setting.shots,
                case.record.metric,
                chance,
                (100 * scores.first, *intervals[0]),
                (100 * scores.second, *intervals[1]),
                (100 * scores.difference, 100 * scores.interval[0], 100 * scores.interval[1]),
                case.record.seen.label == "held out",
                tuple(100 * scores.difference for scores in seed_scores),
                (
                    sum(100 * scores.first > (chance or 0) for scores in seed_scores),
                    sum(100 * scores.second > (chance or 0) for scores in seed_scores),
                ),
            )
        )
    return rows


def _paired_tasks(folders: Sequence[Path], name: str, twin: int) -> Iterator[_PairedTask]:
    """Yield the tasks and numbers of demonstrations for which all seeds and both models have scores."""
    from metalm_cli.evaluation.results.result_reader import read_result

    pairs = [
        (read_result(folder / "results" / f"{name}.json"), read_result(folder / "results" / f"{name}-{twin + 1}.json"))
        for folder in folders
    ]
    for task, record in pairs[0][0].tasks.items():
        for setting in record.settings:
            key = (task, setting.shots)
            metalm_observations = [result.observations.get(key, []) for result, _ in pairs]
            twin_observations = [result.observations.get(key, []) for _, result in pairs]
            if all(metalm_observations) and all(twin_observations):
                yield _PairedTask(task, record, setting, metalm_observations, twin_observations)


def _chance(setting: SettingRecord) -> float | None:
    """The better of guessing and the best constant answer; None if unknown."""
    known = [level for level in (setting.chance.uniform, setting.chance.majority) if level is not None]
    return max(known, default=None)


def result_table(results: Sequence[ResultRow], means: Sequence[ClusterMean] = ()) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a table of scores, with the means over clusters at its end.

    A star marks held-out tasks, unless all tasks are held out.
    """
    with_shots = len({line.shots for line in results}) > 1
    stars = not all(line.held_out for line in results)
    headers = ["task", *(["shots"] if with_shots else []), "chance", "MetaLM", "GPT", "difference (95%)"]

    def row(
        name: str, entry: ResultRow | ClusterMean, chance: float | None, metalm_score: float, twin_score: float
    ) -> list[str]:
        value, low, high = entry.difference
        scores = [_format_score(score) for score in (chance, metalm_score, twin_score)]
        return [name, *([str(entry.shots)] if with_shots else []), *scores, f"{value:+.1f} ({low:+.1f} to {high:+.1f})"]

    rows = [
        row(
            result.task + (" *" if result.held_out and stars else ""),
            result,
            result.chance,
            result.metalm[0],
            result.twin[0],
        )
        for result in results
    ]
    rows += [row(f"mean of {mean.clusters} clusters", mean, None, mean.metalm, mean.twin) for mean in means]
    return headers, rows


def _format_score(score: float | None) -> str:
    return "–" if score is None else f"{score:.1f}"


def conclusions(results: Sequence[ResultRow]) -> list[str]:
    """Sentences with the conclusions that the intervals support."""
    if not results:
        return []
    with_shots = len({result.shots for result in results}) > 1

    def task_names(rows: Iterable[ResultRow]) -> str:
        shots_by_task: dict[str, list[str]] = {}
        for row in rows:
            shots_by_task.setdefault(row.task, []).append(str(row.shots))
        parts = (f"{task} ({', '.join(counts)}-shot)" if with_shots else task for task, counts in shots_by_task.items())
        return ", ".join(parts) or "none"

    result_count, seed_count = len(results), len(results[0].seed_differences)
    with_chance = [result for result in results if result.chance is not None]
    sentences = [
        f"Above chance (95% interval{', and in every seed' if seed_count > 1 else ''}), of {len(with_chance)}: "
        f"MetaLM {task_names(result for result in with_chance if result.beats_chance(0))}; "
        f"GPT {task_names(result for result in with_chance if result.beats_chance(1))}."
    ]
    better = [[result for result in results if result.winner == side] for side in (1, 2)]
    equal = [result for result in results if result.is_equal]
    undecided = result_count - len(better[0]) - len(better[1]) - len(equal)
    sentences.append(
        f"Different ({'interval and every seed' if seed_count > 1 else 'interval'}), of {result_count}: "
        f"MetaLM better on {task_names(better[0])}; GPT better on {task_names(better[1])}"
        + (f"; equal on {task_names(equal)}" if equal else "")
        + (f"; on the other {undecided} the difference may be chance." if undecided else ".")
    )
    seed_label = "One seed" if seed_count == 1 else f"{seed_count} seeds"
    sentences.append(
        f"{seed_label}, models of one to two million parameters, intervals over examples only: of {result_count} "
        f"intervals, about {max(round(result_count / 20, 1), 0.1):g} would exclude 0 by chance. "
        "These results say nothing about models of the paper's size."
    )
    return sentences


def mean_rows(folders: Sequence[Path], twin: int = 1) -> list[ClusterMean]:
    """Means over clusters of the pretrained models, for each number of demonstrations.

    Args:
        folders: Folders of the seeds.
        twin: Number of the twin, from 1.

    Raises:
        MetalmError: Results are missing or damaged.
    """
    import numpy as np

    from metalm_cli.evaluation.metrics.bootstrap import PairedScores, compare_paired, percentiles

    tests: dict[int, dict[str, list[PairedScores]]] = {}
    cases = sorted(_paired_tasks(folders, "in-context", twin), key=lambda case: case.setting.shots)
    for index, case in enumerate(cases):
        scores = compare_paired(*case.pooled, seed=index)  # tasks are resampled independently
        if scores is not None:
            tests.setdefault(case.setting.shots, {}).setdefault(case.record.cluster, []).append(scores)
    means = []
    for shots, clusters in tests.items():
        first, second = (
            float(np.mean([np.mean([getattr(member, side) for member in members]) for members in clusters.values()]))
            for side in ("first", "second")
        )
        samples = np.mean(
            [np.mean([member.samples for member in members], axis=0) for members in clusters.values()], axis=0
        )
        difference = (100 * (first - second), *percentiles(100 * samples))
        means.append(ClusterMean(shots, len(clusters), 100 * first, 100 * second, difference))
    return means


def pretraining_note(folders: Sequence[Path]) -> str:
    """Sentence about the pretraining of the encoder, which only the MetaLM had."""
    counts = [last_record(folder / "encoder", "train").get("tokens") for folder in folders]
    known = [count for count in counts if isinstance(count, int | float)]
    amount = f" on about {round(sum(known) / len(known), -3):,.0f} tokens" if known else ""
    return f"The MetaLM's encoder was pretrained alone{amount}; the GPT has not seen this data."


def single_task_table(folders: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows for the model with the frozen decoder on its finetuning task, a row for each seed.

    Raises:
        MetalmError: Results are missing or damaged.
    """
    from metalm_cli.evaluation.results.result_reader import read_result

    rows = []
    for folder in folders:
        record = read_result(folder / "results" / "frozen-score.json")
        for name, task in record.tasks.items():
            setting = task.settings[0]
            interval_text = (
                "" if setting.interval is None else f" ({setting.interval[0]:.1f} to {setting.interval[1]:.1f})"
            )
            row = [
                name.removeprefix("world_"),
                _format_score(_chance(setting)),
                f"{_format_score(setting.score)}{interval_text}",
            ]
            rows.append([*([folder.name] if len(folders) > 1 else []), *row])
    return [*(["seed"] if len(folders) > 1 else []), "task", "chance", "decoder frozen (95%)"], rows


def expectation_table(results: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows that compare the recorded expectations with the results."""
    rows = []
    for result in results:
        expectation = EXPECTED.get(f"world_{result.task}")
        if expectation is None or result.chance is None:
            continue
        expected = "above chance" if expectation.above_chance else "not"
        models = " and ".join(name for name, side in (("MetaLM", 0), ("GPT", 1)) if result.beats_chance(side))
        rows.append(
            [result.task + (" *" if result.held_out else ""), expected, models or "neither", expectation.reason]
        )
    return ["task", "expected", "above chance", "reason"], rows


# -- decoder hash -----------------------------------------------------------------------------------------------------


MAX_HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file in bytes, by its format."""


def decoder_hash(model: Path) -> str:
    """SHA-256 of names, shapes, types and bytes of the decoder's tensors in a model file.

    Raises:
        MetalmError: The file cannot be read.
    """
    path = model / "model.safetensors"
    state = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, MAX_HEADER_BYTES)))
            names = sorted(name for name in header if name.startswith("decoder."))
            if not names:
                raise ValueError("the file has no decoder tensors")
            for name in names:
                begin, end = header[name]["data_offsets"]
                state.update(f"{name} {header[name]['shape']} {header[name]['dtype']}\n".encode())
                file.seek(8 + size + begin)
                state.update(file.read(end - begin))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise MetalmError("the model cannot be read", where=str(path), why=str(error)) from error
    return state.hexdigest()


def twin_names(size: DemoSize) -> list[str]:
    """Names of the twins, in the order of the result files."""
    return [TWIN_NAMES[twin] for twin in size.twins]
