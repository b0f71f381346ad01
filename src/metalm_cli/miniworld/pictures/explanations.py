"""Hypotheses about pictures of which a part is hidden: true, false or open, and why.

A curtain hides a place of every picture, and a place holds one thing at most. Three hypotheses are told of each of
three pictures: each is true of one, open of another and false of the third, and of each picture one is true, one open
and one false.
"""

from __future__ import annotations

from metalm_cli.miniworld.english import article, listed
from metalm_cli.miniworld.lexicon import COLOURS
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    PLACES,
    Combination,
    Scene,
    belongs,
    filled,
    near,
    scene,
    several,
    square,
    without,
)
from metalm_cli.miniworld.rng import SeededRandom

LABELS = ("entailment", "neutral", "contradiction")
SPOTS: dict[str, tuple[int, ...]] = {name: (at,) for at, name in enumerate(PLACES)}
HALVES: dict[str, tuple[int, ...]] = {
    "in the left half": (0, 2),
    "in the right half": (1, 3),
    "in the upper half": (0, 1),
    "in the lower half": (2, 3),
}
"""Parts of a picture that have names, and their places."""

Judged = tuple[str, str, str, Scene]
"""A hypothesis, its label, the explanation, and the picture."""
Told = tuple[Combination, str, tuple[int, ...]]
"""A thing, the name of a part of the picture, and the places of that part."""


def judged(dice: SeededRandom, split: str) -> list[Judged]:
    """Three hypotheses in the same words but for what they are about, about three pictures."""
    return dice.pick((_spot, _half, _number))(dice, split)


def _spot(dice: SeededRandom, split: str) -> list[Judged]:
    return _where(dice, split, SPOTS)


def _half(dice: SeededRandom, split: str) -> list[Judged]:
    return _where(dice, split, HALVES)


def _where(dice: SeededRandom, split: str, parts: dict[str, tuple[int, ...]]) -> list[Judged]:
    """Whether things are in parts of the picture."""
    names = dice.some(tuple(parts), 3)
    told = [(what, name, parts[name]) for what, name in zip(several(dice, split, 3), names, strict=True)]
    text = dice.pick(("There is {} {}.", "You see {} {}.", "You can find {} {}."))
    pictures = [_hiding(dice, *told[turn:], *told[:turn]) for turn in range(3)]
    return [
        (text.format(article(" ".join(what)), name), label, _why_there(label, (what, name, places), shown), shown)
        for (what, name, places), label, shown in square(told, LABELS, pictures)
    ]


def _hiding(dice: SeededRandom, seen: Told, hidden: Told, wrong: Told) -> Scene:
    """A picture that shows one thing in its part, may hide another in its part, and lacks the third in its part.

    Of those two it may show one elsewhere, or something like it.
    """
    curtain = dice.pick([at for at in hidden[2] if at not in wrong[2]])
    at = dice.pick([at for at in seen[2] if at != curtain])
    given = [(seen[0], at)]
    things = [one[0] for one in (seen, hidden, wrong)]
    for what, _, part in dice.some((hidden, wrong), dice.below(3)):
        free = [place for place in range(4) if place not in (curtain, *(place for _, place in given))]
        outside = [place for place in free if place not in part]
        if outside and dice.chance(0.5):
            given.append((what, dice.pick(outside)))
            continue
        apart = [kind for _, kind in (*things, *(one for one, _ in given)) if kind != what[1]]
        inside = [place for place in free if place in part]
        given.append((near(dice, "train", what, apart=apart), dice.pick(inside or free)))
    return scene(dice, given, more=dice.below(4 - len(given)), fits=without(*things), curtain=curtain)


def _why_there(label: str, told: Told, shown: Scene) -> str:
    what, name, places = told
    found = [item for item in shown.items if item.place in places]
    if label == "entailment":
        return f"there is {article(' '.join(what))} {next(PLACES[one.place] for one in found if one.kind == what[1])}"
    if label == "neutral":
        return f"{article(' '.join(what))} may be behind the curtain {_curtain(shown)}"
    return f"there is only {listed([item.a for item in found])} {name}" if found else f"there is nothing {name}"


def _curtain(shown: Scene) -> str:
    return next(name for at, name in enumerate(PLACES) if at == shown.curtain)


def _number(dice: SeededRandom, split: str) -> list[Judged]:
    """Whether there are two things or more of groups and of colours: two, one or none can be seen."""
    groups = dice.some((*GROUPS, *dice.some(COLOURS, 3)), 3)
    many = dice.chance(0.5)
    text = dice.pick(
        ("There are at least two {}s in the picture.", "The picture shows more than one {}.")
        if many
        else ("There are fewer than two {}s in the picture.", "The picture shows at most one {}.")
    )
    pictures = []
    for turn in range(3):
        most, one, none = (groups[(turn + step) % 3] for step in ((0, 1, 2) if many else (2, 1, 0)))
        pictures.append(_counted(dice, split, most, one, none))
    return [
        (text.format(_noun(group)), label, _why_so_many(group, shown), shown)
        for group, label, shown in square(groups, LABELS, pictures)
    ]


def _counted(dice: SeededRandom, split: str, most: str, one: str, none: str) -> Scene:
    """A picture with two things of a group or a colour, one of another, none of a third, and a curtain."""

    def only(group: str, *, apart: str = "") -> list[Combination]:
        others = [name for name in (most, one, none) if name != group]
        return [
            what
            for what in COMBINATIONS[split]
            if belongs(*what, group) and what[1] != apart and not any(belongs(*what, name) for name in others)
        ]

    first = dice.pick(only(most))
    second = dice.pick(only(one, apart=first[1]))

    def like_first(colour: str, kind: str) -> bool:
        return belongs(colour, kind, most) and not any(belongs(colour, kind, name) for name in (one, none))

    return filled(dice, [(first, None), (second, None)], (like_first, 1), curtain=dice.below(4))


def _noun(group: str) -> str:
    """``shape``, ``red thing``."""
    return group[:-1] if group in GROUPS else f"{group} thing"


def _why_so_many(group: str, shown: Scene) -> str:
    found = [f"the {item.kind}" for item in shown.items if belongs(item.colour, item.kind, group)]
    if len(found) > 1:
        return f"two {_noun(group)}s can be seen, {listed(found)}"
    if found:
        return f"one {_noun(group)} can be seen, and one more may be behind the curtain {_curtain(shown)}"
    return f"no {_noun(group)} can be seen, and no more than one can be behind the curtain {_curtain(shown)}"
