"""Renderer of the miniature world's pictures: flat figures with dark outlines, 64 by 64 pixels."""

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
COLOURS_RGB = {
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
BACKGROUND_COLOURS = ((206, 228, 238), (226, 238, 214), (242, 228, 212))
CURTAIN_COLOURS = ((176, 120, 150), (156, 100, 130))
_OUTLINE = (44, 44, 54)
_SUPERSAMPLING = 4
"""Factor by which the canvas is larger than the picture; reducing it makes edges smooth."""

Point = tuple[float, float]


class Pen:
    """Pen that draws in the coordinates of a thing's own box: from -1 to 1, to the right and downwards.

    Args:
        canvas: Pillow's drawing interface of the enlarged picture.
        centre: Centre of the box in pixels of the canvas.
        radius: Half the width of the box in pixels of the canvas.
        colour: Colour of the thing.
    """

    def __init__(self, canvas: object, centre: Point, radius: float, colour: tuple[int, int, int]) -> None:
        self.canvas: object = canvas
        self.centre = centre
        self.radius = radius
        self.fill_colour = colour
        dark = sum(colour) < 140
        self.mark_colour = (245, 245, 245) if dark else _OUTLINE
        """Colour of eyes and other marks on the thing."""

    def _points(self, points: Sequence[Point]) -> list[Point]:
        (x, y), r = self.centre, self.radius
        return [(x + r * dx, y + r * dy) for dx, dy in points]

    def draw_polygon(self, *points: Point) -> None:
        """Draw a filled polygon."""
        vertices = self._points(points)
        self.canvas.polygon(vertices, fill=self.fill_colour)  # type: ignore[attr-defined]
        self.canvas.line([*vertices, vertices[0], vertices[1]], fill=_OUTLINE, width=4, joint="curve")  # type: ignore[attr-defined]

    def draw_ellipse(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a filled ellipse."""
        box = self._points([(left, top), (right, bottom)])
        self.canvas.ellipse(box, fill=self.fill_colour, outline=_OUTLINE, width=4)  # type: ignore[attr-defined]

    def draw_line(self, *points: Point, width: float = 0.12, use_mark_colour: bool = False) -> None:
        """Draw a line in the thing's colour with an outline, or in the colour of marks without."""
        vertices, line_width = self._points(points), max(round(width * self.radius), 3)
        if not use_mark_colour:
            self.canvas.line(vertices, fill=_OUTLINE, width=line_width + 8, joint="curve")  # type: ignore[attr-defined]
        self.canvas.line(  # type: ignore[attr-defined]
            vertices, fill=self.mark_colour if use_mark_colour else self.fill_colour, width=line_width, joint="curve"
        )

    def draw_dot(self, x: float, y: float, size: float = 0.1) -> None:
        """Draw a dot in the colour of marks, such as an eye."""
        box = self._points([(x - size, y - size), (x + size, y + size)])
        self.canvas.ellipse(box, fill=self.mark_colour)  # type: ignore[attr-defined]

    def draw_hole(self, left: float, top: float, right: float, bottom: float, background: tuple[int, int, int]) -> None:
        """Draw an ellipse through which the background is visible."""
        box = self._points([(left, top), (right, bottom)])
        self.canvas.ellipse(box, fill=background, outline=_OUTLINE, width=4)  # type: ignore[attr-defined]


def _star_points() -> list[Point]:
    turns = [(math.pi * (k / 5 - 0.5), 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for a, r in turns]


def _draw_cross(pen: Pen) -> None:
    a, b = 0.33, 0.95
    pen.draw_polygon(
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)
    )


def _draw_cat(pen: Pen) -> None:
    pen.draw_polygon((-0.8, 0.0), (-0.75, -0.95), (-0.1, -0.5))
    pen.draw_polygon((0.8, 0.0), (0.75, -0.95), (0.1, -0.5))
    pen.draw_ellipse(-0.85, -0.6, 0.85, 0.85)
    pen.draw_dot(-0.33, 0.0)
    pen.draw_dot(0.33, 0.0)
    for side in (-1, 1):
        pen.draw_line((0.2 * side, 0.35), (1.0 * side, 0.25), width=0.06, use_mark_colour=True)
        pen.draw_line((0.2 * side, 0.42), (1.0 * side, 0.5), width=0.06, use_mark_colour=True)


def _draw_rabbit(pen: Pen) -> None:
    pen.draw_ellipse(-0.55, -1.0, -0.12, 0.2)
    pen.draw_ellipse(0.12, -1.0, 0.55, 0.2)
    pen.draw_ellipse(-0.65, -0.2, 0.65, 0.95)
    pen.draw_dot(-0.25, 0.25)
    pen.draw_dot(0.25, 0.25)
    pen.draw_dot(0.0, 0.5, 0.07)


def _draw_trout(pen: Pen) -> None:
    pen.draw_polygon((0.35, 0.0), (1.0, -0.55), (1.0, 0.55))
    pen.draw_ellipse(-1.0, -0.48, 0.6, 0.48)
    pen.draw_dot(-0.6, -0.1, 0.09)


def _draw_duck(pen: Pen) -> None:
    pen.draw_polygon((-0.45, -0.5), (-1.0, -0.3), (-0.45, -0.2))
    pen.draw_polygon((0.6, 0.2), (1.0, -0.25), (0.9, 0.6))
    pen.draw_ellipse(-0.65, -0.1, 0.9, 0.85)
    pen.draw_ellipse(-0.7, -0.85, 0.05, 0.0)
    pen.draw_dot(-0.4, -0.5, 0.09)


def _draw_turtle(pen: Pen) -> None:
    pen.draw_ellipse(-1.0, -0.1, -0.5, 0.4)
    for x in (-0.5, 0.35):
        pen.draw_ellipse(x, 0.2, x + 0.3, 0.85)
    pen.draw_polygon((-0.7, 0.5), (-0.6, -0.15), (-0.25, -0.55), (0.35, -0.55), (0.75, -0.15), (0.85, 0.5))
    pen.draw_line((-0.25, -0.5), (-0.1, 0.0), (0.25, 0.0), (0.35, -0.5), width=0.06, use_mark_colour=True)
    pen.draw_line((-0.1, 0.0), (-0.25, 0.45), width=0.06, use_mark_colour=True)
    pen.draw_line((0.25, 0.0), (0.4, 0.45), width=0.06, use_mark_colour=True)
    pen.draw_dot(-0.8, 0.1, 0.07)


def _draw_owl(pen: Pen) -> None:
    pen.draw_polygon((-0.6, -0.4), (-0.6, -1.0), (0.0, -0.7), (0.6, -1.0), (0.6, -0.4))
    pen.draw_ellipse(-0.65, -0.8, 0.65, 0.95)
    for x in (-0.27, 0.27):
        pen.canvas.ellipse(  # type: ignore[attr-defined]
            pen._points([(x - 0.25, -0.5), (x + 0.25, 0.0)]), fill=(250, 246, 220), outline=_OUTLINE, width=3
        )
        pen.canvas.ellipse(pen._points([(x - 0.09, -0.34), (x + 0.09, -0.16)]), fill=_OUTLINE)  # type: ignore[attr-defined]
    pen.draw_line((0.0, 0.0), (0.0, 0.18), width=0.14, use_mark_colour=True)


def _draw_mouse(pen: Pen) -> None:
    pen.draw_ellipse(-0.95, -0.9, -0.15, -0.1)
    pen.draw_ellipse(0.15, -0.9, 0.95, -0.1)
    pen.draw_polygon((-0.62, -0.3), (0.62, -0.3), (0.5, 0.3), (0.0, 0.95), (-0.5, 0.3))
    pen.draw_dot(-0.25, 0.0, 0.09)
    pen.draw_dot(0.25, 0.0, 0.09)
    pen.draw_dot(0.0, 0.75, 0.11)


def _draw_boat(pen: Pen) -> None:
    pen.draw_line((0.0, 0.3), (0.0, -0.95), width=0.1)
    pen.draw_polygon((0.12, -0.9), (0.12, 0.15), (0.75, 0.15))
    pen.draw_polygon((-0.95, 0.3), (0.95, 0.3), (0.6, 0.85), (-0.6, 0.85))


def _draw_kite(pen: Pen) -> None:
    pen.draw_line((0.1, 0.35), (0.4, 0.6), (0.15, 0.75), (0.45, 0.98), width=0.06, use_mark_colour=False)
    pen.draw_polygon((0.0, -1.0), (0.6, -0.4), (0.1, 0.4), (-0.6, -0.4))
    pen.draw_line((0.0, -0.95), (0.08, 0.35), width=0.06, use_mark_colour=True)
    pen.draw_line((-0.55, -0.4), (0.55, -0.4), width=0.06, use_mark_colour=True)


def _draw_umbrella(pen: Pen) -> None:
    pen.draw_line((0.0, -0.2), (0.0, 0.75), (0.15, 0.9), (0.35, 0.75), width=0.1)
    points = [(math.cos(math.pi * k / 12), -0.95 * math.sin(math.pi * k / 12)) for k in range(13)]
    pen.draw_polygon(*points, (-0.66, -0.18), (-0.33, 0.0), (0.0, -0.18), (0.33, 0.0), (0.66, -0.18))


def _draw_ladder(pen: Pen) -> None:
    for y in (-0.6, -0.1, 0.4):
        pen.draw_line((-0.45, y), (0.45, y), width=0.22)
    for x in (-0.48, 0.48):
        pen.draw_line((x, -0.95), (x, 0.95), width=0.3)


def _draw_hat(pen: Pen) -> None:
    pen.draw_polygon((-0.5, 0.4), (-0.42, -0.6), (0.42, -0.6), (0.5, 0.4))
    pen.draw_ellipse(-1.0, 0.2, 1.0, 0.65)
    pen.draw_line((-0.46, 0.1), (0.46, 0.1), width=0.12, use_mark_colour=True)


def _draw_lamp(pen: Pen) -> None:
    pen.draw_line((0.0, 0.0), (0.0, 0.8), width=0.14)
    pen.draw_polygon((-0.35, -0.95), (0.35, -0.95), (0.8, 0.1), (-0.8, 0.1))
    pen.draw_ellipse(-0.5, 0.65, 0.5, 0.98)


def _draw_cup(pen: Pen, background: tuple[int, int, int]) -> None:
    pen.draw_ellipse(0.25, -0.35, 0.98, 0.4)
    pen.draw_hole(0.42, -0.15, 0.8, 0.2, background)
    pen.draw_polygon((-0.8, -0.6), (0.5, -0.6), (0.35, 0.75), (-0.65, 0.75))


def _draw_key(pen: Pen, background: tuple[int, int, int]) -> None:
    pen.draw_polygon(
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
    pen.draw_ellipse(-1.0, -0.5, 0.0, 0.5)
    pen.draw_hole(-0.72, -0.22, -0.28, 0.22, background)


FIGURES: dict[str, Callable[[Pen], None]] = {
    "circle": lambda pen: pen.draw_ellipse(-0.9, -0.9, 0.9, 0.9),
    "square": lambda pen: pen.draw_polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": lambda pen: pen.draw_polygon((0.0, -0.9), (0.95, 0.8), (-0.95, 0.8)),
    "star": lambda pen: pen.draw_polygon(*_star_points()),
    "cross": _draw_cross,
    "cat": _draw_cat,
    "rabbit": _draw_rabbit,
    "trout": _draw_trout,
    "duck": _draw_duck,
    "turtle": _draw_turtle,
    "owl": _draw_owl,
    "mouse": _draw_mouse,
    "boat": _draw_boat,
    "kite": _draw_kite,
    "umbrella": _draw_umbrella,
    "ladder": _draw_ladder,
    "hat": _draw_hat,
    "lamp": _draw_lamp,
}
HOLLOW_FIGURES: dict[str, Callable[[Pen, tuple[int, int, int]], None]] = {"cup": _draw_cup, "key": _draw_key}
"""Figures through which the background is visible."""


def draw_scene(scene: Scene) -> Image:
    """Draw a scene.

    Returns:
        RGB image, :data:`SIZE` pixels wide and high. Equal scenes give equal pixels.
    """
    from PIL import Image, ImageDraw

    background = BACKGROUND_COLOURS[scene.background]
    image = Image.new("RGB", (SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING), background)
    canvas = ImageDraw.Draw(image)
    half = SIZE * _SUPERSAMPLING // 2
    for item in scene.items:
        rng = SeededRandom("picture", scene.seed, item.place)
        radius = half * (0.36 + 0.08 * rng.random())
        margin = half / 2 - radius - 5
        x, y = (half * (offset + 0.5) + margin * (2 * rng.random() - 1) for offset in (item.place % 2, item.place // 2))
        pen = Pen(canvas, (x, y), radius, COLOURS_RGB[item.colour])
        if item.kind in HOLLOW_FIGURES:
            HOLLOW_FIGURES[item.kind](pen, background)
        else:
            FIGURES[item.kind](pen)
    if scene.curtain is not None:
        left, top = half * (scene.curtain % 2), half * (scene.curtain // 2)
        for stripe in range(8):
            edge = left + stripe * half // 8
            box = [edge, top, edge + half // 8 - 1, top + half - 1]
            canvas.rectangle(box, fill=CURTAIN_COLOURS[stripe % 2])
    return image.reduce(_SUPERSAMPLING)


def encode_png(scene: Scene) -> bytes:
    """Draw a scene and return the image as the bytes of a PNG file."""
    target = io.BytesIO()
    draw_scene(scene).save(target, "PNG")
    return target.getvalue()
