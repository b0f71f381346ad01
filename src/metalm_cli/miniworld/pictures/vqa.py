"""Questions about pictures: two questions about each of two pictures, whose answers are the other way round."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld.english import article, words
from metalm_cli.miniworld.lexicon import COLOURS
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    KINDS,
    PLACES,
    RELATIONS,
    Scene,
    asked,
    belongs,
    filled,
    near,
    scene,
    several,
    showing,
    square,
)
from metalm_cli.miniworld.rng import SeededRandom

Asked = list[tuple[str, str, Scene]]
"""Questions with their answers and pictures: each question and each picture has two answers."""
YES_NO = ("yes", "no")


def colour(dice: SeededRandom, split: str) -> Asked:
    """What colour something has: of two things, whose colours are exchanged. No two things have the same colour."""
    known = {kind: [one for one, other in COMBINATIONS[split] if other == kind] for kind in KINDS}
    kind = dice.pick(KINDS)
    shared = {other: [one for one in known[other] if one in known[kind]] for other in KINDS if other != kind}
    other = dice.pick([other for other, colours in shared.items() if len(colours) > 1])
    colours = dice.some(shared[other], 2)
    text = dice.pick(("What colour is the {}?", "Which colour does the {} have?"))
    pictures = []
    for one, two in (colours, colours[::-1]):
        given = [((one, kind), None), ((two, other), None)]
        others = dice.some([shade for shade in COLOURS if shade not in colours], dice.below(3))
        pictures.append(filled(dice, given, *((_coloured(shade), 1) for shade in others)))
    return square([text.format(kind), text.format(other)], colours, pictures)


def _coloured(shade: str) -> Callable[[str, str], bool]:
    return lambda colour, kind: colour == shade


def place(dice: SeededRandom, split: str) -> Asked:
    """Where something is: two things, which change places."""
    one, other = several(dice, split, 2)
    spots = dice.some(range(4), 2)
    text = dice.pick(("Where is the {}?", "Where in the picture is the {}?"))
    pictures = [scene(dice, [(one, p), (other, q)], more=dice.below(3)) for p, q in (spots, spots[::-1])]
    return square([text.format(one[1]), text.format(other[1])], [PLACES[at] for at in spots], pictures)


def kind(dice: SeededRandom, split: str) -> Asked:
    """What is at a place: two things, which change places."""
    things = several(dice, split, 2)
    p, q = dice.some(range(4), 2)
    text = dice.pick(("What is {}?", "What do you see {}?"))
    pictures = [scene(dice, [(one, p), (two, q)], more=dice.below(3)) for one, two in (things, things[::-1])]
    return square([text.format(PLACES[at]) for at in (p, q)], [article(what[1]) for what in things], pictures)


def number(dice: SeededRandom, split: str) -> Asked:
    """How many things there are of a group, and of a colour: one to four of four."""
    what = asked(dice, split, [kind for kinds in GROUPS.values() for kind in kinds])
    shade, group = what[0], next(name for name, kinds in GROUPS.items() if what[1] in kinds)

    def sort(of_group: bool, of_shade: bool) -> Callable[[str, str], bool]:
        return lambda colour, kind: (belongs(colour, kind, group), colour == shade) == (of_group, of_shade)

    def drawn(many: int, coloured: int) -> Scene:
        both = dice.between(max(1, many + coloured - 4), min(many, coloured))
        rest = 4 - many - coloured + both
        sorts = ((sort(True, True), both - 1), (sort(True, False), many - both))
        return filled(dice, [(what, None)], *sorts, (sort(False, True), coloured - both), (sort(False, False), rest))

    counts = dice.some(range(1, 5), 2)
    texts = f"How many {group} are there?", f"How many things are {shade}?"
    return square(texts, [words(count) for count in counts], [drawn(*counts), drawn(*counts[::-1])])


def presence(dice: SeededRandom, split: str) -> Asked:
    """Whether something is there: where it is not, things like it are."""
    one = asked(dice, split)
    other = near(dice, split, one)
    text = dice.pick(("Is there {} in the picture?", "Does the picture show {}?"))
    pictures = [showing(dice, [one], [other]), showing(dice, [other], [one])]
    return square([text.format(article(" ".join(what))) for what in (one, other)], YES_NO, pictures)


def order(dice: SeededRandom, split: str) -> Asked:
    """How two things stand: once so, once the other way round."""
    one = asked(dice, split)
    other = dice.pick([what for what in COMBINATIONS["train"] if what[1] != one[1]])
    relation = dice.pick(tuple(RELATIONS))
    spots = [(p, q) for p in range(4) for q in range(4) if RELATIONS[relation](p, q)]
    pictures = []
    for first, second in ((one, other), (other, one)):
        p, q = dice.pick(spots)
        pictures.append(scene(dice, [(first, p), (second, q)], more=dice.below(3)))
    texts = [f"Is the {a[1]} {relation} the {b[1]}?" for a, b in ((one, other), (other, one))]
    return square(texts, YES_NO, pictures)


def neighbour(dice: SeededRandom, split: str) -> Asked:
    """What stands so to something: one thing beside it and one above or below, which change places."""
    things = several(dice, split, 2)
    anchor = dice.pick([what for what in COMBINATIONS["train"] if what[1] not in [kind for _, kind in things]])
    at = dice.below(4)
    spots = at ^ 1, at ^ 2
    relations = [next(name for name, holds in RELATIONS.items() if holds(spot, at)) for spot in spots]
    pictures = [scene(dice, [(anchor, at), *zip(pair, spots, strict=True)]) for pair in (things, things[::-1])]
    texts = [f"What is {relation} the {anchor[1]}?" for relation in relations]
    return square(texts, [article(what[1]) for what in things], pictures)


ABOUT: dict[str, Callable[[SeededRandom, str], Asked]] = {
    "colour": colour,
    "place": place,
    "kind": kind,
    "number": number,
    "presence": presence,
    "order": order,
    "neighbour": neighbour,
}
"""What questions may be about; each makes as many rows as the others."""
