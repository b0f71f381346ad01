"""Command tree of ``metalm``. Commands are imported on use, so that ``metalm --help`` is fast."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import metalm_cli
from metalm_cli.cli import console
from metalm_cli.cli.help_examples import EXAMPLES, add_examples
from metalm_cli.cli.options.shared import CONTEXT_SETTINGS
from metalm_cli.cli.renamed_options import check_options
from metalm_cli.common import registry
from metalm_cli.errors import Exit, MetalmError

PANELS = {
    "training": "Train",
    "evaluation": "Evaluate",
    "data": "Data, tasks and templates",
    "models": "Models",
    "project": "Demo, studies, recipes and plug-ins",
}
"""Panel of ``metalm --help`` for the commands of each folder below ``cli.commands``."""

PLUGIN_PANEL = "Commands of plug-ins"

ALIASES = {"eval": "evaluate"}
"""Commands by their short names, which the help leaves out."""


class LazyGroup(TyperGroup):
    """Root command group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, without aliases."""
        return [name for name in registry.commands.names() if name not in ALIASES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Command of this name, or None."""
        if cmd_name not in self.commands and registry.commands.get(cmd_name) is not None:
            self.add_command(load_command(cmd_name), cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve a command.

        Raises:
            MetalmError: The command is unknown.
        """
        if args and not args[0].startswith("-"):
            registry.commands.entry(args[0], where="command line")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help from the descriptions in the registry, without importing any command."""
        from metalm_cli.cli.display.root_help import print_root_help

        panels: dict[str, list[tuple[str, str]]] = {}
        for entry in registry.commands.entries():
            if entry.name not in ALIASES:
                panels.setdefault(panel_of(entry), []).append((entry.name, entry.description))
        options = [
            ([*parameter.opts, *parameter.secondary_opts], getattr(parameter, "help", None) or "")
            for parameter in self.get_params(ctx)
        ]
        print_root_help(self.get_usage(ctx), self.help or "", options, panels, EXAMPLES[""])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt outside a training run exits with 130, as shells do."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def panel_of(entry: registry.Entry) -> str:
    """Panel of the help that lists a command."""
    if entry.origin != registry.BUILT_IN:
        return PLUGIN_PANEL
    return PANELS[entry.target.removeprefix("metalm_cli.cli.commands.").partition(".")[0]]


def load_command(name: str) -> Any:
    """Import a command and build its parser.

    Raises:
        MetalmError: The command is unknown, or that of a plug-in cannot be imported or is not a command.
    """
    entry = registry.commands.entry(name)
    target = registry.commands.load(name)
    try:
        if not isinstance(target, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name, context_settings=CONTEXT_SETTINGS)(target)
            target = single
        command = typer.main.get_command(target)
    except Exception as error:
        if entry.origin == registry.BUILT_IN:
            raise
        raise MetalmError(
            f"the command {name} of {entry.origin} is not a command",
            where=entry.target,
            why=f"{type(error).__name__}: {error}",
            remedy="a command is a Typer app, or a function whose parameters Typer can parse",
        ) from error
    command.name = name
    if entry.origin == registry.BUILT_IN:
        add_examples(command, ALIASES.get(name, name))
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
        if _origin(arguments) == registry.BUILT_IN:
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
        console.show_bug(bug, _origin(arguments))
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


def _origin(arguments: Sequence[str]) -> str:
    """Origin of the command of a command line: ``metalm``, or the distribution of a plug-in."""
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    entry = registry.commands.get(name)
    return registry.BUILT_IN if entry is None else entry.origin


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from the arguments before ``--``; also return whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    remaining = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*remaining, *arguments[end:]], len(remaining) < end


def _traceback() -> None:
    import traceback

    traceback.print_exc()
