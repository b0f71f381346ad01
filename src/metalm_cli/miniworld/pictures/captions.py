"""Captions of pictures, and true or false statements about pairs of pictures."""

from __future__ import annotations

from itertools import product

from metalm_cli.miniworld.english import capitalise, join_list, with_article
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    PLACES,
    SPATIAL_RELATIONS,
    Combination,
    Scene,
    is_in_group,
    latin_square,
    sample_combination,
    sample_combinations,
    sample_filled_scene,
    sample_scene_showing,
    sample_similar,
)
from metalm_cli.miniworld.rng import SeededRandom

ScenePair = tuple[Scene, Scene]
"""The scenes of the left and the right picture."""
LabelledPairs = list[tuple[str, str, ScenePair]]
"""Statements with a label (``true``, ``false``) and a pair of pictures; two statements, each with both labels."""
_LABELS = ("true", "false")


def write_captions(scene: Scene, rng: SeededRandom) -> list[str]:
    """Write three captions: a list of the things, their places, and the spatial relation of two of them."""
    items = list(scene.items)
    spots = [f"{item.name_with_article} {PLACES[item.place]}" for item in items]
    captions = [
        f"{capitalise(join_list([item.name_with_article for item in items]))}.",
        f"The picture shows {join_list(spots)}.",
    ]
    if len(items) == 1:
        return [*captions, f"There is one thing in the picture, {items[0].name_with_article}."]
    first, second = rng.sample(items, 2)
    relation = rng.choice([name for name, holds in SPATIAL_RELATIONS.items() if holds(first.place, second.place)])
    other_items = [item.name_with_article for item in items if item not in (first, second)]
    ending = f", and there is also {join_list(other_items)}" if other_items else ""
    return [*captions, f"{capitalise(first.name_with_article)} is {relation} {second.name_with_article}{ending}."]


def sample_statements(rng: SeededRandom, split: str) -> LabelledPairs:
    """Sample two statements that differ only in the things they are about, which are combinations of the split.

    For each of two pairs of pictures, one statement is true and the other is false.
    """
    return rng.choice((_state_both, _state_only_one, _state_side, _state_more, _state_same_colour))(rng, split)


def _state_both(rng: SeededRandom, split: str) -> LabelledPairs:
    first, second = sample_combinations(rng, split, 2)
    text = rng.choice(("Both pictures show {}.", "There is {} in each of the two pictures."))
    pairs = [_sample_pair(rng, second, in_both=[first]), _sample_pair(rng, first, in_both=[second])]
    return latin_square(
        [text.format(with_article(" ".join(combination))) for combination in (first, second)], _LABELS, pairs
    )


def _state_only_one(rng: SeededRandom, split: str) -> LabelledPairs:
    first, second = sample_combinations(rng, split, 2)
    text = rng.choice(
        ("Only one of the pictures shows {}.", "There is {} in one of the pictures but not in the other.")
    )
    pairs = []
    for shown_once, other in ((first, second), (second, first)):
        pairs.append(
            _sample_pair(rng, shown_once, in_both=[other])
            if rng.chance(0.5)
            else _sample_pair(rng, shown_once, in_neither=[other])
        )
    return latin_square(
        [text.format(with_article(" ".join(combination))) for combination in (first, second)], _LABELS, pairs
    )


def _sample_pair(
    rng: SeededRandom,
    shown_once: Combination,
    *,
    in_both: list[Combination] | None = None,
    in_neither: list[Combination] | None = None,
) -> ScenePair:
    """Sample two pictures: only one of them shows a thing; both or neither show other things."""
    present, absent = in_both or [], in_neither or []
    return _shuffle_pair(
        rng,
        sample_scene_showing(rng, [shown_once, *present], absent),
        sample_scene_showing(rng, present, [shown_once, *absent]),
    )


def _state_side(rng: SeededRandom, split: str) -> LabelledPairs:
    first = sample_combination(rng, split)
    second = sample_similar(rng, split, first)
    side = rng.choice(("left", "right"))
    text = rng.choice(("It is the {side} picture that shows {}.", "There is {} in the {side} picture."))
    pairs = []
    for present, absent in ((first, second), (second, first)):
        pair = sample_scene_showing(rng, [present], [absent]), sample_scene_showing(rng, [absent], [present])
        pairs.append(pair if side == "left" else pair[::-1])
    return latin_square(
        [text.format(with_article(" ".join(combination)), side=side) for combination in (first, second)], _LABELS, pairs
    )


_COUNTS = [(a, b, c, d) for a, b, c, d in product(range(5), repeat=4) if a > c and b < d and max(a + b, c + d) <= 4]
"""Counts of two groups in two pictures: the first picture has more of the first group, the second of the second."""


def _state_more(rng: SeededRandom, split: str) -> LabelledPairs:
    groups = rng.shuffled(tuple(GROUPS))
    sides = rng.choice((("left", "right"), ("right", "left")))
    text = rng.choice(
        ("The {} picture has more {group} than the {}.", "There are more {group} in the {} picture than in the {}.")
    )

    def sample_counted(group: str, count: int, other_group: str, fewer: int) -> Scene:
        return sample_filled_scene(
            rng,
            [(sample_combination(rng, split, GROUPS[group]), None)],
            (lambda colour, kind: kind in GROUPS[group], count - 1),
            (lambda colour, kind: kind in GROUPS[other_group], fewer),
            (
                lambda colour, kind: not any(is_in_group(colour, kind, name) for name in GROUPS),
                rng.randbelow(5 - count - fewer),
            ),
        )

    pairs = []
    for main_group, other_group in (groups, groups[::-1]):
        a, b, c, d = rng.choice(_COUNTS)
        pair = sample_counted(main_group, a, other_group, b), sample_counted(other_group, d, main_group, c)
        pairs.append(pair if sides[0] == "left" else pair[::-1])
    return latin_square([text.format(*sides, group=group) for group in groups], _LABELS, pairs)


def _state_same_colour(rng: SeededRandom, split: str) -> LabelledPairs:
    first, second = sample_combinations(rng, split, 2)
    says_same = rng.chance(0.5)
    text = "The {} has the same colour in both pictures."
    if not says_same:
        text = "The colour of the {} is not the same in the two pictures."

    def sample_colour_pair(unchanged: Combination, changed: Combination) -> ScenePair:
        colours = [colour for colour, kind in COMBINATIONS["train"] if kind == changed[1] and colour != changed[0]]
        return _shuffle_pair(
            rng,
            sample_scene_showing(rng, [unchanged, changed]),
            sample_scene_showing(rng, [unchanged, (rng.choice(colours), changed[1])]),
        )

    pairs = [sample_colour_pair(first, second), sample_colour_pair(second, first)]
    return latin_square([text.format(first[1]), text.format(second[1])], _LABELS if says_same else _LABELS[::-1], pairs)


def _shuffle_pair(rng: SeededRandom, first: Scene, second: Scene) -> ScenePair:
    return (first, second) if rng.chance(0.5) else (second, first)
