"""The help of ``metalm`` itself: options, and commands by panel.

Typer's own help imports the module of every command, and more of Rich than this page needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metalm_cli.cli import console


def print_root_help(
    usage: str,
    about: str,
    options: Sequence[tuple[Sequence[str], str]],
    panels: Mapping[str, Sequence[tuple[str, str]]],
    examples: Sequence[str],
) -> None:
    """Print the help.

    Args:
        usage: Line of usage.
        about: What the program does.
        options: Names and help of each option.
        panels: Names and descriptions of the commands by title of their panel.
        examples: Command lines.
    """
    from rich.text import Text

    stdout = console.stdout()
    stdout.print(Text(f"\n{usage}\n", style="bold"))
    stdout.print(Text(about), width=stdout.width - 1)
    stdout.print()
    names = [", ".join(sorted(option_names, key=len, reverse=True)) for option_names, _ in options]
    _print_panel("Options", list(zip(names, (text for _, text in options), strict=True)), max(map(len, names)))
    width = max(len(name) for rows in panels.values() for name, _ in rows)
    for title, rows in panels.items():
        _print_panel(title, rows, width)
    stdout.print(Text.assemble("\n ", ("Examples", "bold"), "\n ", "\n ".join(examples), "\n"))


def _print_panel(title: str, rows: Sequence[tuple[str, str]], width: int) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, expand=True, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True, width=width)
    table.add_column(ratio=1)
    for name, text in rows:
        table.add_row(Text(name), Text(console.escape_markup(text)))
    console.stdout().print(Panel(table, title=title, title_align="left", border_style="dim"))
