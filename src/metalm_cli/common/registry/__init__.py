"""Registries of everything that plug-ins can add: one for each kind of extension.

A name maps to ``package.module:object``, which is imported when the name is used. The first use of any registry loads
the installed plug-ins.
"""

from __future__ import annotations

from metalm_cli.common.registry import built_in
from metalm_cli.common.registry.plugins import Plugin, PluginLoader, Plugins, write_warning
from metalm_cli.common.registry.registry import BUILT_IN, Entry, Registry, did_you_mean

__all__ = [
    "BUILT_IN",
    "KINDS",
    "Entry",
    "Plugin",
    "Plugins",
    "Registry",
    "aggregates",
    "checkpoint_packages",
    "commands",
    "connectors",
    "data_sources",
    "did_you_mean",
    "encoder_adapters",
    "load_plugins",
    "metrics",
    "model_families",
    "objectives",
    "template_importers",
    "write_warning",
]


def load_plugins() -> list[Plugin]:
    """Load the installed plug-ins on the first call, and return them; problems are written to standard error."""
    return _LOADER.load()


objectives = Registry("objective", built_in.OBJECTIVES, load_plugins)
"""Objectives of pretraining (``objective.name``)."""
metrics = Registry("metric", built_in.METRICS, load_plugins)
"""Metrics of tasks (``metric.name`` of a card)."""
encoder_adapters = Registry("encoder adapter", built_in.ENCODER_ADAPTERS, load_plugins)
"""Inputs and outputs of encoders."""
data_sources = Registry("data source", built_in.DATA_SOURCES, load_plugins)
"""Places that documents are read from."""
connectors = Registry("connector", built_in.CONNECTORS, load_plugins)
"""Connectors (``model.connector.kind``)."""
aggregates = Registry("aggregate", built_in.AGGREGATES, load_plugins)
"""Aggregates of the scores of a suite."""
model_families = Registry("model family", built_in.MODEL_FAMILIES, load_plugins)
"""Families of models."""
template_importers = Registry("template importer", built_in.TEMPLATE_IMPORTERS, load_plugins)
"""Formats that ``metalm templates import`` reads."""
checkpoint_packages = Registry("checkpoint package", built_in.CHECKPOINT_PACKAGES, load_plugins)
"""Installed packages that hold checkpoints (``common/checkpoints/package_table.py``)."""
commands = Registry("command", built_in.COMMANDS, load_plugins)
"""Commands of ``metalm``."""

KINDS = {
    "objectives": objectives,
    "metrics": metrics,
    "encoder_adapters": encoder_adapters,
    "data_sources": data_sources,
    "connectors": connectors,
    "aggregates": aggregates,
    "model_families": model_families,
    "template_importers": template_importers,
    "checkpoint_packages": checkpoint_packages,
    "commands": commands,
}
"""Registries by the attribute of :class:`Plugins`."""

_LOADER = PluginLoader(KINDS)
