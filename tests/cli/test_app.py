"""Command tree: speed, exit codes, and error messages."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.cli import app as tree
from metalm_cli.cli import console
from metalm_cli.common import registry
from metalm_cli.errors import Exit, MetalmError

HEAVY = ["torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "yaml"]


def metalm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from metalm_cli.cli import main; sys.argv[0] = 'metalm'; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], [*HEAVY, "pydantic"]),
        (["--version"], [*HEAVY, "pydantic"]),
        (["recipe", "--help"], HEAVY),  # newer Typers bring pydantic for the options of a command
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], heavy: list[str]) -> None:
    code = (
        "import sys; from metalm_cli.cli.app import run; code = run(sys.argv[1:]);"
        f"print(code, [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    assert done.stdout


PLAIN_APP = """
import typer

app = typer.Typer()
app.command("first")(lambda count: None)
app.command("second")(lambda count: None)
app(["--help"])
"""
"""An app of two commands without modules of their own, whose help Typer and Rich display."""


def processor_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", *arguments], capture_output=True, check=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_fast() -> None:
    """The help takes at most 2.5 times the processor time of the help of an app that Typer and Rich alone display.

    Both are measured in turn, because processor time depends on the machine and on what else it runs.
    """
    code = "import sys; from metalm_cli.cli import main; sys.argv[0] = 'metalm'; main()"
    seconds = [(processor_seconds([code, "--help"]), processor_seconds([PLAIN_APP])) for _ in range(5)]
    help_seconds, plain_seconds = map(min, zip(*seconds, strict=True))
    assert help_seconds <= 2.5 * plain_seconds, seconds


def test_help_lists_every_command_but_aliases() -> None:
    help_text = metalm("--help", COLUMNS="100").stdout
    for name in registry.commands.names():
        assert (f" {name} " in help_text) == (name not in tree.ALIASES)


@pytest.mark.parametrize("name", [name for name in registry.commands.names() if name not in tree.ALIASES])
def test_the_help_describes_a_command_as_the_command_itself(name: str) -> None:
    paragraph = (tree.load_command(name).help or "").split("\n\n")[0]
    assert registry.commands.entry(name).description == " ".join(paragraph.split())


def test_version() -> None:
    import metalm_cli

    assert metalm("--version").stdout == f"metalm {metalm_cli.__version__}\n"
    as_module = [sys.executable, "-m", "metalm_cli.cli", "--version"]
    assert subprocess.run(as_module, capture_output=True, text=True).stdout == metalm("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recip"], "did you mean recipe?"),
        (["recipe", "chek"], "check"),
        (["recipe", "list", "--foo"], "--foo"),
        (["--foo"], "--foo"),
    ],
)
def test_wrong_usage_exits_2_on_stderr(arguments: list[str], message: str) -> None:
    done = metalm(*arguments, COLUMNS="100")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_message_without_colour_off_a_terminal() -> None:
    done = metalm("recipe", "check", "smal")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no shipped recipe is named smal\n  remedy: did you mean small?\n"


@pytest.mark.parametrize("arguments", [["--debug", "recipe", "check", "smal"], ["recipe", "check", "smal", "--debug"]])
def test_debug_shows_the_traceback_at_any_position(arguments: list[str]) -> None:
    done = metalm(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "did you mean small?" in done.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(*_: Any, **__: Any) -> list[str]:
        raise error

    monkeypatch.setattr("metalm_cli.config.locate.shipped_names", broken)


def test_a_bug_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, ValueError("two\nlines \x1b[31m"))
    assert tree.run(["recipe", "list"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "bug in metalm: ValueError: two lines \\x1b[31m" in message
    assert "--debug" in message
    assert tree.run(["recipe", "list", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (PermissionError(13, "Permission denied", "/locked/file"), ["where: /locked/file", "why: Permission denied"]),
        (OSError(28, "No space left on device"), ["why: No space left on device"]),
        (MemoryError(), ["memory ran out"]),
    ],
)
def test_a_fault_of_the_system_is_not_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, lines: list[str]
) -> None:
    failing(monkeypatch, error)
    assert tree.run(["recipe", "list"]) == 1
    message = capsys.readouterr().err
    assert "bug" not in message
    assert "remedy: " in message
    assert all(line in message for line in lines)


def test_errors_keep_their_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, MetalmError("disk [full]", where="runs/x", why="a", remedy="b", exit_code=Exit.FAILED))
    assert tree.run(["recipe", "list"]) == 1
    assert capsys.readouterr().err == "error: disk [full]\n  where: runs/x\n  why: a\n  remedy: b\n"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(32, "x"), 1), (SystemExit(75), 75)]
)
def test_quiet_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    saved_stdout = os.dup(1)
    try:
        assert tree.run(["recipe", "list"]) == code
    finally:
        os.dup2(saved_stdout, 1)
        os.close(saved_stdout)
    assert "Traceback" not in capfd.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    code = "from metalm_cli.cli import main; import sys; sys.argv = ['metalm', 'recipe', 'schema']; main()"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert done.stderr == b""


def test_colour_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console.stderr.cache_clear()
    console.show_error(MetalmError("x"))
    assert "\x1b[1;31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    console.stderr.cache_clear()
    console.show_error(MetalmError("x"))
    assert "31m" not in capsys.readouterr().err
    console.stderr.cache_clear()


def test_no_command_function_has_more_than_twelve_parameters() -> None:
    import metalm_cli.cli.commands

    sizes = {}
    for path in Path(metalm_cli.cli.commands.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                sizes[f"{path.stem}.{node.name}"] = len(node.args.args) + len(node.args.kwonlyargs)
    assert {name: size for name, size in sizes.items() if size > 12} == {}


def test_grouped_options_have_panels_of_their_own() -> None:
    help_text = metalm("evaluate", "--help", COLUMNS="100").stdout
    for panel in ("Tasks", "Prompts", "Answers", "Output"):
        assert f"─ {panel} ─" in help_text
