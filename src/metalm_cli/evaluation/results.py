"""Results of an evaluation: means over clusters, and the record that is written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.evaluation.interface import Interface
from metalm_cli.evaluation.opening import Settings
from metalm_cli.evaluation.tasks import NOTES, Result, Wording

PROTOCOL = "finetuned"


@dataclass(frozen=True)
class Mean:
    """A mean of scores.

    Args:
        value: The mean.
        error: Its standard error, of independent scores; None where one has none.
        of: What it is over: tasks of a cluster, or clusters.
    """

    value: float
    error: float | None
    of: tuple[str, ...]


def counted(results: Sequence[Result]) -> list[Result]:
    """The results that means are taken over: of the paper's core tasks; of all if none is core."""
    scored = [one for one in results if one.value is not None]
    return [one for one in scored if one.task.card.core] or scored


def cluster_means(results: Sequence[Result]) -> dict[str, Mean]:
    """Mean score of each cluster over the tasks that count (:func:`counted`)."""
    found: dict[str, list[Result]] = {}
    for result in counted(results):
        found.setdefault(result.task.card.cluster, []).append(result)
    return {
        cluster: mean([(one.task.card.name, one.value, one.error) for one in members if one.value is not None])
        for cluster, members in found.items()
    }


def over_clusters(means: Mapping[str, Mean]) -> Mean | None:
    """Mean over clusters; None where there is none."""
    return mean([(name, one.value, one.error) for name, one in means.items()]) if means else None


def mean(parts: Sequence[tuple[str, float, float | None]]) -> Mean:
    """The mean of named values with their standard errors."""
    errors = [error for _, _, error in parts if error is not None]
    error = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    return Mean(sum(value for _, value, _ in parts) / len(parts), error, tuple(name for name, _, _ in parts))


def weights_sha256(model: Any) -> str:
    """SHA-256 of a model's weights, as they are in memory: of each name, shape, type and content, sorted by name."""
    import torch

    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def model_facts(source: str, interface: Interface) -> dict[str, Any]:
    """What a record says of the model."""
    return {
        "source": source,
        "weights_sha256": weights_sha256(interface.model),
        "parameters": sum(one.numel() for one in interface.model.parameters()),
        "encoders": list(interface.model.encoders),
        "decoder": interface.model.decoder.config.model_type,
    }


def record(
    model: Mapping[str, Any],
    settings: Settings,
    results: Sequence[Result],
    missing: Mapping[str, str],
    *,
    complete: bool = True,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is written of an evaluation.

    Args:
        model: From :func:`model_facts`.
        settings: How it was done.
        results: Of each task.
        missing: Tasks without data at hand, and why.
        complete: Whether every task is there that was to be.
        environment: What it ran on.
    """
    means = cluster_means(results)
    whole = over_clusters(means)
    return {
        "format": 1,
        "metalm": metalm_cli.__version__,
        "protocol": PROTOCOL,
        "complete": complete,
        "model": dict(model),
        "settings": {
            "templates": settings.collection,
            "template": settings.template,
            "split": settings.role,
            "limit": settings.limit,
            "shots": 0,
            "sequence_length": settings.length,
            "batch_size": settings.batch_size,
            "style": asdict(settings.style),
        },
        "tasks": {one.task.card.name: task_record(one) for one in results},
        "missing": dict(missing),
        "clusters": {name: asdict(one) for name, one in means.items()},
        "mean": None if whole is None else asdict(whole),
        "environment": dict(environment or {}),
    }


def task_record(result: Result) -> dict[str, Any]:
    """What is written of a task."""
    task = result.task
    best = result.best
    return {
        "cluster": task.card.cluster,
        "core": task.card.core,
        "metric": task.card.metric.name,
        "metric_source": task.card.metric.source,
        **({"note": NOTES[task.card.name]} if task.card.name in NOTES else {}),
        "score": result.value,
        "error": result.error,
        "best": None if best is None or best.score is None else {"template": best.template, "score": best.score.value},
        "split": task.opened.role,
        "examples": len(task.examples),
        "templates": [wording_record(one) for one in result.wordings],
        "card_sha256": _sha256(task.path),
        "templates_sha256": _sha256(task.template_path),
        "location": task.opened.location,
        "revision": task.opened.revision,
        "files": [asdict(one) for one in task.opened.files],
    }


def wording_record(wording: Wording) -> dict[str, Any]:
    """What is written of a task in one wording."""
    score = wording.score
    return {
        "template": wording.template,
        "score": None if score is None else score.value,
        "error": None if score is None else score.error,
        "n": 0 if score is None else score.n,
        "counts": {} if score is None else dict(score.counts),
        "chance": asdict(wording.chance),
        "cut": wording.cut,
        "skipped": wording.skipped,
        "seconds": round(wording.seconds, 3),
    }


def samples_jsonl(results: Iterable[Result]) -> str:
    """Every answer as a line of JSON: ``id, task, template, input, target, prediction, score``."""
    lines = []
    for result in results:
        name = result.task.card.name
        for wording in result.wordings:
            for one in wording.samples:
                fields = asdict(one)
                row = fields.pop("row")
                head = {"id": f"{name}/{row}", "task": name, "template": wording.template}
                lines.append(json.dumps({**head, **fields}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
