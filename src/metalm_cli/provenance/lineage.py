"""The lineage of a model: the training data of the model and its ancestors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.hub import model_folder
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import MetalmError
from metalm_cli.runs.data_record import DataSource, source_record
from metalm_cli.runs.find import RESULTS

LINEAGE = "lineage.json"


def make_lineage(
    corpus: DataSource, recipe: Recipe, facts: dict[str, Any], ancestors: list[dict[str, Any]]
) -> dict[str, Any]:
    """Make the content of ``lineage.json`` of a trained model.

    Args:
        corpus: Training data.
        recipe: Recipe of the run.
        facts: ``name``, ``steps`` and ``tokens``.
        ancestors: From :func:`read_ancestors`.
    """
    return {
        "format": 1,
        "metalm": metalm_cli.__version__,
        "command": recipe.command,
        "recipe": facts["name"],
        "steps": facts["steps"],
        "tokens": facts["tokens"],
        "data": [source_record(info) for info in corpus.sources],
        "tasks": [],
        "clusters": [],
        "audits": [],
        **facts.get("lineage", {}),
        "ancestors": ancestors,
    }


def read_ancestors(recipe: Recipe, offline: bool = True) -> list[dict[str, Any]]:
    """Read the lineages of the checkpoints that a run starts from; None for checkpoints without a lineage.

    Args:
        recipe: The recipe.
        offline: Open no connection. After the checkpoints are loaded, no download is necessary.

    Raises:
        MetalmError: A lineage cannot be read.
    """
    model = recipe.model
    components = [part for part in (model.decoder, *model.encoders.values(), model.seq2seq) if part is not None]
    checkpoints = [(model.checkpoint, None), *((part.checkpoint, part.revision) for part in components)]
    return [
        {
            "checkpoint": name,
            "lineage": read_lineage(model_folder(name, revision=revision, offline=offline, weights=False)),
        }
        for name, revision in checkpoints
        if name is not None
    ]


def read_lineage(folder: Path) -> dict[str, Any] | None:
    """Read the lineage in the folder of a run, a model or an adapter; None if there is none.

    Raises:
        MetalmError: The lineage cannot be read.
    """
    candidates = [folder / name / LINEAGE for name in (*RESULTS, "")]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return None
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(lineage, dict):
            raise ValueError(f"expected an object, got {type(lineage).__name__}")
    except (OSError, ValueError) as error:
        raise MetalmError(
            "the lineage of a checkpoint cannot be read",
            where=str(path),
            why=str(error),
            remedy="restore the file; without it the training data of the model is unknown",
        ) from error
    return lineage


def ancestors_and_lineages(ancestors: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Iterate over (checkpoint, lineage or None) of all ancestors, the nearest first.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.
    """
    for ancestor in ancestors:
        recorded = ancestor.get("lineage")
        lineage = recorded if isinstance(recorded, Mapping) else None
        yield str(ancestor.get("checkpoint")), lineage
        if lineage is not None:
            yield from ancestors_and_lineages(lineage.get("ancestors") or [])


def trained_files(lineage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Iterate over (SHA-256, name of the source) of the files that the model of a lineage was trained on.

    Files that were streamed have no hash and are left out, and so are entries of another form.
    """
    for source in _mappings(lineage.get("data")):
        for file in _mappings(source.get("files")):
            if isinstance(file.get("sha256"), str):
                yield file["sha256"], str(source.get("name"))


def _mappings(entries: Any) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in (entries if isinstance(entries, list) else []) if isinstance(entry, Mapping))


def trained_tasks(lineage: Mapping[str, Any]) -> list[str]:
    """Tasks that the model of a lineage was trained on, besides those of its ancestors."""
    return [str(name) for name in lineage.get("tasks") or []]
