"""World: a small consistent world, drawn from a seed, with people, places, things, events and facts about them."""

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
    """The world of a seed, as entities and as :class:`Fact` triples.

    Equal seeds give equal worlds, in every process. Animals, foods, tools and causes are those of the real
    world and the same for every seed. Documents never state the facts for which :meth:`held_out` is true, so
    labelled tasks can ask for facts that a model must infer, or read in its input, as no document states them.

    Args:
        seed: At least 0.

    Raises:
        MetalmError: The seed is not an integer of at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise MetalmError("the seed of a world must be an integer of at least 0", where="seed", why=f"got {seed!r}")
        self.seed = seed
        builder = Builder(seed)
        self.families: tuple[Family, ...] = tuple(builder.families)
        self.people: dict[str, Person] = builder.people
        self.pets: dict[str, Pet] = builder.pets
        self.belongings: dict[str, Belonging] = builder.belongings
        self.towns: dict[str, Town] = builder.towns
        self.buildings: dict[str, Building] = builder.buildings
        self.events: dict[str, Event] = builder.events
        self.friendships: tuple[tuple[str, str], ...] = tuple(builder.friendships)
        self.family_of: dict[str, Family] = {
            name: family
            for family in self.families
            for name in (*family.grandparents, *family.parents, *family.children)
        }
        self.held_out_flags: dict[Fact, bool] = {fact: self._draw_held_out(fact) for fact in self._all_facts()}
        """All facts of the world; True: documents never state the fact."""
        self._index: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.held_out_flags:
            for key in ((fact.relation, ""), (fact.relation, fact.subject), ("", fact.subject)):
                self._index.setdefault(key, []).append(fact)

        self.relationships: dict[str, list[Fact]] = {name: [] for name in self.people}
        """The facts about family and friendship with each person on either side."""
        for relation in ("spouse", "parent_of", "sibling", "grandparent_of", "friend"):
            for fact in self._index.get((relation, ""), []):
                self.relationships[fact.subject].append(fact)
                self.relationships[fact.value].append(fact)

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return get_world, (self.seed,)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, including those held out."""
        return tuple(self.held_out_flags)

    def holds(self, fact: Fact) -> bool:
        """Return whether the fact (in its canonical form) is true in this world."""
        return fact in self.held_out_flags

    def held_out(self, fact: Fact) -> bool:
        """Return whether documents never state the fact.

        Raises:
            KeyError: The fact is not true in this world.
        """
        return self.held_out_flags[fact]

    def query(self, relation: str = "", subject: str = "", value: str = "", held_out: bool | None = None) -> list[Fact]:
        """Return the facts that match all arguments that are set, in a fixed order.

        Raises:
            MetalmError: There is no such relation.
        """
        if relation and relation not in RELATIONS:
            raise MetalmError(
                f"the world has no relation {relation}", where="relation", remedy=f"use one of {list(RELATIONS)}"
            )
        candidates = self._index.get((relation, subject), []) if relation or subject else list(self.held_out_flags)
        return [
            fact
            for fact in candidates
            if (not value or fact.value == value) and (held_out is None or self.held_out_flags[fact] == held_out)
        ]

    def value(self, relation: str, subject: str) -> str | None:
        """Return the value of the first matching fact, or None."""
        candidates = self._index.get((relation, subject))
        return candidates[0].value if candidates else None

    def _draw_held_out(self, fact: Fact) -> bool:
        share = RELATIONS[fact.relation].held_out
        return share > 0 and stable_hash(self.seed, "held out", *fact) < share * 2**64

    def _all_facts(self) -> Iterator[Fact]:
        yield from self._people_facts()
        yield from self._family_facts()
        yield from self._thing_facts()
        yield from self._town_facts()
        yield from self._event_facts()
        yield from _kind_facts()
        yield from _number_facts()

    def _people_facts(self) -> Iterator[Fact]:
        jobs = {job.name: job for job in lex.JOBS}
        for person in self.people.values():
            name = person.name
            yield Fact("lives_in", name, person.town)
            yield Fact("age", name, str(person.age))
            if person.job:
                yield Fact("job", name, person.job)
                yield Fact("works_at", name, jobs[person.job].workplace)
            else:
                yield Fact("attends", name, f"{person.town} school")
            yield Fact("hobby", name, person.hobby)
            for food in person.likes:
                yield Fact("likes", name, food)
            yield Fact("dislikes", name, person.dislikes)
            yield Fact("favourite_colour", name, person.colour)
            yield Fact("trait", name, person.trait)
            yield Fact("hair", name, person.hair)
            yield Fact("wakes_at", name, str(person.wakes_at))
            for kind in person.things:
                yield Fact("owns", name, kind)
            if person.pet:
                yield Fact("has_pet", name, person.pet)
            for younger in self.people.values():
                if person.age > younger.age:
                    yield Fact("older_than", name, younger.name)

    def _family_facts(self) -> Iterator[Fact]:
        for family in self.families:
            if len(family.parents) == 2:
                yield symmetric_fact("spouse", *family.parents)
            if len(family.grandparents) == 2:
                yield symmetric_fact("spouse", *family.grandparents)
            for grandparent in family.grandparents:
                yield Fact("parent_of", grandparent, family.parents[0])
                for child in family.children:
                    yield Fact("grandparent_of", grandparent, child)
            for index, child in enumerate(family.children):
                for parent in family.parents:
                    yield Fact("parent_of", parent, child)
                for other in family.children[index + 1 :]:
                    yield symmetric_fact("sibling", child, other)
        for first, second in self.friendships:
            yield symmetric_fact("friend", first, second)

    def _thing_facts(self) -> Iterator[Fact]:
        for pet in self.pets.values():
            yield Fact("pet_kind", pet.name, pet.kind)
            yield Fact("pet_colour", pet.name, pet.colour)
        for thing in self.belongings.values():
            yield Fact("thing_colour", thing.name, thing.colour)
            yield Fact("thing_material", thing.name, thing.material)

    def _town_facts(self) -> Iterator[Fact]:
        for town in self.towns.values():
            yield Fact("terrain", town.name, town.terrain)
            yield Fact("founded", town.name, str(town.founded))
            yield Fact("known_for", town.name, town.product)
            yield Fact("population", town.name, str(town.population))
            for kind in town.buildings:
                yield Fact("has_building", town.name, kind)
            for kind, next_kind in zip(town.buildings, town.buildings[1:], strict=False):
                yield symmetric_fact("next_to", f"{town.name} {kind}", f"{town.name} {next_kind}")
            for other in self.towns.values():
                if town.y > other.y:
                    yield Fact("north_of", town.name, other.name)
                if town.x > other.x:
                    yield Fact("east_of", town.name, other.name)
                if town.population > other.population:
                    yield Fact("larger_than", town.name, other.name)
        for building in self.buildings.values():
            if building.kind in lex.OPEN_AIR_PLACES:
                continue
            yield Fact("built_of", building.name, building.material)
            yield Fact("opens_at", building.name, str(building.opens_at))

    def _event_facts(self) -> Iterator[Fact]:
        for event in self.events.values():
            yield Fact("event_place", event.name, event.building)
            yield Fact("event_day", event.name, event.day)
            yield Fact("event_hour", event.name, str(event.hour))
            for other in self.events.values():
                if event.hour < other.hour:
                    yield Fact("earlier_than", event.name, other.name)


def _kind_facts() -> Iterator[Fact]:
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
        yield Fact("job_does", job.name, job.activity)
        yield Fact("job_place", job.name, job.workplace)
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
        for index, name in enumerate(names):
            yield Fact(relation, name, names[(index + 1) % len(names)])


def _number_facts() -> Iterator[Fact]:
    for first in range(1, LARGEST_SUM):
        for second in range(first, LARGEST_SUM + 1 - first):
            yield sum_fact(first, second)
    for first in range(2, LARGEST_FACTOR + 1):
        for second in range(first, LARGEST_FACTOR + 1):
            yield product_fact(first, second)


@lru_cache(maxsize=8)
def get_world(seed: int) -> World:
    """Return the world of a seed; each process builds it only once."""
    return World(seed)
