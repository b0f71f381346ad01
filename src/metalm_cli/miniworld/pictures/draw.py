"""Drawing pictures of the miniature world: flat figures with dark outlines, 64 by 64 pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from metalm_cli.miniworld.pictures.scene import Scene
from metalm_cli.miniworld.rng import SeededRandom

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 64
"""Width and height of a picture in pixels."""
RGB = {
    "red": (212, 36, 40),
    "blue": (36, 84, 208),
    "green": (36, 150, 60),
    "yellow": (250, 218, 50),
    "white": (252, 252, 252),
    "black": (24, 24, 28),
    "brown": (122, 72, 30),
    "grey": (138, 138, 142),
    "orange": (246, 136, 24),
    "purple": (132, 48, 176),
}
GROUNDS = ((206, 228, 238), (226, 238, 214), (242, 228, 212))
CURTAIN = ((176, 120, 150), (156, 100, 130))
_LINE = (44, 44, 54)
_OVER = 4
"""Drawn so many times larger, then reduced, which makes edges smooth."""

Point = tuple[float, float]


class Pen:
    """Draws in coordinates of a thing's own box, from -1 to 1, to the right and downwards.

    Args:
        draw: Pillow's drawing interface of the large canvas.
        middle: Of the box, in its pixels.
        radius: Half the box, in its pixels.
        colour: Of the thing.
    """

    def __init__(self, draw: object, middle: Point, radius: float, colour: tuple[int, int, int]) -> None:
        self.draw: object = draw
        self.middle = middle
        self.radius = radius
        self.fill = colour
        dark = sum(colour) < 140
        self.mark = (245, 245, 245) if dark else _LINE
        """Colour of eyes and other marks on the thing."""

    def _points(self, points: Sequence[Point]) -> list[Point]:
        (x, y), r = self.middle, self.radius
        return [(x + r * a, y + r * b) for a, b in points]

    def shape(self, *points: Point) -> None:
        """A filled polygon."""
        found = self._points(points)
        self.draw.polygon(found, fill=self.fill)  # type: ignore[attr-defined]
        self.draw.line([*found, found[0], found[1]], fill=_LINE, width=4, joint="curve")  # type: ignore[attr-defined]

    def oval(self, left: float, top: float, right: float, bottom: float) -> None:
        """A filled ellipse."""
        box = self._points([(left, top), (right, bottom)])
        self.draw.ellipse(box, fill=self.fill, outline=_LINE, width=4)  # type: ignore[attr-defined]

    def line(self, *points: Point, width: float = 0.12, mark: bool = False) -> None:
        """A line in the thing's colour with an outline; or of the colour of marks."""
        found, wide = self._points(points), max(round(width * self.radius), 3)
        if not mark:
            self.draw.line(found, fill=_LINE, width=wide + 8, joint="curve")  # type: ignore[attr-defined]
        self.draw.line(found, fill=self.mark if mark else self.fill, width=wide, joint="curve")  # type: ignore[attr-defined]

    def dot(self, x: float, y: float, size: float = 0.1) -> None:
        """An eye."""
        box = self._points([(x - size, y - size), (x + size, y + size)])
        self.draw.ellipse(box, fill=self.mark)  # type: ignore[attr-defined]

    def hole(self, left: float, top: float, right: float, bottom: float, ground: tuple[int, int, int]) -> None:
        """An ellipse through which the background is seen."""
        box = self._points([(left, top), (right, bottom)])
        self.draw.ellipse(box, fill=ground, outline=_LINE, width=4)  # type: ignore[attr-defined]


def _star() -> list[Point]:
    turns = [(math.pi * (k / 5 - 0.5), 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for a, r in turns]


def _cross(pen: Pen) -> None:
    a, b = 0.33, 0.95
    pen.shape(
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)
    )


def _cat(pen: Pen) -> None:
    pen.shape((-0.8, 0.0), (-0.75, -0.95), (-0.1, -0.5))
    pen.shape((0.8, 0.0), (0.75, -0.95), (0.1, -0.5))
    pen.oval(-0.85, -0.6, 0.85, 0.85)
    pen.dot(-0.33, 0.0)
    pen.dot(0.33, 0.0)
    for side in (-1, 1):
        pen.line((0.2 * side, 0.35), (1.0 * side, 0.25), width=0.06, mark=True)
        pen.line((0.2 * side, 0.42), (1.0 * side, 0.5), width=0.06, mark=True)


def _rabbit(pen: Pen) -> None:
    pen.oval(-0.55, -1.0, -0.12, 0.2)
    pen.oval(0.12, -1.0, 0.55, 0.2)
    pen.oval(-0.65, -0.2, 0.65, 0.95)
    pen.dot(-0.25, 0.25)
    pen.dot(0.25, 0.25)
    pen.dot(0.0, 0.5, 0.07)


def _trout(pen: Pen) -> None:
    pen.shape((0.35, 0.0), (1.0, -0.55), (1.0, 0.55))
    pen.oval(-1.0, -0.48, 0.6, 0.48)
    pen.dot(-0.6, -0.1, 0.09)


def _duck(pen: Pen) -> None:
    pen.shape((-0.45, -0.5), (-1.0, -0.3), (-0.45, -0.2))
    pen.shape((0.6, 0.2), (1.0, -0.25), (0.9, 0.6))
    pen.oval(-0.65, -0.1, 0.9, 0.85)
    pen.oval(-0.7, -0.85, 0.05, 0.0)
    pen.dot(-0.4, -0.5, 0.09)


def _turtle(pen: Pen) -> None:
    pen.oval(-1.0, -0.1, -0.5, 0.4)
    for x in (-0.5, 0.35):
        pen.oval(x, 0.2, x + 0.3, 0.85)
    pen.shape((-0.7, 0.5), (-0.6, -0.15), (-0.25, -0.55), (0.35, -0.55), (0.75, -0.15), (0.85, 0.5))
    pen.line((-0.25, -0.5), (-0.1, 0.0), (0.25, 0.0), (0.35, -0.5), width=0.06, mark=True)
    pen.line((-0.1, 0.0), (-0.25, 0.45), width=0.06, mark=True)
    pen.line((0.25, 0.0), (0.4, 0.45), width=0.06, mark=True)
    pen.dot(-0.8, 0.1, 0.07)


def _owl(pen: Pen) -> None:
    pen.shape((-0.6, -0.4), (-0.6, -1.0), (0.0, -0.7), (0.6, -1.0), (0.6, -0.4))
    pen.oval(-0.65, -0.8, 0.65, 0.95)
    for x in (-0.27, 0.27):
        pen.draw.ellipse(pen._points([(x - 0.25, -0.5), (x + 0.25, 0.0)]), fill=(250, 246, 220), outline=_LINE, width=3)  # type: ignore[attr-defined]
        pen.draw.ellipse(pen._points([(x - 0.09, -0.34), (x + 0.09, -0.16)]), fill=_LINE)  # type: ignore[attr-defined]
    pen.line((0.0, 0.0), (0.0, 0.18), width=0.14, mark=True)


def _mouse(pen: Pen) -> None:
    pen.oval(-0.95, -0.9, -0.15, -0.1)
    pen.oval(0.15, -0.9, 0.95, -0.1)
    pen.shape((-0.62, -0.3), (0.62, -0.3), (0.5, 0.3), (0.0, 0.95), (-0.5, 0.3))
    pen.dot(-0.25, 0.0, 0.09)
    pen.dot(0.25, 0.0, 0.09)
    pen.dot(0.0, 0.75, 0.11)


def _boat(pen: Pen) -> None:
    pen.line((0.0, 0.3), (0.0, -0.95), width=0.1)
    pen.shape((0.12, -0.9), (0.12, 0.15), (0.75, 0.15))
    pen.shape((-0.95, 0.3), (0.95, 0.3), (0.6, 0.85), (-0.6, 0.85))


def _kite(pen: Pen) -> None:
    pen.line((0.1, 0.35), (0.4, 0.6), (0.15, 0.75), (0.45, 0.98), width=0.06, mark=False)
    pen.shape((0.0, -1.0), (0.6, -0.4), (0.1, 0.4), (-0.6, -0.4))
    pen.line((0.0, -0.95), (0.08, 0.35), width=0.06, mark=True)
    pen.line((-0.55, -0.4), (0.55, -0.4), width=0.06, mark=True)


def _umbrella(pen: Pen) -> None:
    pen.line((0.0, -0.2), (0.0, 0.75), (0.15, 0.9), (0.35, 0.75), width=0.1)
    points = [(math.cos(math.pi * k / 12), -0.95 * math.sin(math.pi * k / 12)) for k in range(13)]
    pen.shape(*points, (-0.66, -0.18), (-0.33, 0.0), (0.0, -0.18), (0.33, 0.0), (0.66, -0.18))


def _ladder(pen: Pen) -> None:
    for y in (-0.6, -0.1, 0.4):
        pen.line((-0.45, y), (0.45, y), width=0.22)
    for x in (-0.48, 0.48):
        pen.line((x, -0.95), (x, 0.95), width=0.3)


def _hat(pen: Pen) -> None:
    pen.shape((-0.5, 0.4), (-0.42, -0.6), (0.42, -0.6), (0.5, 0.4))
    pen.oval(-1.0, 0.2, 1.0, 0.65)
    pen.line((-0.46, 0.1), (0.46, 0.1), width=0.12, mark=True)


def _lamp(pen: Pen) -> None:
    pen.line((0.0, 0.0), (0.0, 0.8), width=0.14)
    pen.shape((-0.35, -0.95), (0.35, -0.95), (0.8, 0.1), (-0.8, 0.1))
    pen.oval(-0.5, 0.65, 0.5, 0.98)


def _cup(pen: Pen, ground: tuple[int, int, int]) -> None:
    pen.oval(0.25, -0.35, 0.98, 0.4)
    pen.hole(0.42, -0.15, 0.8, 0.2, ground)
    pen.shape((-0.8, -0.6), (0.5, -0.6), (0.35, 0.75), (-0.65, 0.75))


def _key(pen: Pen, ground: tuple[int, int, int]) -> None:
    pen.shape(
        (-0.3, -0.14),
        (0.95, -0.14),
        (0.95, 0.45),
        (0.72, 0.45),
        (0.72, 0.14),
        (0.5, 0.14),
        (0.5, 0.4),
        (0.3, 0.4),
        (0.3, 0.14),
        (-0.3, 0.14),
    )
    pen.oval(-1.0, -0.5, 0.0, 0.5)
    pen.hole(-0.72, -0.22, -0.28, 0.22, ground)


FIGURES: dict[str, Callable[[Pen], None]] = {
    "circle": lambda pen: pen.oval(-0.9, -0.9, 0.9, 0.9),
    "square": lambda pen: pen.shape((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": lambda pen: pen.shape((0.0, -0.9), (0.95, 0.8), (-0.95, 0.8)),
    "star": lambda pen: pen.shape(*_star()),
    "cross": _cross,
    "cat": _cat,
    "rabbit": _rabbit,
    "trout": _trout,
    "duck": _duck,
    "turtle": _turtle,
    "owl": _owl,
    "mouse": _mouse,
    "boat": _boat,
    "kite": _kite,
    "umbrella": _umbrella,
    "ladder": _ladder,
    "hat": _hat,
    "lamp": _lamp,
}
HOLLOW: dict[str, Callable[[Pen, tuple[int, int, int]], None]] = {"cup": _cup, "key": _key}
"""Figures through which the background is seen."""


def draw(shown: Scene) -> Image:
    """The picture of a scene.

    Args:
        shown: What it shows.

    Returns:
        RGB, :data:`SIZE` pixels wide and high. Equal scenes give equal pixels.
    """
    from PIL import Image, ImageDraw

    ground = GROUNDS[shown.ground]
    canvas = Image.new("RGB", (SIZE * _OVER, SIZE * _OVER), ground)
    draw = ImageDraw.Draw(canvas)
    half = SIZE * _OVER // 2
    for item in shown.items:
        dice = SeededRandom("picture", shown.seed, item.place)
        radius = half * (0.36 + 0.08 * dice.roll())
        slack = half / 2 - radius - 5
        x, y = (half * (at + 0.5) + slack * (2 * dice.roll() - 1) for at in (item.place % 2, item.place // 2))
        pen = Pen(draw, (x, y), radius, RGB[item.colour])
        if item.kind in HOLLOW:
            HOLLOW[item.kind](pen, ground)
        else:
            FIGURES[item.kind](pen)
    if shown.curtain is not None:
        left, top = half * (shown.curtain % 2), half * (shown.curtain // 2)
        for stripe in range(8):
            edge = left + stripe * half // 8
            box = [edge, top, edge + half // 8 - 1, top + half - 1]
            draw.rectangle(box, fill=CURTAIN[stripe % 2])
    return canvas.reduce(_OVER)


def png(shown: Scene) -> bytes:
    """The picture of a scene as a PNG file."""
    target = io.BytesIO()
    draw(shown).save(target, "PNG")
    return target.getvalue()
