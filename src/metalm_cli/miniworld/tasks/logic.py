"""Two sentences and how they stand to each other: natural language inference and paraphrase."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.miniworld.english import KIN, capitalise
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import (
    ATTRIBUTES,
    COMPARISONS,
    EXCLUSIVE,
    attribute,
    comparison,
    differing,
    ordered,
    parenthetical,
    sentence,
    text,
)
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_CHAINS = ("older_than", "older_than", "older_than", "larger_than", "north_of", "east_of", "earlier_than")
_PAIRS = (*_CHAINS, "bigger_than")
_JOINS = ("{x}, and {y}.", "{x}, while {y}.", "{x}. {Y}.", "{x}, but {y}.")
_FRAMES = ("{}", "{}", "{}", "it is a fact that {}", "it is true that {}", "it is the case that {}")


def nli(world: World, dice: SeededRandom) -> RowGroup | None:
    """A premise with three hypotheses: one follows, one is contradicted, one is left open."""
    return _chain(world, dice) if dice.chance(0.5) else _attributes(world, dice)


def _three(premise: tuple[str, str, str], hypothesis: tuple[str, str, str]) -> list[RowDict]:
    labels = ("entailment", "contradiction", "neutral")
    return [
        {"premise": one, "hypothesis": other, "label": label}
        for one, other, label in zip(premise, hypothesis, labels, strict=True)
    ]


def _chain(world: World, dice: SeededRandom) -> RowGroup | None:
    """From a > b and b > c follows a > c, its reverse is false; of two that a third exceeds nothing follows."""
    relation = dice.pick(_CHAINS)
    found = ordered(world, dice, relation, 3)
    if found is None:
        return None
    a, b, c = found
    one, two, claim = dice.below(2), dice.below(2), dice.below(2)
    more = parenthetical(world, dice, relation, dice.pick(found)) if dice.chance(0.5) else None
    extra = [more] if more else []
    line = [comparison(relation, a, b, one), comparison(relation, b, c, two), *extra]
    if dice.chance(0.5):
        fork, open_pair = [(a, b), (a, c)], [b, c]
    else:
        fork, open_pair = [(a, c), (b, c)], [a, b]
    forked = [*(comparison(relation, *pair, form) for pair, form in zip(fork, (one, two), strict=True)), *extra]
    x, y = dice.shuffled(open_pair)
    hypotheses = [sentence(comparison(relation, *pair, claim)) for pair in ((a, c), (c, a), (x, y))]
    premises = (text(dice, line), text(dice, line), text(dice, forked))
    return (relation, *sorted(found)), _three(premises, (hypotheses[0], hypotheses[1], hypotheses[2]))


def _attributes(world: World, dice: SeededRandom) -> RowGroup | None:
    """Two subjects with different values, and a third of which something else is said."""
    relation = dice.pick(EXCLUSIVE)
    found = differing(world, dice, relation, 3)
    if found is None:
        return None
    told, false, unknown = found
    more = parenthetical(world, dice, relation, unknown.subject)
    if more is None:
        return None
    first = dice.below(3)
    premise = [attribute(told, first), attribute(false, dice.below(3)), more]
    form = first + dice.between(1, len(ATTRIBUTES[relation]) - 1)
    claims = [attribute(Fact(relation, one.subject, told.value), form) for one in found]
    if dice.chance(0.25):
        claims = [f"it is not true that {claim}" for claim in claims]
        claims[0], claims[1] = claims[1], claims[0]
    premises = (text(dice, premise), text(dice, premise), text(dice, premise))
    key = (relation, *sorted(fact.subject for fact in found))
    return key, _three(premises, (sentence(claims[0]), sentence(claims[1]), sentence(claims[2])))


def paraphrase(world: World, dice: SeededRandom) -> RowGroup | None:
    """A sentence with one that says the same in other words, and one with the same words that does not."""
    return dice.pick((_compared, _two_subjects, _two_subjects, _kin))(world, dice)


def _same_and_not(sentence1: str, same: str, other: str, swap: bool) -> list[RowDict]:
    rows = [{"sentence1": sentence1, "sentence2": same, "label": "equivalent"}]
    rows.append({"sentence1": sentence1, "sentence2": other, "label": "not_equivalent"})
    if swap:
        rows = [row | {"sentence1": row["sentence2"], "sentence2": sentence1} for row in rows]
    return rows


def _compared(world: World, dice: SeededRandom) -> RowGroup | None:
    relation = dice.pick(_PAIRS)
    found = ordered(world, dice, relation, 2)
    if found is None:
        return None
    a, b = found
    form = dice.below(len(COMPARISONS[relation]))
    frame, other = dice.pick(_FRAMES), dice.pick(_FRAMES)
    first = sentence(frame.format(comparison(relation, a, b, form)))
    same, false = (sentence(other.format(comparison(relation, *pair, 1 - form))) for pair in ((a, b), (b, a)))
    return (relation, *sorted(found)), _same_and_not(first, same, false, dice.chance(0.5))


def _two_subjects(world: World, dice: SeededRandom) -> RowGroup | None:
    relation = dice.pick(tuple(ATTRIBUTES))
    found = differing(world, dice, relation, 2)
    if found is None:
        return None
    one, two = dice.shuffled(found)
    count = len(ATTRIBUTES[relation])
    forms = [dice.below(count), dice.below(count)]
    others = [form + dice.between(1, count - 1) for form in forms]
    join, other_join, turned = dice.pick(_JOINS), dice.pick(_JOINS), dice.chance(0.5)
    crossed = [one._replace(value=two.value), two._replace(value=one.value)]
    same, false = (_joined(pair, others, other_join, turned) for pair in ((one, two), crossed))
    first = _joined((one, two), forms, join, False)
    key = (relation, *sorted(fact.subject for fact in found))
    return key, _same_and_not(first, same, false, dice.chance(0.5))


def _joined(pair: Sequence[Fact], forms: list[int], join: str, turned: bool) -> str:
    clauses = [attribute(fact, form) for fact, form in zip(pair, forms, strict=True)]
    x, y = clauses[::-1] if turned else clauses
    return capitalise(join.format(x=x, y=y, Y=capitalise(y)))


def _kin(world: World, dice: SeededRandom) -> RowGroup | None:
    """Parents and children of one gender, so that the words for them fit either way round."""
    people = world.people
    facts = [fact for fact in world.query("parent_of") if people[fact.subject].gender == people[fact.value].gender]
    if not facts:
        return None
    fact = dice.pick(facts)
    kin = KIN[people[fact.subject].gender]
    forms = (
        "{a} is the {parent} of {b}",
        "{b} is the {child} of {a}",
        "{b}'s {parent} is called {a}",
        "{a} has a {child} called {b}",
    )
    first, second = dice.some(forms, 2)
    frame, other = dice.pick(_FRAMES), dice.pick(_FRAMES)
    told = frame.format(first.format(a=fact.subject, b=fact.value, **kin))
    same = other.format(second.format(a=fact.subject, b=fact.value, **kin))
    false = other.format(second.format(a=fact.value, b=fact.subject, **kin))
    key = ("parent_of", *sorted((fact.subject, fact.value)))
    return key, _same_and_not(sentence(told), sentence(same), sentence(false), dice.chance(0.5))
