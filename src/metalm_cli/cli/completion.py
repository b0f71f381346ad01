"""Shell completion of recipe names, of overrides (``KEY=VALUE``), and of names of suites and studies."""

from __future__ import annotations

from metalm_cli.errors import MetalmError


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    """Complete a shipped recipe name: names that begin with ``incomplete``, with descriptions."""
    from metalm_cli.config.locate import find_recipe, read_recipe, shipped_names

    completions = []
    try:
        for name in shipped_names():
            if name.startswith(incomplete):
                description = read_recipe(find_recipe(name), 0).value.get("description")
                completions.append((name, str(description.value) if description else ""))
    except MetalmError:
        return []
    return completions


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Complete an override: keys as ``KEY=``, or after the ``=`` the values of keys with few choices."""
    from metalm_cli.config import reference_docs

    key, equals, value = incomplete.partition("=")
    if equals:
        return [(f"{key}={choice}", "") for choice in reference_docs.key_choices(key) if choice.startswith(value)]
    return [(f"{name}=", text) for name, text in reference_docs.settable_keys().items() if name.startswith(key)]


def complete_argument(incomplete: str) -> list[tuple[str, str]]:
    """Complete an argument of ``[RECIPE] [KEY=VALUE]...``."""
    if "=" in incomplete:
        return complete_override(incomplete)
    return complete_recipe(incomplete) + complete_override(incomplete)


def complete_suite(incomplete: str) -> list[tuple[str, str]]:
    """Complete a shipped suite name: names that begin with ``incomplete``, with descriptions."""
    from metalm_cli.evaluation.suites.load import list_suites, load_suite

    try:
        return [(name, load_suite(name).file.description) for name in list_suites() if name.startswith(incomplete)]
    except MetalmError:
        return []


def complete_study(incomplete: str) -> list[tuple[str, str]]:
    """Complete a shipped study name: names that begin with ``incomplete``, with descriptions."""
    from metalm_cli.studies.load import list_studies, load_study

    try:
        return [(name, load_study(name).file.description) for name in list_studies() if name.startswith(incomplete)]
    except MetalmError:
        return []
