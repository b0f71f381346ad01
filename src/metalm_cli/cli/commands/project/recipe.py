"""``metalm recipe``: list, show, check and explain recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from metalm_cli.cli import console
from metalm_cli.cli.completion import complete_argument, complete_choice
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS, BaseOption
from metalm_cli.errors import MetalmError

if TYPE_CHECKING:
    from metalm_cli.config.resolution import ResolvedRecipe


app = typer.Typer(
    help="List, show, check and explain recipes.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT_SETTINGS,
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A shipped recipe or the path of one (default: small), and values that override its keys.",
        autocompletion=complete_argument,
        show_default=False,
    ),
]


@app.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    from metalm_cli.config.locate import find_recipe, read_recipe, shipped_names
    from metalm_cli.config.resolution import command_of

    rows = []
    for name in shipped_names():
        located = find_recipe(name)
        description = read_recipe(located, 0).value.get("description")
        rows.append((name, command_of(located), str(description.value) if description else ""))
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
def show(arguments: Arguments = None, model: BaseOption = None) -> None:
    """Show a recipe in full, with the origin of each value. The output is a valid recipe."""
    from metalm_cli.config import resolve, split_arguments

    recipe, overrides = split_arguments(arguments or [])
    console.write(annotated(resolve(None, recipe, overrides, {"model.checkpoint": model})))


def annotated(resolved: ResolvedRecipe) -> str:
    """Resolved recipe as YAML, with the origin of each value in a comment."""
    from metalm_cli.config.locate import display, shipped_root

    root = display(shipped_root("recipes")) + "/"
    header = [f"# {resolved.name}, resolved; shipped recipes are in {root}"]
    header += [f"# {dropped}" for dropped in resolved.dropped]
    if resolved.stages:
        return "\n".join(header) + f"\n{resolved.stages_yaml}"
    lines = list(resolved.lines())
    width = min(max(len(line) for line, _ in lines), 60)
    body = []
    for line, key in lines:
        origin = str(resolved.provenance[key]).removeprefix(root) if key else ""
        body.append(f"{line:<{width}}  # {origin}" if origin else line)
    return "\n".join(header + body) + "\n"


@app.command()
def check(arguments: Arguments = None, model: BaseOption = None) -> None:
    """Check a recipe and print its problems, or ok.

    Also checks the names of tasks, hold-outs, templates and splits; data is not read.
    """
    from metalm_cli.config import resolve, split_arguments
    from metalm_cli.config.locate import find_recipe
    from metalm_cli.config.recipe_errors import RecipeError
    from metalm_cli.config.resolution import base_recipe_problems
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.data.examples.recipe_check import check_names_of_tasks
    from metalm_cli.training.task_evaluation.evaluated_tasks import select_evaluated_tasks

    recipe, overrides = split_arguments(arguments or [])
    located = find_recipe(recipe) if recipe is not None else None
    if located and located.is_base:
        problems = base_recipe_problems(located, overrides)
        if problems:
            raise RecipeError(located.name, problems)
        console.write(f"{located.name}: ok (a base for other recipes)\n")
        return
    resolved = resolve(None, recipe, overrides, {"model.checkpoint": model})
    for checked in [stage.resolved for stage in resolved.stages] or [resolved]:
        if isinstance(checked.recipe, FinetuneRecipe):
            check_names_of_tasks(checked.recipe.data)
        select_evaluated_tasks(checked.recipe)
    for dropped in resolved.dropped:
        console.write(f"note: {dropped}\n")
    stages = ", then ".join(f"{stage.name} ({stage.resolved.recipe.command})" for stage in resolved.stages)
    console.write(f"{resolved.name}: ok{f', stages: {stages}' if stages else ''}\n")


@app.command()
def schema(
    command: Annotated[
        str,
        typer.Argument(
            help="Training command: pretrain, finetune or instruct.",
            autocompletion=complete_choice("pretrain|finetune|instruct"),
        ),
    ] = "pretrain",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the recipe reference as Markdown instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of a command's recipes, for editors."""
    from metalm_cli.config import reference_docs
    from metalm_cli.config.schema.recipes import RECIPES

    if command not in RECIPES:
        raise MetalmError(f"metalm {command} has no recipes", remedy=f"choose one of {', '.join(RECIPES)}")
    console.write(reference_docs.markdown_reference() if markdown else reference_docs.json_schema_text(command))
