"""Records of result files in format 2 with invented numbers, for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def template_record(
    values: list[float], name: str = "first", rows: list[int] | None = None, **changes: Any
) -> dict[str, Any]:
    """Record of a task with one template, from its values by example."""
    array = np.array(values)
    return {
        "template": name,
        "score": 100 * float(array.mean()),
        "error": 100 * float(array.std(ddof=1)) / math.sqrt(len(values)),
        "interval": [0.0, 100.0],
        "n": len(values),
        "counts": {},
        "chance": {"uniform": 50.0, "majority": 62.5},
        "extra": {"per_token": 40.0},
        "each": {"row": rows or list(range(len(values))), "value": values},
        "cut": 0,
        "skipped": 0,
        "seconds": 1.5,
        **changes,
    }


def shot_record(*templates: dict[str, Any], shots: int = 0) -> dict[str, Any]:
    """Record of a task with a number of demonstrations."""
    scores = [template["score"] for template in templates if template["score"] is not None]
    best = max(templates, key=lambda template: template["score"] or 0)
    has_several = len(scores) > 1
    return {
        "shots": shots,
        "score": sum(scores) / len(scores) if scores else None,
        "error": templates[0]["error"],
        "interval": [12.5, 87.5] if scores else None,
        "spread": float(np.std(scores, ddof=1)) if has_several else None,
        "oracle": {"template": best["template"], "score": best["score"]} if has_several else None,
        "templates": list(templates),
    }


def task_record(
    *settings: dict[str, Any], cluster: str = "nli", metric: str = "accuracy", **changes: Any
) -> dict[str, Any]:
    """Record of a task, by number of demonstrations."""
    return {
        "cluster": cluster,
        "core": True,
        "metric": metric,
        "metric_source": "the tests",
        "seen": {"label": "held out", "why": "nothing was trained on"},
        "split": "validation",
        "examples": 8,
        "settings": list(settings),
        "card_sha256": "c" * 64,
        "templates_sha256": "d" * 64,
        "location": "rows.jsonl",
        "revision": None,
        "files": [{"path": "rows.jsonl", "sha256": "e" * 64, "size": 9}],
        **changes,
    }


def result_record(tasks: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Record of a result file; its means are over all tasks."""
    counts = sorted({setting["shots"] for task in tasks.values() for setting in task["settings"]})
    clusters: dict[str, Any] = {}
    for shots in counts:
        scores_by_cluster: dict[str, dict[str, float]] = {}
        for name, task in tasks.items():
            score = next((setting["score"] for setting in task["settings"] if setting["shots"] == shots), None)
            if score is not None:
                scores_by_cluster.setdefault(task["cluster"], {})[name] = score
        clusters[str(shots)] = {
            cluster: {"value": sum(scores.values()) / len(scores), "error": 1.0, "of": list(scores)}
            for cluster, scores in scores_by_cluster.items()
        }
    overall = {
        shots: {"value": sum(mean["value"] for mean in means.values()) / len(means), "error": 0.5, "of": list(means)}
        if means
        else None
        for shots, means in clusters.items()
    }
    return {
        "format": 2,
        "metalm": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "protocol": "in_context",
        "complete": True,
        "model": {"source": "runs/mine"},
        "settings": {
            "templates": "flan",
            "template": "first",
            "split": None,
            "limit": None,
            "shots": counts,
            "demonstrations": "frozen",
            "seed": 0,
            "sequence_length": None,
            "batch_size": 16,
            "normalise": False,
            "samples": 1,
            "temperature": None,
            "style": {"options": True, "layout": "docks"},
        },
        "tasks": tasks,
        "missing": {},
        "clusters": clusters,
        "mean": overall,
        "environment": {},
        "seconds": 2.0,
        **changes,
    }
