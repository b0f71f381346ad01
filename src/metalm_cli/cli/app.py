"""Command tree of ``metalm``. Commands are imported on use, so that ``metalm --help`` is fast."""

from __future__ import annotations

import errno
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import metalm_cli
from metalm_cli.cli import console
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS
from metalm_cli.cli.renamed_options import check_options
from metalm_cli.errors import Exit, MetalmError

COMMANDS = {
    "pretrain": "training.pretrain:pretrain",
    "finetune": "training.finetune:finetune",
    "instruct": "training.finetune:instruct",
    "evaluate": "evaluation.evaluate:evaluate",
    "eval": "evaluation.evaluate:evaluate",
    "suites": "evaluation.suites:app",
    "results": "evaluation.results:app",
    "generate": "evaluation.generate:generate",
    "report": "evaluation.report:report",
    "show": "data.show:show",
    "tasks": "data.tasks:app",
    "templates": "data.templates:app",
    "data": "data.data:app",
    "export": "models.export:export",
    "demo": "project.demo:demo",
    "recipe": "project.recipe:app",
}
"""Module (below ``cli.commands``) and function or Typer app of each command, in the order of the help."""

PANELS = {
    "training": "Train",
    "evaluation": "Evaluate",
    "data": "Data, tasks and templates",
    "models": "Models",
    "project": "Demo and recipes",
}
"""Panel of ``metalm --help`` for the commands of each folder below ``cli.commands``."""

ALIASES = {"eval"}
"""Short names of commands, which the help leaves out."""


class LazyGroup(TyperGroup):
    """Root command group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the installed commands, without aliases."""
        return [name for name in COMMANDS if name not in ALIASES and _exists(name)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Command of this name, or None."""
        if cmd_name not in self.commands and cmd_name in COMMANDS and _exists(cmd_name):
            self.add_command(load_command(cmd_name), cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve a command; for an unknown name, load all commands first, so that the nearest can be suggested."""
        if args and args[0] not in COMMANDS:
            for name in self.list_commands(ctx):
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt outside a training run exits with 130, as shells do."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"metalm_cli.cli.commands.{COMMANDS[name].partition(':')[0]}") is not None


def load_command(name: str) -> Any:
    """Import a command and build its parser."""
    module, _, attribute = COMMANDS[name].partition(":")
    target = getattr(importlib.import_module(f"metalm_cli.cli.commands.{module}"), attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, context_settings=CONTEXT_SETTINGS)(target)
        target = single
    command = typer.main.get_command(target)
    command.name = name
    command.rich_help_panel = PANELS[module.partition(".")[0]]  # type: ignore[attr-defined]
    return command


app = typer.Typer(
    name="metalm",
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings=CONTEXT_SETTINGS,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(requested: bool) -> None:
    if requested:
        console.write(f"metalm {metalm_cli.__version__}\n")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full traceback of an error; allowed anywhere.")
    ] = False,
) -> None:
    """Train, tune and evaluate MetaLM: bidirectional encoders docked into a causal decoder, from YAML recipes."""


def run(arguments: Sequence[str], on_error: Callable[[MetalmError], None] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Arguments after ``metalm``.
        on_error: Callback for the error that ends the command, called before the error is printed.

    Returns:
        Exit code.
    """
    arguments, debug = _without_debug(arguments)
    try:
        check_options(arguments)
        typer.main.get_command(app)(args=arguments, prog_name="metalm")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (MetalmError, OSError, MemoryError) as raised:
        error = raised if isinstance(raised, MetalmError) else _environment_error(raised)
        if debug:
            _traceback()
        if on_error is not None:
            on_error(error)
        console.show_error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 130
    except Exception as bug:
        if debug:
            _traceback()
        console.show_bug(bug)
        return int(Exit.FAILED)
    return int(Exit.DONE)


def _environment_error(error: OSError | MemoryError) -> MetalmError:
    """Error for a fault of the system that the code at its place does not explain: a file, a disk, memory."""
    if isinstance(error, MemoryError):
        return MetalmError(
            "memory ran out",
            why=str(error),
            remedy="free some memory, or use smaller inputs",
            exit_code=Exit.FAILED,
        )
    file = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    if error.errno == errno.ENAMETOOLONG:
        return MetalmError(
            "a path is longer than the file system allows",
            where=f"{str(file)[:60]}... ({len(str(file)):,} characters)",
            remedy="correct the path, or the value that was read as a path",
        )
    return MetalmError(
        "the system refused an operation",
        where="" if file is None else str(file),
        why=error.strerror or str(error) or type(error).__name__,
        remedy="check that the path exists, is of the right kind and permitted, and that the disk has space",
        exit_code=Exit.FAILED,
    )


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from the arguments before ``--``; also return whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    remaining = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*remaining, *arguments[end:]], len(remaining) < end


def _traceback() -> None:
    import traceback

    traceback.print_exc()
