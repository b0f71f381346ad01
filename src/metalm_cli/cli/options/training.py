"""Arguments and options of the training commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli.completion import complete_argument

if TYPE_CHECKING:
    pass


Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped recipe or the path of one, and values that override its keys.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]


BaseOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="BASE",
        help="Model to start from: a run folder, a model folder or a hub id (model.checkpoint).",
    ),
]


OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Run folder. Default: runs/<recipe>-<time>.")
]


Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in the run folder.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and probe one pass; do not train.")]


Offline = Annotated[bool, typer.Option("--offline", help="Do not open network connections.")]


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of local data sets. Default: $METALM_DATA.")
]


SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1,2", help="Train once per seed, into RUN/seed-N (needs --out).")
]
