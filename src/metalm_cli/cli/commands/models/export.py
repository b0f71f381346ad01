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
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, model or adapter folder, or a hub id.")],
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
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Current location of the adapter's base model.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload to a new hub repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the hub repository private.")] = False,
    offline: Offline = False,
) -> None:
    """Export a finished model or adapter as a plain Hugging Face folder, to disk or to the hub.

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
    if private and push is None:
        raise MetalmError("--private does nothing without --push", remedy="add --push OWNER/NAME")
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(offline)
    from metalm_cli.training.export import check_push, check_pushable

    if push is not None:
        check_push(push, offline)
        if not merge:
            check_pushable(source, offline)
    from tempfile import TemporaryDirectory

    options = {"merged": merge, "standalone": standalone, "part": part, "base": base, "offline": offline}
    with StopSignals(at_once=True):  # a stop removes the temporary folders
        if out is not None:
            _export(source, out, options, push, private)
            return
        with TemporaryDirectory(prefix="metalm-") as folder:
            _export(source, Path(folder) / "export", options, push, private, report_folder=False)


def _export(
    source: str, out: Path, options: dict[str, Any], repo: str | None, private: bool, report_folder: bool = True
) -> None:
    from metalm_cli.training.export import export as write_export
    from metalm_cli.training.export import push

    with console.stderr().status("exporting") as status:
        folder, kind = write_export(source, out, **options)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if report_folder:
            console.stderr().print(
                f"{kind} of {folder}, {size / 2**20:,.1f} MiB: {out}", markup=False, highlight=False, soft_wrap=True
            )
        if repo is not None:
            status.update(f"uploading to {repo}")
            address = push(out, repo, private=private)
            console.stderr().print(f"uploaded to {address}", markup=False, highlight=False, soft_wrap=True)
