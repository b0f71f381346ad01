"""``metalm export``: a model folder of its own, adapters merged, and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options.training import Offline
from metalm_cli.errors import MetalmError


def export(
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, model or adapter folder, or a hub id.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The new folder; not needed with --push.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add adapters to the weights of their base, in fp32.")] = False,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Where the base of an adapter lies now.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Upload to a new repository of the hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    offline: Offline = False,
) -> None:
    """Write a finished model or adapter as a plain Hugging Face folder, and upload it.

    Nothing is overwritten, and the folder stands whole or not at all.
    """
    if out is None and push is None:
        raise MetalmError("there is no place to export to", remedy="give --out DIR, --push OWNER/NAME, or both")
    if private and push is None:
        raise MetalmError("--private says how to push, and nothing is pushed", remedy="add --push OWNER/NAME")
    from metalm_cli.cli.silence_libraries import silence_libraries

    silence_libraries(offline)
    from metalm_cli.training.export import check_push, check_pushable

    if push is not None:
        check_push(push, offline)
        if not merge:
            check_pushable(source, offline)
    if out is not None:
        _export(source, out, merge, base, push, private, offline)
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="metalm-") as folder:
        _export(source, Path(folder) / "export", merge, base, push, private, offline, keep=False)


def _export(
    source: str,
    out: Path,
    merge: bool,
    base: str | None,
    repo: str | None,
    private: bool,
    offline: bool,
    keep: bool = True,
) -> None:
    from metalm_cli.training.export import export as write
    from metalm_cli.training.export import push

    with console.stderr().status("exporting") as status:
        folder, what = write(source, out, merged=merge, base=base, offline=offline)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if keep:
            console.stderr().print(
                f"{what} of {folder}, {size / 2**20:,.1f} MiB: {out}", markup=False, highlight=False, soft_wrap=True
            )
        if repo is not None:
            status.update(f"uploading to {repo}")
            address = push(out, repo, private=private)
            console.stderr().print(f"uploaded to {address}", markup=False, highlight=False, soft_wrap=True)
