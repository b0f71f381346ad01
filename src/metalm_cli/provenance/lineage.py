"""What a model and its ancestors have seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.hub import model_folder
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import MetalmError
from metalm_cli.runs.data_record import DataSource, source_record

LINEAGE = "lineage.json"


def make_lineage(
    corpus: DataSource, recipe: Recipe, facts: dict[str, Any], ancestors: list[dict[str, Any]]
) -> dict[str, Any]:
    """What ``lineage.json`` of a trained model holds.

    Args:
        corpus: What it was trained on.
        recipe: How.
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
    """The checkpoints that a run begins from; one that metalm made brings its own lineage along.

    Args:
        recipe: The recipe.
        offline: Open no connection. Once the checkpoints are loaded, nothing needs to be downloaded any more.

    Raises:
        MetalmError: A lineage cannot be read.
    """
    model = recipe.model
    parts = [part for part in (model.decoder, *model.encoders.values()) if part is not None]
    named = [(model.checkpoint, None), *((part.checkpoint, part.revision) for part in parts)]
    return [
        {"checkpoint": name, "lineage": _read(model_folder(name, revision=revision, offline=offline, weights=False))}
        for name, revision in named
        if name is not None
    ]


def _read(folder: Path) -> dict[str, Any] | None:
    """The lineage in a run folder, a model folder or an adapter's; None where there is none."""
    places = (folder / "model" / LINEAGE, folder / "adapter" / LINEAGE, folder / LINEAGE)
    found = next((one for one in places if one.is_file()), None)
    if found is None:
        return None
    try:
        lineage = json.loads(found.read_text(encoding="utf-8"))
        if not isinstance(lineage, dict):
            raise ValueError(f"expected an object, got {type(lineage).__name__}")
    except (OSError, ValueError) as error:
        raise MetalmError(
            "the lineage of a checkpoint cannot be read",
            where=str(found),
            why=str(error),
            remedy="restore the file; without it nobody can tell what the model has seen",
        ) from error
    return lineage
