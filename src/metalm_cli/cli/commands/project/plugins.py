"""``metalm plugins``: what is registered, and by which plug-in."""

from __future__ import annotations

from typing import Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_kind
from metalm_cli.common import registry
from metalm_cli.errors import MetalmError


def plugins(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...",
            help="Kinds to list, such as metrics. Default: all.",
            autocompletion=complete_kind,
            show_default=False,
        ),
    ] = None,
    installed: Annotated[bool, typer.Option("--installed", help="List only the installed plug-ins.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List what is registered by kind, with its origin, and the installed plug-ins."""
    for kind in kinds or ():
        if kind not in registry.KINDS:
            raise MetalmError(
                f"no kind is named {kind}",
                where="command line",
                why=f"the kinds are {', '.join(registry.KINDS)}",
                remedy=registry.did_you_mean(kind, registry.KINDS),
            )
    selected = [] if installed else [kind for kind in registry.KINDS if not kinds or kind in kinds]
    if json:
        _print_json(selected)
        return
    entries = [(kind, entry) for kind in selected for entry in registry.KINDS[kind].entries()]
    if entries:
        rows = [(kind, entry.name, entry.origin, entry.target, entry.description) for kind, entry in entries]
        console.print_table(("kind", "name", "origin", "target", "description"), rows, unbroken=2)
    if kinds:
        return
    rows = [("plug-in", plugin.name, plugin.origin, plugin.target, plugin.state) for plugin in registry.load_plugins()]
    if rows:
        console.print_table(("", "plug-in", "origin", "target", "state"), rows, unbroken=2)
    elif installed:
        console.stderr().print("no plug-in is installed", markup=False)


def _print_json(kinds: list[str]) -> None:
    import json
    from dataclasses import asdict

    content = {
        "kinds": {kind: [asdict(entry) for entry in registry.KINDS[kind].entries()] for kind in kinds},
        "plugins": [asdict(plugin) for plugin in registry.load_plugins()],
    }
    console.write(json.dumps(content, indent=2) + "\n")
