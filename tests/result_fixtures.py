"""Result files of format 2, made up: what tests of reading, showing and comparing them share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def wording(values: list[float], name: str = "first", rows: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """A task in one wording, from its values by example."""
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
        **more,
    }


def setting(*wordings: dict[str, Any], shots: int = 0) -> dict[str, Any]:
    """A task with so many demonstrations."""
    scores = [one["score"] for one in wordings if one["score"] is not None]
    best = max(wordings, key=lambda one: one["score"] or 0)
    several = len(scores) > 1
    return {
        "shots": shots,
        "score": sum(scores) / len(scores) if scores else None,
        "error": wordings[0]["error"],
        "interval": [12.5, 87.5] if scores else None,
        "spread": float(np.std(scores, ddof=1)) if several else None,
        "oracle": {"template": best["template"], "score": best["score"]} if several else None,
        "templates": list(wordings),
    }


def task(*settings: dict[str, Any], cluster: str = "nli", metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    """A task in all its settings."""
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
        **more,
    }


def record(tasks: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A whole file; its means are taken over all tasks."""
    counts = sorted({one["shots"] for of in tasks.values() for one in of["settings"]})
    clusters: dict[str, Any] = {}
    for shots in counts:
        found: dict[str, dict[str, float]] = {}
        for name, of in tasks.items():
            score = next((one["score"] for one in of["settings"] if one["shots"] == shots), None)
            if score is not None:
                found.setdefault(of["cluster"], {})[name] = score
        clusters[str(shots)] = {
            cluster: {"value": sum(scores.values()) / len(scores), "error": 1.0, "of": list(scores)}
            for cluster, scores in found.items()
        }
    whole = {
        shots: {"value": sum(one["value"] for one in found.values()) / len(found), "error": 0.5, "of": list(found)}
        if found
        else None
        for shots, found in clusters.items()
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
        "mean": whole,
        "environment": {},
        "seconds": 2.0,
        **more,
    }
