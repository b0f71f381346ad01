"""``metalm demo``: the whole program in minutes, on data that it generates itself; the study ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalm_cli.errors import MetalmError


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
    """Run the whole program on the built-in miniature world, offline: about four minutes on two CPU cores.

    Trains a tokenizer and an encoder, pretrains a MetaLM and a GPT twin, and tunes both with one cluster held out.
    Then finetunes one task with the interface frozen, scores all models, and writes a report.
    If the demo is stopped, the same command continues it. It is the study demo of metalm reproduce.
    """
    from metalm_cli.cli.commands.project.study_run import StudyRequest, print_plan, run_study
    from metalm_cli.studies.load import DEMO, load_study
    from metalm_cli.studies.stages import default_folder

    if quick and full:
        raise MetalmError("--quick and --full exclude each other", remedy="leave one of them out")
    study = load_study(DEMO)
    scale = "quick" if quick else "full" if full else study.default_scale
    folder = out if out is not None else default_folder(study, scale)
    request = StudyRequest(study, scale, folder, offline=True, rerun=True)
    if dry_run:
        print_plan(request)
        return
    raise typer.Exit(int(run_study(request)))
