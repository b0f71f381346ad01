"""The world is consistent, depends on its seed only, and can be queried."""

from __future__ import annotations

import pickle

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld import RELATIONS, Fact, World
from metalm_cli.miniworld.facts import product_fact, sum_fact, symmetric_fact

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_families_are_possible(seed):
    world = World(seed)
    for family in world.families:
        members = [world.people[name] for name in (*family.grandparents, *family.parents, *family.children)]
        assert {(member.town, member.surname) for member in members} == {(family.town, family.surname)}
        assert len({member.name for member in members}) == len(members)
    for fact in world.query("parent_of"):
        assert 20 <= world.people[fact.subject].age - world.people[fact.value].age <= 45
    children = {fact.value for fact in world.query("parent_of")}
    for fact in world.query("grandparent_of"):
        assert any(
            world.holds(Fact("parent_of", fact.subject, middle)) and world.holds(Fact("parent_of", middle, fact.value))
            for middle in children
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_facts_agree_with_entities_and_with_each_other(seed):
    world = World(seed)
    assert set(RELATIONS) == {fact.relation for fact in world.facts}
    assert len(set(world.facts)) == len(world.facts)
    for person in world.people.values():
        assert person.dislikes not in person.likes
        assert bool(person.job) == (person.age >= 18)
        assert world.value("age", person.name) == str(person.age)
        if person.pet:
            assert world.pets[person.pet].owner == person.name
    for relation in ("older_than", "north_of", "east_of", "larger_than", "bigger_than", "earlier_than"):
        pairs = {(fact.subject, fact.value) for fact in world.query(relation)}
        assert pairs
        assert not any((second, first) in pairs for first, second in pairs), relation
        for first, second in list(pairs)[:200]:
            assert all((first, third) in pairs for middle, third in pairs if middle == second), relation
    for name, relation in RELATIONS.items():
        if relation.symmetric:
            assert all(fact.subject < fact.value for fact in world.query(name)), name
    names = [
        *world.people,
        *world.pets,
        *world.towns,
        *world.events,
        *{first.surname for first in world.people.values()},
    ]
    assert len(names) == len(set(names))


def test_equal_seeds_give_equal_worlds_and_others_do_not():
    assert World(3).held_out_flags == World(3).held_out_flags
    assert pickle.loads(pickle.dumps(World(3))).held_out_flags == World(3).held_out_flags
    assert World(3).people != World(4).people
    assert World(3).query("legs") == World(4).query("legs")
    assert World(3).query("sum", held_out=True) != World(4).query("sum", held_out=True)


def test_query():
    world = World(0)
    person = next(iter(world.people.values()))
    assert world.query("lives_in", person.name) == [Fact("lives_in", person.name, person.town)]
    assert person.name in {fact.subject for fact in world.query("lives_in", value=person.town)}
    assert all(fact.subject == person.name for fact in world.query(subject=person.name))
    held_out, open_facts = world.query("sum", held_out=True), world.query("sum", held_out=False)
    assert held_out
    assert len(held_out) + len(open_facts) == len(world.query("sum"))
    assert all(world.held_out(fact) for fact in held_out)
    assert world.value("lives_in", "Nobody") is None
    assert not world.holds(Fact("legs", "dog", "5"))
    with pytest.raises(KeyError):
        world.held_out(Fact("legs", "dog", "5"))
    with pytest.raises(MetalmError, match="no relation lives"):
        world.query("lives")


def test_one_form_for_each_combination():
    assert sum_fact(4, 3) == sum_fact(3, 4) == Fact("sum", "3 + 4", "7")
    assert product_fact(5, 2) == Fact("product", "2 * 5", "10")
    assert symmetric_fact("friend", "Tom", "Ada") == Fact("friend", "Ada", "Tom")


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_errors_name_bad_seeds(seed):
    with pytest.raises(MetalmError, match="seed") as caught:
        World(seed)
    assert repr(seed) in caught.value.why
