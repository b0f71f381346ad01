"""Importing: files of others become a folder of template files, and a report of what did not."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metalm_cli.config.locate import display
from metalm_cli.config.yaml_nodes import MAX_BYTES
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks import Card
from metalm_cli.templates.importers.sandbox import Source, read_in_sandbox
from metalm_cli.templates.template import read_templates

FORMATS: dict[str, tuple[str, str]] = {
    "flan": (".py", "FLAN's templates.py"),
    "promptsource": (".yaml", "promptsource's templates.yaml, or a folder of such"),
    "natural-instructions": (".json", "a task's JSON, or a folder of such"),
}
"""Formats: how their files end, and what they are."""
MAX_FILE = 32 << 20
"""Bytes of a file that is read at all."""
MAX_FILES = 5_000


@dataclass(frozen=True)
class ImportedFile:
    """A template file that was written.

    Args:
        name: Its name, without the ending.
        origin: Where it comes from.
        card: Name of the card that it serves, or empty.
        templates: Names of its templates.
        notes: What to know: names of templates (empty: of the file) and notes.
    """

    name: str
    origin: str
    card: str
    templates: tuple[str, ...]
    notes: tuple[tuple[str, str], ...] = ()


@dataclass
class Report:
    """What an import came to.

    Args:
        folder: Where the files are.
        files: The files.
        refused: What was not imported: file, template (empty: all of it), reason.
    """

    folder: Path
    files: list[ImportedFile] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


def import_templates(format: str, path: Path, out: Path, cards: Mapping[str, Card]) -> Report:
    """Import templates of another toolkit.

    Files are parsed and tried in a process with limits; what is fit is written, all at once.

    Args:
        format: One of :data:`FORMATS`.
        path: A file, or a folder of files.
        out: The folder to be written; must not exist, or be empty.
        cards: Cards that the templates may serve, by name.

    Raises:
        MetalmError: There is no such format or file; nothing is fit; the folder holds something or cannot be written.
    """
    if format not in FORMATS:
        raise MetalmError(f"no format is named {format}", remedy=f"name one of {', '.join(FORMATS)}")
    _check_free(out)
    report = Report(out)
    sources = list(_sources(format, path, report))
    contents: dict[str, dict[str, Any]] = {}
    for answer in read_in_sandbox(format, sources, cards):
        _take(answer, contents, report)
    if not contents:
        first = "; ".join(f"{f'{name} {template}'.strip()}: {why}" for name, template, why in report.refused[:3])
        raise MetalmError(
            "nothing was imported",
            where=display(path),
            why=first or "no templates are in it",
            remedy=f"give {FORMATS[format][1]}",
        )
    _write(contents, out)
    return report


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise MetalmError("the folder for imported templates is taken", where=display(out), remedy="name another")


def _sources(format: str, path: Path, report: Report) -> Iterator[Source]:
    """Files to read; those that are too large are refused unread."""
    ending = FORMATS[format][0]
    if path.is_file():
        found = [(path.name, path)]
    elif path.is_dir():
        found = [(str(one.relative_to(path)), one) for one in sorted(path.rglob(f"*{ending}")) if _plain(one, path)]
    else:
        raise MetalmError(f"there is no {FORMATS[format][1]}", where=display(path), why="no such file or folder")
    if len(found) > MAX_FILES:
        raise MetalmError(
            f"{len(found):,} files are too many to import", where=display(path), why=f"at most {MAX_FILES:,}"
        )
    for name, one in found:
        size = one.stat().st_size
        if size > MAX_FILE:
            report.refused.append((name, "", f"it has {size:,} bytes, expected at most {MAX_FILE:,}"))
        elif not os.access(one, os.R_OK):
            report.refused.append((name, "", "it cannot be read"))
        else:
            yield name, one


def _plain(path: Path, root: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def _take(answer: dict[str, Any], contents: dict[str, dict[str, Any]], report: Report) -> None:
    """Sort an answer into what is written and what is refused. Nothing in it is believed."""
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
        if name in contents:
            report.refused.append((str(file["origin"]), "", f"another file is named {name} already"))
            continue
        contents[name] = {"origin": str(file["origin"]), "templates": file["templates"]}
        notes = tuple((str(template), str(note)) for template, note in file["notes"])
        names = tuple(str(one["name"]) for one in file["templates"])
        report.files.append(ImportedFile(name, str(file["origin"]), str(file["card"]), names, notes))


def _write(contents: Mapping[str, dict[str, Any]], out: Path) -> None:
    """Write all files beside the folder, read them back, and move them there in one step."""
    made: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        made.chmod(0o755)
        for name, content in contents.items():
            text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
            text = text if text.endswith("\n") else text + "\n"
            if len(text.encode()) > MAX_BYTES:
                raise MetalmError(
                    f"the file {name}.yaml would have {len(text):,} characters", why=f"at most {MAX_BYTES:,}"
                )
            (made / f"{name}.yaml").write_text(text, encoding="utf-8")
            read_templates(made / f"{name}.yaml")
        if out.is_dir():
            out.rmdir()
        made.rename(out)
    except OSError as error:
        raise MetalmError(
            "imported templates cannot be written",
            where=display(out),
            why=error.strerror or str(error),
            exit_code=Exit.FAILED,
        ) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, other texts quoted, names plain."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    plain = re.fullmatch(r"[a-z][a-z0-9_-]+", value) and value not in {
        "true",
        "false",
        "null",
        "yes",
        "no",
        "on",
        "off",
    }
    style = None if plain else "|" if "\n" in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
