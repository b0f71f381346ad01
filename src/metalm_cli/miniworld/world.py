"""A small consistent world, drawn from a seed: people, places, things, events, and the facts about them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from metalm_cli.errors import MetalmError
from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.builder import Builder
from metalm_cli.miniworld.facts import (
    RELATIONS,
    Belonging,
    Building,
    Event,
    Fact,
    Family,
    Person,
    Pet,
    Town,
    product_fact,
    sum_fact,
    symmetric_fact,
)
from metalm_cli.miniworld.rng import stable_hash

LARGEST_SUM = 20
LARGEST_FACTOR = 6


class World:
    """Everything that is true in the world of a seed, as entities and as :class:`Fact` triples.

    Equal seeds give equal worlds, in every process. Animals, foods, tools and causes are those of the real
    world and the same for every seed. Documents never state the facts for which :meth:`held_out` is true: a
    labelled task can ask for what a model must conclude, or read in its input, because no document told it.

    Args:
        seed: At least 0.

    Raises:
        MetalmError: If the seed is no integer of at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise MetalmError("the seed of a world must be an integer of at least 0", where="seed", why=f"got {seed!r}")
        self.seed = seed
        built = Builder(seed)
        self.families: tuple[Family, ...] = tuple(built.families)
        self.people: dict[str, Person] = built.people
        self.pets: dict[str, Pet] = built.pets
        self.belongings: dict[str, Belonging] = built.belongings
        self.towns: dict[str, Town] = built.towns
        self.buildings: dict[str, Building] = built.buildings
        self.events: dict[str, Event] = built.events
        self.friendships: tuple[tuple[str, str], ...] = tuple(built.friendships)
        self.family_of: dict[str, Family] = {
            name: family
            for family in self.families
            for name in (*family.grandparents, *family.parents, *family.children)
        }
        self.held: dict[Fact, bool] = {fact: self._draw_held_out(fact) for fact in self._all()}
        """Every fact of the world, with whether documents never state it."""
        self._index: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.held:
            for key in ((fact.relation, ""), (fact.relation, fact.subject), ("", fact.subject)):
                self._index.setdefault(key, []).append(fact)

        self.bonds: dict[str, list[Fact]] = {name: [] for name in self.people}
        """Of each person, the facts of family and friendship from either side."""
        for relation in ("spouse", "parent_of", "sibling", "grandparent_of", "friend"):
            for fact in self._index.get((relation, ""), []):
                self.bonds[fact.subject].append(fact)
                self.bonds[fact.value].append(fact)

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return world_of, (self.seed,)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact, held out or not."""
        return tuple(self.held)

    def holds(self, fact: Fact) -> bool:
        """Whether the fact, in its one canonical form, is true here."""
        return fact in self.held

    def held_out(self, fact: Fact) -> bool:
        """Whether documents never state the fact.

        Raises:
            KeyError: If the fact is not true here.
        """
        return self.held[fact]

    def query(self, relation: str = "", subject: str = "", value: str = "", held_out: bool | None = None) -> list[Fact]:
        """The facts that match all that is given, in a fixed order.

        Raises:
            MetalmError: If there is no such relation.
        """
        if relation and relation not in RELATIONS:
            raise MetalmError(
                f"the world has no relation {relation}", where="relation", remedy=f"use one of {list(RELATIONS)}"
            )
        found = self._index.get((relation, subject), []) if relation or subject else list(self.held)
        return [
            fact
            for fact in found
            if (not value or fact.value == value) and (held_out is None or self.held[fact] == held_out)
        ]

    def value(self, relation: str, subject: str) -> str | None:
        """The value of the first matching fact, or None."""
        found = self._index.get((relation, subject))
        return found[0].value if found else None

    def _draw_held_out(self, fact: Fact) -> bool:
        share = RELATIONS[fact.relation].held_out
        return share > 0 and stable_hash(self.seed, "held out", *fact) < share * 2**64

    def _all(self) -> Iterator[Fact]:
        yield from self._of_people()
        yield from self._of_families()
        yield from self._of_things()
        yield from self._of_towns()
        yield from self._of_events()
        yield from _of_kinds()
        yield from _of_numbers()

    def _of_people(self) -> Iterator[Fact]:
        jobs = {job.name: job for job in lex.JOBS}
        for one in self.people.values():
            name = one.name
            yield Fact("lives_in", name, one.town)
            yield Fact("age", name, str(one.age))
            if one.job:
                yield Fact("job", name, one.job)
                yield Fact("works_at", name, jobs[one.job].where)
            else:
                yield Fact("attends", name, f"{one.town} school")
            yield Fact("hobby", name, one.hobby)
            for food in one.likes:
                yield Fact("likes", name, food)
            yield Fact("dislikes", name, one.dislikes)
            yield Fact("favourite_colour", name, one.colour)
            yield Fact("trait", name, one.trait)
            yield Fact("hair", name, one.hair)
            yield Fact("wakes_at", name, str(one.wakes_at))
            for kind in one.things:
                yield Fact("owns", name, kind)
            if one.pet:
                yield Fact("has_pet", name, one.pet)
            for other in self.people.values():
                if one.age > other.age:
                    yield Fact("older_than", name, other.name)

    def _of_families(self) -> Iterator[Fact]:
        for family in self.families:
            if len(family.parents) == 2:
                yield symmetric_fact("spouse", *family.parents)
            if len(family.grandparents) == 2:
                yield symmetric_fact("spouse", *family.grandparents)
            for old in family.grandparents:
                yield Fact("parent_of", old, family.parents[0])
                for child in family.children:
                    yield Fact("grandparent_of", old, child)
            for place, child in enumerate(family.children):
                for parent in family.parents:
                    yield Fact("parent_of", parent, child)
                for other in family.children[place + 1 :]:
                    yield symmetric_fact("sibling", child, other)
        for one, other in self.friendships:
            yield symmetric_fact("friend", one, other)

    def _of_things(self) -> Iterator[Fact]:
        for pet in self.pets.values():
            yield Fact("pet_kind", pet.name, pet.kind)
            yield Fact("pet_colour", pet.name, pet.colour)
        for thing in self.belongings.values():
            yield Fact("thing_colour", thing.name, thing.colour)
            yield Fact("thing_material", thing.name, thing.material)

    def _of_towns(self) -> Iterator[Fact]:
        for town in self.towns.values():
            yield Fact("terrain", town.name, town.terrain)
            yield Fact("founded", town.name, str(town.founded))
            yield Fact("known_for", town.name, town.product)
            yield Fact("population", town.name, str(town.population))
            for kind in town.buildings:
                yield Fact("has_building", town.name, kind)
            for one, other in zip(town.buildings, town.buildings[1:], strict=False):
                yield symmetric_fact("next_to", f"{town.name} {one}", f"{town.name} {other}")
            for beside in self.towns.values():
                if town.y > beside.y:
                    yield Fact("north_of", town.name, beside.name)
                if town.x > beside.x:
                    yield Fact("east_of", town.name, beside.name)
                if town.population > beside.population:
                    yield Fact("larger_than", town.name, beside.name)
        for building in self.buildings.values():
            if building.kind in lex.OPEN_AIR:
                continue
            yield Fact("built_of", building.name, building.material)
            yield Fact("opens_at", building.name, str(building.opens_at))

    def _of_events(self) -> Iterator[Fact]:
        for event in self.events.values():
            yield Fact("event_place", event.name, event.building)
            yield Fact("event_day", event.name, event.day)
            yield Fact("event_hour", event.name, str(event.hour))
            for other in self.events.values():
                if event.hour < other.hour:
                    yield Fact("earlier_than", event.name, other.name)


def _of_kinds() -> Iterator[Fact]:
    for animal in lex.ANIMALS:
        yield Fact("legs", animal.name, str(animal.legs))
        yield Fact("covering", animal.name, animal.covering)
        yield Fact("eats", animal.name, animal.food)
        yield Fact("habitat", animal.name, animal.habitat)
        for relation, value in (("sound", animal.sound), ("baby", animal.baby), ("ability", animal.ability)):
            if value:
                yield Fact(relation, animal.name, value)
        for other in lex.ANIMALS:
            if animal.size > other.size:
                yield Fact("bigger_than", animal.name, other.name)
    for food in lex.FOODS:
        yield Fact("taste", food.name, food.taste)
        yield Fact("origin", food.name, food.origin)
    for job in lex.JOBS:
        yield Fact("job_does", job.name, job.does)
        yield Fact("job_place", job.name, job.where)
        yield Fact("job_tool", job.name, job.tool)
    for tool in lex.THINGS:
        yield Fact("used_to", tool.name, tool.purpose)
        yield Fact("kept", tool.name, tool.place)
    for material, properties in lex.MATERIALS.items():
        for predicate in properties:
            yield Fact("property", material, predicate)
    for cause, effect in lex.CAUSES:
        yield Fact("causes", cause, effect)
    for relation, names in (("next_day", lex.DAYS), ("next_month", lex.MONTHS)):
        for place, name in enumerate(names):
            yield Fact(relation, name, names[(place + 1) % len(names)])


def _of_numbers() -> Iterator[Fact]:
    for one in range(1, LARGEST_SUM):
        for other in range(one, LARGEST_SUM + 1 - one):
            yield sum_fact(one, other)
    for one in range(2, LARGEST_FACTOR + 1):
        for other in range(one, LARGEST_FACTOR + 1):
            yield product_fact(one, other)


@lru_cache(maxsize=8)
def world_of(seed: int) -> World:
    """The world of a seed, built once a process."""
    return World(seed)
