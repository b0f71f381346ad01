"""Run folders with known content, for tests of reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECIPE = """command: pretrain
description: a test
model:
  encoders:
    text: {train: all}
train:
  steps: 40
  seed: 7
"""
ENVIRONMENT = {"recipe": "tiny", "python": "3.11", "torch": "2.13.0", "metalm": "0.1.0", "device": "cpu"}
SOURCES = [
    {"name": "rte", "kind": "path", "location": "rte/train.jsonl", "revision": None, "rows": 100, "share": 0.25},
    {"name": "sst2", "kind": "hub", "location": "stanford/sst2", "revision": "abc", "rows": 300, "share": 0.75},
]


def records(steps: Iterable[int] = range(10, 41, 10)) -> list[dict[str, Any]]:
    """Records of training, with a validation at every second step of them."""
    lines: list[dict[str, Any]] = []
    for number, step in enumerate(steps, start=1):
        lines.append(
            {
                "step": step,
                "split": "train",
                "loss": 4.0 / number,
                "tokens": 100 * number,
                "examples": number,
                "docked_tokens": 30 * number,
                "docked_positions": 33 * number,
                "trained_tokens": 60 * number,
                "padded_positions": 1,
                "tokens_per_second": 1000.0 + number,
                "memory_bytes": 2**30,
                "lr": 0.001,
                "grad_norm": 1.5,
            }
        )
        if number % 2 == 0:
            losses = {
                "cluster_loss": {"nli": 3.0 / number, "sentiment": 1.0},
                "task_loss": {"rte": 3.0 / number, "sst2": 1.0},
            }
            lines.append(
                {"step": step, "split": "validation", "loss": 5.0 / number, "bits_per_byte": 2.0 / number, **losses}
            )
    return lines


def write_run(path: Path, *, finished: bool = True, metrics: list[dict[str, Any]] | None = None) -> Path:
    """Write a run folder as training does, without results."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    lines = [json.dumps(record) + "\n" for record in (records() if metrics is None else metrics)]
    (path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    write_json(path / "environment.json", ENVIRONMENT)
    write_json(path / "data.json", {"format": 1, "sources": SOURCES, "validation": []})
    spans = [[0, "causal", "", "<s>", 1], [0, "docked", "text", " in the\n\nhouse", 3], [1, "trained", "", " end", 1]]
    write_json(
        path / "sessions.json", {"format": 1, "rows": [{"title": "row 1", "spans": spans}], "said": [["a", "b"]]}
    )
    if finished:
        (path / "model").mkdir()
        base = {"command": "pretrain", "recipe": "base", "steps": 5, "tokens": 50, "metalm": "0.1.0", "data": SOURCES}
        ancestors = [{"checkpoint": "runs/base", "lineage": base}, {"checkpoint": "gpt2", "lineage": None}]
        write_json(path / "model" / "lineage.json", {**base, "recipe": "tiny", "steps": 40, "ancestors": ancestors})
        (path / "model" / "README.md").write_text("# tiny\n\n## Use\n\nthus\n", encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def wording(template: str, score: float, **more: Any) -> dict[str, Any]:
    """Record of a template."""
    chance = {"uniform": 50.0, "majority": 55.0}
    return {"template": template, "score": score, "error": 5.0, "interval": [score - 9, score + 11], "n": 40} | {
        "chance": chance,
        "each": {"row": [0], "value": [1.0]},
        **more,
    }


def write_results(
    run: Path, name: str = "in_context-rte", *, source: str | None = None, weights: str = "w", shift: float = 0.0
) -> Path:
    """Write a result file of format 2 with two tasks, and its answers."""
    rte = [wording("one", 60.0 + shift), wording("two", 70.0 + shift)]
    classes = {"row": [0] * 8, "found": [0, 0, 0, 1, 1, 1, 2, 1], "right": [0, 0, 0, 0, 1, 1, 1, 1]}
    mrpc = [wording("same", 80.0, each=classes)]
    settings = {"score": 65.0 + shift, "error": 4.0, "interval": [53.0, 73.0], "spread": 7.07, "shots": 0}
    seen = {"label": "held out", "why": "so"}
    record = {
        "format": 2,
        "metalm": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "protocol": "in_context",
        "complete": True,
        "model": {"source": source or str(run), "weights_sha256": weights, "parameters": 1234, "encoders": ["text"]},
        "settings": {"templates": "flan", "shots": [0], "limit": 40, "style": {"route": "template"}},
        "tasks": {
            "rte": _task(
                "nli", "accuracy", seen, [{**settings, "oracle": {"template": "two", "score": 70.0}, "templates": rte}]
            ),
            "mrpc": _task(
                "paraphrase",
                "f1",
                seen,
                [{**settings, "interval": [71.0, 91.0], "spread": None, "oracle": None, "templates": mrpc}],
            ),
        },
        "missing": {"wnli": "not at hand"},
        "clusters": {
            "0": {
                "nli": {"value": 65.0 + shift, "error": 4.0, "of": ["rte"]},
                "paraphrase": {"value": 80.0, "error": None, "of": ["mrpc"]},
            }
        },
        "mean": {"0": {"value": 72.5, "error": 2.0, "of": ["nli", "paraphrase"]}},
    }
    path = run / "results" / f"{name}.json"
    write_json(path, record)
    answers = [
        {
            "id": f"rte/{index}",
            "task": "rte",
            "template": "one",
            "shots": 0,
            "input": f"<script>alert({index})</script> Does it follow?",
            "target": "yes" if index % 2 else "no",
            "prediction": "yes" if index % 4 else "maybe",
            "score": float(index % 2),
        }
        for index in range(20)
    ]
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    path.with_name(f"{name}.samples.jsonl").write_text(lines, encoding="utf-8")
    return path


def _task(cluster: str, metric: str, seen: dict[str, str], settings: list[dict[str, Any]]) -> dict[str, Any]:
    files = {"card_sha256": "c" * 64, "templates_sha256": "d" * 64}
    return {"cluster": cluster, "core": True, "metric": metric, "seen": seen, "split": "validation"} | {
        "examples": 40,
        "settings": settings,
        **files,
    }
