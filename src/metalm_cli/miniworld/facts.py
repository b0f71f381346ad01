"""Facts, the entities they are about, and which facts documents never state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Fact(NamedTuple):
    """A fact of a world, as a triple in its canonical form.

    The subject of a symmetric relation is the side that comes first in the alphabet, and there are no inverse
    relations:
    "Ben is younger than Ada" is ``Fact("older_than", "Ada", "Ben")``, and "7 - 3 = 4" is
    ``Fact("sum", "3 + 4", "7")``.
    """

    relation: str
    """A key of :data:`RELATIONS`."""
    subject: str
    """A person, pet, town, building ("Oakton library"), belonging ("Ada's bicycle"), kind, event or number."""
    value: str
    """The other side of the relation, as plain text."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Properties of the facts of one relation."""

    subject: str
    """Type of the subject: person, pet, thing, town, building, event, animal, food, job, tool, material, ..."""
    value: str
    """Type of the value: an entity type, or a word type such as colour, number, phrase."""
    held_out: float = 0.0
    """Expected fraction of its facts that documents never state."""
    symmetric: bool = False
    derived: bool = False
    """Whether its facts follow from other facts: ages, places on the map, sizes, arithmetic."""


RELATIONS: dict[str, Relation] = {
    "lives_in": Relation("person", "town"),
    "age": Relation("person", "number", 0.1),
    "job": Relation("person", "job"),
    "works_at": Relation("person", "phrase", derived=True),
    "attends": Relation("person", "school"),
    "hobby": Relation("person", "hobby", 0.1),
    "likes": Relation("person", "food", 0.12),
    "dislikes": Relation("person", "food", 0.12),
    "favourite_colour": Relation("person", "colour", 0.12),
    "trait": Relation("person", "trait", 0.1),
    "hair": Relation("person", "colour", 0.12),
    "wakes_at": Relation("person", "number", 0.1),
    "owns": Relation("person", "tool"),
    "has_pet": Relation("person", "pet"),
    "spouse": Relation("person", "person", symmetric=True),
    "parent_of": Relation("person", "person", 0.08),
    "sibling": Relation("person", "person", 0.12, symmetric=True, derived=True),
    "grandparent_of": Relation("person", "person", 0.2, derived=True),
    "friend": Relation("person", "person", 0.1, symmetric=True),
    "older_than": Relation("person", "person", 0.15, derived=True),
    "pet_kind": Relation("pet", "animal"),
    "pet_colour": Relation("pet", "colour", 0.15),
    "thing_colour": Relation("thing", "colour", 0.15),
    "thing_material": Relation("thing", "material", 0.15),
    "terrain": Relation("town", "phrase"),
    "founded": Relation("town", "number", 0.1),
    "known_for": Relation("town", "product", 0.1),
    "population": Relation("town", "number", 0.1),
    "has_building": Relation("town", "building"),
    "north_of": Relation("town", "town", 0.15, derived=True),
    "east_of": Relation("town", "town", 0.15, derived=True),
    "larger_than": Relation("town", "town", 0.15, derived=True),
    "next_to": Relation("building", "building", 0.12, symmetric=True),
    "built_of": Relation("building", "material", 0.12),
    "opens_at": Relation("building", "number", 0.12),
    "event_place": Relation("event", "building"),
    "event_day": Relation("event", "day", 0.08),
    "event_hour": Relation("event", "number", 0.12),
    "earlier_than": Relation("event", "event", 0.15, derived=True),
    "legs": Relation("animal", "number", 0.08),
    "covering": Relation("animal", "phrase", 0.08),
    "eats": Relation("animal", "phrase", 0.08),
    "habitat": Relation("animal", "phrase", 0.08),
    "sound": Relation("animal", "verb", 0.08),
    "baby": Relation("animal", "noun", 0.08),
    "ability": Relation("animal", "verb", 0.08),
    "bigger_than": Relation("animal", "animal", 0.15, derived=True),
    "taste": Relation("food", "taste", 0.08),
    "origin": Relation("food", "phrase", 0.08),
    "job_does": Relation("job", "phrase", 0.05),
    "job_place": Relation("job", "phrase", 0.05),
    "job_tool": Relation("job", "noun", 0.08),
    "used_to": Relation("tool", "phrase", 0.08),
    "kept": Relation("tool", "phrase", 0.08),
    "property": Relation("material", "phrase", 0.08),
    "causes": Relation("clause", "clause", 0.08),
    "next_day": Relation("day", "day"),
    "next_month": Relation("month", "month"),
    "sum": Relation("sum", "number", 0.15, derived=True),
    "product": Relation("product", "number", 0.15, derived=True),
}
"""All relations. Facts that most documents require (home, job, kind of pet) are never held out."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person. ``gender`` is the pronoun, he or she; ``job`` is empty for children."""

    name: str
    surname: str
    gender: str
    town: str
    age: int
    job: str
    hobby: str
    likes: tuple[str, ...]
    dislikes: str
    colour: str
    trait: str
    hair: str
    wakes_at: int
    things: tuple[str, ...]
    """Kinds of the things that the person owns; in facts a thing is named ``Ada's bicycle``."""
    pet: str
    """Name of the pet; empty if there is none."""

    @property
    def full_name(self) -> str:
        return f"{self.name} {self.surname}"

    @property
    def is_child(self) -> bool:
        return not self.job


@dataclass(frozen=True, slots=True)
class Pet:
    name: str
    kind: str
    colour: str
    owner: str


@dataclass(frozen=True, slots=True)
class Belonging:
    name: str
    kind: str
    colour: str
    material: str
    owner: str


@dataclass(frozen=True, slots=True)
class Town:
    """A town. ``x`` grows to the east and ``y`` to the north, in miles; ``buildings`` are in street order."""

    name: str
    terrain: str
    founded: int
    product: str
    population: int
    x: int
    y: int
    buildings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Building:
    """A building, named by town and kind (``Oakton library``). ``opens_at`` is an hour."""

    name: str
    kind: str
    town: str
    material: str
    opens_at: int


@dataclass(frozen=True, slots=True)
class Event:
    """A weekly event; ``hour`` is from 0 to 23."""

    name: str
    building: str
    day: str
    hour: int


@dataclass(frozen=True, slots=True)
class Family:
    """A household: all members live in one town and have one surname."""

    surname: str
    town: str
    grandparents: tuple[str, ...]
    """Parents of the first of ``parents``."""
    parents: tuple[str, ...]
    children: tuple[str, ...]


def symmetric_fact(relation: str, first: str, second: str) -> Fact:
    """Return the fact of a symmetric relation between two sides in any order."""
    return Fact(relation, first, second) if first < second else Fact(relation, second, first)


def sum_fact(first: int, second: int) -> Fact:
    """Return the fact about the sum of two numbers, which is also the fact about the two differences."""
    smaller, larger = sorted((first, second))
    return Fact("sum", f"{smaller} + {larger}", str(smaller + larger))


def product_fact(first: int, second: int) -> Fact:
    """Return the fact about the product of two numbers in any order."""
    smaller, larger = sorted((first, second))
    return Fact("product", f"{smaller} * {larger}", str(smaller * larger))
