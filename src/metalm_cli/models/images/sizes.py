"""Sizes of images and patches as configs write them: one number for squares, or height and width."""

from __future__ import annotations

from typing import Any

Size = tuple[int, int]
"""Height and width, in pixels or patches."""


def height_and_width(value: Any) -> Size:
    """Return the height and width that a config writes as one number or two."""
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)


def size_text(shape: tuple[int, ...]) -> str:
    """Return a shape for messages: ``224 x 224``."""
    return " x ".join(map(str, shape))
