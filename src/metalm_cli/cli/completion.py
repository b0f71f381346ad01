"""Shell completion of recipes, overrides (``KEY=VALUE``), tasks, clusters, templates, suites, studies and choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from metalm_cli.common import registry
from metalm_cli.errors import MetalmError

Completions = list[tuple[str, str]]
"""Completions of a text, each with a description."""


DESCRIPTION_WIDTH = 76
"""Characters of a description. Typer wraps longer lines, and shells read their second lines as completions."""


def complete_recipe(incomplete: str) -> Completions:
    """Complete a shipped recipe name."""
    from metalm_cli.config.locate import find_recipe, read_recipe, shipped_names

    def describe(name: str) -> str:
        description = read_recipe(find_recipe(name), 0).value.get("description")
        return str(description.value) if description else ""

    return _complete(incomplete, shipped_names(), describe)


def complete_override(incomplete: str) -> Completions:
    """Complete an override: keys as ``KEY=``, or after the ``=`` the values of keys with few choices."""
    from metalm_cli.config import reference_docs

    key, equals, _ = incomplete.partition("=")
    if equals:
        return _complete(incomplete, [f"{key}={choice}" for choice in reference_docs.key_choices(key)])
    keys = {f"{name}=": text for name, text in reference_docs.settable_keys().items()}
    return _complete(incomplete, keys, keys.__getitem__)


def complete_argument(incomplete: str) -> Completions:
    """Complete an argument of ``[RECIPE] [KEY=VALUE]...``."""
    if "=" in incomplete:
        return complete_override(incomplete)
    return complete_recipe(incomplete) + complete_override(incomplete)


def complete_suite(incomplete: str) -> Completions:
    """Complete a shipped suite name."""
    from metalm_cli.evaluation.suites.load import list_suites, load_suite

    return _complete(incomplete, list_suites(), lambda name: load_suite(name).file.description)


def complete_study(incomplete: str) -> Completions:
    """Complete a shipped study name."""
    from metalm_cli.studies.load import list_studies, load_study

    return _complete(incomplete, list_studies(), lambda name: load_study(name).file.description)


def complete_task(incomplete: str) -> Completions:
    """Complete a shipped task name, also after a comma."""
    from metalm_cli.tasks import Cards

    cards = Cards()
    return _complete_last(incomplete, cards.names, lambda name: cards[name].description)


def complete_cluster(incomplete: str) -> Completions:
    """Complete a cluster, also after a comma."""
    from metalm_cli.tasks.clusters import read_clusters

    titles = read_clusters().clusters
    return _complete_last(incomplete, titles, titles.__getitem__)


def complete_group(incomplete: str) -> Completions:
    """Complete a cluster or a group of tasks, also after a comma."""
    from metalm_cli.tasks.registry import GROUP_NAMES

    return complete_cluster(incomplete) + _complete_last(incomplete, GROUP_NAMES, lambda name: "group of tasks")


def complete_task_or_cluster(incomplete: str) -> Completions:
    """Complete a task or a cluster, also after a comma."""
    return complete_cluster(incomplete) + complete_task(incomplete)


def complete_task_or_group(incomplete: str) -> Completions:
    """Complete a task, a cluster or a group of tasks, also after a comma."""
    return complete_group(incomplete) + complete_task(incomplete)


def complete_collection(incomplete: str) -> Completions:
    """Complete a shipped template collection."""
    from metalm_cli.templates import collection_names

    return _complete(incomplete, collection_names(), lambda name: "template collection")


def complete_template(ctx: typer.Context, incomplete: str) -> Completions:
    """Complete a template of the task and the collection that the command line names before it."""
    from metalm_cli.tasks import Cards
    from metalm_cli.templates import TemplateCollection, collection_names

    # An option without its value ends the parsing: the words before it are arguments of the context then.
    words = [*map(str, ctx.params.values()), *ctx.args]
    cards, collections = Cards(), collection_names()
    task = next((word for word in words if word in cards.names), "")
    collection = next((word for word in reversed(words) if word in collections), "flan")
    try:
        templates = TemplateCollection(collection).templates_for(cards[task])
    except MetalmError:
        return []
    inputs = {template.name: template.input_parts[0].text for template in templates}
    return _complete(incomplete, inputs, inputs.__getitem__)


def complete_importer(incomplete: str) -> Completions:
    """Complete a format of templates that can be imported."""
    importers = registry.template_importers
    return _complete(incomplete, importers.names(), lambda name: importers.entry(name).description)


def complete_kind(incomplete: str) -> Completions:
    """Complete a kind of registered names."""
    return _complete(incomplete, registry.KINDS)


def complete_choice(choices: str) -> Callable[[str], Completions]:
    """Make the completion of one of a few values, which are separated by ``|``."""
    return lambda incomplete: _complete(incomplete, choices.split("|"))


def _complete(incomplete: str, names: Iterable[str], describe: Callable[[str], str] = lambda name: "") -> Completions:
    """Return the names that begin with ``incomplete``, with descriptions; none if a file cannot be read."""
    try:
        return [(name, _shortened(describe(name))) for name in names if name.startswith(incomplete)]
    except MetalmError:
        return []


def _complete_last(incomplete: str, names: Iterable[str], describe: Callable[[str], str]) -> Completions:
    """Complete the last name of a list with commas."""
    before, comma, last = incomplete.rpartition(",")
    return [(f"{before}{comma}{name}", description) for name, description in _complete(last, names, describe)]


def _shortened(description: str) -> str:
    text = " ".join(description.split())
    return text if len(text) <= DESCRIPTION_WIDTH else f"{text[: DESCRIPTION_WIDTH - 1]}…"
