"""Names that metalm registers itself: for each kind, the target and a description by name."""

from __future__ import annotations

OBJECTIVES: dict[str, tuple[str, str]] = {}

METRICS: dict[str, tuple[str, str]] = {}

ENCODER_ADAPTERS: dict[str, tuple[str, str]] = {}

DATA_SOURCES: dict[str, tuple[str, str]] = {}

CONNECTORS: dict[str, tuple[str, str]] = {}

_AGGREGATES = "metalm_cli.evaluation.metrics.aggregates"
AGGREGATES: dict[str, tuple[str, str]] = {
    "mean_over_clusters": (f"{_AGGREGATES}:mean_over_clusters", "mean over clusters of the means over their tasks"),
    "mean_over_tasks": (f"{_AGGREGATES}:mean_over_tasks", "mean over tasks"),
    "metrics_then_tasks": (f"{_AGGREGATES}:metrics_then_tasks", "mean over tasks of the means over their metrics"),
    "chance_normalised": (f"{_AGGREGATES}:CHANCE_NORMALISED", "mean over tasks of scores from 0 (chance) to 100"),
    "weighted_by_examples": (f"{_AGGREGATES}:weighted_by_examples", "mean over tasks, weighted by their examples"),
}

MODEL_FAMILIES: dict[str, tuple[str, str]] = {}

TEMPLATE_IMPORTERS: dict[str, tuple[str, str]] = {}

CHECKPOINT_PACKAGES: dict[str, tuple[str, str]] = {}

COMMANDS: dict[str, tuple[str, str]] = {}
