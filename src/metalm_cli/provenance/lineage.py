"""The lineage of a model: the training data of the model and its ancestors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.checkpoints.find import find_checkpoint
from metalm_cli.common.checkpoints.origin import Checkpoint, origin_of_record
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.published_training import PublishedTraining, published_training
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
    """Read the lineages of the checkpoints that a run starts from.

    Each ancestor has ``checkpoint`` (its name), ``part`` (``model``, ``decoder``, ``encoders.text``), ``lineage`` (None
    for a checkpoint that metalm did not train) and, if known, ``origin``, ``published`` (its published training data)
    and ``description``.

    Args:
        recipe: The recipe.
        offline: Open no connection. After the checkpoints are loaded, no download is necessary.

    Raises:
        MetalmError: A lineage cannot be read.
    """
    model = recipe.model
    checkpoints: list[tuple[str, str | None, str | None]] = [("model", model.checkpoint, None)]
    if model.decoder is not None:
        checkpoints.append(("decoder", model.decoder.checkpoint, model.decoder.revision))
    checkpoints += [(f"encoders.{name}", part.checkpoint, part.revision) for name, part in model.encoders.items()]
    if model.seq2seq is not None:
        checkpoints.append(("seq2seq", model.seq2seq.checkpoint, model.seq2seq.revision))
    return [
        ancestor_record(part, find_checkpoint(name, revision=revision, offline=offline, weights=False))
        for part, name, revision in checkpoints
        if name is not None
    ]


LOCAL_PLACES = ("folder", "METALM_CHECKPOINTS")
"""Places whose paths a lineage does not record: they mean nothing on another machine."""


def ancestor_record(part: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Record of a checkpoint that a part, or the whole model, starts from.

    Raises:
        MetalmError: Its lineage cannot be read.
    """
    lineage = read_lineage(checkpoint.folder)
    published = published_training(checkpoint) if lineage is None else None
    record: dict[str, Any] = {"checkpoint": checkpoint.name, "part": part, "lineage": lineage}
    if checkpoint.origin.place not in LOCAL_PLACES:
        record["origin"] = checkpoint.origin.record()
    if published is not None:
        record["published"] = published.record()
    if len(record) > 3:
        origin = str(checkpoint.origin) if "origin" in record else ""
        record["description"] = "; ".join(filter(None, [origin, _describe_training(published)]))
    return record


def _describe_training(published: PublishedTraining | None) -> str:
    if published is None:
        return ""
    more = f" and more ({published.incomplete})" if published.incomplete else ""
    return f"trained on {', '.join(published.data_sets)}{more}, by {published.source}"


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


def all_ancestors(ancestors: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the records of all ancestors, the nearest first.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.
    """
    for ancestor in ancestors:
        yield ancestor
        lineage = ancestor.get("lineage")
        if isinstance(lineage, Mapping):
            yield from all_ancestors(_mappings(lineage.get("ancestors")))


def describe_checkpoints(ancestors: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Describe the checkpoints that a run starts from, by part, without paths.

    A model of metalm is described by its recipe and steps and those of what it started from, another checkpoint by its
    name and, if it is known, the beginning of its SHA-256.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.

    Example:
        >>> lineage = {"recipe": "small", "steps": 300, "ancestors": [{"part": "decoder", "checkpoint": "gpt2"}]}
        >>> describe_checkpoints([{"part": "model", "checkpoint": "runs/a/model", "lineage": lineage}])
        {'model': 'small, 300 steps, from gpt2 (decoder)'}
    """
    return {str(ancestor.get("part") or "model"): _describe_checkpoint(ancestor) for ancestor in ancestors}


def _describe_checkpoint(ancestor: Mapping[str, Any]) -> str:
    lineage = ancestor.get("lineage")
    if isinstance(lineage, Mapping):
        inner = describe_checkpoints(_mappings(lineage.get("ancestors")))
        origins = " and ".join(text if part == "model" else f"{text} ({part})" for part, text in inner.items())
        return f"{lineage.get('recipe')}, {lineage.get('steps')} steps" + (f", from {origins}" if origins else "")
    origin = origin_of_record(ancestor.get("origin"))
    digest = f", sha256 {origin.sha256[:12]}" if origin is not None and origin.sha256 else ""
    name = str(ancestor.get("checkpoint"))
    return f"{Path(name).name if Path(name).is_absolute() else name}{digest}"


def ancestors_and_lineages(ancestors: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Iterate over (checkpoint, lineage or None) of all ancestors, the nearest first.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.
    """
    for ancestor in all_ancestors(ancestors):
        lineage = ancestor.get("lineage")
        yield str(ancestor.get("checkpoint")), lineage if isinstance(lineage, Mapping) else None


def pretrained_parts(ancestors: Iterable[Mapping[str, Any]], parts: Iterable[str]) -> dict[str, str]:
    """Return the parts whose weights come from an outside checkpoint: one that has no lineage.

    Connectors and logit scales are left out, and parts of which a lineage of version 0.1 does not say which checkpoint
    they start from.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.
        parts: Parts of the model, by key path.

    Returns:
        Name of the outside checkpoint by key path of the part.
    """
    names = [name for name in parts if not name.startswith(("connectors.", "logit_scale"))]
    origins: dict[str, str] = {}
    for ancestor in ancestors:
        part, lineage = ancestor.get("part"), ancestor.get("lineage")
        inner = list(_mappings(lineage.get("ancestors"))) if isinstance(lineage, Mapping) else None
        if part in names:
            outside = ancestor if inner is None else _first_outside(inner, str(part))
            if outside is not None:
                origins[str(part)] = str(outside.get("checkpoint"))
        elif part in ("model", None) and inner is not None:
            origins.update(pretrained_parts(inner, names))
        elif part == "model":
            origins.update(dict.fromkeys(names, str(ancestor.get("checkpoint"))))
    return {name: origins[name] for name in names if name in origins}


def _first_outside(ancestors: Iterable[Mapping[str, Any]], part: str) -> Mapping[str, Any] | None:
    """Return the nearest ancestor that metalm did not train; one of the kind of the part before others."""
    outside = [entry for entry in all_ancestors(ancestors) if not isinstance(entry.get("lineage"), Mapping)]
    kind = part.partition(".")[0]
    same_kind = [entry for entry in outside if str(entry.get("part")).partition(".")[0] == kind]
    return next(iter([*same_kind, *outside]), None)


def dequantised_parts(ancestors: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Block format that the weights of a part were dequantised from, by part.

    Args:
        ancestors: From :func:`read_ancestors`, or from a lineage.
    """
    parts: dict[str, str] = {}
    for ancestor in all_ancestors(ancestors):
        origin = origin_of_record(ancestor.get("origin"))
        if origin is not None and origin.dequantised_from:
            parts.setdefault(str(ancestor.get("part") or "model"), origin.dequantised_from)
    return parts


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
