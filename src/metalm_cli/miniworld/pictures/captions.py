"""What is said about pictures: captions of one, statements about two."""

from __future__ import annotations

from itertools import product

from metalm_cli.miniworld.english import article, capitalise, listed
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    PLACES,
    RELATIONS,
    Combination,
    Scene,
    asked,
    belongs,
    filled,
    near,
    several,
    showing,
    square,
)
from metalm_cli.miniworld.rng import SeededRandom

Pair = tuple[Scene, Scene]
"""The left picture and the right one."""
Claimed = list[tuple[str, str, Pair]]
"""Two statements, each with two pairs of pictures: one of which it is ``true`` and one of which it is ``false``."""
_TRUTH = ("true", "false")


def captions(shown: Scene, dice: SeededRandom) -> list[str]:
    """Three captions: a list, the places, and how things stand to each other."""
    items = list(shown.items)
    spots = [f"{item.a} {PLACES[item.place]}" for item in items]
    found = [f"{capitalise(listed([item.a for item in items]))}.", f"The picture shows {listed(spots)}."]
    if len(items) == 1:
        return [*found, f"There is one thing in the picture, {items[0].a}."]
    one, other = dice.some(items, 2)
    relation = dice.pick([name for name, holds in RELATIONS.items() if holds(one.place, other.place)])
    rest = [item.a for item in items if item not in (one, other)]
    more = f", and there is also {listed(rest)}" if rest else ""
    return [*found, f"{capitalise(one.a)} is {relation} {other.a}{more}."]


def claims(dice: SeededRandom, split: str) -> Claimed:
    """Two statements in the same words but for what they are about, which the split asks about.

    Of each of two pairs of pictures one is true and the other false.
    """
    return dice.pick((_both, _one, _side, _more, _alike))(dice, split)


def _both(dice: SeededRandom, split: str) -> Claimed:
    one, other = several(dice, split, 2)
    text = dice.pick(("Both pictures show {}.", "There is {} in each of the two pictures."))
    pairs = [_lone(dice, other, shared=[one]), _lone(dice, one, shared=[other])]
    return square([text.format(article(" ".join(what))) for what in (one, other)], _TRUTH, pairs)


def _one(dice: SeededRandom, split: str) -> Claimed:
    one, other = several(dice, split, 2)
    text = dice.pick(("Only one of the pictures shows {}.", "There is {} in one of the pictures but not in the other."))
    pairs = []
    for lone, rest in ((one, other), (other, one)):
        pairs.append(_lone(dice, lone, shared=[rest]) if dice.chance(0.5) else _lone(dice, lone, missing=[rest]))
    return square([text.format(article(" ".join(what))) for what in (one, other)], _TRUTH, pairs)


def _lone(
    dice: SeededRandom,
    lone: Combination,
    *,
    shared: list[Combination] | None = None,
    missing: list[Combination] | None = None,
) -> Pair:
    """Two pictures of which one shows a thing, and both or neither show another."""
    both, neither = shared or [], missing or []
    return _shuffled(dice, showing(dice, [lone, *both], neither), showing(dice, both, [lone, *neither]))


def _side(dice: SeededRandom, split: str) -> Claimed:
    one = asked(dice, split)
    other = near(dice, split, one)
    side = dice.pick(("left", "right"))
    text = dice.pick(("It is the {side} picture that shows {}.", "There is {} in the {side} picture."))
    pairs = []
    for here, there in ((one, other), (other, one)):
        pair = showing(dice, [here], [there]), showing(dice, [there], [here])
        pairs.append(pair if side == "left" else pair[::-1])
    return square([text.format(article(" ".join(what)), side=side) for what in (one, other)], _TRUTH, pairs)


_COUNTS = [(a, b, c, d) for a, b, c, d in product(range(5), repeat=4) if a > c and b < d and max(a + b, c + d) <= 4]
"""How many things of two groups there are in one picture and in another: more of the first, and of the second."""


def _more(dice: SeededRandom, split: str) -> Claimed:
    groups = dice.shuffled(tuple(GROUPS))
    sides = dice.pick((("left", "right"), ("right", "left")))
    text = dice.pick(
        ("The {} picture has more {group} than the {}.", "There are more {group} in the {} picture than in the {}.")
    )

    def drawn(group: str, count: int, other: str, fewer: int) -> Scene:
        return filled(
            dice,
            [(asked(dice, split, GROUPS[group]), None)],
            (lambda colour, kind: kind in GROUPS[group], count - 1),
            (lambda colour, kind: kind in GROUPS[other], fewer),
            (
                lambda colour, kind: not any(belongs(colour, kind, name) for name in GROUPS),
                dice.below(5 - count - fewer),
            ),
        )

    pairs = []
    for one, other in (groups, groups[::-1]):
        a, b, c, d = dice.pick(_COUNTS)
        pair = drawn(one, a, other, b), drawn(other, d, one, c)
        pairs.append(pair if sides[0] == "left" else pair[::-1])
    return square([text.format(*sides, group=group) for group in groups], _TRUTH, pairs)


def _alike(dice: SeededRandom, split: str) -> Claimed:
    one, other = several(dice, split, 2)
    says_same = dice.chance(0.5)
    text = "The {} has the same colour in both pictures."
    if not says_same:
        text = "The colour of the {} is not the same in the two pictures."

    def pair(same: Combination, changed: Combination) -> Pair:
        colours = [colour for colour, kind in COMBINATIONS["train"] if kind == changed[1] and colour != changed[0]]
        return _shuffled(dice, showing(dice, [same, changed]), showing(dice, [same, (dice.pick(colours), changed[1])]))

    pairs = [pair(one, other), pair(other, one)]
    return square([text.format(one[1]), text.format(other[1])], _TRUTH if says_same else _TRUTH[::-1], pairs)


def _shuffled(dice: SeededRandom, one: Scene, other: Scene) -> Pair:
    return (one, other) if dice.chance(0.5) else (other, one)
