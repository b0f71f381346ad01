"""The list of tests and cases that take long (slow_cases.txt): they are marked ``slow`` when they are collected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

LIST = Path(__file__).with_suffix(".txt")


def mark_slow(items: Sequence[pytest.Item]) -> None:
    """Mark the collected tests that the list names.

    Raises:
        pytest.UsageError: A line names no test of a file that was collected whole.
    """
    names = [item.nodeid.removeprefix("tests/") for item in items]
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        test = re.compile(re.escape(line).replace(r"\*", ".*") + (r"(\[.*\])?" if "[" not in line else ""))
        matching = [item for name, item in zip(names, items, strict=True) if test.fullmatch(name)]
        for item in matching:
            item.add_marker(pytest.mark.slow)
        file = line.partition("::")[0]
        if not matching and any(name.startswith(f"{file}::") for name in names) and not _is_selected(items, file):
            raise pytest.UsageError(f"{LIST.name}: no test is named {line}")


def _is_selected(items: Sequence[pytest.Item], file: str) -> bool:
    """Whether the command line names tests of a file, so that others of it were not collected."""
    return any(f"{file}::" in argument for argument in items[0].config.invocation_params.args)
