"""What came out of the demo: scores beside chance, differences with their intervals, and no claim beyond them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.demo.expectations import EXPECTED
from metalm_cli.demo.stages import TWINS, DemoSize
from metalm_cli.demo.state import last_record
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.evaluation.metrics.bootstrap import Observations
    from metalm_cli.evaluation.results.result_reader import SettingRecord, TaskRecord

TABLE = {
    "in-context": "pretrained, untrained for any task, by demonstrations (shots)",
    "instructed": "after instruction tuning, no demonstrations",
    "finetuned": "after multi-task finetuning",
    "frozen-score": "after finetuning on one task, the decoder of the MetaLM frozen",
}
"""The evaluations that are shown task by task."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A task, scored by two models. Scores are 0 to 100, means over seeds.

    Args:
        task: Its name, without ``world_``.
        shots: Demonstrations.
        metric: Its metric.
        chance: The better of guessing and the best constant answer; None: not known.
        metalm: Score of the MetaLM, and its 95% interval.
        twin: Of its twin.
        difference: MetaLM less twin, and its 95% interval, on the same examples.
        held_out: Neither was trained on it, nor on what leaks into it.
        seeds: Differences of each seed alone.
        above: In how many seeds the MetaLM is above chance, and the twin.
    """

    task: str
    shots: int
    metric: str
    chance: float | None
    metalm: tuple[float, float, float]
    twin: tuple[float, float, float]
    difference: tuple[float, float, float]
    held_out: bool
    seeds: tuple[float, ...]
    above: tuple[int, int]

    def beats_chance(self, side: int) -> bool:
        """Whether a model (0: MetaLM, 1: twin) is above chance: its interval, and each seed."""
        interval = (self.metalm, self.twin)[side]
        return self.chance is not None and interval[1] > self.chance and self.above[side] == len(self.seeds)

    @property
    def winner(self) -> int:
        """1 or 2 where the interval of the difference excludes 0 and all seeds agree; else 0."""
        _, low, high = self.difference
        if low > 0 and all(one > 0 for one in self.seeds):
            return 1
        return 2 if high < 0 and all(one < 0 for one in self.seeds) else 0

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all, whichever examples are drawn."""
        return all(abs(one) < 1e-9 for one in (*self.difference, *self.seeds))


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over clusters of two models, 0 to 100, over seeds.

    Args:
        shots: Demonstrations.
        clusters: How many.
        metalm: Of the MetaLM.
        twin: Of its twin.
        difference: MetaLM less twin, and its 95% interval.
    """

    shots: int
    clusters: int
    metalm: float
    twin: float
    difference: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Case:
    """A task with so many demonstrations, in the results of two models: observations of each seed."""

    task: str
    record: TaskRecord
    setting: SettingRecord
    ours: list[list[Observations]]
    theirs: list[list[Observations]]

    @property
    def flat(self) -> tuple[list[Observations], list[Observations]]:
        """Those of all seeds together: examples are resampled alike for all of them, and for both models."""
        return [one for several in self.ours for one in several], [one for several in self.theirs for one in several]


def folders_of(budget: DemoSize, out: Path) -> list[Path]:
    """The folder of each seed."""
    return [out / f"seed-{seed}" for seed in budget.seeds] if len(budget.seeds) > 1 else [out]


def lines_of(folders: Sequence[Path], name: str, twin: int = 1) -> list[ResultRow]:
    """An evaluation of all seeds, task by task and number of demonstrations.

    Examples are resampled alike for all seeds and both models, so that intervals are of the mean over these seeds.

    Args:
        folders: Of the seeds.
        name: Of the evaluation.
        twin: Which twin, from 1.

    Raises:
        MetalmError: Results are not there, or damaged.
    """
    from metalm_cli.evaluation.metrics.bootstrap import paired, percentiles, task_samples

    found = []
    for case in _cases(folders, name, twin):
        flat = case.flat
        test = paired(*flat)
        if test is None:
            continue
        each = [paired(*both) for both in zip(case.ours, case.theirs, strict=True)]
        alone = [one for one in each if one is not None]
        chance = _chance(case.setting)
        ends = [percentiles(100 * task_samples(side)) for side in flat]
        found.append(
            ResultRow(
                case.task.removeprefix("world_"),
                case.setting.shots,
                case.record.metric,
                chance,
                (100 * test.first, *ends[0]),
                (100 * test.second, *ends[1]),
                (100 * test.difference, 100 * test.interval[0], 100 * test.interval[1]),
                case.record.seen.label == "held out",
                tuple(100 * one.difference for one in alone),
                (
                    sum(100 * one.first > (chance or 0) for one in alone),
                    sum(100 * one.second > (chance or 0) for one in alone),
                ),
            )
        )
    return found


def _cases(folders: Sequence[Path], name: str, twin: int) -> Iterator[_Case]:
    """Tasks and demonstrations that every seed and both models have scores for."""
    from metalm_cli.evaluation.results.result_reader import read

    pairs = [
        (read(folder / "results" / f"{name}.json"), read(folder / "results" / f"{name}-{twin + 1}.json"))
        for folder in folders
    ]
    for task, record in pairs[0][0].tasks.items():
        for setting in record.settings:
            at = (task, setting.shots)
            ours = [one.observations.get(at, []) for one, _ in pairs]
            theirs = [other.observations.get(at, []) for _, other in pairs]
            if all(ours) and all(theirs):
                yield _Case(task, record, setting, ours, theirs)


def _chance(setting: SettingRecord) -> float | None:
    """The better of guessing and the best constant answer; None: not known."""
    known = [level for level in (setting.chance.uniform, setting.chance.majority) if level is not None]
    return max(known, default=None)


def table_of(lines: Sequence[ResultRow], means: Sequence[Mean] = ()) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table, with means over clusters below.

    Tasks that are held out have a star, where others are not.
    """
    several = len({line.shots for line in lines}) > 1
    stars = not all(line.held_out for line in lines)
    heads = ["task", *(["shots"] if several else []), "chance", "MetaLM", "GPT", "difference (95%)"]

    def row(name: str, one: ResultRow | Mean, chance: float | None, ours: float, theirs: float) -> list[str]:
        value, low, high = one.difference
        scores = [_said(score) for score in (chance, ours, theirs)]
        return [name, *([str(one.shots)] if several else []), *scores, f"{value:+.1f} ({low:+.1f} to {high:+.1f})"]

    rows = [
        row(line.task + (" *" if line.held_out and stars else ""), line, line.chance, line.metalm[0], line.twin[0])
        for line in lines
    ]
    rows += [row(f"mean of {one.clusters} clusters", one, None, one.metalm, one.twin) for one in means]
    return heads, rows


def _said(score: float | None) -> str:
    return "–" if score is None else f"{score:.1f}"


def sentences(lines: Sequence[ResultRow]) -> list[str]:
    """What the intervals carry, in words."""
    if not lines:
        return []
    several = len({line.shots for line in lines}) > 1

    def named(some: Iterable[ResultRow]) -> str:
        shots: dict[str, list[str]] = {}
        for line in some:
            shots.setdefault(line.task, []).append(str(line.shots))
        told = (f"{task} ({', '.join(counts)}-shot)" if several else task for task, counts in shots.items())
        return ", ".join(told) or "none"

    count, seeds = len(lines), len(lines[0].seeds)
    with_chance = [line for line in lines if line.chance is not None]
    found = [
        f"Above chance (95% interval{', and in every seed' if seeds > 1 else ''}), of {len(with_chance)}: "
        f"MetaLM {named(line for line in with_chance if line.beats_chance(0))}; "
        f"GPT {named(line for line in with_chance if line.beats_chance(1))}."
    ]
    better = [[line for line in lines if line.winner == side] for side in (1, 2)]
    equal = [line for line in lines if line.equal]
    rest = count - len(better[0]) - len(better[1]) - len(equal)
    found.append(
        f"Different ({'interval and every seed' if seeds > 1 else 'interval'}), of {count}: "
        f"MetaLM better on {named(better[0])}; GPT better on {named(better[1])}"
        + (f"; equal on {named(equal)}" if equal else "")
        + (f"; on the other {rest} the difference may be chance." if rest else ".")
    )
    one = "One seed" if seeds == 1 else f"{seeds} seeds"
    found.append(
        f"{one}, models of one to two million parameters, intervals over examples alone: of {count} intervals about "
        f"{max(round(count / 20, 1), 0.1):g} would exclude 0 by chance. Nothing here speaks for the paper's size."
    )
    return found


def mean_rows(folders: Sequence[Path], twin: int = 1) -> list[Mean]:
    """Means over clusters of the pretrained models, for each number of demonstrations.

    Args:
        folders: Of the seeds.
        twin: Which twin, from 1.

    Raises:
        MetalmError: Results are not there, or damaged.
    """
    import numpy as np

    from metalm_cli.evaluation.metrics.bootstrap import PairedScores, paired, percentiles

    tests: dict[int, dict[str, list[PairedScores]]] = {}
    cases = sorted(_cases(folders, "in-context", twin), key=lambda case: case.setting.shots)
    for at, case in enumerate(cases):
        test = paired(*case.flat, seed=at)  # tasks are drawn apart from each other
        if test is not None:
            tests.setdefault(case.setting.shots, {}).setdefault(case.record.cluster, []).append(test)
    found = []
    for shots, clusters in tests.items():
        first, second = (
            float(np.mean([np.mean([getattr(one, side) for one in members]) for members in clusters.values()]))
            for side in ("first", "second")
        )
        drawn = np.mean([np.mean([one.samples for one in members], axis=0) for members in clusters.values()], axis=0)
        difference = (100 * (first - second), *percentiles(100 * drawn))
        found.append(Mean(shots, len(clusters), 100 * first, 100 * second, difference))
    return found


def read_before(folders: Sequence[Path]) -> str:
    """What the MetaLM has had and its twins have not: its encoder's own pretraining."""
    counts = [last_record(folder / "encoder", "train").get("tokens") for folder in folders]
    known = [count for count in counts if isinstance(count, int | float)]
    on = f" on about {round(sum(known) / len(known), -3):,.0f} tokens" if known else ""
    return f"Before, the MetaLM's encoder was pretrained alone{on}; the GPT has read only what both were pretrained on."


def single_task(folders: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    """The model whose decoder was frozen, on the task that it was finetuned on, for each seed.

    Raises:
        MetalmError: Results are not there, or damaged.
    """
    from metalm_cli.evaluation.results.result_reader import read

    rows = []
    for folder in folders:
        record = read(folder / "results" / "frozen-score.json")
        for name, task in record.tasks.items():
            one = task.settings[0]
            ends = "" if one.interval is None else f" ({one.interval[0]:.1f} to {one.interval[1]:.1f})"
            row = [name.removeprefix("world_"), _said(_chance(one)), f"{_said(one.score)}{ends}"]
            rows.append([*([folder.name] if len(folders) > 1 else []), *row])
    return [*(["seed"] if len(folders) > 1 else []), "task", "chance", "decoder frozen (95%)"], rows


def expectations_and_results(lines: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """What was expected above chance beforehand, beside what was found."""
    rows = []
    for line in lines:
        expectation = EXPECTED.get(f"world_{line.task}")
        if expectation is None or line.chance is None:
            continue
        words = "above chance" if expectation.above else "not"
        seen = " and ".join(name for name, side in (("MetaLM", 0), ("GPT", 1)) if line.beats_chance(side))
        rows.append([line.task + (" *" if line.held_out else ""), words, seen or "neither", expectation.why])
    return ["task", "expected", "above chance", "why so expected"], rows


# -- one stage --------------------------------------------------------------------------------------------------------


HEAD = 100_000_000
"""Most bytes of a safetensors header, by its format."""


def decoder_hash(model: Path) -> str:
    """SHA-256 over names, shapes, types and bytes of a model's decoder, as they are in its file.

    Raises:
        MetalmError: The file cannot be read.
    """
    path = model / "model.safetensors"
    state = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(min(size, HEAD)))
            names = sorted(name for name in head if name.startswith("decoder."))
            if not names:
                raise ValueError("it has no decoder beside encoders")
            for name in names:
                low, high = head[name]["data_offsets"]
                state.update(f"{name} {head[name]['shape']} {head[name]['dtype']}\n".encode())
                file.seek(8 + size + low)
                state.update(file.read(high - low))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise MetalmError("the model cannot be read", where=str(path), why=str(error)) from error
    return state.hexdigest()


def twin_names(budget: DemoSize) -> list[str]:
    """The twins in words, in the order of the result files."""
    return [TWINS[twin] for twin in budget.twins]
