"""Training metrics: sums since the last logged step, and totals since the start of the run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from metalm_cli.objectives import Term
from metalm_cli.sessions import Batch
from metalm_cli.training.distributed.collectives import Collectives

LOGGED_COUNTERS = (
    "trained_tokens",
    "docked_positions",
    "docked_tokens",
    "padded_positions",
    "cut_spans",
    "empty_spans",
    "too_long_spans",
    "lowered_tokens",
    "split_documents",
    "cut_examples",
    "too_long_examples",
    "broken_images",
    "empty_examples",
    "lost_demonstrations",
)
"""Counters in every record, as totals since the start of the run."""
TEACHER_COUNTERS = ("distilled_tokens", "untaught_sessions")
"""Further counters of runs with a teacher."""


class StepMetrics:
    """Accumulator of losses on the device and counters on the host.

    Args:
        collectives: Sums over processes.
        state: From :meth:`state`, to resume from a checkpoint.
    """

    def __init__(self, collectives: Collectives, state: dict[str, Any] | None = None) -> None:
        self.collectives = collectives
        # Rank zero alone restores the counts of all processes.
        state = state if state is not None and collectives.rank == 0 else {}
        self.totals: Counter[str] = Counter(state.get("totals", {}))
        self.counts: Counter[str] = Counter(state.get("counts", {}))
        self.sums: dict[str, Any] = dict(state.get("sums", {}))
        self.coefficients: dict[str, float] = {}
        self.keys: dict[str, tuple[str, str | None]] = {}
        self.denominators: Counter[str] = Counter(state.get("denominators", {}))
        self.timer_start = time.monotonic()
        self.timed_tokens = 0

    def add(self, terms: dict[str, Term], batch: Batch) -> None:
        """Add the terms and counts of a micro-batch of this process."""
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.sum.detach().float()
            self.coefficients[name] = term.coefficient
            self.keys[name] = (term.metric or f"{name}_loss", term.task)
        task_counts = {f"trained_of.{task}": count for task, count in batch.task_targets.items()}
        for counter in (self.counts, self.totals):
            counter.update(batch.counts)
            counter.update(task_counts)
        self.timed_tokens += batch.counts["source_tokens"]

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """Context manager that excludes the time spent in it from tokens per second."""
        start = time.monotonic()
        yield
        self.timer_start += time.monotonic() - start

    def add_denominators(self, counts: dict[str, int]) -> None:
        """Add a step's counts, already summed over processes; only rank zero stores them."""
        if self.collectives.rank == 0:
            self.denominators.update(counts)

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, summed over all processes. Waits for the device."""
        return {
            "totals": self._gather_counts(self.totals),
            "counts": self._gather_counts(self.counts),
            "sums": self._sum_over_processes(),
            "denominators": self._gather_counts(self.denominators),
        }

    def pop_record(self) -> dict[str, Any]:
        """Make the record since the last one and reset the sums. Waits for the device."""
        sums, denominators = self._sum_over_processes(), self._gather_counts(self.denominators)
        counts, totals = self._gather_counts(self.counts), self._gather_counts(self.totals)
        (timed_tokens,) = self.collectives.sum_ints([self.timed_tokens])
        means = {name: value / max(1, denominators.get(name, 0)) for name, value in sums.items()}
        total_loss = sum(self.coefficients[name] * mean for name, mean in means.items())
        record: dict[str, Any] = {"loss": means.pop("loss", total_loss)}
        if "loss" in sums and counts.get("trained_bytes"):
            record["bits_per_byte"] = sums["loss"] / math.log(2) / counts["trained_bytes"]
        for name, mean in means.items():
            metric, task = self.keys[name]
            if not denominators.get(name):
                continue
            if task is None:
                record[metric] = mean
            else:
                record.setdefault(metric, {})[task] = mean
        record["tokens"] = totals.get("source_tokens", 0)
        record["examples"] = totals.get("documents", 0)
        record["tokens_per_second"] = round(timed_tokens / max(time.monotonic() - self.timer_start, 1e-9), 1)
        record["docked_fraction"] = round(counts.get("docked_tokens", 0) / max(1, counts.get("source_tokens", 0)), 4)
        record.update({key: totals.get(key, 0) for key in LOGGED_COUNTERS})
        record.update({key: totals[key] for key in TEACHER_COUNTERS if key in totals})
        self.sums, self.counts, self.denominators = {}, Counter(), Counter()
        self.timer_start, self.timed_tokens = time.monotonic(), 0
        return record

    def _sum_over_processes(self) -> dict[str, float]:
        names = sorted(self.sums)
        return dict(zip(names, self.collectives.sum_floats([float(self.sums[name]) for name in names]), strict=True))

    def _gather_counts(self, counter: Counter[str]) -> dict[str, int]:
        keys = sorted(set().union(*self.collectives.gather_objects(sorted(counter))))
        return dict(zip(keys, self.collectives.sum_ints([counter[key] for key in keys]), strict=True))


def summary(totals: Mapping[str, int]) -> str:
    """Summarise the use of a run's data on one line.

    Args:
        totals: Counters since the start, over all processes.
    """

    def count(name: str) -> str:
        return f"{totals.get(name, 0):,}"

    if not totals.get("split_documents") and "cut_examples" in totals:
        images, empty = totals.get("broken_images", 0), totals.get("empty_examples", 0)
        broken = f"; examples with images that cannot be read: {images:,}" if images else ""
        left_out = f"; examples that templates render empty: {empty:,}" if empty else ""
        return (
            f"data: {count('documents')} examples in {count('source_tokens')} positions, "
            f"{count('docked_positions')} of them docked; {count('padded_positions')} positions padded; "
            f"long fields truncated: {count('cut_examples')}; examples that did not fit: {count('too_long_examples')}"
            f"{left_out}{broken}"
        )
    return (
        f"data: {count('source_tokens')} source tokens of {count('documents')} documents, "
        f"{count('split_documents')} of them split over rows; "
        f"{count('docked_tokens')} tokens docked at {count('docked_positions')} positions; "
        f"{count('padded_positions')} positions padded; "
        f"spans kept causal: {count('cut_spans')} cut, {count('empty_spans')} empty, {count('too_long_spans')} too long"
    )
