"""Fixtures of the evaluation tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from task_folders import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A folder of cards, rows and templates."""
    from task_folders import Desk

    monkeypatch.delenv("METALM_DATA", raising=False)
    return Desk(tmp_path)
