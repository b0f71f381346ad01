"""``metalm recipe``: list, show, check and explain recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_argument
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.config.resolution import Resolved

CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="List, show, check and explain recipes.", no_args_is_help=True, add_completion=False, context_settings=CONTEXT
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped name or a path (left out: small), and values to set over it.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="BASE", help="A finished MetaLM to go on from (model.checkpoint).")
]


@app.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    from metalm_cli.config.locate import find_recipe, read_recipe, shipped_names
    from metalm_cli.config.resolution import command_of

    rows = []
    for name in shipped_names():
        found = find_recipe(name)
        description = read_recipe(found, 0).value.get("description")
        rows.append((name, command_of(found), str(description.value) if description else ""))
    rows.sort(key=lambda row: ("pretrain", "finetune", "instruct").index(row[1]))
    if not console.stdout().is_terminal:
        console.write("".join("\t".join(row) + "\n" for row in rows))
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("recipe", style="cyan", no_wrap=True)
    table.add_column("command", style="dim", no_wrap=True)
    table.add_column("what it does")
    for row in rows:
        table.add_row(*row)
    console.stdout().print(table)


@app.command()
def show(arguments: Arguments = None, model: ModelOption = None) -> None:
    """Show a recipe in full, with the place that each value comes from. The output is a recipe itself."""
    from metalm_cli.config import resolve, split_arguments

    recipe, overrides = split_arguments(arguments or [])
    console.write(annotated(resolve(None, recipe, overrides, {"model.checkpoint": model})))


def annotated(resolved: Resolved) -> str:
    """The resolved recipe as YAML, each value followed by where it came from."""
    from metalm_cli.config.locate import display, shipped_root

    root = display(shipped_root("recipes")) + "/"
    head = [f"# {resolved.name}, resolved; shipped recipes are in {root}"]
    head += [f"# {dropped}" for dropped in resolved.dropped]
    lines = list(resolved.lines())
    width = min(max(len(line) for line, _ in lines), 60)
    body = []
    for line, key in lines:
        where = str(resolved.provenance[key]).removeprefix(root) if key else ""
        body.append(f"{line:<{width}}  # {where}" if where else line)
    return "\n".join(head + body) + "\n"


@app.command()
def check(arguments: Arguments = None, model: ModelOption = None) -> None:
    """Check a recipe: print every problem, or ok."""
    from metalm_cli.config import resolve, split_arguments
    from metalm_cli.config.locate import find_recipe
    from metalm_cli.config.recipe_errors import RecipeError
    from metalm_cli.config.resolution import unreadable_recipe_problems

    recipe, overrides = split_arguments(arguments or [])
    found = find_recipe(recipe) if recipe is not None else None
    if found and found.foundation:
        problems = unreadable_recipe_problems(found, overrides)
        if problems:
            raise RecipeError(found.name, problems)
        console.write(f"{found.name}: ok, for other recipes to extend\n")
        return
    resolved = resolve(None, recipe, overrides, {"model.checkpoint": model})
    for dropped in resolved.dropped:
        console.write(f"note: {dropped}\n")
    console.write(f"{resolved.name}: ok\n")


@app.command()
def schema(
    command: Annotated[str, typer.Argument(help="pretrain, finetune or instruct.")] = "pretrain",
    markdown: Annotated[bool, typer.Option("--markdown", help="The recipe reference instead, as Markdown.")] = False,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from metalm_cli.config import reference_docs
    from metalm_cli.config.schema.recipes import RECIPES

    if command not in RECIPES:
        raise MetalmError(f"there are no recipes of metalm {command}", remedy=f"name one of {', '.join(RECIPES)}")
    console.write(reference_docs.markdown() if markdown else reference_docs.json_text(command))
