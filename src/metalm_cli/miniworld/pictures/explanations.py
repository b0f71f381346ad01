"""Hypotheses about partly hidden pictures, each with a label and an explanation.

A curtain hides one place of every picture, and a place holds at most one thing. Three hypotheses are paired with each
of three pictures: each hypothesis is true for one picture, open for another and false for the third, and for each
picture one hypothesis is true, one is open and one is false.
"""

from __future__ import annotations

from metalm_cli.miniworld.english import join_list, with_article
from metalm_cli.miniworld.lexicon import COLOURS
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    PLACES,
    Combination,
    Scene,
    excluding,
    is_in_group,
    latin_square,
    sample_combinations,
    sample_filled_scene,
    sample_scene,
    sample_similar,
)
from metalm_cli.miniworld.rng import SeededRandom

LABELS = ("entailment", "neutral", "contradiction")
QUARTERS: dict[str, tuple[int, ...]] = {name: (place,) for place, name in enumerate(PLACES)}
HALVES: dict[str, tuple[int, ...]] = {
    "in the left half": (0, 2),
    "in the right half": (1, 3),
    "in the upper half": (0, 1),
    "in the lower half": (2, 3),
}
"""Named parts of a picture, with their places."""

LabelledHypothesis = tuple[str, str, str, Scene]
"""A hypothesis, its label, the explanation, and the scene."""
LocatedThing = tuple[Combination, str, tuple[int, ...]]
"""A combination, the name of a part of the picture, and the places of that part."""


def sample_hypotheses(rng: SeededRandom, split: str) -> list[LabelledHypothesis]:
    """Sample three hypotheses that differ only in what they are about, each paired with three pictures."""
    return rng.choice((_suppose_quarters, _suppose_halves, _suppose_counts))(rng, split)


def _suppose_quarters(rng: SeededRandom, split: str) -> list[LabelledHypothesis]:
    return _suppose_locations(rng, split, QUARTERS)


def _suppose_halves(rng: SeededRandom, split: str) -> list[LabelledHypothesis]:
    return _suppose_locations(rng, split, HALVES)


def _suppose_locations(rng: SeededRandom, split: str, parts: dict[str, tuple[int, ...]]) -> list[LabelledHypothesis]:
    """Sample hypotheses that things are in parts of the picture."""
    names = rng.sample(tuple(parts), 3)
    located_things = [
        (combination, name, parts[name])
        for combination, name in zip(sample_combinations(rng, split, 3), names, strict=True)
    ]
    text = rng.choice(("There is {} {}.", "You see {} {}.", "You can find {} {}."))
    pictures = [_sample_scene_hiding(rng, *located_things[shift:], *located_things[:shift]) for shift in range(3)]
    return [
        (
            text.format(with_article(" ".join(combination)), name),
            label,
            _explain_location(label, (combination, name, places), scene),
            scene,
        )
        for (combination, name, places), label, scene in latin_square(located_things, LABELS, pictures)
    ]


def _sample_scene_hiding(rng: SeededRandom, visible: LocatedThing, hidden: LocatedThing, absent: LocatedThing) -> Scene:
    """Sample a scene with one thing visible in its part, one possibly hidden in its part, one absent from its part.

    The scene may show the latter two, or similar things, elsewhere.
    """
    curtain = rng.choice([position for position in hidden[2] if position not in absent[2]])
    position = rng.choice([position for position in visible[2] if position != curtain])
    placed = [(visible[0], position)]
    combinations = [located_thing[0] for located_thing in (visible, hidden, absent)]
    for combination, _, places in rng.sample((hidden, absent), rng.randbelow(3)):
        free_places = [place for place in range(4) if place not in (curtain, *(place for _, place in placed))]
        places_outside = [place for place in free_places if place not in places]
        if places_outside and rng.chance(0.5):
            placed.append((combination, rng.choice(places_outside)))
            continue
        taken_kinds = [
            kind
            for _, kind in (*combinations, *(located_thing for located_thing, _ in placed))
            if kind != combination[1]
        ]
        places_inside = [place for place in free_places if place in places]
        placed.append(
            (
                sample_similar(rng, "train", combination, excluded_kinds=taken_kinds),
                rng.choice(places_inside or free_places),
            )
        )
    return sample_scene(
        rng, placed, extra_count=rng.randbelow(4 - len(placed)), is_allowed=excluding(*combinations), curtain=curtain
    )


def _explain_location(label: str, located_thing: LocatedThing, scene: Scene) -> str:
    combination, name, places = located_thing
    visible = [item for item in scene.items if item.place in places]
    if label == "entailment":
        return (
            f"there is {with_article(' '.join(combination))} "
            f"{next(PLACES[item.place] for item in visible if item.kind == combination[1])}"
        )
    if label == "neutral":
        return f"{with_article(' '.join(combination))} may be behind the curtain {_curtain_place_name(scene)}"
    return (
        f"there is only {join_list([item.name_with_article for item in visible])} {name}"
        if visible
        else f"there is nothing {name}"
    )


def _curtain_place_name(scene: Scene) -> str:
    return next(name for place, name in enumerate(PLACES) if place == scene.curtain)


def _suppose_counts(rng: SeededRandom, split: str) -> list[LabelledHypothesis]:
    """Sample hypotheses about at least, or fewer than, two things of a group or a colour; 0 to 2 are visible."""
    groups = rng.sample((*GROUPS, *rng.sample(COLOURS, 3)), 3)
    counts_up = rng.chance(0.5)
    text = rng.choice(
        ("There are at least two {}s in the picture.", "The picture shows more than one {}.")
        if counts_up
        else ("There are fewer than two {}s in the picture.", "The picture shows at most one {}.")
    )
    pictures = []
    for shift in range(3):
        pair_group, single_group, absent_group = (
            groups[(shift + step) % 3] for step in ((0, 1, 2) if counts_up else (2, 1, 0))
        )
        pictures.append(_sample_counted_scene(rng, split, pair_group, single_group, absent_group))
    return [
        (text.format(_group_noun(group)), label, _explain_count(group, scene), scene)
        for group, label, scene in latin_square(groups, LABELS, pictures)
    ]


def _sample_counted_scene(
    rng: SeededRandom, split: str, pair_group: str, single_group: str, absent_group: str
) -> Scene:
    """Sample a scene with two things of one group or colour, one of another, none of a third, and a curtain."""

    def only(group: str, *, excluded_kind: str = "") -> list[Combination]:
        others = [name for name in (pair_group, single_group, absent_group) if name != group]
        return [
            combination
            for combination in COMBINATIONS[split]
            if is_in_group(*combination, group)
            and combination[1] != excluded_kind
            and not any(is_in_group(*combination, name) for name in others)
        ]

    first = rng.choice(only(pair_group))
    second = rng.choice(only(single_group, excluded_kind=first[1]))

    def like_first(colour: str, kind: str) -> bool:
        return is_in_group(colour, kind, pair_group) and not any(
            is_in_group(colour, kind, name) for name in (single_group, absent_group)
        )

    return sample_filled_scene(rng, [(first, None), (second, None)], (like_first, 1), curtain=rng.randbelow(4))


def _group_noun(group: str) -> str:
    """Return the noun for a thing of a group or a colour: ``shape``, ``red thing``."""
    return group[:-1] if group in GROUPS else f"{group} thing"


def _explain_count(group: str, scene: Scene) -> str:
    visible = [f"the {item.kind}" for item in scene.items if is_in_group(item.colour, item.kind, group)]
    if len(visible) > 1:
        return f"two {_group_noun(group)}s can be seen, {join_list(visible)}"
    if visible:
        return (
            f"one {_group_noun(group)} can be seen, and one more may be behind the curtain {_curtain_place_name(scene)}"
        )
    return (
        f"no {_group_noun(group)} can be seen, "
        f"and no more than one can be behind the curtain {_curtain_place_name(scene)}"
    )
