"""What is logged of training: sums since the last logged step, and totals since the beginning."""

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

LOGGED = (
    "trained_tokens",
    "docked_positions",
    "docked_tokens",
    "padded_positions",
    "cut_spans",
    "empty_spans",
    "too_long_spans",
    "lowered_tokens",
    "empty_documents",
    "excluded_documents",
    "validation_documents",
    "split_documents",
    "cut_examples",
    "too_long_examples",
    "lost_demonstrations",
)
"""Counters that every record states, since the beginning of the run."""


LEFT = {"too_long": "too long", "validation": "held out"}
"""Names of counters, as people say them."""


class StepMetrics:
    """Collects losses on the device and counters on the host.

    Args:
        control: Adds up over processes.
        state: From :meth:`state`, to go on from a checkpoint.
    """

    def __init__(self, control: Collectives, state: dict[str, Any] | None = None) -> None:
        self.control = control
        # One process takes over what all had counted.
        state = state if state is not None and control.rank == 0 else {}
        self.totals: Counter[str] = Counter(state.get("totals", {}))
        self.counts: Counter[str] = Counter(state.get("counts", {}))
        self.sums: dict[str, Any] = dict(state.get("sums", {}))
        self.coefficients: dict[str, float] = {}
        self.denominators: Counter[str] = Counter(state.get("denominators", {}))
        self.since = time.monotonic()
        self.timed = 0

    def add(self, terms: dict[str, Term], batch: Batch) -> None:
        """Add a micro-batch of this process."""
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.sum.detach().float()
            self.coefficients[name] = term.coefficient
        self.counts.update(batch.counts)
        self.totals.update(batch.counts)
        self.timed += batch.counts["source_tokens"]

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """What is done inside is no training: its time does not count."""
        begun = time.monotonic()
        yield
        self.since += time.monotonic() - begun

    def divide(self, counts: dict[str, int]) -> None:
        """Add a step's counts of all processes, once."""
        if self.control.rank == 0:
            self.denominators.update(counts)

    def state(self) -> dict[str, Any]:
        """All that is counted, over all processes, for a checkpoint. Waits for the device."""
        return {
            "totals": self._added(self.totals),
            "counts": self._added(self.counts),
            "sums": self._summed(),
            "denominators": self._added(self.denominators),
        }

    def read(self) -> dict[str, Any]:
        """The record since the last one; starts anew. Waits for the device."""
        sums, denominators = self._summed(), self._added(self.denominators)
        counts, totals = self._added(self.counts), self._added(self.totals)
        (timed,) = self.control.total([self.timed])
        means = {name: value / max(1, denominators.get(name, 0)) for name, value in sums.items()}
        told = {name: mean for name, mean in means.items() if "." in name}
        means = {name: mean for name, mean in means.items() if name not in told}
        whole = sum(self.coefficients[name] * mean for name, mean in means.items())
        record: dict[str, Any] = {"loss": means.pop("loss", whole)}
        if means:
            record.update({name if "_" in name else f"{name}_loss": mean for name, mean in means.items()})
        elif not told and counts.get("trained_bytes"):
            record["bits_per_byte"] = sum(sums.values()) / math.log(2) / counts["trained_bytes"]
        for name, mean in told.items():
            group, _, part = name.partition(".")
            if denominators.get(name):
                record.setdefault(group, {})[part] = mean
        record["tokens"] = totals.get("source_tokens", 0)
        record["examples"] = totals.get("documents", 0)
        record["tokens_per_second"] = round(timed / max(time.monotonic() - self.since, 1e-9), 1)
        record["docked_fraction"] = round(counts.get("docked_tokens", 0) / max(1, counts.get("source_tokens", 0)), 4)
        record.update({key: totals.get(key, 0) for key in LOGGED})
        self.sums, self.counts, self.denominators = {}, Counter(), Counter()
        self.since, self.timed = time.monotonic(), 0
        return record

    def _summed(self) -> dict[str, float]:
        names = sorted(self.sums)
        return dict(zip(names, self.control.total_floats([float(self.sums[name]) for name in names]), strict=True))

    def _added(self, counter: Counter[str]) -> dict[str, int]:
        keys = sorted(set().union(*self.control.collect(sorted(counter))))
        return dict(zip(keys, self.control.total([counter[key] for key in keys]), strict=True))


def summary(totals: Mapping[str, int]) -> str:
    """What became of the data of a run, on one line.

    Args:
        totals: Counters since the beginning, over all processes.
    """

    def said(*names: str, of: str) -> str:
        return ", ".join(f"{totals.get(f'{name}_{of}', 0):,} {LEFT.get(name, name)}" for name in names)

    def count(name: str) -> str:
        return f"{totals.get(name, 0):,}"

    if not totals.get("split_documents") and not totals.get("empty_documents") and "cut_examples" in totals:
        return (
            f"data: {count('documents')} examples in {count('source_tokens')} positions, "
            f"{count('docked_positions')} of them docked; {count('padded_positions')} positions padded; "
            f"long fields cut: {count('cut_examples')}; examples that did not fit: {count('too_long_examples')}"
        )
    return (
        f"data: {count('source_tokens')} source tokens of {count('documents')} documents, "
        f"{count('split_documents')} of them split over rows; "
        f"{count('docked_tokens')} tokens docked at {count('docked_positions')} positions; "
        f"{count('padded_positions')} positions padded; "
        f"spans left causal: {said('cut', 'empty', 'too_long', of='spans')}; "
        f"documents left out: {said('empty', 'excluded', 'validation', of='documents')}"
    )
