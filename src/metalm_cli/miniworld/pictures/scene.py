"""What pictures of the miniature world show: coloured things at four places, perhaps one of them behind a curtain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from metalm_cli.miniworld.english import article
from metalm_cli.miniworld.lexicon import COLOURS
from metalm_cli.miniworld.rng import SeededRandom

SHAPES = ("circle", "square", "triangle", "star", "cross")
ANIMALS = ("cat", "rabbit", "trout", "duck", "turtle", "owl", "mouse")
OBJECTS = ("boat", "kite", "cup", "umbrella", "ladder", "hat", "key", "lamp")
KINDS = (*SHAPES, *ANIMALS, *OBJECTS)
GROUPS = {"shapes": SHAPES, "animals": ANIMALS}
"""Kinds that are counted together, besides things of one colour."""
PLACES = ("at the upper left", "at the upper right", "at the lower left", "at the lower right")
"""Places 0 to 3: the quarters of a picture, each with one thing at most."""
RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "to the left of": lambda one, other: one % 2 < other % 2,
    "to the right of": lambda one, other: one % 2 > other % 2,
    "above": lambda one, other: one // 2 < other // 2,
    "below": lambda one, other: one // 2 > other // 2,
}
"""Whether a thing at one place is so to a thing at another; of things across from each other two relations hold."""
GROUNDS = 3
"""Backgrounds that a picture may have."""

Combination = tuple[str, str]
"""A colour and a kind."""
T = TypeVar("T")
P = TypeVar("P")


def split_of(colour: str, kind: str) -> str:
    """The split that asks about things of a colour and a kind: of the ten colours of each kind two are left to
    ``validation`` and two to ``test``, every colour for equally many kinds."""
    turn = (COLOURS.index(colour) - 3 * KINDS.index(kind) - KINDS.index(kind) // 10) % 10
    return {0: "validation", 5: "validation", 2: "test", 7: "test"}.get(turn, "train")


COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    split: tuple((colour, kind) for kind in KINDS for colour in COLOURS if split_of(colour, kind) == split)
    for split in ("train", "validation", "test")
}
"""What each split asks about. All else in a picture is a combination of ``train``, in every split."""


@dataclass(frozen=True, slots=True)
class Item:
    """A thing in a picture."""

    colour: str
    kind: str
    place: int

    @property
    def name(self) -> str:
        """``red boat``."""
        return f"{self.colour} {self.kind}"

    @property
    def a(self) -> str:
        """``a red boat``."""
        return article(self.name)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before it is drawn.

    Args:
        items: Things of different kinds, in the order of their places.
        curtain: A place that cannot be seen; no item is there.
        ground: The background, below :data:`GROUNDS`.
        seed: Of where in its quarter each thing stands, and how large it is.
    """

    items: tuple[Item, ...]
    curtain: int | None = None
    ground: int = 0
    seed: int = 0

    def find(self, kind: str) -> Item | None:
        """The thing of this kind."""
        return next((item for item in self.items if item.kind == kind), None)

    def at(self, place: int) -> Item | None:
        """The thing at this place."""
        return next((item for item in self.items if item.place == place), None)

    def count(self, group: str) -> int:
        """How many things of a group of kinds, or of a colour, can be seen."""
        return sum(belongs(item.colour, item.kind, group) for item in self.items)

    def record(self) -> dict[str, Any]:
        """Everything, as a row keeps it."""
        return {
            "items": [{"colour": item.colour, "kind": item.kind, "place": item.place} for item in self.items],
            "curtain": self.curtain,
            "ground": self.ground,
            "seed": self.seed,
        }


def scene(
    dice: SeededRandom,
    given: Iterable[tuple[Combination, int | None]] = (),
    *,
    more: int = 0,
    fits: Callable[[str, str], bool] = lambda colour, kind: True,
    curtain: int | None = None,
) -> Scene:
    """A scene with what is given, and further things of ``train`` combinations.

    Args:
        dice: Draws the rest.
        given: Things with their places; None: any free place.
        more: How many further things, as far as places and kinds allow.
        fits: Which further things may stand there.
        curtain: A place that stays free.
    """
    things = list(given)
    taken = {place for _, place in things if place is not None} | ({curtain} if curtain is not None else set())
    free = dice.shuffled([place for place in range(4) if place not in taken])
    items = [Item(*what, place if place is not None else free.pop()) for what, place in things]
    pool = [what for what in COMBINATIONS["train"] if fits(*what)]
    while more > 0 and free:
        kinds = {item.kind for item in items}
        pool = [what for what in pool if what[1] not in kinds]
        if not pool:
            break
        items.append(Item(*dice.pick(pool), free.pop()))
        more -= 1
    ordered = tuple(sorted(items, key=lambda item: item.place))
    return Scene(ordered, curtain, dice.below(GROUNDS), dice.below(2**31))


def filled(
    dice: SeededRandom,
    given: Iterable[tuple[Combination, int | None]],
    *wanted: tuple[Callable[[str, str], bool], int],
    curtain: int | None = None,
) -> Scene:
    """A scene with what is given, and so many further things of each sort.

    Args:
        dice: Draws the rest.
        given: Things with their places; None: any free place.
        wanted: Which things are of a sort, and how many are wanted.
        curtain: A place that stays free.
    """
    shown = scene(dice, given, curtain=curtain)
    for fits, count in wanted:
        known = [((item.colour, item.kind), item.place) for item in shown.items]
        shown = scene(dice, known, more=count, fits=fits, curtain=curtain)
    return shown


def belongs(colour: str, kind: str, group: str) -> bool:
    """Whether a thing is of a group of kinds, or of a colour."""
    return colour == group or kind in GROUPS.get(group, ())


def without(*things: Combination) -> Callable[[str, str], bool]:
    """Allows all but these things."""
    return lambda colour, kind: (colour, kind) not in things


def asked(dice: SeededRandom, split: str, kinds: Sequence[str] = KINDS) -> Combination:
    """Something that the split asks about, every kind equally likely."""
    kind = dice.pick(kinds)
    return dice.pick([what for what in COMBINATIONS[split] if what[1] == kind])


def several(dice: SeededRandom, split: str, count: int) -> list[Combination]:
    """Things of different kinds that the split asks about."""
    return [asked(dice, split, [kind]) for kind in dice.some(KINDS, count)]


def near(
    dice: SeededRandom, split: str, what: Combination, *, apart: Sequence[str] = (), but: Sequence[Combination] = ()
) -> Combination:
    """Something else of the same kind or of the same colour, so that neither tells it apart by itself.

    Args:
        dice: Draws it.
        split: Whose combinations it is one of.
        what: The thing that it is like.
        apart: Kinds that it is not of.
        but: Things that it is not.
    """
    pool = [one for one in COMBINATIONS[split] if one != what and one[1] not in apart and one not in but]
    alike = dice.shuffled([[one for one in pool if one[part] == what[part]] for part in (0, 1)])
    return dice.pick(alike[0] or alike[1])


def showing(dice: SeededRandom, present: Sequence[Combination], missing: Sequence[Combination] = ()) -> Scene:
    """A picture of some things without others, in whose stead there is something like each, and perhaps more."""
    given = list(present)
    for what in missing:
        given.append(near(dice, "train", what, apart=[kind for _, kind in given], but=missing))
    return scene(dice, [(what, None) for what in given], more=dice.below(5 - len(given)), fits=without(*missing))


def square(texts: Sequence[T], answers: Sequence[str], pictures: Sequence[P]) -> list[tuple[T, str, P]]:
    """Every text with every picture, in a Latin square: each has every answer once, so neither tells it by itself.

    >>> for row in square(["red?", "blue?"], ["yes", "no"], ["a red one", "a blue one"]):
    ...     print(*row)
    red? yes a red one
    blue? no a red one
    red? no a blue one
    blue? yes a blue one

    Args:
        texts: As many as there are answers.
        answers: To each of the texts about the first picture. Each next picture's are moved on by one text.
        pictures: As many as there are answers.
    """
    size = len(answers)
    return [
        (text, answers[(column - line) % size], picture)
        for line, picture in enumerate(pictures)
        for column, text in enumerate(texts)
    ]
