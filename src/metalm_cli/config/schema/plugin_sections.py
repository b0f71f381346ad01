"""Sections of the recipe schema that plug-ins add: the settings of what they register."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from typing import Any, Literal

from pydantic import Field, create_model

from metalm_cli.common.registry import BUILT_IN, Entry, Registry, write_warning
from metalm_cli.config.schema.base import Section


def settings_of_plugins(registry: Registry) -> Iterator[tuple[Entry, type[Section] | None]]:
    """Iterate over the names that plug-ins registered, each with its settings; None if it has none.

    Settings that cannot be imported, or are not a :class:`Section`, are left out with a warning.
    """
    for entry in registry.entries():
        if entry.origin == BUILT_IN:
            continue
        try:
            settings = registry.load_settings(entry.name)
        except Exception as error:
            _warn(registry, entry, str(error).replace("\n", ";"))
            continue
        if settings is None or (isinstance(settings, type) and issubclass(settings, Section)):
            yield entry, settings
        else:
            _warn(registry, entry, "they are not a subclass of metalm_cli.config.schema.base.Section")


def named_sections(registry: Registry) -> list[type[Section]]:
    """Sections of the names that plug-ins registered, with the key ``name`` before their settings."""
    sections: list[type[Section]] = []
    for entry, settings in settings_of_plugins(registry):
        if settings is not None and "name" in settings.model_fields:
            _warn(registry, entry, "they declare the key name, which holds the registered name")
            continue
        literal: Any = Literal[entry.name]
        named = create_model("Named", __base__=Section, name=(literal, Field()))
        # Fields of the last base come first.
        bases: Any = named if settings is None else (settings, named)
        summary = (settings.__doc__ if settings is not None else None) or entry.description
        section = _create(f"{entry.name}_{registry.kind}", bases, summary)
        sections.append(section)
    return sections


def key_sections(registry: Registry, taken: Collection[str], *, with_empty: bool = False) -> dict[str, type[Section]]:
    """Settings of the names that plug-ins registered, by name, for a section that holds each below a key of its name.

    Args:
        registry: The registry.
        taken: Keys that the section has already.
        with_empty: Names without settings have a key as well, which holds an empty mapping.
    """
    sections: dict[str, type[Section]] = {}
    for entry, settings in settings_of_plugins(registry):
        if settings is None and not with_empty:
            continue
        if entry.name in taken or not entry.name.isidentifier():
            _warn(registry, entry, f"{entry.name} cannot be the name of a key, which holds the settings")
        else:
            sections[entry.name] = settings or _create(f"{entry.name}_{registry.kind}", Section, entry.description)
    return sections


def _create(name: str, bases: Any, summary: str) -> type[Section]:
    """Create a section as an attribute of this module, so that it can be pickled."""
    identifier = re.sub(r"\W", "_", name)
    section = create_model(identifier, __base__=bases, __doc__=summary, __module__=__name__)
    setattr(sys.modules[__name__], identifier, section)
    return section


def _warn(registry: Registry, entry: Entry, reason: str) -> None:
    write_warning(
        f"warning: the {registry.kind} {entry.name} of {entry.origin} is left out: its settings cannot be used\n"
        f"  where: {entry.settings}\n"
        f"  why: {reason}\n"
    )
