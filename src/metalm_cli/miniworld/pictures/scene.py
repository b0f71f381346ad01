"""What pictures of the miniature world show: coloured things at four places, perhaps one of them behind a curtain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from metalm_cli.miniworld.english import with_article
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
SPATIAL_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "to the left of": lambda first, second: first % 2 < second % 2,
    "to the right of": lambda first, second: first % 2 > second % 2,
    "above": lambda first, second: first // 2 < second // 2,
    "below": lambda first, second: first // 2 > second // 2,
}
"""Whether a thing at one place is so to a thing at another; of things across from each other two relations hold."""
BACKGROUND_COUNT = 3
"""Backgrounds that a picture may have."""

Combination = tuple[str, str]
"""A colour and a kind."""
TextT = TypeVar("TextT")
PictureT = TypeVar("PictureT")


def combination_split(colour: str, kind: str) -> str:
    """The split that asks about things of a colour and a kind: of the ten colours of each kind two are left to
    ``validation`` and two to ``test``, every colour for equally many kinds."""
    turn = (COLOURS.index(colour) - 3 * KINDS.index(kind) - KINDS.index(kind) // 10) % 10
    return {0: "validation", 5: "validation", 2: "test", 7: "test"}.get(turn, "train")


COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    split: tuple((colour, kind) for kind in KINDS for colour in COLOURS if combination_split(colour, kind) == split)
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
    def name_with_article(self) -> str:
        """``a red boat``."""
        return with_article(self.name)


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
    background: int = 0
    seed: int = 0

    def item_of_kind(self, kind: str) -> Item | None:
        """The thing of this kind."""
        return next((item for item in self.items if item.kind == kind), None)

    def item_at(self, place: int) -> Item | None:
        """The thing at this place."""
        return next((item for item in self.items if item.place == place), None)

    def count(self, group: str) -> int:
        """How many things of a group of kinds, or of a colour, can be seen."""
        return sum(is_in_group(item.colour, item.kind, group) for item in self.items)

    def record(self) -> dict[str, Any]:
        """Everything, as a row keeps it."""
        return {
            "items": [{"colour": item.colour, "kind": item.kind, "place": item.place} for item in self.items],
            "curtain": self.curtain,
            "ground": self.background,
            "seed": self.seed,
        }


def sample_scene(
    rng: SeededRandom,
    fixed_items: Iterable[tuple[Combination, int | None]] = (),
    *,
    extra_count: int = 0,
    is_allowed: Callable[[str, str], bool] = lambda colour, kind: True,
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
    placed = list(fixed_items)
    taken_places = {place for _, place in placed if place is not None} | ({curtain} if curtain is not None else set())
    free_places = rng.shuffled([place for place in range(4) if place not in taken_places])
    items = [Item(*combination, place if place is not None else free_places.pop()) for combination, place in placed]
    candidates = [combination for combination in COMBINATIONS["train"] if is_allowed(*combination)]
    while extra_count > 0 and free_places:
        kinds = {item.kind for item in items}
        candidates = [combination for combination in candidates if combination[1] not in kinds]
        if not candidates:
            break
        items.append(Item(*rng.choice(candidates), free_places.pop()))
        extra_count -= 1
    ordered = tuple(sorted(items, key=lambda item: item.place))
    return Scene(ordered, curtain, rng.randbelow(BACKGROUND_COUNT), rng.randbelow(2**31))


def sample_filled_scene(
    rng: SeededRandom,
    fixed_items: Iterable[tuple[Combination, int | None]],
    *extra_items: tuple[Callable[[str, str], bool], int],
    curtain: int | None = None,
) -> Scene:
    """A scene with what is given, and so many further things of each sort.

    Args:
        dice: Draws the rest.
        given: Things with their places; None: any free place.
        wanted: Which things are of a sort, and how many are wanted.
        curtain: A place that stays free.
    """
    scene = sample_scene(rng, fixed_items, curtain=curtain)
    for is_allowed, count in extra_items:
        placed = [((item.colour, item.kind), item.place) for item in scene.items]
        scene = sample_scene(rng, placed, extra_count=count, is_allowed=is_allowed, curtain=curtain)
    return scene


def is_in_group(colour: str, kind: str, group: str) -> bool:
    """Whether a thing is of a group of kinds, or of a colour."""
    return colour == group or kind in GROUPS.get(group, ())


def excluding(*combinations: Combination) -> Callable[[str, str], bool]:
    """Allows all but these things."""
    return lambda colour, kind: (colour, kind) not in combinations


def sample_combination(rng: SeededRandom, split: str, kinds: Sequence[str] = KINDS) -> Combination:
    """Something that the split asks about, every kind equally likely."""
    kind = rng.choice(kinds)
    return rng.choice([combination for combination in COMBINATIONS[split] if combination[1] == kind])


def sample_combinations(rng: SeededRandom, split: str, count: int) -> list[Combination]:
    """Things of different kinds that the split asks about."""
    return [sample_combination(rng, split, [kind]) for kind in rng.sample(KINDS, count)]


def sample_similar(
    rng: SeededRandom,
    split: str,
    reference: Combination,
    *,
    excluded_kinds: Sequence[str] = (),
    excluded: Sequence[Combination] = (),
) -> Combination:
    """Something else of the same kind or of the same colour, so that neither tells it apart by itself.

    Args:
        dice: Draws it.
        split: Whose combinations it is one of.
        what: The thing that it is like.
        apart: Kinds that it is not of.
        but: Things that it is not.
    """
    candidates = [
        candidate
        for candidate in COMBINATIONS[split]
        if candidate != reference and candidate[1] not in excluded_kinds and candidate not in excluded
    ]
    similar = rng.shuffled(
        [[candidate for candidate in candidates if candidate[aspect] == reference[aspect]] for aspect in (0, 1)]
    )
    return rng.choice(similar[0] or similar[1])


def sample_scene_showing(
    rng: SeededRandom, present: Sequence[Combination], absent: Sequence[Combination] = ()
) -> Scene:
    """A picture of some things without others, in whose stead there is something like each, and perhaps more."""
    combinations = list(present)
    for combination in absent:
        combinations.append(
            sample_similar(
                rng, "train", combination, excluded_kinds=[kind for _, kind in combinations], excluded=absent
            )
        )
    return sample_scene(
        rng,
        [(combination, None) for combination in combinations],
        extra_count=rng.randbelow(5 - len(combinations)),
        is_allowed=excluding(*absent),
    )


def latin_square(
    texts: Sequence[TextT], answers: Sequence[str], pictures: Sequence[PictureT]
) -> list[tuple[TextT, str, PictureT]]:
    """Every text with every picture, in a Latin square: each has every answer once, so neither tells it by itself.

    >>> for row in latin_square(["red?", "blue?"], ["yes", "no"], ["a red one", "a blue one"]):
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
        (text, answers[(column - row) % size], picture)
        for row, picture in enumerate(pictures)
        for column, text in enumerate(texts)
    ]
