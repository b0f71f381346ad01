"""Arguments and options that several groups of commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
"""Settings of the application and of each group of commands."""

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of local data sets. Default: $METALM_DATA.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not open network connections.")]
AllCards = Annotated[bool, typer.Option("--all-cards", help="Clusters also include tasks that are not core.")]
CardFolders = Annotated[
    list[Path] | None,
    typer.Option("--cards", metavar="DIR", help="Also load the task cards in this folder; repeatable."),
]
EndTokens = Annotated[
    list[str] | None,
    typer.Option(
        "--end-token",
        metavar="TEXT|ID",
        help="Also end answers at this token of the vocabulary (digits: a token id); repeatable.",
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


def parse_end_tokens(tokens: list[str] | None) -> tuple[str | int, ...]:
    """Return the values of ``--end-token``: digits are token ids, everything else is the text of a token."""
    return tuple(int(token) if token.isascii() and token.isdecimal() else token for token in tokens or ())
