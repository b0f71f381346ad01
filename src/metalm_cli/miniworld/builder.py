"""Builder of a world: draws its people, towns and events from the seed."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.facts import Belonging, Building, Event, Family, Person, Pet, Town
from metalm_cli.miniworld.rng import SeededRandom

TOWN_COUNT = 10
FAMILY_COUNT = 13
_RESERVED_NAMES = FAMILY_COUNT
_OWNABLE_THINGS = tuple(thing for thing in lex.THINGS if thing.is_ownable)
_PET_KINDS = tuple(animal for animal in lex.ANIMALS if animal.pet)


class Builder:
    """Builder of the entities of a world, drawn in a fixed order, so that they depend on the seed alone.

    Args:
        seed: The seed of the world.
    """

    def __init__(self, seed: int) -> None:
        self.rng = SeededRandom(seed, "world")
        self.women = self.rng.shuffled(lex.WOMEN)
        self.men = self.rng.shuffled(lex.MEN)
        self.pet_names = self.rng.shuffled(lex.PET_NAMES)
        self.towns: dict[str, Town] = {}
        self.buildings: dict[str, Building] = {}
        self.people: dict[str, Person] = {}
        self.pets: dict[str, Pet] = {}
        self.belongings: dict[str, Belonging] = {}
        self.families: list[Family] = []
        self.friendships: list[tuple[str, str]] = []
        self.events: dict[str, Event] = {}
        self._build_towns()
        for index, surname in enumerate(self.rng.sample(lex.SURNAMES, FAMILY_COUNT)):
            self._build_family(surname, list(self.towns)[index % TOWN_COUNT])
        self._build_friendships()
        self._build_events()

    def _build_towns(self) -> None:
        rng = self.rng
        names = sorted(rng.sample(lex.TOWNS, TOWN_COUNT))
        products = rng.sample(lex.PRODUCTS, TOWN_COUNT)
        columns, rows = rng.shuffled(range(TOWN_COUNT)), rng.shuffled(range(TOWN_COUNT))
        sizes = rng.sample(range(3, 30), TOWN_COUNT)
        for index, name in enumerate(names):
            kinds = rng.shuffled([*rng.sample(lex.BUILDINGS, rng.randint(5, 7)), "school"])
            self.towns[name] = Town(
                name=name,
                terrain=rng.choice(lex.TERRAINS),
                founded=rng.randint(1200, 1899),
                product=products[index],
                population=sizes[index] * 100,
                x=columns[index] * 5,
                y=rows[index] * 5,
                buildings=tuple(kinds),
            )
            for kind in kinds:
                self.buildings[f"{name} {kind}"] = Building(
                    f"{name} {kind}", kind, name, rng.choice(("wood", "stone", "brick")), rng.randint(7, 10)
                )

    def _build_family(self, surname: str, town: str) -> None:
        rng = self.rng
        genders = rng.shuffled(("he", "she"))
        ages = [rng.randint(30, 45) for _ in genders]
        parents = tuple(
            self._build_person(gender, surname, town, age) for gender, age in zip(genders, ages, strict=True)
        )
        oldest_child = min(ages) - 24
        children = tuple(
            self._build_person(self._draw_gender(), surname, town, age)
            for age in sorted(rng.sample(range(5, min(oldest_child, 15) + 1), rng.randint(1, 3)), reverse=True)
        )
        grandparents: tuple[str, ...] = ()
        if rng.chance(0.4):
            grandparents = (self._build_person(self._draw_gender(), surname, town, ages[0] + rng.randint(24, 34)),)
        self.families.append(Family(surname, town, grandparents, parents, children))

    def _draw_gender(self) -> str:
        """Draw a gender, and keep enough names of both for the parents of all later families."""
        gender = self.rng.choice(("he", "she"))
        if min(len(self.women), len(self.men)) <= _RESERVED_NAMES:
            return "she" if len(self.women) > len(self.men) else "he"
        return gender

    def _build_person(self, gender: str, surname: str, town: str, age: int) -> str:
        rng = self.rng
        name = (self.women if gender == "she" else self.men).pop()
        buildings = self.towns[town].buildings
        jobs = [job.name for job in lex.JOBS if not job.building or job.building in buildings]
        foods = rng.sample([food.name for food in lex.FOODS], 3)
        things = rng.sample(_OWNABLE_THINGS, rng.randint(1, 2))
        for thing in things:
            belonging = f"{name}'s {thing.name}"
            self.belongings[belonging] = Belonging(
                belonging, thing.name, rng.choice(lex.COLOURS), rng.choice(thing.materials), name
            )
        pet = ""
        if self.pet_names and rng.chance(0.45):
            pet = self.pet_names.pop()
            self.pets[pet] = Pet(pet, rng.choice(_PET_KINDS).name, rng.choice(lex.COAT_COLOURS), name)
        self.people[name] = Person(
            name=name,
            surname=surname,
            gender=gender,
            town=town,
            age=age,
            job=rng.choice(jobs) if age >= 18 else "",
            hobby=rng.choice(lex.HOBBIES),
            likes=tuple(foods[:2]),
            dislikes=foods[2],
            colour=rng.choice(lex.COLOURS),
            trait=rng.choice(lex.TRAITS),
            hair=rng.choice(("grey", "white")) if age >= 54 else rng.choice(lex.HAIR_COLOURS[:4]),
            wakes_at=rng.randint(5, 7),
            things=tuple(thing.name for thing in things),
            pet=pet,
        )
        return name

    def _build_friendships(self) -> None:
        """Draw up to two friends for each person: outside the family, at most six years older or younger."""
        for person in self.people.values():
            others = [
                other.name
                for other in self.people.values()
                if other.surname != person.surname and abs(other.age - person.age) <= 6
            ]
            for other in self.rng.sample(others, self.rng.randint(1, 2)):
                first, second = sorted((person.name, other))
                if (first, second) not in self.friendships:
                    self.friendships.append((first, second))

    def _build_events(self) -> None:
        rng = self.rng
        indoor_buildings = [name for name, building in self.buildings.items() if building.kind != "mill"]
        for name, building in zip(sorted(lex.EVENTS), rng.sample(indoor_buildings, len(lex.EVENTS)), strict=True):
            hour_range = (18, 20) if name.endswith(("evening", "night")) else (13, 17)
            self.events[name] = Event(name, building, rng.choice(lex.DAYS), rng.randint(*hour_range))
