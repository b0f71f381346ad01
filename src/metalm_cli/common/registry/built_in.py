"""Names that metalm registers itself: for each kind, the target and a description by name."""

from __future__ import annotations

OBJECTIVES: dict[str, tuple[str, str]] = {}

METRICS: dict[str, tuple[str, str]] = {}

ENCODER_ADAPTERS: dict[str, tuple[str, str]] = {}

DATA_SOURCES: dict[str, tuple[str, str]] = {}

CONNECTORS: dict[str, tuple[str, str]] = {}

AGGREGATES: dict[str, tuple[str, str]] = {}

MODEL_FAMILIES: dict[str, tuple[str, str]] = {}

TEMPLATE_IMPORTERS: dict[str, tuple[str, str]] = {}

CHECKPOINT_PACKAGES: dict[str, tuple[str, str]] = {}

COMMANDS: dict[str, tuple[str, str]] = {}
