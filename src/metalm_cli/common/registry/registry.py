"""Registry: names of one kind of extension, each with the target that is imported when it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metalm_cli.errors import MetalmError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*\Z", re.ASCII)
TARGET = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*\Z")
MAX_LISTED = 40
"""Maximum number of names that an error message lists."""
BUILT_IN = "metalm"
"""Origin of the names that metalm registers itself."""


@dataclass(frozen=True)
class Entry:
    """A registered name.

    Args:
        name: The name that users write.
        target: The object, as ``package.module:object``.
        origin: ``metalm``, or the distribution of the plug-in and its version.
        description: One line for listings.
        settings: Pydantic model of the settings of the object, as ``package.module:object``, or None.
        positions: Of a connector: function that computes its number of vectors, as ``package.module:object``, or None.
    """

    name: str
    target: str
    origin: str
    description: str = ""
    settings: str | None = None
    positions: str | None = None


class Registry:
    """Names of one kind of extension, in the order in which they were added.

    Args:
        kind: What a name names, in the singular: ``metric``.
        built_in: Targets and descriptions of metalm's own names; of a connector also ``positions``, if it has any.
        before_use: Called before each look-up; it loads the plug-ins on its first call.

    >>> aggregates = Registry("aggregate", {"mean": ("statistics:fmean", "arithmetic mean")})
    >>> aggregates.load("mean")([1, 2])
    1.5
    >>> aggregates.add("middle", "statistics:median", description="median")
    >>> aggregates.names()
    ['mean', 'middle']
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, tuple[str, ...]] | None = None,
        before_use: Callable[[], object] = lambda: None,
    ) -> None:
        self.kind = kind
        self._before_use = before_use
        self._entries = {
            name: Entry(name, target, BUILT_IN, description, positions=next(iter(positions), None))
            for name, (target, description, *positions) in (built_in or {}).items()
        }

    def add(
        self,
        name: str,
        target: str,
        *,
        description: str = "",
        settings: str | None = None,
        positions: str | None = None,
        origin: str = "this program",
    ) -> None:
        """Register a name.

        Args:
            name: The name that users write.
            target: The object, as ``package.module:object``; it is imported when the name is first used.
            description: One line for listings.
            settings: A subclass of ``metalm_cli.config.schema.base.Section`` with the settings of the object, as
                ``package.module:object``. Its module imports only pydantic and ``metalm_cli.config.schema.base``.
            positions: Of a connector that gives another number of vectors than its encoder has outputs: the function
                that computes it (:mod:`metalm_cli.sessions.compression`), as ``package.module:object``. Its module
                does not import torch.
            origin: What registers the name.

        Raises:
            MetalmError: The name is registered already, or an argument is not valid.
        """
        self._before_use()
        entry = Entry(name, target, origin, description, settings, positions)
        self.put(check_entry(self.kind, entry, self._entries))

    def put(self, entry: Entry) -> None:
        """Register an entry that :func:`check_entry` has returned; plug-ins are loaded with it."""
        self._entries[entry.name] = entry

    def get(self, name: str) -> Entry | None:
        """Return the entry of a name, or None."""
        self._before_use()
        return self._entries.get(name)

    def entry(self, name: str, *, where: str = "") -> Entry:
        """Return the entry of a name.

        Args:
            name: The name.
            where: Location of the name, for the message.

        Raises:
            MetalmError: The name is unknown.
        """
        entry = self.get(name)
        if entry is None:
            raise MetalmError(
                f"no {self.kind} is named {name}",
                where=where,
                why=f"registered are {listed(self.names())}",
                remedy=f"{did_you_mean(name, self.names())} metalm plugins lists all names".strip(),
            )
        return entry

    def load(self, name: str, *, where: str = "") -> Any:
        """Import and return the object of a name.

        Args:
            name: The name.
            where: Location of the name, for the message.

        Raises:
            MetalmError: The name is unknown, or the target of a plug-in cannot be imported.
        """
        entry = self.entry(name, where=where)
        return self._imported(entry, entry.target)

    def load_settings(self, name: str) -> Any:
        """Import and return the settings model of a name; None if it has none.

        Raises:
            MetalmError: The name is unknown, or the model cannot be imported.
        """
        entry = self.entry(name)
        return None if entry.settings is None else self._imported(entry, entry.settings)

    def load_positions(self, name: str, *, where: str = "") -> Any:
        """Import and return the function of a connector that computes its number of vectors; None if it has none.

        Raises:
            MetalmError: The name is unknown, or the function cannot be imported.
        """
        entry = self.entry(name, where=where)
        return None if entry.positions is None else self._imported(entry, entry.positions)

    def names(self) -> list[str]:
        """Return the registered names: metalm's own, then those of plug-ins."""
        self._before_use()
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """Return the entries: metalm's own, then those of plug-ins."""
        self._before_use()
        return list(self._entries.values())

    def _imported(self, entry: Entry, target: str) -> Any:
        try:
            return import_target(target)
        except Exception as error:
            if entry.origin == BUILT_IN or isinstance(error, MetalmError):
                raise
            raise MetalmError(
                f"the {self.kind} {entry.name} of {entry.origin} cannot be imported",
                where=target,
                why=describe(error),
                remedy=f"repair, update or uninstall {entry.origin}",
            ) from error


def check_entry(kind: str, entry: Entry, registered: Mapping[str, Entry]) -> Entry:
    """Check an entry before it is registered.

    Args:
        kind: The kind of the registry, for the message.
        entry: The entry.
        registered: Entries that are registered already, by name.

    Returns:
        The entry.

    Raises:
        MetalmError: The name is registered already, or a field is not valid.
    """
    if not (isinstance(entry.name, str) and NAME.match(entry.name)):
        raise MetalmError(
            f"{entry.name!r} is not a valid name of a {kind}", remedy="use letters, digits and the signs _ . -"
        )
    for target in (entry.target, entry.settings, entry.positions):
        if target is not None and not (isinstance(target, str) and TARGET.match(target)):
            raise MetalmError(
                f"the {kind} {entry.name} has no valid target", why=f"got {target!r}, expected package.module:object"
            )
    if not isinstance(entry.description, str):
        raise MetalmError(f"the description of the {kind} {entry.name} is not a text", why=f"got {entry.description!r}")
    if entry.name in registered:
        owner = registered[entry.name].origin
        raise MetalmError(
            f"the {kind} {entry.name} is already registered by {owner}", remedy="register it under another name"
        )
    return entry


def import_target(target: str) -> Any:
    """Import ``package.module:object`` and return the object.

    Raises:
        ImportError: The module does not exist.
        AttributeError: The module has no such object.
    """
    import importlib

    module, _, path = target.partition(":")
    value: Any = importlib.import_module(module)
    for attribute in path.split("."):
        value = getattr(value, attribute)
    return value


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question that names the nearest known name; empty if none is near.

    Args:
        name: The unknown name.
        known: The known names.
        cutoff: Least similarity, from 0 to 1 (difflib's ratio).

    >>> did_you_mean("acuracy", ["accuracy", "f1"])
    'did you mean accuracy?'
    """
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {matches[0]}?" if matches else ""


def listed(names: list[str]) -> str:
    """Return names as a text, shortened if there are more than :data:`MAX_LISTED`."""
    more = len(names) - MAX_LISTED
    return (", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")) or "none"


def describe(error: BaseException) -> str:
    """Return the class and the first line of an exception, without control characters."""
    lines = (error.what if isinstance(error, MetalmError) else str(error)).strip().splitlines()
    text = "".join(char for char in (lines[0] if lines else "") if char.isprintable())
    return text if isinstance(error, MetalmError) else f"{type(error).__name__}: {text or 'no message'}"
