"""Help of every command: it ends in examples, which parse and name what exists."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from metalm_cli.cli import console
from metalm_cli.cli.app import app, run
from metalm_cli.cli.help_examples import EXAMPLES
from metalm_cli.cli.renamed_options import check_options

ROOT = typer.main.get_command(app)
WIDTH = 60


def commands(command: Any = ROOT, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and group with its name."""
    yield name, command
    for child in command.list_commands(None) if hasattr(command, "list_commands") else ():
        yield from commands(command.get_command(None, child), f"{name} {child}".strip())


COMMANDS = dict(commands())


def parsed(line: str) -> tuple[str, Any]:
    """Name and context of a command line, parsed as the program parses it."""
    words = shlex.split(line.partition(" > ")[0])
    assert words.pop(0) == "metalm"
    check_options(words)
    name, command = "", ROOT
    while hasattr(command, "list_commands"):
        name = f"{name} {words.pop(0)}".strip()
        command = COMMANDS[name]
    return name, command.make_context(name, words)


def test_every_command_has_examples() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_ends_in_examples_that_parse(name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    console.stdout.cache_clear()
    assert run([*name.split(), "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.rstrip().splitlines()]
    heading = "Examples" if len(EXAMPLES[name]) > 1 else "Example"
    assert lines[-len(EXAMPLES[name]) - 1 :] == [heading, *EXAMPLES[name]], "an example is wrapped or missing"
    for example in EXAMPLES[name]:
        command, context = parsed(example)
        assert command.startswith(name)
        assert_names_exist(context)


def assert_names_exist(context: Any) -> None:
    """Assert that each value that a shell completes is a completion, or a path of the reader's own."""
    for parameter in context.command.params:
        if getattr(parameter, "_custom_shell_complete", None) is None:
            continue
        values = context.params[parameter.name]
        for value in [values] if isinstance(values, str) else values or ():
            if set(value) & set("=./"):
                continue
            completions = [item.value for item in parameter.shell_complete(context, value)]
            assert value in completions, f"{parameter.name}: {value}"


def test_the_short_name_has_the_examples_of_its_command(capsys) -> None:
    assert run(["eval", "--help"]) == 0
    assert EXAMPLES["evaluate"][0] in capsys.readouterr().out


def test_sentences_are_wrapped_by_the_terminal_alone(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    console.stdout.cache_clear()
    assert run(["finetune", "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "newest finished run that holds a MetaLM; one of pretraining before one of" in lines
