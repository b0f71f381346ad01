"""Relations between two sentences: natural language inference and paraphrase."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.miniworld.english import KIN, capitalise
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import (
    ATTRIBUTE_FORMS,
    COMPARISON_FORMS,
    SINGLE_VALUED,
    attribute_clause,
    clause_to_sentence,
    comparison_clause,
    join_clauses,
    sample_distinct_facts,
    sample_ordered_names,
    sample_side_clause,
)
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_CHAIN_RELATIONS = ("older_than", "older_than", "older_than", "larger_than", "north_of", "east_of", "earlier_than")
_ORDER_RELATIONS = (*_CHAIN_RELATIONS, "bigger_than")
_JOINS = ("{x}, and {y}.", "{x}, while {y}.", "{x}. {Y}.", "{x}, but {y}.")
_FRAMES = ("{}", "{}", "{}", "it is a fact that {}", "it is true that {}", "it is the case that {}")


def make_nli_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make three rows: the hypothesis follows from the premise, contradicts it, or does neither."""
    return _make_chain_rows(world, rng) if rng.chance(0.5) else _make_attribute_rows(world, rng)


def _make_nli_triplet(premises: tuple[str, str, str], hypotheses: tuple[str, str, str]) -> list[RowDict]:
    labels = ("entailment", "contradiction", "neutral")
    return [
        {"premise": premise, "hypothesis": hypothesis, "label": label}
        for premise, hypothesis, label in zip(premises, hypotheses, labels, strict=True)
    ]


def _make_chain_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about an order: a > b and b > c entail a > c and contradict c > a.

    The order of two names that are only compared with a third stays open.
    """
    relation = rng.choice(_CHAIN_RELATIONS)
    names = sample_ordered_names(world, rng, relation, 3)
    if names is None:
        return None
    a, b, c = names
    first_form, second_form, claim_form = rng.randbelow(2), rng.randbelow(2), rng.randbelow(2)
    side_clause = sample_side_clause(world, rng, relation, rng.choice(names)) if rng.chance(0.5) else None
    side_clauses = [side_clause] if side_clause else []
    chain_clauses = [
        comparison_clause(relation, a, b, first_form),
        comparison_clause(relation, b, c, second_form),
        *side_clauses,
    ]
    if rng.chance(0.5):
        fork_pairs, open_pair = [(a, b), (a, c)], [b, c]
    else:
        fork_pairs, open_pair = [(a, c), (b, c)], [a, b]
    fork_clauses = [
        *(
            comparison_clause(relation, *pair, form)
            for pair, form in zip(fork_pairs, (first_form, second_form), strict=True)
        ),
        *side_clauses,
    ]
    x, y = rng.shuffled(open_pair)
    hypotheses = [
        clause_to_sentence(comparison_clause(relation, *pair, claim_form)) for pair in ((a, c), (c, a), (x, y))
    ]
    premises = (join_clauses(rng, chain_clauses), join_clauses(rng, chain_clauses), join_clauses(rng, fork_clauses))
    return (relation, *sorted(names)), _make_nli_triplet(premises, (hypotheses[0], hypotheses[1], hypotheses[2]))


def _make_attribute_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about two subjects with different values and a third with another attribute."""
    relation = rng.choice(SINGLE_VALUED)
    facts = sample_distinct_facts(world, rng, relation, 3)
    if facts is None:
        return None
    true_fact, false_fact, open_fact = facts
    side_clause = sample_side_clause(world, rng, relation, open_fact.subject)
    if side_clause is None:
        return None
    first_form = rng.randbelow(3)
    premise = [attribute_clause(true_fact, first_form), attribute_clause(false_fact, rng.randbelow(3)), side_clause]
    form = first_form + rng.randint(1, len(ATTRIBUTE_FORMS[relation]) - 1)
    claims = [attribute_clause(Fact(relation, fact.subject, true_fact.value), form) for fact in facts]
    if rng.chance(0.25):
        claims = [f"it is not true that {claim}" for claim in claims]
        claims[0], claims[1] = claims[1], claims[0]
    premises = (join_clauses(rng, premise), join_clauses(rng, premise), join_clauses(rng, premise))
    key = (relation, *sorted(fact.subject for fact in facts))
    return key, _make_nli_triplet(
        premises, (clause_to_sentence(claims[0]), clause_to_sentence(claims[1]), clause_to_sentence(claims[2]))
    )


def make_paraphrase_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make two rows: a sentence with a paraphrase, and with a sentence of the same words and another meaning."""
    return rng.choice((_make_comparison_rows, _make_two_subject_rows, _make_two_subject_rows, _make_kin_rows))(
        world, rng
    )


def _make_paraphrase_pair(sentence1: str, paraphrase: str, distractor: str, swap: bool) -> list[RowDict]:
    rows = [{"sentence1": sentence1, "sentence2": paraphrase, "label": "equivalent"}]
    rows.append({"sentence1": sentence1, "sentence2": distractor, "label": "not_equivalent"})
    if swap:
        rows = [row | {"sentence1": row["sentence2"], "sentence2": sentence1} for row in rows]
    return rows


def _make_comparison_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    relation = rng.choice(_ORDER_RELATIONS)
    names = sample_ordered_names(world, rng, relation, 2)
    if names is None:
        return None
    a, b = names
    form = rng.randbelow(len(COMPARISON_FORMS[relation]))
    frame, other_frame = rng.choice(_FRAMES), rng.choice(_FRAMES)
    first_sentence = clause_to_sentence(frame.format(comparison_clause(relation, a, b, form)))
    paraphrase, distractor = (
        clause_to_sentence(other_frame.format(comparison_clause(relation, *pair, 1 - form)))
        for pair in ((a, b), (b, a))
    )
    return (relation, *sorted(names)), _make_paraphrase_pair(first_sentence, paraphrase, distractor, rng.chance(0.5))


def _make_two_subject_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    relation = rng.choice(tuple(ATTRIBUTE_FORMS))
    facts = sample_distinct_facts(world, rng, relation, 2)
    if facts is None:
        return None
    first_fact, second_fact = rng.shuffled(facts)
    count = len(ATTRIBUTE_FORMS[relation])
    forms = [rng.randbelow(count), rng.randbelow(count)]
    other_forms = [form + rng.randint(1, count - 1) for form in forms]
    joiner, other_joiner, reverse = rng.choice(_JOINS), rng.choice(_JOINS), rng.chance(0.5)
    crossed = [first_fact._replace(value=second_fact.value), second_fact._replace(value=first_fact.value)]
    paraphrase, distractor = (
        _join_facts(pair, other_forms, other_joiner, reverse) for pair in ((first_fact, second_fact), crossed)
    )
    first_sentence = _join_facts((first_fact, second_fact), forms, joiner, False)
    key = (relation, *sorted(fact.subject for fact in facts))
    return key, _make_paraphrase_pair(first_sentence, paraphrase, distractor, rng.chance(0.5))


def _join_facts(pair: Sequence[Fact], forms: list[int], joiner: str, reverse: bool) -> str:
    clauses = [attribute_clause(fact, form) for fact, form in zip(pair, forms, strict=True)]
    x, y = clauses[::-1] if reverse else clauses
    return capitalise(joiner.format(x=x, y=y, Y=capitalise(y)))


def _make_kin_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about a parent and a child of the same gender, so that the kinship terms fit in both directions."""
    people = world.people
    facts = [fact for fact in world.query("parent_of") if people[fact.subject].gender == people[fact.value].gender]
    if not facts:
        return None
    fact = rng.choice(facts)
    kin = KIN[people[fact.subject].gender]
    forms = (
        "{a} is the {parent} of {b}",
        "{b} is the {child} of {a}",
        "{b}'s {parent} is called {a}",
        "{a} has a {child} called {b}",
    )
    first_form, second_form = rng.sample(forms, 2)
    frame, other_frame = rng.choice(_FRAMES), rng.choice(_FRAMES)
    clause = frame.format(first_form.format(a=fact.subject, b=fact.value, **kin))
    paraphrase = other_frame.format(second_form.format(a=fact.subject, b=fact.value, **kin))
    distractor = other_frame.format(second_form.format(a=fact.value, b=fact.subject, **kin))
    key = ("parent_of", *sorted((fact.subject, fact.value)))
    return key, _make_paraphrase_pair(
        clause_to_sentence(clause), clause_to_sentence(paraphrase), clause_to_sentence(distractor), rng.chance(0.5)
    )
