"""Training records: per-task means are under their task, whatever its name, and a state continues the sums."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from metalm_cli.objectives import Term
from metalm_cli.sessions import Batch
from metalm_cli.training.distributed.collectives import Collectives
from metalm_cli.training.step_metrics import StepMetrics

COLLECTIVES = Collectives(SimpleNamespace(process_index=0, num_processes=1))
TERMS = {
    "loss": Term(torch.tensor(6.0), 0.0),
    "task_average": Term(torch.tensor(9.0), metric="task_average"),
    "task_loss.a.b_c": Term(torch.tensor(4.0), 0.0, metric="task_loss", task="a.b_c"),
    "task_loss.unused": Term(torch.tensor(0.0), 0.0, metric="task_loss", task="unused"),
}
DENOMINATORS = {"loss": 3, "task_average": 3, "task_loss.a.b_c": 2, "task_loss.unused": 0}


def add_step(step_metrics: StepMetrics) -> None:
    step_metrics.add(TERMS, Batch({}, counts={"source_tokens": 5}, task_targets={0: 2}))
    step_metrics.add_denominators(DENOMINATORS)


def test_means_of_tasks_are_under_their_names() -> None:
    step_metrics = StepMetrics(COLLECTIVES)
    add_step(step_metrics)
    record = step_metrics.pop_record()
    assert (record["loss"], record["task_average"], record["task_loss"]) == (2.0, 3.0, {"a.b_c": 2.0})


def test_terms_without_a_key_are_losses() -> None:
    step_metrics = StepMetrics(COLLECTIVES)
    step_metrics.add(
        {"generator": Term(torch.tensor(2.0)), "detector": Term(torch.tensor(1.0), 50.0)},
        Batch({}, counts={"source_tokens": 1}),
    )
    step_metrics.add_denominators({"generator": 1, "detector": 1})
    record = step_metrics.pop_record()
    assert (record["loss"], record["generator_loss"], record["detector_loss"]) == (52.0, 2.0, 1.0)


def test_a_state_has_the_names_of_earlier_versions_and_continues() -> None:
    first = StepMetrics(COLLECTIVES)
    add_step(first)
    state = first.state()
    assert state["totals"] == {"source_tokens": 5, "trained_of.0": 2}
    assert state["denominators"] == DENOMINATORS
    assert state["sums"].keys() == TERMS.keys()
    resumed = StepMetrics(COLLECTIVES, state)
    for step_metrics in (first, resumed):
        add_step(step_metrics)
    assert resumed.state() == first.state()
