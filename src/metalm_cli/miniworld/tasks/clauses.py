"""Clauses with an exact meaning for the labelled tasks: attributes with one value per subject, and comparisons.

The phrases of documents vary more freely; labels require wordings that are unambiguous. Clauses begin in lower case
(unless with a name) and have no full stop.
"""

from __future__ import annotations

from metalm_cli.miniworld.documents.document_writer import fact_value_text, place_name
from metalm_cli.miniworld.english import capitalise, with_article
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.world import World

ATTRIBUTE_FORMS: dict[str, tuple[str, ...]] = {
    "lives_in": ("{n} lives in {o}", "{n} lives in the town of {o}", "{n}'s home is in {o}"),
    "age": ("{n} is {o} years old", "at the moment {n} is {o} years old", "{n}'s age is {o}"),
    "hair": ("{n} has {o} hair", "{n}'s hair is {o}", "the colour of {n}'s hair is {o}"),
    "favourite_colour": (
        "{n}'s favourite colour is {o}",
        "{n} likes {o} more than any other colour",
        "of all colours {n} likes {o} best",
    ),
    "wakes_at": (
        "{n} gets up at {o} in the morning",
        "every morning {n} gets up at {o}",
        "at {o} in the morning {n} gets up",
    ),
    "job": ("{n} is {ao}", "{n} works as {ao}", "{n}'s job is that of {ao}"),
    "likes": ("{n} likes {o}", "{n} is fond of {o}"),
    "dislikes": ("{n} does not like {o}", "{n} is not fond of {o}"),
    "has_pet": ("{n} has a pet called {o}", "{n}'s pet is called {o}", "the name of {n}'s pet is {o}"),
    "thing_colour": ("{n} is {o}", "the colour of {n} is {o}"),
    "thing_material": ("{n} is made of {o}", "the material of {n} is {o}"),
    "pet_kind": ("{n} is {ao}", "the pet called {n} is {ao}"),
    "pet_colour": ("{n} is {o}", "the colour of {n} is {o}"),
    "founded": ("{n} was founded in {o}", "the town of {n} was founded in the year {o}"),
    "known_for": ("{n} is known for its {o}", "the town of {n} is famous for its {o}"),
    "population": ("about {o} people live in {n}", "{n} has about {o} people"),
    "opens_at": ("{n} opens at {o} in the morning", "the doors of {n} open at {o} in the morning"),
    "built_of": ("{n} is built of {o}", "the walls of {n} are of {o}"),
    "event_day": ("{n} is always on {o}", "the day of {n} is always {o}"),
    "event_hour": ("{n} begins at {o}", "{n} starts at {o}"),
    "event_place": ("{n} takes place at {o}", "{n} is held at {o}"),
}
"""Wordings with the same meaning, by relation."""

COMPARISON_FORMS: dict[str, tuple[str, str]] = {
    "older_than": ("{a} is older than {b}", "{b} is younger than {a}"),
    "larger_than": ("{a} is larger than {b}", "{b} is smaller than {a}"),
    "north_of": ("{a} lies north of {b}", "{b} lies south of {a}"),
    "east_of": ("{a} lies east of {b}", "{b} lies west of {a}"),
    "earlier_than": ("{a} begins at an earlier hour than {b}", "{b} begins at a later hour than {a}"),
    "bigger_than": ("{a} is bigger than {b}", "{b} is smaller than {a}"),
}
"""Each order, stated from its first and from its second side."""

SINGLE_VALUED = (
    *("lives_in", "age", "hair", "favourite_colour", "wakes_at"),
    *("thing_colour", "founded", "opens_at", "event_day", "event_hour"),
)
"""Relations with one value per subject, so that any other value is false."""

_SIDE_RELATIONS: dict[str, tuple[str, ...]] = {
    "person": ("hair", "age", "lives_in", "job", "likes", "dislikes", "favourite_colour", "wakes_at"),
    "town": ("founded", "known_for", "population"),
    "building": ("opens_at", "built_of"),
    "event": ("event_day", "event_hour", "event_place"),
    "thing": ("thing_colour", "thing_material"),
    "pet": ("pet_kind", "pet_colour"),
}


def subject_phrase(kind: str, subject: str) -> str:
    """Return the noun phrase for a subject: ``the library in Oakton``, ``the chess evening``, ``a dog``, ``Ada``."""
    if kind == "building":
        return place_name(subject)
    if kind == "event":
        return f"the {subject}"
    return with_article(subject) if kind == "animal" else subject


def attribute_clause(fact: Fact, form: int) -> str:
    """Return a fact, true or false, as a clause; ``form`` selects the wording, modulo their number.

    Example:
        >>> attribute_clause(Fact("hair", "Ada", "red"), 1)
        "Ada's hair is red"
    """
    value = fact_value_text(fact)
    forms = ATTRIBUTE_FORMS[fact.relation]
    slots = {"n": subject_phrase(RELATIONS[fact.relation].subject, fact.subject), "o": value, "ao": with_article(value)}
    return forms[form % len(forms)].format_map(slots)


def comparison_clause(relation: str, first: str, second: str, form: int) -> str:
    """Return a comparison, true or false, as a clause from the first side (form 0) or the second side (form 1).

    Example:
        >>> comparison_clause("older_than", "Ada", "Ben", 1)
        'Ben is younger than Ada'
    """
    kind = RELATIONS[relation].subject
    return COMPARISON_FORMS[relation][form % 2].format(a=subject_phrase(kind, first), b=subject_phrase(kind, second))


def clause_to_sentence(clause: str) -> str:
    """Return a clause as a sentence."""
    return f"{capitalise(clause)}."


def join_clauses(rng: SeededRandom, clauses: list[str]) -> str:
    """Join clauses as sentences in random order."""
    return " ".join(clause_to_sentence(clause) for clause in rng.shuffled(clauses))


def sample_distinct_facts(
    world: World, rng: SeededRandom, relation: str, count: int, gender: str = ""
) -> list[Fact] | None:
    """Sample ``count`` facts of a relation with different subjects and values, or return None.

    Args:
        world: World of the facts.
        rng: Source of all random choices.
        relation: Relation of the facts.
        count: Number of facts.
        gender: Gender of the subjects; empty: any.
    """
    facts: list[Fact] = []
    people = world.people
    for fact in rng.sample(world.query(relation), 12 * count):
        if gender and people[fact.subject].gender != gender:
            continue
        if all(fact.subject != other.subject and fact.value != other.value for other in facts):
            facts.append(fact)
            if len(facts) == count:
                return facts
    return None


def sample_ordered_names(world: World, rng: SeededRandom, relation: str, count: int) -> list[str] | None:
    """Sample names in the order of a comparison, the greatest first; None if two of them are equal."""
    names = rng.sample(list(dict.fromkeys(side for fact in world.query(relation) for side in fact[1:])), count)
    holds = world.holds
    ranks = {candidate: sum(holds(Fact(relation, candidate, other)) for other in names) for candidate in names}
    names.sort(key=lambda name: -ranks[name])
    return names if sorted(ranks.values()) == list(range(count)) else None


def sample_side_clause(world: World, rng: SeededRandom, relation: str, subject: str) -> str | None:
    """Sample a clause about the subject that is unrelated to a relation, or return None."""
    relations = [
        candidate
        for candidate in _SIDE_RELATIONS.get(RELATIONS[relation].subject, ())
        if candidate not in (relation, _CONFOUNDERS.get(relation))
    ]
    facts = [fact for candidate in relations for fact in world.query(candidate, subject)]
    return attribute_clause(rng.choice(facts), rng.randbelow(3)) if facts else None


_CONFOUNDERS = {
    "older_than": "age",
    "larger_than": "population",
    "earlier_than": "event_hour",
    "favourite_colour": "likes",
}
"""Relations whose facts would determine the facts of another relation, or be confused with them."""
