"""Arguments and options of the training commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from metalm_cli.cli.completion import (
    complete_argument,
    complete_cluster,
    complete_collection,
    complete_task,
    complete_task_or_cluster,
)
from metalm_cli.cli.options.shared import AllCards, DataRoot, Offline

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped recipe or the path of one, and values that override its keys.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Run folder. Default: runs/<recipe>-<time>.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in the run folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and probe one pass; do not train.")]
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1,2", help="Train once per seed, into RUN/seed-N (needs --out).")
]
CompareReference = Annotated[
    bool,
    typer.Option("--compare-reference", help="Say where the loss leaves the recipe's reference curve, and why."),
]
TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Train on this task (data.tasks); repeatable.",
        autocompletion=complete_task,
    ),
]
ClusterNames = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        metavar="CLUSTER",
        help="Train on the core tasks of this cluster; repeatable.",
        autocompletion=complete_cluster,
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        metavar="NAME",
        help="Template collection (data.templates.collection).",
        autocompletion=complete_collection,
    ),
]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(
        "--hold-out",
        metavar="CLUSTER",
        help="Hold out this cluster or task, and tasks that leak it; repeatable.",
        autocompletion=complete_task_or_cluster,
    ),
]
EncoderOnly = Annotated[
    bool, typer.Option("--encoder-only", help="Train encoders and connectors only; freeze the decoder.")
]


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training command that are not recipe values."""

    panel: ClassVar[str] = "Run"

    out: OutOption = None
    resume: Resume = False
    dry_run: DryRun = False
    offline: Offline = False
    data_root: DataRoot = None
    seeds: SeedsOption = None
    compare_reference: CompareReference = False


@dataclass(frozen=True)
class TaskOptions:
    """Options of the tasks that are trained on."""

    panel: ClassVar[str] = "Tasks"

    task: TaskNames = None
    cluster: ClusterNames = None
    all_cards: AllCards = False
    templates: Templates = None

    def recipe_values(self) -> dict[str, Any]:
        """Recipe values that the options set, by dotted key; None for options that are not used."""
        return {
            "data.tasks": [*(self.task or []), *(self.cluster or [])] or None,
            "data.all_cards": True if self.all_cards else None,
            "data.templates.collection": self.templates,
        }
