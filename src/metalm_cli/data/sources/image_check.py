"""Check of the images of rows before training: missing and broken files, and images that are too large."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any, Literal

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import ImageSource, UnreadableImageError, check_image
from metalm_cli.sessions.images import OUTSIDE
from metalm_cli.tasks import ExampleMaker
from metalm_cli.tasks.example import LocateRow

BrokenImages = Literal["skip", "fail"]
MAX_NAMED = 3
"""Rows that are named for each reason; all are counted."""


class ImageCheck:
    """Check of the images of rows; each file is opened once.

    Args:
        make_example: Converter of the rows.
        broken_images: ``fail``: an image that cannot be read is an error; ``skip``: its row is left out.

    Attributes:
        named: Names of some images that cannot be read, by reason.
    """

    def __init__(self, make_example: ExampleMaker, broken_images: BrokenImages) -> None:
        self.make_example, self.broken_images = make_example, broken_images
        self.named: dict[str, list[str]] = defaultdict(list)
        self._reasons: dict[tuple[str, str | None], str] = {}

    def reason(self, row: Any, where: LocateRow) -> str:
        """Return why a row is left out; an empty text if all its images can be opened.

        Raises:
            MetalmError: The row holds no image, an image lies outside its folder, or one cannot be read and that is an
                error.
        """
        images = chain.from_iterable(self.make_example.images(row, where).values())
        return next(filter(None, (self._reason(image, where) for image in images)), "")

    def _reason(self, image: ImageSource, where: LocateRow) -> str:
        key = image.name, image.root
        if image.data is None and key in self._reasons:
            return self._reasons[key]
        reason = ""
        try:
            check_image(image)
        except UnreadableImageError as error:
            if self.broken_images == "fail" or error.reason == OUTSIDE:
                raise MetalmError(
                    f"a row has an image that is not read: {error.reason}",
                    where=where(),
                    why=f"{error.where}: {error.why}",
                    remedy=error.remedy
                    + ("" if error.reason == OUTSIDE else "; data.broken_images=skip leaves it out"),
                ) from error
            reason = error.reason
            if len(self.named[reason]) < MAX_NAMED:
                self.named[reason].append(image.name)
        if image.data is None:
            self._reasons[key] = reason
        return reason
