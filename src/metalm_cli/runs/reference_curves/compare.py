"""Comparison of a run with a reference curve: what differs, where the loss leaves the band, and the usual causes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.runs.data_record import data_differences
from metalm_cli.runs.reference_curves.band import Band, train_band, validation_band
from metalm_cli.runs.reference_curves.curve import ReferenceCurve
from metalm_cli.runs.reference_curves.run_losses import Losses, RunLosses, data_of
from metalm_cli.runs.reference_curves.settings import Difference, setting_differences

IN_A_ROW = 2
"""Records in a row outside the band from which on a run has left it; of one alone, chance is the usual cause."""
UNEXPLAINED = {
    "above": "a part that does not train (What moved in the report), a learning rate that a change of the code applies "
    "to no part, other versions of libraries, a model that was loaded without its weights",
    "below": "answers or validation rows among what the model reads, fewer or easier positions that train, a start "
    "that has trained for longer",
    "not finite": "a learning rate that is too high, a precision that overflows, damaged weights of the start",
}
"""Usual causes by what the loss does, where nothing that is recorded differs."""


@dataclass(frozen=True)
class Compared:
    """Losses beside their band.

    Args:
        band: The band.
        losses: Loss at each of its steps.
    """

    band: Band
    losses: tuple[float, ...]

    @property
    def outside(self) -> list[int]:
        """Indices of the losses outside the band."""
        return [index for index, loss in enumerate(self.losses) if not self.band.holds(index, loss)]

    @property
    def left_at(self) -> int | None:
        """Index from which on :data:`IN_A_ROW` losses are outside, or at which one is not finite; None if inside."""
        outside = set(self.outside)
        needed = min(IN_A_ROW, len(self.losses))
        for index in sorted(outside):
            if not math.isfinite(self.losses[index]) or outside.issuperset(range(index, index + needed)):
                return index
        return None

    def side(self, index: int) -> str:
        """Where a loss outside the band is: ``above``, ``below`` or ``not finite``."""
        loss = self.losses[index]
        if not math.isfinite(loss):
            return "not finite"
        return "above" if loss > self.band.upper[index] else "below"

    def describe(self, index: int) -> str:
        """Describe the loss at a step beside its band."""
        loss = f"loss {self.losses[index]:.4g}" if math.isfinite(self.losses[index]) else "the loss is not finite"
        return f"step {self.band.steps[index]}: {loss}, band {self.band.text(index)}"


@dataclass(frozen=True)
class Comparison:
    """A run beside a reference curve.

    Args:
        curve: The curve.
        run: The run.
        settings: Settings that differ.
        others: Differences of data and start, described.
        versions: Differences of versions and machine, described.
        train: Training losses.
        validation: Validation losses; None if the two share no validated step, or validate on other data.
    """

    curve: ReferenceCurve
    run: RunLosses
    settings: list[Difference]
    others: list[str]
    versions: list[str]
    train: Compared
    validation: Compared | None

    @property
    def is_inside(self) -> bool:
        """Whether the training loss stays in the band."""
        return self.train.left_at is None

    def lines(self) -> Iterator[str]:
        """Yield the comparison as lines of text."""
        curve = self.curve
        versions = ", ".join(f"{key} {curve.recorded[key]}" for key in ("torch", "device") if key in curve.recorded)
        seeds = ", ".join(map(str, curve.seeds))
        steps = f"steps {curve.steps[0]} to {curve.steps[-1]}"
        yield f"reference curve of {curve.recipe}: seeds {seeds}, {steps}; {versions}"
        yield from self._difference_lines()
        yield from self._verdict_lines()
        if not self.is_inside:
            yield f"usual causes: {self._causes()}"

    def _difference_lines(self) -> Iterator[str]:
        if self.settings:
            yield "settings differ (curve → run):"
            yield from (f"  {difference}" for difference in self.settings)
        yield from self.others
        if not self.settings and not self.others:
            yield "settings, data and start are those of the curve"
        if self.versions:
            yield f"versions differ (curve → run): {', '.join(self.versions)}"

    def _verdict_lines(self) -> Iterator[str]:
        train, steps = self.train, self.train.band.steps
        count = f"{len(train.outside)} of {len(steps)} records are outside"
        left = train.left_at
        if left is not None:
            yield f"the training loss leaves the band at {train.describe(left)} ({train.side(left)}); {count}"
        elif train.outside:
            first = train.describe(train.outside[0])
            yield f"the training loss is in the band up to step {steps[-1]}, but for single records ({first})"
        else:
            yield f"the training loss is in the band at all {len(steps)} records up to step {steps[-1]}"
        yield f"last record, {train.describe(len(steps) - 1)}"
        if steps[-1] < self.curve.steps[-1]:
            yield f"the run ends before the curve: compared up to step {steps[-1]} of {self.curve.steps[-1]}"
        if self.validation is not None:
            for index in range(len(self.validation.losses)):
                state = f"outside, {self.validation.side(index)}" if index in self.validation.outside else "inside"
                yield f"validation, {self.validation.describe(index)} ({state})"

    def _causes(self) -> str:
        kinds: dict[str, list[str]] = {}
        for difference in self.settings:
            kinds.setdefault(difference.cause, []).append(difference.key)
        causes = [f"{kind} ({', '.join(keys)})" for kind, keys in kinds.items()]
        causes += ["the data" for text in self.others[:1] if text.startswith(DATA)]
        causes += ["what the run starts from" for text in self.others[-1:] if text.startswith(START)]
        if causes:
            return ", then ".join(causes)
        left = self.train.left_at
        assert left is not None, "causes are named for a run that has left the band"
        versions = "the versions above; " if self.versions else ""
        advice = f"train another seed than {self.run.seed} to tell chance from a fault"
        return f"nothing that is recorded explains it; {versions}{UNEXPLAINED[self.train.side(left)]}; {advice}"


DATA = "data differ: "
START = "start differs (curve → run): "


def compare_with_curve(run: RunLosses, curve: ReferenceCurve) -> Comparison:
    """Compare a run with a curve at the steps that both have logged.

    Raises:
        MetalmError: The run is of another recipe, or shares no step with the curve.
    """
    if run.recipe != curve.recipe:
        raise MetalmError(
            f"the run is of recipe {run.recipe or 'without a name'}, and the curve of {curve.recipe}",
            where=str(run.path),
            remedy="name the curve of the run's recipe with --reference",
        )
    steps = sorted(set(run.train.steps) & set(curve.steps))
    if not steps:
        raise MetalmError(
            "the run and the reference curve share no logged step",
            where=str(run.path),
            why=f"the run has logged steps {run.train.steps[0]} to {run.train.steps[-1]}, and the curve has "
            f"{curve.steps[0]} to {curve.steps[-1]}",
            remedy=f"train for at least {curve.steps[0]} steps, with train.log_every a multiple of "
            f"{curve.steps[0]} and at most {curve.steps[-1]}",
        )
    band = train_band(steps, [Losses(tuple(curve.steps), tuple(seed)).over(steps) for seed in curve.losses])
    settings = setting_differences(curve.settings, run.settings)
    others = [f"{DATA}{'; '.join(changes)}"] if (changes := _data_changes(curve, run)) else []
    others += [f"{START}{'; '.join(changes)}"] if (changes := _start_changes(curve, run)) else []
    return Comparison(
        curve=curve,
        run=run,
        settings=settings,
        others=others,
        versions=_changes(curve.recorded, {key: run.environment.get(key, "?") for key in curve.recorded}, "date"),
        train=Compared(band, tuple(run.train.over(steps))),
        validation=_compare_validation(run, curve, settings, others, band),
    )


def _compare_validation(
    run: RunLosses, curve: ReferenceCurve, settings: list[Difference], others: list[str], train: Band
) -> Compared | None:
    steps = sorted(set(run.validation.steps) & set(curve.validation_steps))
    other_rows = any(item.key.startswith("data.") for item in settings) or any(text.startswith(DATA) for text in others)
    if not steps or other_rows:
        return None
    indices = [curve.validation_steps.index(step) for step in steps]
    band = validation_band(steps, [[seed[index] for index in indices] for seed in curve.validation_losses], train)
    by_step = dict(zip(run.validation.steps, run.validation.values, strict=True))
    return Compared(band, tuple(by_step[step] for step in steps))


def _data_changes(curve: ReferenceCurve, run: RunLosses) -> list[str]:
    if run.sources is None:
        return ["the run has no record of its data"]
    return data_differences(data_of(curve), data_of(run))


def _start_changes(curve: ReferenceCurve, run: RunLosses) -> list[str]:
    if run.start is None:
        return ["the run has no record of it"] if curve.start else []
    return _changes(curve.start, run.start)


def _changes(reference: Mapping[str, Any], run: Mapping[str, Any], *ignored: str) -> list[str]:
    keys = dict.fromkeys((*reference, *run))
    return [
        f"{key} {reference.get(key, 'from scratch')} → {run.get(key, 'from scratch')}"
        for key in keys
        if key not in ignored and reference.get(key) != run.get(key)
    ]
