"""Shell completion of recipe names, and of the keys and values of overrides."""

from __future__ import annotations

from metalm_cli.errors import MetalmError


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    """Shipped recipe names that begin with ``incomplete``, with their descriptions."""
    from metalm_cli.config.locate import find_recipe, read_recipe, shipped_names

    found = []
    try:
        for name in shipped_names():
            if name.startswith(incomplete):
                description = read_recipe(find_recipe(name), 0).value.get("description")
                found.append((name, str(description.value) if description else ""))
    except MetalmError:
        return []
    return found


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Keys that begin with ``incomplete`` as ``KEY=``; after the ``=``, the key's few known values."""
    from metalm_cli.config import reference_docs

    key, equals, value = incomplete.partition("=")
    if equals:
        return [(f"{key}={choice}", "") for choice in reference_docs.choices(key) if choice.startswith(value)]
    return [(f"{name}=", text) for name, text in reference_docs.keys().items() if name.startswith(key)]


def complete_argument(incomplete: str) -> list[tuple[str, str]]:
    """Completion of ``[RECIPE] [KEY=VALUE …]``."""
    if "=" in incomplete:
        return complete_override(incomplete)
    return complete_recipe(incomplete) + complete_override(incomplete)
