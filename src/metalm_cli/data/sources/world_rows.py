"""Rows of the labelled tasks of the miniature world, also of those about its pictures."""

from __future__ import annotations

from typing import Any

from metalm_cli.data.sources.base import RandomAccessRows

PICTURES = "pictures/"
"""Beginning of the names of tasks about pictures: ``pictures/questions``."""


def open_world_rows(task: str, split: str) -> RandomAccessRows:
    """Open a split of a task of the world; ``pictures/…`` are the tasks about its pictures.

    Raises:
        MetalmError: The task or the split does not exist.
    """
    if task.startswith(PICTURES):
        return MiniworldPictureRows(task.removeprefix(PICTURES), split)
    return MiniworldExampleRows(task, split)


class MiniworldExampleRows(RandomAccessRows):
    """Labelled rows of a task of the miniature world."""

    def __init__(self, task: str, split: str) -> None:
        from metalm_cli.miniworld.tasks import task_rows

        self.task, self.split = task, split
        self._rows = task_rows.rows(task, split)

    def __reduce__(self) -> Any:
        return type(self), (self.task, self.split)

    @property
    def rows(self) -> int:
        return len(self._rows)

    def load(self, row: int) -> Any:
        return self._rows[row]

    def where(self, row: int) -> str:
        return f"task {self.task} of the world, {self.split} row {row}"


class MiniworldPictureRows(MiniworldExampleRows):
    """Labelled rows about pictures of the miniature world; a picture is drawn when its row is read."""

    def __init__(self, task: str, split: str) -> None:
        from metalm_cli.miniworld.pictures import picture_rows

        self.task, self.split = task, split
        self._rows = picture_rows.scene_rows(task, split)

    def load(self, row: int) -> Any:
        from metalm_cli.miniworld.pictures import picture_rows

        return picture_rows.with_pictures(self.task, self._rows[row])

    def where(self, row: int) -> str:
        return f"task {PICTURES}{self.task} of the world, {self.split} row {row}"
