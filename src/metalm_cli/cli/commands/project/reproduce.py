"""``metalm reproduce``: a study with its stages, claims and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_study
from metalm_cli.cli.options.shared import DataRoot, Offline
from metalm_cli.errors import MetalmError


def reproduce(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY|FILE]",
            help="A shipped study, or a file. Default: list the studies.",
            autocompletion=complete_study,
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", help="Size of the study: cpu, gpu, paper. Default: its first one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the study. Default: runs/STUDY-SCALE."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", "--seed", metavar="0,1,2", help="Seeds of all stages. Default: those of the scale."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Stages that run at the same time. Default: that of the scale, or two."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print each stage with its command and cost; run nothing.")
    ] = False,
    over_budget: Annotated[
        bool, typer.Option("--over-budget", help="Run a study that needs more hours than its budget.")
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run finished stages again if the study has changed since.")
    ] = False,
    data_root: DataRoot = None,
    offline: Offline = False,
) -> None:
    """Reproduce an experiment of the paper: train all arms, test the claims, and write a page with the verdicts.

    If the study is stopped, the same command continues it: finished stages are kept, also when seeds are added.
    """
    from metalm_cli.cli.commands.project.study_run import StudyRequest, print_plan, run_study
    from metalm_cli.studies.load import load_study
    from metalm_cli.studies.stages import default_folder

    if study is None:
        _print_studies()
        return
    loaded = load_study(study)
    scale_name = scale or loaded.default_scale
    loaded.scale(scale_name)
    request = StudyRequest(
        loaded,
        scale_name,
        out if out is not None else default_folder(loaded, scale_name),
        _parse_seeds(seeds),
        jobs,
        offline,
        data_root,
        over_budget,
        rerun,
    )
    if dry_run:
        print_plan(request)
        return
    raise typer.Exit(int(run_study(request)))


def _print_studies() -> None:
    """List the shipped studies with their scales and numbers of claims."""
    from metalm_cli.studies.load import list_studies, load_study

    files = [load_study(name).file for name in list_studies()]
    rows = [(file.name, ", ".join(file.scales), str(len(file.claims)), file.description) for file in files]
    console.print_table(("study", "scales", "claims", "description"), rows)


def _parse_seeds(seeds: str | None) -> tuple[int, ...] | None:
    """Parse a list of seeds.

    Raises:
        MetalmError: The text is not a list of distinct numbers.
    """
    if seeds is None:
        return None
    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise MetalmError(f"--seeds {seeds} is not a list of distinct numbers", remedy="write --seeds 0,1,2")
    return tuple(map(int, parts))
