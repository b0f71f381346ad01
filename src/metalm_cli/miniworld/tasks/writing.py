"""Tasks whose answer is a sentence: facts put into words, and what a document is about."""

from __future__ import annotations

import re
from collections.abc import Callable

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, fact_value_text
from metalm_cli.miniworld.documents.people import family, portrait
from metalm_cli.miniworld.documents.places import directions, notice, place
from metalm_cli.miniworld.documents.stories import day, dialogue, letter
from metalm_cli.miniworld.english import article, capitalise, listed
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.phrases import NAME, PERSON
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import RowGroup
from metalm_cli.miniworld.world import World

NAMES = {
    "lives_in": "home",
    "age": "age",
    "job": "job",
    "hobby": "hobby",
    "likes": "likes",
    "dislikes": "never eats",
    "favourite_colour": "favourite colour",
    "trait": "character",
    "hair": "hair",
    "wakes_at": "gets up at",
    "owns": "owns",
    "has_pet": "pet",
    "spouse": "married to",
    "terrain": "place",
    "founded": "founded",
    "known_for": "known for",
    "population": "people",
    "event_place": "where",
    "event_day": "day",
    "event_hour": "begins at",
    "pet_kind": "animal",
    "pet_colour": "colour",
}
"""What each relation is called in triples."""

_SUBJECTS = (
    ("person", tuple(name for name in NAMES if RELATIONS[name].subject == "person"), (1, 3)),
    ("town", ("terrain", "founded", "known_for", "population"), (1, 3)),
    ("event", ("event_place", "event_day", "event_hour"), (1, 3)),
    ("pet", ("pet_kind", "pet_colour"), (1, 2)),
)


def triples(world: World, dice: SeededRandom) -> RowGroup | None:
    """One to three facts about a subject, with up to three ways to say them."""
    kind, relations, (least, most) = dice.pick((*_SUBJECTS[:1] * 4, *_SUBJECTS))
    subject = dice.pick(list(dict.fromkeys(fact.subject for fact in world.query(relations[0]))))
    chosen = dice.some(relations, dice.between(least, most))
    facts = [fact for name in chosen for fact in world.query(name, subject, held_out=False)[:1]]
    if not facts or (kind == "person" and facts[0].relation == "spouse" and len(facts) > 1):
        return None
    told = [_in_one(world, dice, facts), *(_in_sentences(world, dice, facts) for _ in range(3))]
    references = list(dict.fromkeys(one for one in told if one))[:3]
    table = [[subject, NAMES[fact.relation], fact_value_text(fact)] for fact in facts]
    return (subject, *sorted(fact.relation for fact in facts)), [{"triples": table, "references": references}]


def _in_sentences(world: World, dice: SeededRandom, facts: list[Fact]) -> str:
    draft = DocumentWriter(world, dice)
    for fact in facts:
        draft.tell(fact)
    return draft.text()


def _in_one(world: World, dice: SeededRandom, facts: list[Fact]) -> str:
    """One sentence: the subject once, then what is said of it."""
    draft = DocumentWriter(world, dice)
    predicates = []
    for fact in facts:
        phrases = (PERSON if RELATIONS[fact.relation].subject == "person" else NAME)[fact.relation].third
        start = "{N} " if RELATIONS[fact.relation].subject == "person" else "{S} "
        forms = [form[len(start) : -1] for form in phrases if form.startswith(start)]
        if not forms or "and {o}" in forms[0]:
            return ""
        predicates.append(dice.pick([form for form in forms if "and {o}" not in form]).format_map(_slots(draft, fact)))
    kind = RELATIONS[facts[0].relation].subject
    subject = f"the {facts[0].subject}" if kind == "event" else facts[0].subject
    return f"{capitalise(subject)} {listed(predicates)}."


def _slots(draft: DocumentWriter, fact: Fact) -> dict[str, str]:
    if RELATIONS[fact.relation].subject == "person":
        return draft.person_slots(fact, fact.subject, False)
    return {"o": fact_value_text(fact), "ao": article(fact_value_text(fact))}


def _portrait(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = draft.world.people[draft.facts[0].subject]
    what = person.job or ("boy" if person.gender == "he" else "girl")
    enjoys = Fact("hobby", person.name, person.hobby) in draft.facts
    more = f" who enjoys {person.hobby}" if enjoys else ""
    also = f", who enjoys {person.hobby}" if enjoys else ""
    return person.name, [
        f"{person.full_name}, {article(what)} from {person.town}{more}.",
        f"This is about {article(what)} called {person.full_name} from {person.town}{also}.",
    ]


def _day(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = draft.world.people[draft.facts[0].subject]
    found = re.search(r"\b[A-Z][a-z]+day\b", text)
    assert found is not None, "the story of a day names it"
    return person.name, [
        f"{person.full_name}'s {found[0]} in {person.town}.",
        f"What {person.full_name} from {person.town} does on {found[0]}.",
    ]


def _place(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    town = draft.world.towns[draft.facts[0].subject]
    known = Fact("known_for", town.name, town.product) in draft.facts
    more = f", known for its {town.product}" if known else ""
    return town.name, [
        f"{town.name}, a town {town.terrain}{more}.",
        f"This is about {town.name}, a town {town.terrain}{more}.",
    ]


def _directions(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    has = [fact.value for fact in draft.facts if fact.relation == "has_building"]
    town = draft.facts[0].subject
    return town, [
        f"How to find your way in {town} from the {has[0]}.",
        f"A walk through {town} that begins at the {has[0]}.",
    ]


def _notice(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    days = {fact.subject: fact.value for fact in draft.facts if fact.relation == "event_day"}
    names = dict.fromkeys(fact.subject for fact in draft.facts if fact.relation == "event_place")
    shown_ = listed([f"the {name} on {days[name]}" if name in days else f"the {name}" for name in names])
    return "/".join(names), [f"{capitalise(shown_)}.", f"A notice about {shown_}."]


def _family(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = draft.world.people[draft.facts[0].subject]
    home = draft.world.family_of[person.name]
    size = len(home.grandparents) + len(home.parents) + len(home.children)
    return home.surname, [
        f"The {home.surname} family of {home.town}, a family of {size}.",
        f"The {size} members of the {home.surname} family in {home.town}.",
    ]


def _letter(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    reader = text.split(",", 1)[0].removeprefix("Dear ")
    writer = text.rsplit(" ", 1)[1].removesuffix(".")
    return f"{writer}/{reader}", [f"A letter from {writer} to {reader}.", f"{writer} writes a letter to {reader}."]


def _dialogue(draft: DocumentWriter, text: str) -> tuple[str, list[str]]:
    first = draft.facts[0]
    opening = text.split("\n", 1)[0]
    names = [name for name in re.findall(r"[A-Z][a-z]+", opening) if name in draft.world.people]
    one, two = names[:2]
    where = f"at the {first.value} in {first.subject}"
    return f"{one}/{two}", [f"{one} and {two} talk {where}.", f"A conversation of {one} and {two} {where}."]


Gist = Callable[[DocumentWriter, str], tuple[str, list[str]]]
"""What a document is about, as a name that decides its split, and in references."""

_KINDS: dict[str, tuple[Callable[[DocumentWriter], None], Gist]] = {
    "portrait": (portrait, _portrait),
    "day": (day, _day),
    "place": (place, _place),
    "directions": (directions, _directions),
    "notice": (notice, _notice),
    "family": (family, _family),
    "letter": (letter, _letter),
    "dialogue": (dialogue, _dialogue),
}
LONGEST = 120
"""Words of the longest document that is summarised."""


def gist(world: World, dice: SeededRandom) -> RowGroup | None:
    """A short document and a sentence that says what it is about."""
    kind = dice.pick((*_KINDS, "portrait", "portrait", "place", "notice"))
    write, say = _KINDS[kind]
    draft = DocumentWriter(world, dice)
    write(draft)
    if not 20 <= draft.size() <= LONGEST:
        return None
    text = draft.text()
    about, references = say(draft, text)
    return (str(world.seed), kind, about), [{"document": text, "references": references}]
