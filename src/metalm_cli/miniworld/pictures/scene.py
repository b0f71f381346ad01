"""Scenes of the miniature world's pictures: coloured things in four places, one of them possibly behind a curtain."""

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
"""Kinds that questions count together; they also count the things of one colour."""
PLACES = ("at the upper left", "at the upper right", "at the lower left", "at the lower right")
"""Places 0 to 3: the quarters of a picture, each with at most one thing."""
SPATIAL_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "to the left of": lambda first, second: first % 2 < second % 2,
    "to the right of": lambda first, second: first % 2 > second % 2,
    "above": lambda first, second: first // 2 < second // 2,
    "below": lambda first, second: first // 2 > second // 2,
}
"""Whether each relation holds between things at two places; two relations hold between diagonal places."""
BACKGROUND_COUNT = 3
"""Number of backgrounds."""

Combination = tuple[str, str]
"""A colour and a kind."""
TextT = TypeVar("TextT")
PictureT = TypeVar("PictureT")


def combination_split(colour: str, kind: str) -> str:
    """Return the split that asks about things of a colour and a kind: ``validation`` and ``test`` each ask about two
    of the ten colours of each kind, and about each colour for the same number of kinds."""
    offset = (COLOURS.index(colour) - 3 * KINDS.index(kind) - KINDS.index(kind) // 10) % 10
    return {0: "validation", 5: "validation", 2: "test", 7: "test"}.get(offset, "train")


COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    split: tuple((colour, kind) for kind in KINDS for colour in COLOURS if combination_split(colour, kind) == split)
    for split in ("train", "validation", "test")
}
"""Combinations that each split asks about. All other things in a picture, in every split, are of ``train``."""


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
    """Contents of a picture.

    Args:
        items: Things of different kinds, in the order of their places.
        curtain: Place behind the curtain, without an item; None: no curtain.
        background: Index of the background, below :data:`BACKGROUND_COUNT`.
        seed: Seed of the size of each thing and its position within its quarter.
    """

    items: tuple[Item, ...]
    curtain: int | None = None
    background: int = 0
    seed: int = 0

    def item_of_kind(self, kind: str) -> Item | None:
        """Return the thing of this kind, or None."""
        return next((item for item in self.items if item.kind == kind), None)

    def item_at(self, place: int) -> Item | None:
        """Return the thing at this place, or None."""
        return next((item for item in self.items if item.place == place), None)

    def count(self, group: str) -> int:
        """Return the number of visible things of a group of kinds or of a colour."""
        return sum(is_in_group(item.colour, item.kind, group) for item in self.items)

    def record(self) -> dict[str, Any]:
        """Return the scene in the format of the ``scenes`` column."""
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
    """Sample a scene with fixed items and further things of ``train`` combinations.

    Args:
        rng: Source of all random choices.
        fixed_items: Things with their places; None: any free place.
        extra_count: Number of further things, as far as places and kinds allow.
        is_allowed: Whether a further thing may have this colour and kind.
        curtain: Place that stays free.
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
    """Sample a scene with fixed items and a number of further things of several sorts.

    Args:
        rng: Source of all random choices.
        fixed_items: Things with their places; None: any free place.
        extra_items: For each sort, a predicate on colour and kind, and the number of things.
        curtain: Place that stays free.
    """
    scene = sample_scene(rng, fixed_items, curtain=curtain)
    for is_allowed, count in extra_items:
        placed = [((item.colour, item.kind), item.place) for item in scene.items]
        scene = sample_scene(rng, placed, extra_count=count, is_allowed=is_allowed, curtain=curtain)
    return scene


def is_in_group(colour: str, kind: str, group: str) -> bool:
    """Return whether a thing belongs to a group of kinds or has the colour of this name."""
    return colour == group or kind in GROUPS.get(group, ())


def excluding(*combinations: Combination) -> Callable[[str, str], bool]:
    """Return a predicate that allows all combinations but these."""
    return lambda colour, kind: (colour, kind) not in combinations


def sample_combination(rng: SeededRandom, split: str, kinds: Sequence[str] = KINDS) -> Combination:
    """Sample a combination that the split asks about; every kind has the same probability."""
    kind = rng.choice(kinds)
    return rng.choice([combination for combination in COMBINATIONS[split] if combination[1] == kind])


def sample_combinations(rng: SeededRandom, split: str, count: int) -> list[Combination]:
    """Sample combinations of different kinds that the split asks about."""
    return [sample_combination(rng, split, [kind]) for kind in rng.sample(KINDS, count)]


def sample_similar(
    rng: SeededRandom,
    split: str,
    reference: Combination,
    *,
    excluded_kinds: Sequence[str] = (),
    excluded: Sequence[Combination] = (),
) -> Combination:
    """Sample another combination with the same kind or the same colour, so that neither alone identifies the thing.

    Args:
        rng: Source of all random choices.
        split: Split whose combinations are sampled.
        reference: Combination that the result resembles.
        excluded_kinds: Kinds that the result must not have.
        excluded: Combinations that the result must not be.
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
    """Sample a scene with some things, with something similar to each absent thing, and possibly further things."""
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
    """Pair every text with every picture in a Latin square: each text and each picture has every answer once.

    >>> for row in latin_square(["red?", "blue?"], ["yes", "no"], ["a red one", "a blue one"]):
    ...     print(*row)
    red? yes a red one
    blue? no a red one
    red? no a blue one
    blue? yes a blue one

    Args:
        texts: Texts, as many as answers.
        answers: Answers to the texts for the first picture; each next picture's answers are shifted by one text.
        pictures: Pictures, as many as answers.
    """
    size = len(answers)
    return [
        (text, answers[(column - row) % size], picture)
        for row, picture in enumerate(pictures)
        for column, text in enumerate(texts)
    ]
