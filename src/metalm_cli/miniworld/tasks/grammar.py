"""Linguistic acceptability: well-formed sentences, and the same words in an ungrammatical form or order."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import PRONOUNS, capitalise, in_words, plural, third_person, with_article
from metalm_cli.miniworld.facts import Person
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import RowGroup
from metalm_cli.miniworld.world import World

_VOWEL_NOUNS = ("apple", "onion", "egg", "owl", "eagle", "ant", "umbrella", "oven", "actor")
_CONSONANT_NOUNS = ("pear", "lemon", "dog", "goat", "frog", "lamp", "kite", "baker", "teacher", "basket", "clock")
_COUNT_NOUNS = ("apple", "pear", "plum", "lemon", "carrot", "onion", "egg", "cup", "lamp", "basket", "kite", "book")
_TIMES = ("every day", "on Sunday", "in the morning", "in summer", "after dinner", "today")
_PLURAL_SUBJECTS = ("the neighbours", "the children", "{his} friends", "two of {his} friends", "the people next door")

SentencePair = tuple[str, str]
"""A well-formed sentence, and an ungrammatical one with the same words."""


def make_grammar_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row with a sentence and a row with its corrupted counterpart."""
    person, other = rng.sample(list(world.people.values()), 2)
    write_pair = rng.choice(_KINDS)
    acceptable, unacceptable = write_pair(rng, person, other)
    rows = [{"sentence": acceptable, "label": "acceptable"}, {"sentence": unacceptable, "label": "unacceptable"}]
    return (write_pair.__name__, *sorted((person.name, other.name))), rows


def _fill_frame(frame: str, pair: SentencePair, **slots: str) -> SentencePair:
    """Fill the slots {x} and {y} of a frame with two words, in order and exchanged."""
    first, second = pair
    acceptable, unacceptable = frame.format(x=first, y=second, **slots), frame.format(x=second, y=first, **slots)
    return capitalise(acceptable), capitalise(unacceptable)


def _agreement(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Exchange the verb forms of a singular and a plural subject."""
    verb, endings = rng.choice(
        (
            ("live", (f"in {person.town}", f"in {other.town}")),
            ("like", (person.likes[0], other.likes[0])),
            ("enjoy", (person.hobby, other.hobby)),
            ("eat", (person.likes[1], other.likes[1])),
            ("own", (with_article(person.things[0]), with_article(other.things[0]))),
            ("have", (f"{person.hair} hair", f"{other.hair} hair")),
            ("be", (f"very {person.trait}", f"very {other.trait}")),
            ("come", (f"from {person.town}", f"from {other.town}")),
        )
    )
    singular_verb, plural_verb = {"be": ("is", "are"), "have": ("has", "have")}.get(verb, (third_person(verb), verb))
    plural_subject = rng.choice(_PLURAL_SUBJECTS).format_map(PRONOUNS[person.gender])
    joiner = rng.choice((", and ", ", but ", ", while "))
    if rng.chance(0.5):
        return _fill_frame(
            f"{person.name} {{x}} {endings[0]}{joiner}{plural_subject} {{y}} {endings[1]}.",
            (singular_verb, plural_verb),
        )
    return _fill_frame(
        f"{plural_subject} {{x}} {endings[1]}{joiner}{person.name} {{y}} {endings[0]}.", (plural_verb, singular_verb)
    )


def _articles(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    frame = rng.choice(
        (
            "{n} sees {x} {vowel} and {y} {consonant} in the picture.",
            "in {town} {n} draws {x} {vowel} and then {y} {consonant}.",
            "{n} and {m} talk about {x} {vowel} and {y} {consonant} in a story.",
        )
    )
    vowel, consonant = rng.choice(_VOWEL_NOUNS), rng.choice(_CONSONANT_NOUNS)
    slots = {"n": person.name, "m": other.name, "town": person.town, "vowel": vowel, "consonant": consonant}
    return _fill_frame(frame, ("an", "a"), **slots)


def _numbers(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    noun, count = rng.choice(_COUNT_NOUNS), in_words(rng.randint(2, 12))
    frame = rng.choice(
        (
            "{n} has one {x}, and {m} has {count} {y}.",
            "on the table there are {count} {y} and only one {x}.",
            "{n} buys {count} {y}, but {m} buys only one {x}.",
        )
    )
    return _fill_frame(frame, (noun, plural(noun)), n=person.name, m=other.name, count=count)


def _determiner(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Move the article behind its noun."""
    place = rng.choice(lex.BUILDINGS)
    frame = rng.choice(
        (
            "{n} goes to {x} {y} in {town} {time}.",
            "{n} meets {m} in front of {x} {y} in {town}.",
            "from {x} {y} in {town} {n} walks home.",
        )
    )
    return _fill_frame(frame, ("the", place), n=person.name, m=other.name, town=person.town, time=rng.choice(_TIMES))


def _adjective(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Move the adjective behind its noun."""
    thing = rng.choice([thing for thing in lex.THINGS if thing.is_ownable])
    frame = rng.choice(
        (
            "{n} has a {x} {y} made of {material}.",
            "there is a {x} {y} in {n}'s house.",
            "{n} gives the {x} {y} to {m} {time}.",
            "{n} looks for the {x} {y} in the shed.",
        )
    )
    colour = rng.choice([colour for colour in lex.COLOURS if colour != "orange"])
    slots = {"material": rng.choice(thing.materials), "time": rng.choice(_TIMES), "m": other.name}
    return _fill_frame(frame, (colour, thing.name), n=person.name, **slots)


def _preposition(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Move the preposition behind its noun."""
    frame, pair = rng.choice(
        (
            ("{n} lives {x} {y} with {m}.", ("in", person.town)),
            ("{n} comes {x} {y} every summer.", ("from", person.town)),
            ("{n} walks {x} {y} with {m}.", ("to", other.town)),
            ("{n} works {x} {y} until the evening.", ("with", other.name)),
            ("{n} sits {x} {y} at the table.", ("beside", other.name)),
            ("{n} waits {x} {y} in the garden.", ("for", other.name)),
        )
    )
    return _fill_frame(frame, pair, n=person.name, m=other.name)


def _case(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Exchange the subject and object forms of a pronoun."""
    subject_form, object_form = PRONOUNS[person.gender]["he"], PRONOUNS[person.gender]["him"]
    frame = rng.choice(
        (
            "when {m} is at home, {x} often calls, and {m} thanks {y} for it.",
            "{time} {x} helps {m}, and {m} helps {y} too.",
            "at {place} {x} sees {m}, but {m} does not see {y} there.",
            "if {x} needs help, {m} is glad to help {y} in the garden.",
        )
    )
    place = f"the {rng.choice(lex.BUILDINGS)}"
    return _fill_frame(frame, (subject_form, object_form), m=other.name, time=rng.choice(_TIMES), place=place)


def _verb_object(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Move the object in front of its verb."""
    frame, pair = rng.choice(
        (
            ("{n} {x} {y} for dinner.", ("eats", person.likes[0])),
            ("{n} {x} {y} at the market in {town}.", ("buys", person.likes[1])),
            ("{n} often {x} {y} with {m}.", ("plays", "chess")),
            ("{n} never {x} {y} in the evening.", ("eats", person.dislikes)),
            ("{n} {x} {y} more than anything else.", ("likes", person.hobby)),
            ("{n} often {x} {y} in {town}.", ("meets", other.name)),
        )
    )
    return _fill_frame(frame, pair, n=person.name, m=other.name, town=person.town)


def _infinitive(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    thing = rng.choice([thing for thing in lex.THINGS if thing.is_ownable])
    verb = rng.choice(("wants", "hopes", "likes", "has", "needs"))
    frame = rng.choice(("{n} {x} {y} {purpose} {time}.", "{n} {x} {y} {purpose}, and {m} helps."))
    slots = {"n": person.name, "m": other.name, "purpose": thing.purpose, "time": rng.choice(_TIMES)}
    return _fill_frame(frame, (verb, "to"), **slots)


def _negation(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    frame, pair = rng.choice(
        (
            ("{n} {x} {y} like {food}.", ("does", "not")),
            ("{n} {x} {y} eat {food} {time}.", ("will", "not")),
            ("{n} and {m} {x} {y} live in {town}.", ("do", "not")),
            ("{n} {x} {y} see {m} from there.", ("did", "not")),
        )
    )
    town = rng.choice((person.town, other.town))
    return _fill_frame(
        frame, pair, n=person.name, m=other.name, food=person.dislikes, town=town, time=rng.choice(_TIMES)
    )


def _question(rng: SeededRandom, person: Person, other: Person) -> SentencePair:
    """Undo the inversion of a question."""
    frame, verb = rng.choice(
        (
            ("where {x} {y} live now?", "does"),
            ("what {x} {y} like to eat {time}?", "does"),
            ("how old {x} {y} now?", "is"),
            ("when {x} {y} get up on Sunday?", "does"),
            ("why {x} {y} never eat {food}?", "does"),
            ("which book {x} {y} read to {m}?", "does"),
        )
    )
    return _fill_frame(frame, (verb, person.name), food=person.dislikes, time=rng.choice(_TIMES), m=other.name)


# The names of these functions are part of the keys that determine the splits: a new name changes the rows.
_KINDS: tuple[Callable[[SeededRandom, Person, Person], SentencePair], ...] = (
    *(_agreement, _agreement, _articles, _numbers, _determiner, _adjective),
    *(_preposition, _case, _verb_object, _infinitive, _negation, _question),
)
