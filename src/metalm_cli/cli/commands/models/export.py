"""``metalm export``: copying a model, merging adapters, and uploading to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options.shared import Offline
from metalm_cli.common.signals import StopSignals
from metalm_cli.errors import MetalmError


def export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL…", help="A run, model or adapter folder, or a hub id; several with --combine."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write; optional with --push.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into its base's weights, in fp32.")] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Add a modelling file: transformers loads the model without metalm.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="PART", help="Only decoder or encoders.NAME, as a model of its own."),
    ] = None,
    combine: Annotated[
        bool,
        typer.Option(
            "--combine",
            help="One decoder with the encoders of several runs that left it as it was. NAME=RUN names an encoder.",
        ),
    ] = False,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Current location of the adapter's base model.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload to a new hub repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the hub repository private.")] = False,
    offline: Offline = False,
) -> None:
    """Export finished models or adapters as a plain Hugging Face folder, to disk or to the hub.

    Existing folders are not overwritten. If the export fails, no partial folder is left.
    """
    if out is None and push is None:
        raise MetalmError("no destination is given", remedy="pass --out DIR, --push OWNER/NAME, or both")
    if standalone and part is not None:
        raise MetalmError(
            "--standalone and --part exclude each other",
            why="a part is a model of transformers, which needs no modelling file",
            remedy="omit one of them",
        )
    _check_number(sources, combine, {"--merge": merge, "--part": part is not None, "--base": base is not None})
    if private and push is None:
        raise MetalmError("--private does nothing without --push", remedy="add --push OWNER/NAME")
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(offline)
    from metalm_cli.training.export import check_push, check_pushable

    if push is not None:
        check_push(push, offline)
        if not merge and not combine:
            check_pushable(sources[0], offline)
    from tempfile import TemporaryDirectory

    options: dict[str, Any] = {"standalone": standalone, "offline": offline}
    if not combine:
        options |= {"merged": merge, "part": part, "base": base}
    with StopSignals(at_once=True):  # a stop removes the temporary folders
        if out is not None:
            _export(sources, out, options, push, private)
            return
        with TemporaryDirectory(prefix="metalm-") as folder:
            _export(sources, Path(folder) / "export", options, push, private, report_folder=False)


def _check_number(sources: list[str], combine: bool, others: dict[str, bool]) -> None:
    """Check that several models are combined, and that no other option is set for them.

    Raises:
        MetalmError: Several models are named without ``--combine``, or an option does not go with it.
    """
    if not combine and len(sources) > 1:
        raise MetalmError(
            f"{len(sources)} models are named",
            why=", ".join(sources),
            remedy="export them one by one, or add --combine for one decoder with all of their encoders",
        )
    for option, is_set in others.items():
        if combine and is_set:
            raise MetalmError(
                f"--combine and {option} exclude each other",
                why="adapters of combined models are merged, and each is found with its base",
                remedy="omit one of them",
            )


def _export(
    sources: list[str], out: Path, options: dict[str, Any], repo: str | None, private: bool, report_folder: bool = True
) -> None:
    from metalm_cli.training.export import export as write_export
    from metalm_cli.training.export import export_combined, push

    with console.stderr().status("exporting") as status:
        notes: list[str] = []
        if "merged" in options:
            folder, kind = write_export(sources[0], out, **options)
            written = f"{kind} of {folder}"
        else:
            names, notes = export_combined(sources, out, **options)
            written = f"a model with the encoders {', '.join(names)}"
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if report_folder:
            notes.append(f"{written}, {size / 2**20:,.1f} MiB: {out}")
        for note in notes:
            console.stderr().print(note, markup=False, highlight=False, soft_wrap=True)
        if repo is not None:
            status.update(f"uploading to {repo}")
            address = push(out, repo, private=private)
            console.stderr().print(f"uploaded to {address}", markup=False, highlight=False, soft_wrap=True)
