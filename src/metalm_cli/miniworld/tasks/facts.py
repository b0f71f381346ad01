"""Closed-book questions: what documents of the default world state, asked without a passage."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import fact_value_text
from metalm_cli.miniworld.english import PRONOUNS, article, plural
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.phrases import KIND, NAME, PERSON
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import named
from metalm_cli.miniworld.tasks.splits import SPLITS, RowDict, split_of
from metalm_cli.miniworld.world import World, world_of

SEED = 0
"""The world of the default recipes."""
_VAGUE = ("trait", "property", "has_building", "causes", "owns", "origin")
"""Relations whose question has too many answers, or answers too long, to be asked without a passage."""
_WHICH: dict[str, tuple[str, ...]] = {
    "bigger_than": ("Which animal is bigger, {a} or {b}?",),
    "larger_than": ("Which town is larger, {a} or {b}?", "In which town do more people live, {a} or {b}?"),
    "north_of": ("Which town lies further north, {a} or {b}?",),
    "east_of": ("Which town lies further east, {a} or {b}?",),
    "earlier_than": ("Which begins at an earlier hour, {a} or {b}?",),
}


def facts() -> dict[str, tuple[RowDict, ...]]:
    """Questions about facts that are not held out; all that ask for one value are in one split.

    Returns:
        Rows ``question``, ``answers`` (all that are true; the first is one that documents state) by split.
    """
    world, dice = world_of(SEED), SeededRandom("task", "facts")
    found: dict[str, list[RowDict]] = {split: [] for split in SPLITS}
    for key, rows in _asked(world, dice):
        found[split_of("facts", key)] += rows
    return {split: tuple(dice.shuffled(rows)[: SPLITS[split]]) for split, rows in found.items()}


def _asked(world: World, dice: SeededRandom) -> Iterator[tuple[tuple[str, ...], list[RowDict]]]:
    for (relation, subject), told in _by_subject(world).items():
        questions = _questions(world, relation, subject)
        if questions and not world.held_out(_canonical(told[0])):
            answers = [*dict.fromkeys(fact_value_text(fact) for fact in told)]
            answers += dict.fromkeys(_in_short(fact) for fact in told if _in_short(fact) not in answers)
            yield (relation, subject), [{"question": question, "answers": answers} for question in questions]
    for relation, forms in _WHICH.items():
        for fact in world.query(relation, held_out=False):
            yield tuple(fact), [_which(dice, fact, form) for form in forms]
    for fact in world.query("sum", held_out=False) + world.query("product", held_out=False):
        yield tuple(fact), _sums(fact)


def _by_subject(world: World) -> dict[tuple[str, str], list[Fact]]:
    """The facts that answer each question, those that documents state before those held out.

    A symmetric relation is told of both its sides.
    """
    found: dict[tuple[str, str], list[Fact]] = {}
    for fact in world.query(held_out=False) + world.query(held_out=True):
        found.setdefault((fact.relation, fact.subject), []).append(fact)
        if RELATIONS[fact.relation].symmetric:
            turned = Fact(fact.relation, fact.value, fact.subject)
            found.setdefault((fact.relation, fact.value), []).append(turned)
    return found


def _canonical(fact: Fact) -> Fact:
    if RELATIONS[fact.relation].symmetric and fact.subject > fact.value:
        return Fact(fact.relation, fact.value, fact.subject)
    return fact


_SHORT = {
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
"""Answers that documents give with more than the value."""


def _in_short(fact: Fact) -> str:
    value = fact_value_text(fact)
    return _SHORT.get(fact.relation, "{o}").format(o=value, ao=article(value))


def _questions(world: World, relation: str, subject: str) -> list[str]:
    """Every question for the value of a relation, with buildings named by their town."""
    if relation in _VAGUE:
        return []
    if relation == "next_day":
        return [f"Which day comes after {subject}?", f"What day follows {subject}?"]
    if relation == "next_month":
        return [f"Which month comes after {subject}?", f"What month follows {subject}?"]
    kind = RELATIONS[relation].subject
    if kind == "person":
        he, name = PRONOUNS[world.people[subject].gender], {"n": subject, "ns": f"{subject}'s"}
        return [form.format_map(he | name) for form in PERSON[relation].ask]
    if relation in KIND:
        forms = KIND[relation].ask[1:] if relation == "used_to" else KIND[relation].ask
        return [form.format(a=article(subject), ps=plural(subject), s=subject) for form in forms]
    if relation not in NAME:
        return []
    many = any(food.one and food.name == subject for food in lex.FOODS)
    return [form.format(s=named(kind, subject), do="do" if many else "does") for form in NAME[relation].ask]


def _which(dice: SeededRandom, fact: Fact, form: str) -> RowDict:
    kind = RELATIONS[fact.relation].subject
    right, wrong = named(kind, fact.subject), named(kind, fact.value)
    a, b = dice.shuffled((right, wrong))
    return {"question": form.format(a=a, b=b), "answers": [right]}


def _sums(fact: Fact) -> list[RowDict]:
    one, sign, other = fact.subject.split(" ")
    word = {"+": "plus", "*": "times"}[sign]
    sums = [f"What is {one} {word} {other}?", f"How much is {other} {word} {one}?"]
    return [{"question": question, "answers": [fact.value]} for question in sums]
