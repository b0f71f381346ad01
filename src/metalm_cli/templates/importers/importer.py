"""Import of other toolkits' templates into a folder of template files, with a report of refused templates."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from metalm_cli.common import registry
from metalm_cli.config.locate import display
from metalm_cli.config.yaml_nodes import MAX_BYTES
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks import Card
from metalm_cli.templates.importers.sandbox import NamedFile, read_in_sandbox
from metalm_cli.templates.template import read_templates

MAX_FILE_BYTES = 32 << 20
"""Maximum bytes of an imported file."""
MAX_FILES = 5_000


@dataclass(frozen=True)
class ImportedFile:
    """A template file that was written.

    Args:
        name: Name of the file, without suffix.
        origin: Origin of the templates.
        card: Name of the card that the templates serve, or empty.
        templates: Names of the templates.
        notes: Pairs of a template name (empty: the whole file) and a note.
    """

    name: str
    origin: str
    card: str
    templates: tuple[str, ...]
    notes: tuple[tuple[str, str], ...] = ()


@dataclass
class ImportReport:
    """Result of an import.

    Args:
        folder: Folder of the files.
        files: The files that were written.
        refused: Triples of file, template (empty: the whole file) and reason.
    """

    folder: Path
    files: list[ImportedFile] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


def import_templates(format: str, path: Path, out: Path, cards: Mapping[str, Card]) -> ImportReport:
    """Import templates from another toolkit.

    Files are parsed and rendered in a sandboxed process; all accepted templates are written in one step.

    Args:
        format: Name of a registered template importer.
        path: A file, or a folder of files.
        out: Folder to write; must be empty or not exist.
        cards: Cards that the templates may be written for, by name.

    Raises:
        MetalmError: Unknown format, no such file, no template accepted, or a folder that is not empty or not writable.
    """
    entry = registry.template_importers.entry(format)
    importer = registry.template_importers.load(format)
    _check_folder_is_free(out)
    report = ImportReport(out)
    sources = list(_sources(importer.suffix, entry.description, path, report))
    contents: dict[str, dict[str, Any]] = {}
    for answer in read_in_sandbox(entry.target, sources, cards):
        _add_answer(answer, contents, report)
    if not contents:
        reasons = "; ".join(f"{f'{name} {template}'.strip()}: {why}" for name, template, why in report.refused[:3])
        raise MetalmError(
            "nothing was imported",
            where=display(path),
            why=reasons or "no templates found",
            remedy=f"give {entry.description}",
        )
    _write(contents, out)
    return report


def _check_folder_is_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise MetalmError("the output folder is not empty", where=display(out), remedy="choose another folder")


def _sources(suffix: str, description: str, path: Path, report: ImportReport) -> Iterator[NamedFile]:
    """Yield the files to read; files that are too large or unreadable are refused."""
    if path.is_file():
        files = [(path.name, path)]
    elif path.is_dir():
        files = [
            (str(file.relative_to(path)), file)
            for file in sorted(path.rglob(f"*{suffix}"))
            if _is_file_inside(file, path)
        ]
    else:
        raise MetalmError(f"found no {description}", where=display(path), why="no such file or folder")
    if len(files) > MAX_FILES:
        raise MetalmError(
            f"too many files to import: {len(files):,}", where=display(path), why=f"at most {MAX_FILES:,}"
        )
    for name, file in files:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            report.refused.append((name, "", f"{size:,} bytes, expected at most {MAX_FILE_BYTES:,}"))
        elif not os.access(file, os.R_OK):
            report.refused.append((name, "", "the file cannot be read"))
        else:
            yield name, file


def _is_file_inside(path: Path, root: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def _add_answer(answer: dict[str, Any], contents: dict[str, dict[str, Any]], report: ImportReport) -> None:
    """Add an answer of the sandboxed process to the contents or to the refused templates; it is untrusted input."""
    source = str(answer["name"])
    if "refused" in answer:
        report.refused.append((source, "", str(answer["refused"])))
        return
    for file in answer["files"]:
        name = re.sub(r"[^a-z0-9_]", "_", str(file["name"]).lower())[:80]
        for template, reason in file["refused"]:
            report.refused.append((str(file["origin"]), str(template), str(reason)))
        if not file["templates"]:
            continue
        notes = tuple((str(template), str(note)) for template, note in file["notes"])
        if name in contents:
            notes = (("", f"another file is named {name}.yaml: rename this one to use it instead"), *notes)
            name = next(other for index in count(2) if (other := f"{name}_{index}") not in contents)
        contents[name] = {"origin": str(file["origin"]), "templates": file["templates"]}
        names = tuple(str(template["name"]) for template in file["templates"])
        report.files.append(ImportedFile(name, str(file["origin"]), str(file["card"]), names, notes))


def _write(contents: Mapping[str, dict[str, Any]], out: Path) -> None:
    """Write all files to a temporary folder, read them back, and rename the folder."""
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        staging.chmod(0o755)
        for name, content in contents.items():
            text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
            text = text if text.endswith("\n") else text + "\n"
            if len(text.encode()) > MAX_BYTES:
                raise MetalmError(
                    f"the file {name}.yaml is too large: {len(text):,} characters", why=f"at most {MAX_BYTES:,}"
                )
            (staging / f"{name}.yaml").write_text(text, encoding="utf-8")
            read_templates(staging / f"{name}.yaml")
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except OSError as error:
        raise MetalmError(
            "cannot write the imported templates",
            where=display(out),
            why=error.strerror or str(error),
            exit_code=Exit.FAILED,
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


class _Dumper(yaml.SafeDumper):
    """Dumper that writes multi-line texts as blocks, other texts quoted, and names plain."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    is_plain = re.fullmatch(r"[a-z][a-z0-9_-]+", value) and value not in {
        "true",
        "false",
        "null",
        "yes",
        "no",
        "on",
        "off",
    }
    style = None if is_plain else "|" if "\n" in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_text)
