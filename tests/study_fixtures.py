"""Small studies and result files for the tests of studies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from metalm_cli.studies.load import Study, load_study

SMALL = """\
name: small
description: two arms on one task
source: section 3.4
scales:
  cpu:
    duration: a minute
    seeds: [0, 1]
    hours: 1
    overrides: {train: {train.steps: 40}}
    options: {scores: --limit 8}
    seconds: {train: 30, scores: 2}
  gpu:
    duration: an hour
arms:
  - {name: metalm, label: MetaLM}
  - {name: gpt, label: GPT, overrides: {train.batch_size: 4}}
checkpoints:
  - {name: reference, model: gpt2, label: GPT-2}
stages:
  - {name: encoder, command: pretrain demo/encoder, summary: an encoder, scales: [cpu]}
  - name: tuned-{arm}
    arms: [metalm, gpt]
    command: pretrain demo/{arm}
    group: train
    summary: "{label}, trained"
evaluations:
  - name: scores
    title: after training
    models: ["tuned-{arm}", reference]
    options: --cluster world --protocol finetuned
    summary: all models
claims:
  - name: twin
    statement: The MetaLM is better than the GPT.
    evaluation: scores
    first: tuned-metalm
    second: tuned-gpt
    expected: agrees
    reason: it has an encoder
    paper: {where: table 2, first: 79.1, second: 65.0}
  - name: chance
    statement: The MetaLM is above chance on a task.
    evaluation: scores
    first: tuned-metalm
    second: chance
    over: each
    at_least: 1
    expected: not agrees
    reason: it is small
"""


def small_study(folder: Path, text: str = SMALL) -> Study:
    """Write a study into a folder, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def write_result(
    path: Path,
    tasks: Mapping[str, Sequence[float]],
    *,
    shots: Sequence[int] = (0,),
    chance: float | None = 50.0,
    held_out: Sequence[str] = (),
    clusters: Mapping[str, str] | None = None,
) -> None:
    """Write a complete result file in which each example of each task has a value from 0 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = {}
    for task, values in tasks.items():
        score = 100 * sum(values) / len(values)
        template = {
            "template": "one",
            "score": score,
            "n": len(values),
            "chance": {"uniform": chance, "majority": None},
            "each": {"row": list(range(len(values))), "value": list(values)},
        }
        records[task] = {
            "cluster": (clusters or {}).get(task, task),
            "metric": "accuracy",
            "seen": {"label": "held out" if task in held_out else "seen", "why": ""},
            "split": "validation",
            "card_sha256": "a",
            "templates_sha256": "b",
            "settings": [{"shots": count, "score": score, "templates": [template]} for count in shots],
        }
    record = {"format": 2, "protocol": "instruct", "complete": True, "model": {}, "settings": {}, "tasks": records}
    path.write_text(json.dumps(record), encoding="utf-8")


def correct(count: int, total: int = 100) -> list[float]:
    """Values of which the first ``count`` are 1, the others 0."""
    return [1.0] * count + [0.0] * (total - count)
