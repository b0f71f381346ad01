"""Generation tasks: a text for a set of facts, and a one-sentence summary of a document."""

from __future__ import annotations

import re
from collections.abc import Callable

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, fact_value_text
from metalm_cli.miniworld.documents.people import write_family, write_portrait
from metalm_cli.miniworld.documents.places import write_directions, write_notice, write_place
from metalm_cli.miniworld.documents.stories import write_day, write_dialogue, write_letter
from metalm_cli.miniworld.english import capitalise, join_list, with_article
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.phrases import NAME_PHRASES, PERSON_PHRASES
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.splits import RowGroup
from metalm_cli.miniworld.world import World

PREDICATES = {
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
"""Name of each relation in triples."""

_SUBJECTS = (
    ("person", tuple(name for name in PREDICATES if RELATIONS[name].subject == "person"), (1, 3)),
    ("town", ("terrain", "founded", "known_for", "population"), (1, 3)),
    ("event", ("event_place", "event_day", "event_hour"), (1, 3)),
    ("pet", ("pet_kind", "pet_colour"), (1, 2)),
)


def make_triple_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row with one to three facts about a subject and up to three reference texts."""
    kind, relations, (minimum, maximum) = rng.choice((*_SUBJECTS[:1] * 4, *_SUBJECTS))
    subject = rng.choice(list(dict.fromkeys(fact.subject for fact in world.query(relations[0]))))
    sampled_relations = rng.sample(relations, rng.randint(minimum, maximum))
    facts = [fact for relation in sampled_relations for fact in world.query(relation, subject, held_out=False)[:1]]
    if not facts or (kind == "person" and facts[0].relation == "spouse" and len(facts) > 1):
        return None
    texts = [_write_one_sentence(world, rng, facts), *(_write_sentences(world, rng, facts) for _ in range(3))]
    references = list(dict.fromkeys(text for text in texts if text))[:3]
    table = [[subject, PREDICATES[fact.relation], fact_value_text(fact)] for fact in facts]
    return (subject, *sorted(fact.relation for fact in facts)), [{"triples": table, "references": references}]


def _write_sentences(world: World, rng: SeededRandom, facts: list[Fact]) -> str:
    writer = DocumentWriter(world, rng)
    for fact in facts:
        writer.state_fact(fact)
    return writer.text()


def _write_one_sentence(world: World, rng: SeededRandom, facts: list[Fact]) -> str:
    """Write the facts as one sentence with one subject; return an empty string if their wordings do not allow it."""
    writer = DocumentWriter(world, rng)
    predicates = []
    for fact in facts:
        phrases = (PERSON_PHRASES if RELATIONS[fact.relation].subject == "person" else NAME_PHRASES)[
            fact.relation
        ].statements
        prefix = "{N} " if RELATIONS[fact.relation].subject == "person" else "{S} "
        forms = [form[len(prefix) : -1] for form in phrases if form.startswith(prefix)]
        if not forms or "and {o}" in forms[0]:
            return ""
        predicates.append(
            rng.choice([form for form in forms if "and {o}" not in form]).format_map(_slots(writer, fact))
        )
    kind = RELATIONS[facts[0].relation].subject
    subject = f"the {facts[0].subject}" if kind == "event" else facts[0].subject
    return f"{capitalise(subject)} {join_list(predicates)}."


def _slots(writer: DocumentWriter, fact: Fact) -> dict[str, str]:
    if RELATIONS[fact.relation].subject == "person":
        return writer.person_slots(fact, fact.subject, False)
    return {"o": fact_value_text(fact), "ao": with_article(fact_value_text(fact))}


def _summarise_portrait(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = writer.world.people[writer.facts[0].subject]
    noun = person.job or ("boy" if person.gender == "he" else "girl")
    mentions_hobby = Fact("hobby", person.name, person.hobby) in writer.facts
    hobby_clause = f" who enjoys {person.hobby}" if mentions_hobby else ""
    hobby_aside = f", who enjoys {person.hobby}" if mentions_hobby else ""
    return person.name, [
        f"{person.full_name}, {with_article(noun)} from {person.town}{hobby_clause}.",
        f"This is about {with_article(noun)} called {person.full_name} from {person.town}{hobby_aside}.",
    ]


def _summarise_day(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = writer.world.people[writer.facts[0].subject]
    weekday = re.search(r"\b[A-Z][a-z]+day\b", text)
    assert weekday is not None, "the story of a day contains the weekday"
    return person.name, [
        f"{person.full_name}'s {weekday[0]} in {person.town}.",
        f"What {person.full_name} from {person.town} does on {weekday[0]}.",
    ]


def _summarise_place(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    town = writer.world.towns[writer.facts[0].subject]
    mentions_product = Fact("known_for", town.name, town.product) in writer.facts
    product_clause = f", known for its {town.product}" if mentions_product else ""
    return town.name, [
        f"{town.name}, a town {town.terrain}{product_clause}.",
        f"This is about {town.name}, a town {town.terrain}{product_clause}.",
    ]


def _summarise_directions(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    kinds = [fact.value for fact in writer.facts if fact.relation == "has_building"]
    town = writer.facts[0].subject
    return town, [
        f"How to find your way in {town} from the {kinds[0]}.",
        f"A walk through {town} that begins at the {kinds[0]}.",
    ]


def _summarise_notice(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    days = {fact.subject: fact.value for fact in writer.facts if fact.relation == "event_day"}
    names = dict.fromkeys(fact.subject for fact in writer.facts if fact.relation == "event_place")
    events = join_list([f"the {name} on {days[name]}" if name in days else f"the {name}" for name in names])
    return "/".join(names), [f"{capitalise(events)}.", f"A notice about {events}."]


def _summarise_family(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    person = writer.world.people[writer.facts[0].subject]
    family = writer.world.family_of[person.name]
    size = len(family.grandparents) + len(family.parents) + len(family.children)
    return family.surname, [
        f"The {family.surname} family of {family.town}, a family of {size}.",
        f"The {size} members of the {family.surname} family in {family.town}.",
    ]


def _summarise_letter(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    recipient = text.split(",", 1)[0].removeprefix("Dear ")
    sender = text.rsplit(" ", 1)[1].removesuffix(".")
    return f"{sender}/{recipient}", [
        f"A letter from {sender} to {recipient}.",
        f"{sender} writes a letter to {recipient}.",
    ]


def _summarise_dialogue(writer: DocumentWriter, text: str) -> tuple[str, list[str]]:
    place_fact = writer.facts[0]
    first_line = text.split("\n", 1)[0]
    names = [name for name in re.findall(r"[A-Z][a-z]+", first_line) if name in writer.world.people]
    first_name, second_name = names[:2]
    place = f"at the {place_fact.value} in {place_fact.subject}"
    return f"{first_name}/{second_name}", [
        f"{first_name} and {second_name} talk {place}.",
        f"A conversation of {first_name} and {second_name} {place}.",
    ]


Summariser = Callable[[DocumentWriter, str], tuple[str, list[str]]]
"""Function that returns the subject of a document, which determines its split, and reference summaries."""

_DOCUMENT_KINDS: dict[str, tuple[Callable[[DocumentWriter], None], Summariser]] = {
    "portrait": (write_portrait, _summarise_portrait),
    "day": (write_day, _summarise_day),
    "place": (write_place, _summarise_place),
    "directions": (write_directions, _summarise_directions),
    "notice": (write_notice, _summarise_notice),
    "family": (write_family, _summarise_family),
    "letter": (write_letter, _summarise_letter),
    "dialogue": (write_dialogue, _summarise_dialogue),
}
MAX_WORDS = 120
"""Maximum number of words of a document."""


def make_gist_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row with a short document and reference summaries."""
    kind = rng.choice((*_DOCUMENT_KINDS, "portrait", "portrait", "place", "notice"))
    write, summarise = _DOCUMENT_KINDS[kind]
    writer = DocumentWriter(world, rng)
    write(writer)
    if not 20 <= writer.word_count() <= MAX_WORDS:
        return None
    text = writer.text()
    subject, references = summarise(writer, text)
    return (str(world.seed), kind, subject), [{"document": text, "references": references}]
