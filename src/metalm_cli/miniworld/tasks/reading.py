"""Reading comprehension: a passage with a question; the answer is a span of the passage, or yes or no."""

from __future__ import annotations

from itertools import pairwise

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, fact_value_text
from metalm_cli.miniworld.documents.places import announce_event
from metalm_cli.miniworld.english import capitalise, with_article
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import (
    attribute_clause,
    comparison_clause,
    join_clauses,
    sample_distinct_facts,
    sample_ordered_names,
    sample_side_clause,
    subject_phrase,
)
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_PERSON_RELATIONS = (
    "lives_in",
    "age",
    "job",
    "hobby",
    "likes",
    "dislikes",
    "favourite_colour",
    "hair",
    "wakes_at",
    "has_pet",
)
_WHO_RELATIONS = ("lives_in", "age", "job", "hobby", "likes", "dislikes", "hair", "wakes_at")
"""Relations whose claim begins with the person's name."""


def make_passage_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row with a passage of facts and a question with the answer in the passage."""
    return (_make_people_rows if rng.chance(0.7) else _make_town_rows)(world, rng)


def _make_people_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row about two or three people; the passage states the relation in question for all of them."""
    relation = rng.choice(_PERSON_RELATIONS)
    facts = sample_distinct_facts(world, rng, relation, rng.randint(2, 3))
    if facts is None or any(world.held_out(fact) for fact in facts):
        return None
    writer = DocumentWriter(world, rng)
    for fact in facts:
        other_relations = [
            relation_name
            for relation_name in _PERSON_RELATIONS
            if relation_name != relation and not {relation_name, relation} <= {"likes", "dislikes"}
        ]
        other_facts = [
            stated
            for relation_name in rng.sample(other_relations, 3)
            for stated in world.query(relation_name, fact.subject, held_out=False)[:1]
        ]
        for stated in rng.shuffled([fact, *other_facts[: rng.randint(1, 2)]]):
            writer.state_fact(stated)
    target = rng.choice(facts)
    if relation in _WHO_RELATIONS and rng.chance(0.35):
        return _make_passage_row(writer, facts, _write_who_question(writer, target), target.subject)
    return _make_passage_row(writer, facts, writer.question_and_answer(target)[0], fact_value_text(target))


def _write_who_question(writer: DocumentWriter, fact: Fact) -> str:
    return f"Who{writer.claim_clause(fact)[len(fact.subject) :]}?"


def _make_town_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make a row about a town, its buildings, and an event in them."""
    town = rng.choice(list(world.towns.values()))
    writer = DocumentWriter(world, rng)
    relations = rng.sample(("terrain", "known_for", "population", "founded"), rng.randint(1, 3))
    facts = [fact for relation in relations for fact in world.query(relation, town.name, held_out=False)]
    for fact in facts:
        writer.state_fact(fact)
    for kind in rng.sample(town.buildings, rng.randint(1, 3)):
        writer.add_sentence(
            rng.choice((f"There is {with_article(kind)} in {town.name}.", f"{town.name} has {with_article(kind)}."))
        )
        for relation in rng.sample(("opens_at", "built_of"), rng.randint(1, 2)):
            candidates = world.query(relation, f"{town.name} {kind}", held_out=False)
            facts += [fact for fact in candidates if writer.state_fact(fact)]
    for event in [event for event in world.events.values() if event.building.startswith(f"{town.name} ")][:1]:
        announce_event(writer, event)
        facts += [fact for fact in writer.facts if fact.subject == event.name]
    if len(writer.paragraphs[0]) < 3 or not facts:
        return None
    target = rng.choice(facts)
    return _make_passage_row(writer, [target], writer.question_and_answer(target)[0], fact_value_text(target))


def _make_passage_row(writer: DocumentWriter, facts: list[Fact], question: str, answer: str) -> RowGroup | None:
    passage = writer.text()
    if answer not in passage:
        return None
    key = (facts[0].relation, *sorted(fact.subject for fact in facts))
    return key, [{"passage": passage, "question": question, "answer": answer}]


_ATTRIBUTE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "lives_in": ("does {n} live in {o}?", "is {n}'s home in {o}?"),
    "age": ("is {n} {o} years old?", "is {n}'s age {o}?"),
    "hair": ("does {n} have {o} hair?", "is {n}'s hair {o}?"),
    "favourite_colour": ("is {n}'s favourite colour {o}?", "does {n} like {o} best of all colours?"),
    "wakes_at": ("does {n} get up at {o} in the morning?", "is {o} in the morning the time when {n} gets up?"),
    "job": ("is {n} {ao}?", "does {n} work as {ao}?"),
    "has_pet": ("is {n}'s pet called {o}?", "does {n} have a pet called {o}?"),
    "thing_colour": ("is {n} {o}?", "is {o} the colour of {n}?"),
    "thing_material": ("is {n} made of {o}?", "is {o} what {n} is made of?"),
    "founded": ("was {n} founded in {o}?", "is {o} the year in which {n} was founded?"),
    "opens_at": ("does {n} open at {o} in the morning?", "is {o} in the morning when {n} opens?"),
    "built_of": ("is {n} built of {o}?", "are the walls of {n} of {o}?"),
    "event_day": ("is {n} always on {o}?", "is {o} the day of {n}?"),
    "event_hour": ("does {n} begin at {o}?", "does {n} start at {o}?"),
    "event_place": ("does {n} take place at {o}?", "is {n} held at {o}?"),
}
_ORDER_QUESTIONS: dict[str, tuple[str, str]] = {
    "older_than": ("is {a} older than {b}?", "is {b} younger than {a}?"),
    "larger_than": ("is {a} larger than {b}?", "is {b} smaller than {a}?"),
    "north_of": ("does {a} lie north of {b}?", "does {b} lie south of {a}?"),
    "east_of": ("does {a} lie east of {b}?", "does {b} lie west of {a}?"),
    "earlier_than": ("does {a} begin at an earlier hour than {b}?", "does {b} begin at a later hour than {a}?"),
}
_NUMBER_OF_ORDER = {"older_than": "age", "larger_than": "population"}
"""Numeric relations that determine an order."""


def make_yes_no_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make two rows: a passage with two questions in the same words, one with the answer yes, one with no."""
    return rng.choice((_make_attribute_rows, _make_attribute_rows, _make_order_rows, _make_number_rows))(world, rng)


def _make_attribute_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about two subjects with different values; both questions ask about the same value."""
    relation = rng.choice(tuple(_ATTRIBUTE_QUESTIONS))
    facts = sample_distinct_facts(world, rng, relation, 2)
    if facts is None:
        return None
    clauses = [attribute_clause(fact, rng.randbelow(3)) for fact in facts]
    true_fact, other_fact = rng.shuffled(facts)
    false_fact = Fact(relation, other_fact.subject, true_fact.value)
    form = rng.choice(_ATTRIBUTE_QUESTIONS[relation])
    questions = [_attribute_question(form, fact) for fact in (true_fact, false_fact)]
    return _make_yes_no_pair(world, rng, relation, [fact.subject for fact in facts], clauses, questions)


def _attribute_question(form: str, fact: Fact) -> str:
    value = fact_value_text(fact)
    kind = RELATIONS[fact.relation].subject
    return form.format(n=subject_phrase(kind, fact.subject), o=value, ao=with_article(value))


def _make_order_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about the order of two names, or of the first and last of three names."""
    relation = rng.choice(tuple(_ORDER_QUESTIONS))
    names = sample_ordered_names(world, rng, relation, rng.randint(2, 3))
    if names is None:
        return None
    links = pairwise(names)
    clauses = [comparison_clause(relation, first, second, rng.randbelow(2)) for first, second in links]
    return _make_yes_no_pair(world, rng, relation, names, clauses, _order_questions(rng, relation, names[0], names[-1]))


def _make_number_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about the order of two ages or populations; the passage states the numbers."""
    relation, number = rng.choice(tuple(_NUMBER_OF_ORDER.items()))
    names = sample_ordered_names(world, rng, relation, 2)
    if names is None:
        return None
    clauses = [attribute_clause(world.query(number, name)[0], rng.randbelow(3)) for name in names]
    return _make_yes_no_pair(world, rng, relation, names, clauses, _order_questions(rng, relation, names[0], names[1]))


def _order_questions(rng: SeededRandom, relation: str, first: str, last: str) -> list[str]:
    kind, form = RELATIONS[relation].subject, rng.choice(_ORDER_QUESTIONS[relation])
    a, b = subject_phrase(kind, first), subject_phrase(kind, last)
    return [form.format(a=a, b=b), form.format(a=b, b=a)]


def _make_yes_no_pair(
    world: World, rng: SeededRandom, relation: str, subjects: list[str], clauses: list[str], questions: list[str]
) -> RowGroup:
    """Make two rows: the answer to the first question is yes, to the second no."""
    side_clauses = [sample_side_clause(world, rng, relation, name) for name in rng.sample(subjects, rng.randint(0, 2))]
    passage = join_clauses(rng, [*clauses, *dict.fromkeys(clause for clause in side_clauses if clause)])
    rows: list[RowDict] = [
        {"passage": passage, "question": capitalise(question), "label": label}
        for question, label in zip(questions, ("yes", "no"), strict=True)
    ]
    return (relation, *sorted(subjects)), rows
