"""Reading of suites: shipped ones by name, others by path; suites that a suite includes are read with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.common.paths import expand_user
from metalm_cli.common.registry import aggregates, did_you_mean, metrics
from metalm_cli.config.locate import SUITES, display, is_path, shipped_root
from metalm_cli.config.recipe_errors import RecipeError, RecipeProblem
from metalm_cli.config.yaml_nodes import YamlNode
from metalm_cli.config.yaml_records import build_record, read_node
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.suites.schema import SuiteFile, SuiteTask


@dataclass(frozen=True)
class SuiteEntry:
    """An entry of the tasks of a suite, with the location of the entry (``file:line``)."""

    task: SuiteTask
    where: str


@dataclass(frozen=True)
class Suite:
    """A suite with the suites that it includes.

    Args:
        file: Contents of the suite's file.
        path: The file.
        entries: Entries of the suite, with those of included suites in their places.
        sha256: Hash of the contents, with those of included suites; comments and layout do not change it.
    """

    file: SuiteFile
    path: Path
    entries: tuple[SuiteEntry, ...]
    sha256: str

    @property
    def name(self) -> str:
        """Name of the suite."""
        return self.file.name

    @property
    def aggregates(self) -> tuple[str, ...]:
        """Names of the aggregates, the primary one first."""
        return tuple(dict.fromkeys([self.file.aggregate, *self.file.also]))


def list_suites() -> list[str]:
    """Return the names of the shipped suites, sorted."""
    return sorted(path.stem for path in (shipped_root("recipes") / SUITES).glob("*.yaml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite.

    Args:
        name_or_path: The name of a shipped suite, or a path, which ends in ``.yaml`` or starts with ``/``, ``./``,
            ``../`` or ``~/``.

    Raises:
        MetalmError: The suite is unknown (the message suggests a similar name); or the file is not a suite, is
            empty, has an invalid key or an unknown aggregate (with file, line and key), or includes itself.
    """
    return _load(_find(str(name_or_path), None, ""), ())


def _find(name: str, beside: Path | None, where: str) -> Path:
    """Return the file of a suite; relative paths start at the folder of ``beside``, else at the working directory."""
    if is_path(name):
        path = expand_user(name)
        path = path if beside is None else beside.parent / path
        if path.is_file():
            return path
        problem = "is a folder, not a suite" if path.is_dir() else "not found"
        raise MetalmError(
            f"suite {name} {problem}", where=where or display(path), remedy="give a YAML file or a shipped name"
        )
    names = list_suites()
    if name in names:
        return shipped_root("recipes") / SUITES / f"{name}.yaml"
    remedy = did_you_mean(name, names) or "metalm suites list shows the names; a path ends in .yaml or starts with ./"
    files = [file for file in (name, f"{name}.yaml") if Path(file).exists()]
    if files:
        remedy = f"a path ends in .yaml or starts with ./: ./{files[0]}"
    raise MetalmError(f"no suite is named {name}", where=where, why=f"suites: {', '.join(names)}", remedy=remedy)


def _load(path: Path, including: tuple[Path, ...]) -> Suite:
    """Read a suite that the suites ``including`` include, outermost first."""
    node = read_node(path, "suite")
    file = _build(node, path)
    chain = (*including, path.resolve())
    entries: list[SuiteEntry] = []
    hashes: list[str] = []
    for entry in _entries(node, file):
        if entry.task.suite is None:
            entries.append(entry)
            continue
        included = _find(entry.task.suite, path, entry.where)
        if included.resolve() in chain:
            names = [display(member) for member in (*chain[chain.index(included.resolve()) :], included)]
            raise MetalmError(
                f"suite {file.name} includes itself",
                where=entry.where,
                why=" -> ".join(names),
                remedy="remove an entry",
            )
        inner = _load(included, chain)
        entries += inner.entries
        hashes.append(inner.sha256)
    content = json.dumps([file.model_dump(mode="json"), hashes], sort_keys=True, ensure_ascii=False)
    return Suite(file, path, tuple(entries), hashlib.sha256(content.encode()).hexdigest())


def _build(node: YamlNode, path: Path) -> SuiteFile:
    """Build the contents of a file, and check what the schema alone cannot."""
    if "tasks" not in node.value:
        kind = next((kind for keys, kind in OTHER_FILES if keys <= set(node.value)), "")
        raise MetalmError(
            f"the file is not a suite{kind and f', but a {kind}'}",
            where=display(path),
            why="it has no tasks" if node.value else "it is empty",
            remedy="a suite has name, description and tasks; metalm suites show core is an example",
        )
    file = build_record(node, SuiteFile, path.stem, "suite")
    problems = []
    if file.name != path.stem:
        remedy = f"rename the file to {file.name}.yaml, or change the name"
        problems.append(
            RecipeProblem("name", f"suite {file.name} has the file name {path.name}", remedy, node.value["name"].where)
        )
    for key in ("aggregate", "also"):
        problems += _unknown_names(key, node.value.get(key), "aggregate", aggregates.names())
    for index, entry in enumerate(node.value["tasks"].value):
        if isinstance(entry.value, dict):
            problems += _unknown_names(f"tasks.{index}.metric", entry.value.get("metric"), "metric", metrics.names())
    if problems:
        raise RecipeError(file.name, problems, "suite")
    return file


OTHER_FILES = (
    ({"cluster", "splits"}, "task card"),
    ({"templates", "description"}, "template file"),
    ({"model"}, "recipe"),
    ({"extends"}, "recipe"),
    ({"data"}, "recipe"),
)
"""Keys by which other YAML files of metalm are recognised."""


def _unknown_names(key: str, node: YamlNode | None, kind: str, known: Sequence[str]) -> list[RecipeProblem]:
    """Return a problem for each name in a value, or in a list, that is not known."""
    nodes = [] if node is None or node.value is None else node.value if isinstance(node.value, list) else [node]
    problems = []
    for name in nodes:
        if name.value not in known:
            remedy = did_you_mean(str(name.value), known) or f"choose one of {', '.join(known)}"
            problems.append(RecipeProblem(key, f"no {kind} is named {name.value}", remedy, name.where))
    return problems


def _entries(node: YamlNode, file: SuiteFile) -> Iterator[SuiteEntry]:
    """Yield the entries with their locations; a name alone is a task, or else a cluster or group."""
    for entry_node, entry in zip(node.value["tasks"].value, file.tasks, strict=True):
        yield SuiteEntry(SuiteTask(task=entry) if isinstance(entry, str) else entry, entry_node.where)
