"""Reading tasks: a passage with a question, answered by words of the passage, or by yes or no."""

from __future__ import annotations

from itertools import pairwise

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, fact_value_text
from metalm_cli.miniworld.documents.places import announce
from metalm_cli.miniworld.english import article, capitalise
from metalm_cli.miniworld.facts import RELATIONS, Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import attribute, comparison, differing, named, ordered, parenthetical, text
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_PERSONAL = ("lives_in", "age", "job", "hobby", "likes", "dislikes", "favourite_colour", "hair", "wakes_at", "has_pet")
_WHO = ("lives_in", "age", "job", "hobby", "likes", "dislikes", "hair", "wakes_at")
"""Relations whose plain claim begins with the person."""


def passages(world: World, dice: SeededRandom) -> RowGroup | None:
    """A passage of facts and a question whose answer stands in it."""
    return (_about_people if dice.chance(0.7) else _about_a_town)(world, dice)


def _about_people(world: World, dice: SeededRandom) -> RowGroup | None:
    """Two or three people, of all of whom the relation is told that is asked for."""
    relation = dice.pick(_PERSONAL)
    facts = differing(world, dice, relation, dice.between(2, 3))
    if facts is None or any(world.held_out(fact) for fact in facts):
        return None
    draft = DocumentWriter(world, dice)
    for fact in facts:
        other = [name for name in _PERSONAL if name != relation and not {name, relation} <= {"likes", "dislikes"}]
        more = [one for name in dice.some(other, 3) for one in world.query(name, fact.subject, held_out=False)[:1]]
        for one in dice.shuffled([fact, *more[: dice.between(1, 2)]]):
            draft.tell(one)
    asked = dice.pick(facts)
    if relation in _WHO and dice.chance(0.35):
        return _row(draft, facts, _who(draft, asked), asked.subject)
    return _row(draft, facts, draft.asked(asked)[0], fact_value_text(asked))


def _who(draft: DocumentWriter, fact: Fact) -> str:
    return f"Who{draft.claim(fact)[len(fact.subject) :]}?"


def _about_a_town(world: World, dice: SeededRandom) -> RowGroup | None:
    """A town, its buildings, and what takes place in them."""
    town = dice.pick(list(world.towns.values()))
    draft = DocumentWriter(world, dice)
    relations = dice.some(("terrain", "known_for", "population", "founded"), dice.between(1, 3))
    facts = [fact for name in relations for fact in world.query(name, town.name, held_out=False)]
    for fact in facts:
        draft.tell(fact)
    for kind in dice.some(town.buildings, dice.between(1, 3)):
        draft.say(dice.pick((f"There is {article(kind)} in {town.name}.", f"{town.name} has {article(kind)}.")))
        for name in dice.some(("opens_at", "built_of"), dice.between(1, 2)):
            told = world.query(name, f"{town.name} {kind}", held_out=False)
            facts += [fact for fact in told if draft.tell(fact)]
    for event in [one for one in world.events.values() if one.building.startswith(f"{town.name} ")][:1]:
        announce(draft, event)
        facts += [fact for fact in draft.facts if fact.subject == event.name]
    if len(draft.paragraphs[0]) < 3 or not facts:
        return None
    asked = dice.pick(facts)
    return _row(draft, [asked], draft.asked(asked)[0], fact_value_text(asked))


def _row(draft: DocumentWriter, about: list[Fact], question: str, answer: str) -> RowGroup | None:
    passage = draft.text()
    if answer not in passage:
        return None
    key = (about[0].relation, *sorted(fact.subject for fact in about))
    return key, [{"passage": passage, "question": question, "answer": answer}]


_QUESTIONS: dict[str, tuple[str, ...]] = {
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
_ORDERS: dict[str, tuple[str, str]] = {
    "older_than": ("is {a} older than {b}?", "is {b} younger than {a}?"),
    "larger_than": ("is {a} larger than {b}?", "is {b} smaller than {a}?"),
    "north_of": ("does {a} lie north of {b}?", "does {b} lie south of {a}?"),
    "east_of": ("does {a} lie east of {b}?", "does {b} lie west of {a}?"),
    "earlier_than": ("does {a} begin at an earlier hour than {b}?", "does {b} begin at a later hour than {a}?"),
}
_HIDDEN = {"older_than": "age", "larger_than": "population"}
"""Numbers from which an order follows."""


def yes_no(world: World, dice: SeededRandom) -> RowGroup | None:
    """A passage and two questions in the same words: to one the answer is yes, to the other no."""
    return dice.pick((_whose, _whose, _in_order, _by_number))(world, dice)


def _whose(world: World, dice: SeededRandom) -> RowGroup | None:
    """Two subjects with a value each; one value is asked of both."""
    relation = dice.pick(tuple(_QUESTIONS))
    found = differing(world, dice, relation, 2)
    if found is None:
        return None
    told = [attribute(fact, dice.below(3)) for fact in found]
    true, other = dice.shuffled(found)
    false = Fact(relation, other.subject, true.value)
    form = dice.pick(_QUESTIONS[relation])
    questions = [_asks(form, fact) for fact in (true, false)]
    return _answered(world, dice, relation, [fact.subject for fact in found], told, questions)


def _asks(form: str, fact: Fact) -> str:
    value = fact_value_text(fact)
    kind = RELATIONS[fact.relation].subject
    return form.format(n=named(kind, fact.subject), o=value, ao=article(value))


def _in_order(world: World, dice: SeededRandom) -> RowGroup | None:
    """An order told from one side and asked for from either; or told of three and asked of the ends."""
    relation = dice.pick(tuple(_ORDERS))
    found = ordered(world, dice, relation, dice.between(2, 3))
    if found is None:
        return None
    links = pairwise(found)
    told = [comparison(relation, one, two, dice.below(2)) for one, two in links]
    return _answered(world, dice, relation, found, told, _questions(dice, relation, found[0], found[-1]))


def _by_number(world: World, dice: SeededRandom) -> RowGroup | None:
    """Ages or numbers of people, from which the order follows."""
    relation, number = dice.pick(tuple(_HIDDEN.items()))
    found = ordered(world, dice, relation, 2)
    if found is None:
        return None
    told = [attribute(world.query(number, name)[0], dice.below(3)) for name in found]
    return _answered(world, dice, relation, found, told, _questions(dice, relation, found[0], found[1]))


def _questions(dice: SeededRandom, relation: str, first: str, last: str) -> list[str]:
    kind, form = RELATIONS[relation].subject, dice.pick(_ORDERS[relation])
    a, b = named(kind, first), named(kind, last)
    return [form.format(a=a, b=b), form.format(a=b, b=a)]


def _answered(
    world: World, dice: SeededRandom, relation: str, subjects: list[str], told: list[str], questions: list[str]
) -> RowGroup:
    """Two rows: the first question has the answer yes, the second no."""
    more = [parenthetical(world, dice, relation, name) for name in dice.some(subjects, dice.between(0, 2))]
    passage = text(dice, [*told, *dict.fromkeys(clause for clause in more if clause)])
    rows: list[RowDict] = [
        {"passage": passage, "question": capitalise(question), "label": label}
        for question, label in zip(questions, ("yes", "no"), strict=True)
    ]
    return (relation, *sorted(subjects)), rows
