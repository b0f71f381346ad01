"""Acceptability: well-formed sentences beside the same words in a form or an order that English does not allow."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import PRONOUNS, article, capitalise, plural, third_person, words
from metalm_cli.miniworld.facts import Person
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import RowGroup
from metalm_cli.miniworld.world import World

_VOWEL = ("apple", "onion", "egg", "owl", "eagle", "ant", "umbrella", "oven", "actor")
_CONSONANT = ("pear", "lemon", "dog", "goat", "frog", "lamp", "kite", "baker", "teacher", "basket", "clock")
_COUNTED = ("apple", "pear", "plum", "lemon", "carrot", "onion", "egg", "cup", "lamp", "basket", "kite", "book")
_TIMES = ("every day", "on Sunday", "in the morning", "in summer", "after dinner", "today")
_PLURAL_SUBJECTS = ("the neighbours", "the children", "{his} friends", "two of {his} friends", "the people next door")

SentencePair = tuple[str, str]
"""A well-formed sentence, and the same words as they must not stand."""


def grammar(world: World, dice: SeededRandom) -> RowGroup | None:
    """A sentence and its corrupted twin."""
    person, other = dice.some(list(world.people.values()), 2)
    make = dice.pick(_KINDS)
    good, bad = make(dice, person, other)
    rows = [{"sentence": good, "label": "acceptable"}, {"sentence": bad, "label": "unacceptable"}]
    return (make.__name__, *sorted((person.name, other.name))), rows


def _both(frame: str, right: SentencePair, **slots: str) -> SentencePair:
    """A frame with two words in their places {x} and {y}, and exchanged."""
    one, two = right
    good, bad = frame.format(x=one, y=two, **slots), frame.format(x=two, y=one, **slots)
    return capitalise(good), capitalise(bad)


def _agreement(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """One subject in the singular and one in the plural, each with its form of the verb."""
    verb, ends = dice.pick(
        (
            ("live", (f"in {person.town}", f"in {other.town}")),
            ("like", (person.likes[0], other.likes[0])),
            ("enjoy", (person.hobby, other.hobby)),
            ("eat", (person.likes[1], other.likes[1])),
            ("own", (article(person.things[0]), article(other.things[0]))),
            ("have", (f"{person.hair} hair", f"{other.hair} hair")),
            ("be", (f"very {person.trait}", f"very {other.trait}")),
            ("come", (f"from {person.town}", f"from {other.town}")),
        )
    )
    one, two = {"be": ("is", "are"), "have": ("has", "have")}.get(verb, (third_person(verb), verb))
    many = dice.pick(_PLURAL_SUBJECTS).format_map(PRONOUNS[person.gender])
    join = dice.pick((", and ", ", but ", ", while "))
    if dice.chance(0.5):
        return _both(f"{person.name} {{x}} {ends[0]}{join}{many} {{y}} {ends[1]}.", (one, two))
    return _both(f"{many} {{x}} {ends[1]}{join}{person.name} {{y}} {ends[0]}.", (two, one))


def _articles(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    frame = dice.pick(
        (
            "{n} sees {x} {vowel} and {y} {consonant} in the picture.",
            "in {town} {n} draws {x} {vowel} and then {y} {consonant}.",
            "{n} and {m} talk about {x} {vowel} and {y} {consonant} in a story.",
        )
    )
    vowel, consonant = dice.pick(_VOWEL), dice.pick(_CONSONANT)
    slots = {"n": person.name, "m": other.name, "town": person.town, "vowel": vowel, "consonant": consonant}
    return _both(frame, ("an", "a"), **slots)


def _numbers(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    noun, count = dice.pick(_COUNTED), words(dice.between(2, 12))
    frame = dice.pick(
        (
            "{n} has one {x}, and {m} has {count} {y}.",
            "on the table there are {count} {y} and only one {x}.",
            "{n} buys {count} {y}, but {m} buys only one {x}.",
        )
    )
    return _both(frame, (noun, plural(noun)), n=person.name, m=other.name, count=count)


def _determiner(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """The article behind its noun."""
    place = dice.pick(lex.BUILDINGS)
    frame = dice.pick(
        (
            "{n} goes to {x} {y} in {town} {time}.",
            "{n} meets {m} in front of {x} {y} in {town}.",
            "from {x} {y} in {town} {n} walks home.",
        )
    )
    return _both(frame, ("the", place), n=person.name, m=other.name, town=person.town, time=dice.pick(_TIMES))


def _adjective(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """The adjective behind its noun."""
    thing = dice.pick([thing for thing in lex.THINGS if thing.owned])
    frame = dice.pick(
        (
            "{n} has a {x} {y} made of {material}.",
            "there is a {x} {y} in {n}'s house.",
            "{n} gives the {x} {y} to {m} {time}.",
            "{n} looks for the {x} {y} in the shed.",
        )
    )
    colour = dice.pick([colour for colour in lex.COLOURS if colour != "orange"])
    slots = {"material": dice.pick(thing.materials), "time": dice.pick(_TIMES), "m": other.name}
    return _both(frame, (colour, thing.name), n=person.name, **slots)


def _preposition(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """The preposition behind its noun."""
    frame, pair = dice.pick(
        (
            ("{n} lives {x} {y} with {m}.", ("in", person.town)),
            ("{n} comes {x} {y} every summer.", ("from", person.town)),
            ("{n} walks {x} {y} with {m}.", ("to", other.town)),
            ("{n} works {x} {y} until the evening.", ("with", other.name)),
            ("{n} sits {x} {y} at the table.", ("beside", other.name)),
            ("{n} waits {x} {y} in the garden.", ("for", other.name)),
        )
    )
    return _both(frame, pair, n=person.name, m=other.name)


def _case(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Subject and object forms of a pronoun."""
    he, him = PRONOUNS[person.gender]["he"], PRONOUNS[person.gender]["him"]
    frame = dice.pick(
        (
            "when {m} is at home, {x} often calls, and {m} thanks {y} for it.",
            "{time} {x} helps {m}, and {m} helps {y} too.",
            "at {place} {x} sees {m}, but {m} does not see {y} there.",
            "if {x} needs help, {m} is glad to help {y} in the garden.",
        )
    )
    place = f"the {dice.pick(lex.BUILDINGS)}"
    return _both(frame, (he, him), m=other.name, time=dice.pick(_TIMES), place=place)


def _verb_object(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """The object in front of its verb."""
    frame, pair = dice.pick(
        (
            ("{n} {x} {y} for dinner.", ("eats", person.likes[0])),
            ("{n} {x} {y} at the market in {town}.", ("buys", person.likes[1])),
            ("{n} often {x} {y} with {m}.", ("plays", "chess")),
            ("{n} never {x} {y} in the evening.", ("eats", person.dislikes)),
            ("{n} {x} {y} more than anything else.", ("likes", person.hobby)),
            ("{n} often {x} {y} in {town}.", ("meets", other.name)),
        )
    )
    return _both(frame, pair, n=person.name, m=other.name, town=person.town)


def _infinitive(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    thing = dice.pick([thing for thing in lex.THINGS if thing.owned])
    verb = dice.pick(("wants", "hopes", "likes", "has", "needs"))
    frame = dice.pick(("{n} {x} {y} {purpose} {time}.", "{n} {x} {y} {purpose}, and {m} helps."))
    slots = {"n": person.name, "m": other.name, "purpose": thing.purpose, "time": dice.pick(_TIMES)}
    return _both(frame, (verb, "to"), **slots)


def _negation(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    frame, pair = dice.pick(
        (
            ("{n} {x} {y} like {food}.", ("does", "not")),
            ("{n} {x} {y} eat {food} {time}.", ("will", "not")),
            ("{n} and {m} {x} {y} live in {town}.", ("do", "not")),
            ("{n} {x} {y} see {m} from there.", ("did", "not")),
        )
    )
    town = dice.pick((person.town, other.town))
    return _both(frame, pair, n=person.name, m=other.name, food=person.dislikes, town=town, time=dice.pick(_TIMES))


def _question(dice: SeededRandom, person: Person, other: Person) -> SentencePair:
    """A question without the inversion it needs."""
    frame, verb = dice.pick(
        (
            ("where {x} {y} live now?", "does"),
            ("what {x} {y} like to eat {time}?", "does"),
            ("how old {x} {y} now?", "is"),
            ("when {x} {y} get up on Sunday?", "does"),
            ("why {x} {y} never eat {food}?", "does"),
            ("which book {x} {y} read to {m}?", "does"),
        )
    )
    return _both(frame, (verb, person.name), food=person.dislikes, time=dice.pick(_TIMES), m=other.name)


_KINDS: tuple[Callable[[SeededRandom, Person, Person], SentencePair], ...] = (
    *(_agreement, _agreement, _articles, _numbers, _determiner, _adjective),
    *(_preposition, _case, _verb_object, _infinitive, _negation, _question),
)
