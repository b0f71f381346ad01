"""Fenced blocks of the pages: files, shell commands and Python examples."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("LOG.md", "recipes.md")]
"""Pages whose commands a reader copies: the log quotes earlier versions, and the recipe reference is generated."""
OTHER_PROGRAMS = (".", "make", "pip", "python", "sbatch", "echo")
"""Programs that pages call besides metalm, which no test runs."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        language: First word after the fence.
        words: Further words: ``run`` for a block that a test runs, ``file=NAME`` for a file.
        text: Content.
    """

    language: str
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> str:
        """Name of the file that the block holds, or empty."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), "")

    @property
    def is_run(self) -> bool:
        """Whether a test runs the block."""
        return "run" in self.words


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    fences = re.findall(r"^```(\w+)?([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    return [Block(language, tuple(words.split()), text) for language, words, text in fences]


def command_lines(text: str) -> list[list[str]]:
    """Split a shell block into commands, each a list of words; comments are left out, lines that go on are joined.

    >>> command_lines('echo "a b" | metalm generate RUN - # c\\nmetalm demo \\\\\\n  --quick\\n')
    [['echo', 'a b'], ['metalm', 'generate', 'RUN', '-'], ['metalm', 'demo', '--quick']]
    """
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "|" in words:
            commands.append(words[: words.index("|")])
            words = words[words.index("|") + 1 :]
        if words:
            commands.append(words)
    return commands


def metalm_arguments(command: list[str]) -> list[str] | None:
    """Return the arguments of metalm in a command; None if another program runs.

    ``accelerate launch``, ``srun`` and environment variables may precede it.

    >>> metalm_arguments("A=1 accelerate launch --num_processes 2 -m metalm_cli.cli pretrain small".split())
    ['pretrain', 'small']
    """
    while command and re.match(r"\w+=", command[0]):
        command = command[1:]
    if command[:1] == ["metalm"]:
        return command[1:]
    if command[:1] == ["srun"] and "metalm" in command:
        return command[command.index("metalm") + 1 :]
    if command[:2] == ["accelerate", "launch"] and "metalm_cli.cli" in command:
        return command[command.index("metalm_cli.cli") + 1 :]
    return None


def metalm_commands(page: Path) -> list[list[str]]:
    """Return the arguments of each metalm command in the shell blocks of a page that are not files."""
    shell = [block.text for block in blocks_of(page) if block.language == "sh" and not block.file]
    commands = [metalm_arguments(command) for text in shell for command in command_lines(text)]
    return [arguments for arguments in commands if arguments is not None]


def other_programs(page: Path) -> list[str]:
    """Return the programs of the shell blocks of a page other than metalm."""
    shell = [block.text for block in blocks_of(page) if block.language == "sh" and not block.file]
    return [command[0] for text in shell for command in command_lines(text) if metalm_arguments(command) is None]
