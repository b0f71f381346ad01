"""Hours of a study: its plan as text, and the check of its budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.errors import MetalmError
from metalm_cli.studies.display import format_duration
from metalm_cli.studies.load import Study
from metalm_cli.studies.stages import Stage
from metalm_cli.studies.state import shell_command

if TYPE_CHECKING:
    from metalm_cli.studies.cost import TrainingCost


def planned_seconds(stage: Stage, flops: float, flops_per_second: float | None) -> float | None:
    """Seconds of a stage: the recorded time, or else its FLOPs at a speed; None if neither is known."""
    if stage.is_recorded:
        return stage.cost
    return flops / flops_per_second if flops_per_second and flops else None


def check_budget(
    study: Study,
    scale_name: str,
    stages: Sequence[Stage],
    done: set[str],
    seconds: Mapping[str, float],
    over_budget: bool,
) -> None:
    """Refuse a study that needs more hours than its budget.

    Args:
        study: The study.
        scale_name: Name of the scale.
        stages: All its stages.
        done: Names of the finished stages.
        seconds: Running time of each started stage so far.
        over_budget: Whether the user allows it.

    Raises:
        MetalmError: The hours so far and those of the stages that have not finished exceed the budget.
    """
    scale = study.scale(scale_name)
    if scale.hours is None or over_budget:
        return
    from metalm_cli.studies.cost import training_costs

    flops = {}
    if scale.flops_per_second is not None:
        flops = {name: cost.flops for name, cost in training_costs(stages).items()}
    spent = sum(seconds.values())
    open_stages = [stage for stage in stages if stage.name not in done]
    planned = [planned_seconds(stage, flops.get(stage.name, 0.0), scale.flops_per_second) for stage in open_stages]
    left = sum(
        max((value or 0.0) - seconds.get(stage.name, 0.0), 0.0)
        for stage, value in zip(open_stages, planned, strict=True)
    )
    if spent + left > scale.hours * 3600:
        raise MetalmError(
            f"the study {study.name} needs more hours than its budget at the scale {scale_name}",
            why=f"{spent / 3600:.2f} hours spent and {left / 3600:.2f} planned; the budget is {scale.hours:g}",
            remedy="add --over-budget to run it, choose fewer --seeds, or raise hours in the study",
        )


def plan_lines(study: Study, scale_name: str, stages: Sequence[Stage], out: Path) -> Iterator[str]:
    """Yield the plan of a study: each stage with its command and cost, the claims, and the totals."""
    from metalm_cli.studies.cost import training_costs

    scale = study.scale(scale_name)
    costs = training_costs(stages)
    seconds: list[float | None] = []
    for stage in stages:
        cost = costs.get(stage.name)
        planned = planned_seconds(stage, cost.flops if cost else 0.0, scale.flops_per_second)
        seconds.append(planned)
        purpose = f": {stage.purpose}" if stage.purpose else ""
        yield f"# {stage.name}: {stage.summary}{purpose}"
        yield f"# {_cost_text(stage, cost, planned)}"
        yield f"metalm {shell_command(stage.arguments)}"
        yield ""
    yield from _claim_lines(study, scale_name)
    yield f"# {_total_text(seconds, costs)}"
    if scale.hours is not None:
        yield f"# budget: {scale.hours:g} hours of stages"
    yield f"# {len(stages)} stages in {out}; nothing was run"


def _cost_text(stage: Stage, cost: TrainingCost | None, seconds: float | None) -> str:
    from metalm_cli.training.planning.memory import human_bytes
    from metalm_cli.training.planning.plan_display import human_count

    if seconds is None:
        hours = "time unknown: measure one step with the stage's command and --dry-run"
    else:
        origin = "recorded" if stage.is_recorded else "from its FLOPs"
        hours = f"about {_time_text(seconds)} ({origin})"
    if cost is None:
        return hours
    size = "a checkpoint that is not on this machine"
    if cost.parameters is not None:
        size = f"{human_count(cost.parameters)} parameters, {human_count(cost.trained)} trained"
    at_most = "at most " if cost.is_bound else ""
    work = f"{cost.epochs:g} epochs"
    if cost.steps:
        work = f"{cost.steps:,} steps of {at_most}{human_count(cost.positions / cost.steps)} positions"
    flops = f", {at_most}{cost.flops:.1e} FLOPs" if cost.flops else ""
    disk = f", {human_bytes(cost.disk)} of disk" if cost.disk else ""
    return f"{size}; {work}{flops}; {hours}{disk}"


def _claim_lines(study: Study, scale_name: str) -> Iterator[str]:
    claims = [claim for claim in study.file.claims if claim.scales is None or scale_name in claim.scales]
    if not claims:
        return
    yield "# claims at this scale, with the verdict that is expected"
    for claim in claims:
        yield f"# {claim.name}: {claim.statement}"
        yield f"#   expected: {claim.expected}: {claim.reason}"
    yield ""


def _total_text(seconds: Sequence[float | None], costs: Mapping[str, TrainingCost]) -> str:
    from metalm_cli.training.planning.memory import human_bytes

    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    text = f"about {_time_text(sum(known))} of one core or device in all"
    text += f", without {unknown} stages of unknown time" if unknown else ""
    flops, disk = sum(cost.flops for cost in costs.values()), sum(cost.disk for cost in costs.values())
    text += f"; {flops:.1e} FLOPs of training" if flops else ""
    return f"{text}; {human_bytes(disk)} of disk" if disk else text


def _time_text(seconds: float) -> str:
    """Format a time, in days from two days on.

    >>> _time_text(75), _time_text(864_000)
    ('1:15', '10.0 days')
    """
    return format_duration(seconds) if seconds < 172_800 else f"{seconds / 86_400:,.1f} days"
