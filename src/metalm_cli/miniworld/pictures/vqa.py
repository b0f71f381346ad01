"""Questions about pictures: two questions about each of two pictures, with the answers exchanged."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld.english import in_words, with_article
from metalm_cli.miniworld.lexicon import COLOURS
from metalm_cli.miniworld.pictures.scene import (
    COMBINATIONS,
    GROUPS,
    KINDS,
    PLACES,
    SPATIAL_RELATIONS,
    Scene,
    is_in_group,
    latin_square,
    sample_combination,
    sample_combinations,
    sample_filled_scene,
    sample_scene,
    sample_scene_showing,
    sample_similar,
)
from metalm_cli.miniworld.rng import SeededRandom

LabelledQuestions = list[tuple[str, str, Scene]]
"""Questions with their answers and scenes: each question and each scene occurs with two answers."""
YES_NO = ("yes", "no")


def ask_colour(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask for the colours of two things, which the pictures exchange. No two things have the same colour."""
    known = {kind: [colour for colour, other_kind in COMBINATIONS[split] if other_kind == kind] for kind in KINDS}
    kind = rng.choice(KINDS)
    shared = {
        other_kind: [colour for colour in known[other_kind] if colour in known[kind]]
        for other_kind in KINDS
        if other_kind != kind
    }
    other_kind = rng.choice([other_kind for other_kind, colours in shared.items() if len(colours) > 1])
    colours = rng.sample(shared[other_kind], 2)
    text = rng.choice(("What colour is the {}?", "Which colour does the {} have?"))
    pictures = []
    for first_colour, second_colour in (colours, colours[::-1]):
        placed = [((first_colour, kind), None), ((second_colour, other_kind), None)]
        others = rng.sample([shade for shade in COLOURS if shade not in colours], rng.randbelow(3))
        pictures.append(sample_filled_scene(rng, placed, *((_has_colour(shade), 1) for shade in others)))
    return latin_square([text.format(kind), text.format(other_kind)], colours, pictures)


def _has_colour(shade: str) -> Callable[[str, str], bool]:
    return lambda colour, kind: colour == shade


def ask_place(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask for the places of two things, which the pictures exchange."""
    first, second = sample_combinations(rng, split, 2)
    places = rng.sample(range(4), 2)
    text = rng.choice(("Where is the {}?", "Where in the picture is the {}?"))
    pictures = [
        sample_scene(rng, [(first, first_place), (second, second_place)], extra_count=rng.randbelow(3))
        for first_place, second_place in (places, places[::-1])
    ]
    return latin_square([text.format(first[1]), text.format(second[1])], [PLACES[place] for place in places], pictures)


def ask_kind(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask which kind of thing is at a place; the pictures exchange two things."""
    things = sample_combinations(rng, split, 2)
    first_place, second_place = rng.sample(range(4), 2)
    text = rng.choice(("What is {}?", "What do you see {}?"))
    pictures = [
        sample_scene(rng, [(first, first_place), (second, second_place)], extra_count=rng.randbelow(3))
        for first, second in (things, things[::-1])
    ]
    return latin_square(
        [text.format(PLACES[place]) for place in (first_place, second_place)],
        [with_article(combination[1]) for combination in things],
        pictures,
    )


def ask_number(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask for the number of things of a group and of a colour: one to four of four things."""
    combination = sample_combination(rng, split, [kind for kinds in GROUPS.values() for kind in kinds])
    shade, group = combination[0], next(name for name, kinds in GROUPS.items() if combination[1] in kinds)

    def matcher(of_group: bool, of_shade: bool) -> Callable[[str, str], bool]:
        return lambda colour, kind: (is_in_group(colour, kind, group), colour == shade) == (of_group, of_shade)

    def sample_counted(group_count: int, colour_count: int) -> Scene:
        both_count = rng.randint(max(1, group_count + colour_count - 4), min(group_count, colour_count))
        other_count = 4 - group_count - colour_count + both_count
        groups = ((matcher(True, True), both_count - 1), (matcher(True, False), group_count - both_count))
        return sample_filled_scene(
            rng,
            [(combination, None)],
            *groups,
            (matcher(False, True), colour_count - both_count),
            (matcher(False, False), other_count),
        )

    counts = rng.sample(range(1, 5), 2)
    texts = f"How many {group} are there?", f"How many things are {shade}?"
    return latin_square(
        texts, [in_words(count) for count in counts], [sample_counted(*counts), sample_counted(*counts[::-1])]
    )


def ask_presence(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask whether a thing is in the picture; if it is not, similar things are."""
    first = sample_combination(rng, split)
    second = sample_similar(rng, split, first)
    text = rng.choice(("Is there {} in the picture?", "Does the picture show {}?"))
    pictures = [sample_scene_showing(rng, [first], [second]), sample_scene_showing(rng, [second], [first])]
    return latin_square(
        [text.format(with_article(" ".join(combination))) for combination in (first, second)], YES_NO, pictures
    )


def ask_order(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask for the spatial relation of two things, which holds in one picture and is reversed in the other."""
    asked_about = sample_combination(rng, split)
    other = rng.choice([combination for combination in COMBINATIONS["train"] if combination[1] != asked_about[1]])
    relation = rng.choice(tuple(SPATIAL_RELATIONS))
    place_pairs = [
        (first_place, second_place)
        for first_place in range(4)
        for second_place in range(4)
        if SPATIAL_RELATIONS[relation](first_place, second_place)
    ]
    pictures = []
    for first, second in ((asked_about, other), (other, asked_about)):
        first_place, second_place = rng.choice(place_pairs)
        pictures.append(sample_scene(rng, [(first, first_place), (second, second_place)], extra_count=rng.randbelow(3)))
    texts = [f"Is the {a[1]} {relation} the {b[1]}?" for a, b in ((asked_about, other), (other, asked_about))]
    return latin_square(texts, YES_NO, pictures)


def ask_neighbour(rng: SeededRandom, split: str) -> LabelledQuestions:
    """Ask which thing is beside, above or below another; the pictures exchange the two neighbours."""
    things = sample_combinations(rng, split, 2)
    anchor = rng.choice(
        [combination for combination in COMBINATIONS["train"] if combination[1] not in [kind for _, kind in things]]
    )
    anchor_place = rng.randbelow(4)
    neighbour_places = anchor_place ^ 1, anchor_place ^ 2
    relations = [
        next(name for name, holds in SPATIAL_RELATIONS.items() if holds(neighbour_place, anchor_place))
        for neighbour_place in neighbour_places
    ]
    pictures = [
        sample_scene(rng, [(anchor, anchor_place), *zip(pair, neighbour_places, strict=True)])
        for pair in (things, things[::-1])
    ]
    texts = [f"What is {relation} the {anchor[1]}?" for relation in relations]
    return latin_square(texts, [with_article(combination[1]) for combination in things], pictures)


QUESTION_KINDS: dict[str, Callable[[SeededRandom, str], LabelledQuestions]] = {
    "colour": ask_colour,
    "place": ask_place,
    "kind": ask_kind,
    "number": ask_number,
    "presence": ask_presence,
    "order": ask_order,
    "neighbour": ask_neighbour,
}
"""Function that writes each kind of question; the kinds have equal numbers of rows."""
