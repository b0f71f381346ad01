"""``metalm demo``: the whole program in minutes, on data that it generates itself; the study ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.studies.load import Study

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""Pretrained encoder of the demo."""


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: all stages within a minute, with little training.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's comparisons, with three seeds and two twins: about an hour.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the demo. Default: runs/demo.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the stages and their commands; run nothing.")
    ] = False,
) -> None:
    """Run the whole program on data that it generates, offline: about five minutes on two CPU cores.

    Docks MiniLM into a small decoder, tunes both and the decoder's GPT twin on questions about words, and finetunes a
    further task with the decoder frozen. Then scores all models, also on words and tasks that are held out, and writes
    a report. If the demo is stopped, the same command continues it. It is the study demo of metalm reproduce; where
    MiniLM is not installed (make checkpoints), it is the study world, which trains an encoder of its own.
    """
    from metalm_cli.cli.commands.project.study_run import StudyRequest, print_plan, run_study
    from metalm_cli.studies.load import DEMO, load_study
    from metalm_cli.studies.stages import default_folder

    if quick and full:
        raise MetalmError("--quick and --full exclude each other", remedy="leave one of them out")
    scale = "quick" if quick else "full" if full else load_study(DEMO).default_scale
    folder = out if out is not None else default_folder(load_study(DEMO), scale)
    request = StudyRequest(_demo_study(), scale, folder, offline=True, rerun=True)
    if dry_run:
        print_plan(request)
        return
    raise typer.Exit(int(run_study(request)))


def _demo_study() -> Study:
    """Return the study of the demo; without its encoder, print why and return the study of encoders from scratch."""
    from metalm_cli.common.checkpoints.find import find_checkpoint
    from metalm_cli.studies.load import DEMO, WORLD, load_study

    try:
        find_checkpoint(ENCODER, offline=True)
    except MetalmError as error:
        note = f"the demo trains an encoder of its own (study {WORLD}): {error.what}; make checkpoints installs it"
        console.stderr().print(note, markup=False, soft_wrap=True)
        return load_study(WORLD)
    return load_study(DEMO)
