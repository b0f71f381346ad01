"""Fixtures of the evaluation tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from task_folders import TaskFolder


@pytest.fixture
def task_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFolder:
    """Empty folder of cards, rows and templates."""
    from task_folders import TaskFolder

    monkeypatch.delenv("METALM_DATA", raising=False)
    return TaskFolder(tmp_path)
