"""Options and callbacks of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.models.assembly import Assembly
from metalm_cli.sessions import Session
from metalm_cli.training.parts.stages import StageContext
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.planning.probe import ProbeResult


@dataclass
class RunOptions:
    """Command-line options of a run."""

    name: str
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    offline: bool = False
    data_root: Path | None = None
    stage: StageContext | None = None


@dataclass
class RunCallbacks:
    """Callbacks that display a run.

    Args:
        show_plan: Displays the plan and the probe's result.
        sample_continuations: Continues validation texts or sessions with the model, for display.
        print_note: Prints a line.
    """

    show_plan: Callable[[RunPlan, ProbeResult | None], None]
    sample_continuations: Callable[[Assembly, list[str | Session]], list[tuple[str, str]]]
    print_note: Callable[[str], None]
