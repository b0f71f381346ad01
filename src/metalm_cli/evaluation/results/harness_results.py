"""Results of lm-evaluation-harness as a result file of metalm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import metalm_cli
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.evaluation.results.result_writer import score_interval
from metalm_cli.evaluation.results.schema import (
    ResultRecord,
    SeenRecord,
    SettingRecord,
    TaskRecord,
    TemplateRecord,
)

PROTOCOL = "harness"
"""Protocol of tasks that are scored by lm_eval's rules, and its name in those of result files."""
SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mcc")
"""Metrics of lm_eval from 0 to 1 (or -1 to 1), which result files give in percent; others keep lm_eval's values."""
TOLERANCE = 1e-6
"""Largest difference of a mean over examples from the score that lm_eval gives."""


def read_harness_results(folder: Path, source: str) -> ResultRecord:
    """Read the files that lm_eval wrote with ``--output_path`` and ``--log_samples``.

    Each filter of lm_eval is one metric: the first metric of the first filter is the score, the others are additional
    metrics. Groups of tasks are not read, their tasks are.

    Args:
        folder: The output path.
        source: The evaluated model.

    Raises:
        MetalmError: lm_eval wrote no results.
    """
    paths = sorted(folder.rglob("results_*.json"))
    if not paths:
        raise MetalmError("lm_eval wrote no results", where=str(folder), exit_code=Exit.FAILED)
    output = json.loads(paths[-1].read_text(encoding="utf-8"))
    suffix = paths[-1].stem.removeprefix("results_")
    samples: dict[str, list[dict[str, Any]]] = {}
    for name in output["n-samples"]:
        file = paths[-1].with_name(f"samples_{name}_{suffix}.jsonl")
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        samples[name] = [json.loads(line) for line in lines]
    return harness_record(output, samples, source)


def harness_record(
    output: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]], source: str
) -> ResultRecord:
    """Return the record of a run of lm_eval.

    Args:
        output: lm_eval's results.
        samples: The lines of its samples by task.
        source: The evaluated model.
    """
    config = output["config"]
    limit = config.get("limit")
    return ResultRecord(
        metalm=metalm_cli.__version__,
        created=datetime.fromtimestamp(output["date"]).astimezone().isoformat(timespec="seconds"),
        protocol=PROTOCOL,
        complete=True,
        model={
            "source": source,
            "weights_sha256": config.get("weights_sha256"),
            "parameters": config.get("model_num_parameters"),
        },
        settings={
            "templates": "lm_eval",
            "template": output.get("lm_eval_version"),
            "limit": None if limit is None else int(limit),
            "shots": sorted(set(output["n-shot"].values())),
            "demonstrations": "drawn",
            "seed": config.get("fewshot_seed"),
            "sequence_length": output.get("max_length"),
            "dock": config.get("dock"),
            "dtype": config.get("model_dtype"),
        },
        tasks={name: _task_record(name, output, samples.get(name, ())) for name in output["n-samples"]},
        environment={"lm_eval": output.get("lm_eval_version"), "transformers": output.get("transformers_version")},
        seconds=round(float(output.get("total_evaluation_time_seconds") or 0.0), 3),
    )


def _task_record(name: str, output: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> TaskRecord:
    task = output["configs"][name]
    definition = hashlib.sha256(json.dumps(task, sort_keys=True, default=str).encode()).hexdigest()
    count = output["n-samples"][name]["effective"]
    template = _template_record(output["results"][name], _metric_names(task), samples, count)
    setting = SettingRecord(
        shots=output["n-shot"].get(name, 0),
        score=template.score,
        error=template.error,
        interval=template.interval,
        templates=[template],
    )
    return TaskRecord(
        cluster=next((group for group, names in output.get("group_subtasks", {}).items() if name in names), PROTOCOL),
        metric=_scores(output["results"][name], _metric_names(task))[0][0],
        metric_source=f"lm-evaluation-harness {output.get('lm_eval_version')}, version {output['versions'].get(name)}",
        seen=SeenRecord(why="tasks of lm_eval are not looked up"),
        split=str(task.get("test_split") or task.get("validation_split") or ""),
        examples=count,
        settings=[setting],
        card_sha256=definition,
        templates_sha256=definition,
        location=str(task.get("dataset_path") or ""),
    )


def _metric_names(task: Mapping[str, Any]) -> list[str]:
    return [str(entry["metric"]) for entry in task.get("metric_list") or () if isinstance(entry.get("metric"), str)]


def _scores(results: Mapping[str, Any], metrics: Sequence[str]) -> list[tuple[str, str, float, float | None]]:
    """Metric, filter, value and standard error of each score of a task, those of the first metric first."""
    scores = []
    for key, value in results.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = results.get(f"{metric}_stderr,{chosen}")
            scores.append((metric, chosen, float(value), float(error) if isinstance(error, int | float) else None))
    scores.sort(key=lambda score: metrics.index(score[0]) if score[0] in metrics else len(metrics))
    return scores or [("none", "none", float("nan"), None)]


def _template_record(
    results: Mapping[str, Any], metrics: Sequence[str], samples: Sequence[Mapping[str, Any]], count: int
) -> TemplateRecord:
    """Scores of a task: the first metric in percent with its values by example, the others as additional metrics."""
    (metric, chosen, value, error), *others = _scores(results, metrics)
    columns = _columns(metric, value, (sample for sample in samples if sample.get("filter", chosen) == chosen))
    is_share = bool(columns) or metric in SHARES
    own = {} if is_share or value != value else {_extra_name(metric, chosen): value}
    extra = {
        _extra_name(name, filter_name): 100 * other if name in SHARES else other
        for name, filter_name, other, _ in others
    }
    return TemplateRecord(
        template=PROTOCOL,
        score=100 * value if is_share else None,
        error=100 * error if is_share and error is not None else None,
        interval=score_interval("accuracy", [columns]) if columns else None,
        n=count,
        extra={**own, **extra},
        each=columns,
    )


def _extra_name(metric: str, chosen: str) -> str:
    return metric if chosen == "none" else f"{metric} ({chosen})"


def _columns(metric: str, value: float, samples: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns by example; empty if the score is not the mean of values from 0 to 1."""
    rows, values = [], []
    for sample in samples:
        if not isinstance(sample.get(metric), bool | int | float):
            return {}
        rows.append(int(sample["doc_id"]))
        values.append(float(sample[metric]))
    is_mean = bool(values) and abs(float(np.mean(values)) - value) < TOLERANCE
    return {"row": rows, "value": values} if is_mean and 0 <= min(values) <= max(values) <= 1 else {}
