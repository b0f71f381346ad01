"""Plug-ins: installed distributions that register names through the entry-point group ``metalm.plugins``.

An entry point names a function that takes a :class:`Plugins` object and adds names to its attributes::

    def register(plugins):
        plugins.metrics.add("first_word", "package.metrics:first_word", description="equal first words")

A plug-in that raises, or whose names are taken, is skipped as a whole. No plug-in ends a command.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metalm_cli.common.registry.registry import Entry, Registry, check_entry, describe

if TYPE_CHECKING:
    from importlib.metadata import Distribution

GROUP = "metalm.plugins"
SLOW_SECONDS = 0.05
"""Time that a plug-in may take to register, in seconds; every command waits for it."""
HEAVY = ("torch", "transformers")
"""Packages that a plug-in must not import when it registers."""


@dataclass(frozen=True)
class Plugin:
    """An installed plug-in and what came of it.

    Args:
        name: Name of its entry point.
        origin: Its distribution and version.
        target: Its function, as ``package.module:register``.
        skipped: Why it is skipped; empty if it is loaded.
        slow: Why it slows every command down; empty if it does not.
    """

    name: str
    origin: str
    target: str
    skipped: str = ""
    slow: str = ""

    @property
    def state(self) -> str:
        """State in one line, for listings."""
        return f"skipped: {self.skipped}" if self.skipped else f"slow: {self.slow}" if self.slow else "loaded"

    @property
    def warning(self) -> str:
        """Warning about this plug-in; empty without a problem."""
        what = f"warning: the plug-in {self.name} of {self.origin}"
        if self.skipped:
            return f"{what} is skipped: {self.skipped}\n  remedy: repair, update or uninstall {self.origin}\n"
        if self.slow:
            return (
                f"{what} slows down every command: {self.slow}\n"
                f"  remedy: let {self.target} only register names, and import nothing else\n"
            )
        return ""


class Additions:
    """Names that a plug-in adds to one registry; they are registered when the whole plug-in has succeeded."""

    def __init__(self, registry: Registry, origin: str) -> None:
        self._registry = registry
        self._origin = origin
        self.entries: dict[str, Entry] = {}

    def add(
        self,
        name: str,
        target: str,
        *,
        description: str = "",
        settings: str | None = None,
        positions: str | None = None,
    ) -> None:
        """Add a name; the arguments are those of :meth:`Registry.add`.

        Raises:
            MetalmError: The name is registered already, or an argument is not valid.
        """
        registered = {entry.name: entry for entry in self._registry.entries()} | self.entries
        entry = Entry(name, target, self._origin, description, settings, positions)
        self.entries[name] = check_entry(self._registry.kind, entry, registered)


class Plugins:
    """The registries, as the function of a plug-in receives them: one attribute for each kind."""

    objectives: Additions
    metrics: Additions
    encoder_adapters: Additions
    data_sources: Additions
    connectors: Additions
    aggregates: Additions
    model_families: Additions
    template_importers: Additions
    checkpoint_packages: Additions
    commands: Additions

    def __init__(self, registries: Mapping[str, Registry], origin: str) -> None:
        for kind, registry in registries.items():
            setattr(self, kind, Additions(registry, origin))


class PluginLoader:
    """Loader of the installed plug-ins, which it loads once.

    Args:
        registries: The registries by the attribute of :class:`Plugins`.
        warn: Called with the warning about a plug-in with a problem.
    """

    def __init__(self, registries: Mapping[str, Registry], warn: Callable[[str], object] | None = None) -> None:
        self._registries = registries
        self._warn = warn or write_warning
        self._plugins: list[Plugin] | None = None

    def load(self) -> list[Plugin]:
        """Load the plug-ins unless this has begun before, and return them."""
        if self._plugins is None:
            self._plugins = []  # a plug-in that uses a registry sees the names registered before it
            for plugin, register in discover():
                earlier = next((other for other in self._plugins if other.name == plugin.name), None)
                if not plugin.skipped and earlier is not None:
                    plugin = _skipped(plugin, f"{earlier.origin} has a plug-in of this name")
                if not plugin.skipped:
                    plugin = self._load(plugin, register)
                self._plugins.append(plugin)
                if plugin.warning:
                    self._warn(plugin.warning)
        return self._plugins

    def _load(self, plugin: Plugin, register: Callable[[], Any]) -> Plugin:
        additions = Plugins(self._registries, plugin.origin)
        imported_before = set(sys.modules)
        start = time.perf_counter()
        try:
            register()(additions)
        except (Exception, SystemExit) as error:
            return _skipped(plugin, describe(error))
        milliseconds = 1000 * (time.perf_counter() - start)
        for kind, registry in self._registries.items():
            for entry in getattr(additions, kind).entries.values():
                registry.put(entry)
        reasons = [f"it imports {name}" for name in HEAVY if name in sys.modules and name not in imported_before]
        if milliseconds > 1000 * SLOW_SECONDS:
            reasons.append(f"it takes {milliseconds:,.0f} ms to register, more than {1000 * SLOW_SECONDS:.0f} ms")
        return Plugin(plugin.name, plugin.origin, plugin.target, slow=", ".join(reasons))


def discover() -> Iterator[tuple[Plugin, Callable[[], Any]]]:
    """Find the installed plug-ins, sorted by name and distribution; each with the function that imports it."""
    plugins: list[tuple[Plugin, Callable[[], Any]]] = []
    for distribution, folder in _distributions():
        stem, _, version = os.path.basename(folder).rpartition(".")[0].partition("-")
        try:
            origin = f"{distribution.metadata['Name'] or stem} {distribution.version or version}"
        except Exception:  # the metadata of other projects may be damaged in any way
            origin = f"{stem} {version}".strip()
        try:
            for point in distribution.entry_points:
                if point.group == GROUP:
                    plugins.append((Plugin(point.name, origin, point.value), point.load))
        except Exception as error:
            plugin = Plugin(stem, origin, "", skipped=f"entry_points.txt cannot be read ({describe(error)})")
            plugins.append((plugin, lambda: None))
    yield from sorted(plugins, key=lambda pair: (pair[0].name, pair[0].origin))


def _distributions() -> Iterator[tuple[Distribution, str]]:
    """Iterate over the distributions with plug-ins, and the folders of their metadata.

    ``importlib.metadata.entry_points`` parses the entry points of every distribution; here the text is searched first.
    Of two distributions of one name, Python uses the first on its path.
    """
    names: set[str] = set()
    for path in dict.fromkeys(sys.path):
        try:
            folders = sorted(name for name in os.listdir(path or ".") if name.endswith((".dist-info", ".egg-info")))
        except OSError:
            continue
        for folder in folders:
            name = re.sub(r"[-_.]+", "-", folder.partition("-")[0]).lower()
            if name in names:
                continue
            names.add(name)
            metadata = os.path.join(path or ".", folder)
            try:
                with open(os.path.join(metadata, "entry_points.txt"), encoding="utf-8", errors="replace") as file:
                    has_plugin = GROUP in file.read()
            except OSError:
                continue
            if has_plugin:
                from importlib.metadata import Distribution

                yield Distribution.at(metadata), metadata


def write_warning(text: str) -> None:
    """Write a warning to standard error, except during shell completion, whose line it would damage."""
    if "_METALM_COMPLETE" not in os.environ:
        sys.stderr.write("".join(char for char in text if char.isprintable() or char == "\n"))
        sys.stderr.flush()


def _skipped(plugin: Plugin, reason: str) -> Plugin:
    return Plugin(plugin.name, plugin.origin, plugin.target, skipped=reason)
