"""Result files as lm_eval 0.4.13 writes them with ``--output_path`` and ``--log_samples``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATE = "2026-12-01T13-23-13.769912"


def harness_output(
    scores: dict[str, Any], metrics: tuple[str, ...] = ("acc",), task: str = "copa", examples: int = 4
) -> dict[str, Any]:
    """Results of a task with the given scores by lm_eval's keys."""
    return {
        "results": {task: {"name": task, "alias": task, "sample_len": examples, **scores}},
        "group_subtasks": {},
        "configs": {
            task: {
                "task": task,
                "dataset_path": "json",
                "validation_split": "validation",
                "metric_list": [{"metric": metric} for metric in metrics],
            }
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "n-samples": {task: {"original": 40, "effective": examples}},
        "config": {
            "model": "metalm",
            "model_num_parameters": 64416,
            "model_dtype": "torch.float32",
            "weights_sha256": "f" * 64,
            "dock": None,
            "limit": float(examples),
            "fewshot_seed": 1234,
        },
        "date": 1796131365.5625882,
        "transformers_version": "5.23.0",
        "lm_eval_version": "0.4.13",
        "max_length": 64,
        "total_evaluation_time_seconds": "74.91072475299916",
    }


def sample_lines(values: list[dict[str, Any]], chosen: str = "none") -> list[dict[str, Any]]:
    """Samples with the given values of metrics."""
    return [{"doc_id": index, "filter": chosen, **value} for index, value in enumerate(values)]


def write_output(folder: Path) -> None:
    """Write the files of a run on copa: 3 of 4 examples are right."""
    model_folder = folder / "runs__mine"
    model_folder.mkdir()
    output = harness_output({"acc,none": 0.75, "acc_stderr,none": 0.25})
    (model_folder / f"results_{DATE}.json").write_text(json.dumps(output), encoding="utf-8")
    samples = sample_lines([{"acc": value} for value in (1.0, 0.0, 1.0, 1.0)])
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (model_folder / f"samples_copa_{DATE}.jsonl").write_text(lines, encoding="utf-8")
