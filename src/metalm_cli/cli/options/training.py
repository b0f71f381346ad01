"""Training."""

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
        help="A shipped name or a path, and values to set over it.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]


BaseOption = Annotated[
    str | None, typer.Option("--model", metavar="BASE", help="A finished MetaLM to go on from (model.checkpoint).")
]


OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="The run folder; default runs/<recipe>-<time>.")
]


Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, probe one pass, and train nothing.")]


Offline = Annotated[bool, typer.Option("--offline", help="Open no network connection.")]


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where data sets lie; default $METALM_DATA.")
]


SeedsOption = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1,2", help="Train once for each seed, into RUN/seed-N.")
]
