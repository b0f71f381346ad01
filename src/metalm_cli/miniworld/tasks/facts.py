"""Closed-book questions: facts that documents of the default world state, without a passage."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import fact_value_text
from metalm_cli.miniworld.english import PRONOUNS, plural, with_article
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.phrases import KIND_PHRASES, NAME_PHRASES, PERSON_PHRASES
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import subject_phrase
from metalm_cli.miniworld.tasks.splits import SPLIT_SIZES, RowDict, assign_split
from metalm_cli.miniworld.world import World, get_world

WORLD_SEED = 0
"""Seed of the world in the default recipes."""
_UNSUITABLE_RELATIONS = ("trait", "property", "has_building", "causes", "owns", "origin")
"""Relations with too many or too long answers for a question without a passage."""
_COMPARISON_QUESTIONS: dict[str, tuple[str, ...]] = {
    "bigger_than": ("Which animal is bigger, {a} or {b}?",),
    "larger_than": ("Which town is larger, {a} or {b}?", "In which town do more people live, {a} or {b}?"),
    "north_of": ("Which town lies further north, {a} or {b}?",),
    "east_of": ("Which town lies further east, {a} or {b}?",),
    "earlier_than": ("Which begins at an earlier hour, {a} or {b}?",),
}


def make_fact_rows() -> dict[str, tuple[RowDict, ...]]:
    """Make questions about facts that are not held out; all questions for the same value are in one split.

    Returns:
        Rows with ``question`` and ``answers`` (all true answers; the first is stated by documents), by split.
    """
    world, rng = get_world(WORLD_SEED), SeededRandom("task", "facts")
    rows_by_split: dict[str, list[RowDict]] = {split: [] for split in SPLIT_SIZES}
    for key, rows in _row_groups(world, rng):
        rows_by_split[assign_split("facts", key)] += rows
    return {split: tuple(rng.shuffled(rows)[: SPLIT_SIZES[split]]) for split, rows in rows_by_split.items()}


def _row_groups(world: World, rng: SeededRandom) -> Iterator[tuple[tuple[str, ...], list[RowDict]]]:
    for (relation, subject), facts in _facts_by_subject(world).items():
        questions = _write_questions(world, relation, subject)
        if questions and not world.held_out(_canonical_fact(facts[0])):
            answers = [*dict.fromkeys(fact_value_text(fact) for fact in facts)]
            answers += dict.fromkeys(_full_answer(fact) for fact in facts if _full_answer(fact) not in answers)
            yield (relation, subject), [{"question": question, "answers": answers} for question in questions]
    for relation, forms in _COMPARISON_QUESTIONS.items():
        for fact in world.query(relation, held_out=False):
            yield tuple(fact), [_comparison_row(rng, fact, form) for form in forms]
    for fact in world.query("sum", held_out=False) + world.query("product", held_out=False):
        yield tuple(fact), _arithmetic_rows(fact)


def _facts_by_subject(world: World) -> dict[tuple[str, str], list[Fact]]:
    """Return the facts that answer each question; those that documents state precede those held out.

    Facts of a symmetric relation are returned for both of their sides.
    """
    facts_by_subject: dict[tuple[str, str], list[Fact]] = {}
    for fact in world.query(held_out=False) + world.query(held_out=True):
        facts_by_subject.setdefault((fact.relation, fact.subject), []).append(fact)
        if RELATIONS[fact.relation].symmetric:
            reversed_fact = Fact(fact.relation, fact.value, fact.subject)
            facts_by_subject.setdefault((fact.relation, fact.value), []).append(reversed_fact)
    return facts_by_subject


def _canonical_fact(fact: Fact) -> Fact:
    if RELATIONS[fact.relation].symmetric and fact.subject > fact.value:
        return Fact(fact.relation, fact.value, fact.subject)
    return fact


_ANSWER_FORMS = {
    "lives_in": "in {o}",
    "age": "{o} years old",
    "job": "{ao}",
    "wakes_at": "at {o}",
    "founded": "in {o}",
    "population": "about {o}",
    "opens_at": "at {o} in the morning",
    "event_day": "on {o}",
    "event_hour": "at {o}",
}
"""Answers that documents give in a longer form than the value."""


def _full_answer(fact: Fact) -> str:
    value = fact_value_text(fact)
    return _ANSWER_FORMS.get(fact.relation, "{o}").format(o=value, ao=with_article(value))


def _write_questions(world: World, relation: str, subject: str) -> list[str]:
    """Return all questions for the value of a relation; buildings are named with their towns."""
    if relation in _UNSUITABLE_RELATIONS:
        return []
    if relation == "next_day":
        return [f"Which day comes after {subject}?", f"What day follows {subject}?"]
    if relation == "next_month":
        return [f"Which month comes after {subject}?", f"What month follows {subject}?"]
    kind = RELATIONS[relation].subject
    if kind == "person":
        pronouns, slots = PRONOUNS[world.people[subject].gender], {"n": subject, "ns": f"{subject}'s"}
        return [form.format_map(pronouns | slots) for form in PERSON_PHRASES[relation].questions]
    if relation in KIND_PHRASES:
        forms = KIND_PHRASES[relation].questions[1:] if relation == "used_to" else KIND_PHRASES[relation].questions
        return [form.format(a=with_article(subject), ps=plural(subject), s=subject) for form in forms]
    if relation not in NAME_PHRASES:
        return []
    is_plural = any(food.singular and food.name == subject for food in lex.FOODS)
    return [
        form.format(s=subject_phrase(kind, subject), do="do" if is_plural else "does")
        for form in NAME_PHRASES[relation].questions
    ]


def _comparison_row(rng: SeededRandom, fact: Fact, form: str) -> RowDict:
    kind = RELATIONS[fact.relation].subject
    answer, distractor = subject_phrase(kind, fact.subject), subject_phrase(kind, fact.value)
    a, b = rng.shuffled((answer, distractor))
    return {"question": form.format(a=a, b=b), "answers": [answer]}


def _arithmetic_rows(fact: Fact) -> list[RowDict]:
    first, sign, second = fact.subject.split(" ")
    operator = {"+": "plus", "*": "times"}[sign]
    questions = [f"What is {first} {operator} {second}?", f"How much is {second} {operator} {first}?"]
    return [{"question": question, "answers": [fact.value]} for question in questions]
