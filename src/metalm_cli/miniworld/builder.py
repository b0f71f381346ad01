"""Drawing the people, towns and events of a world from its seed."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.facts import Belonging, Building, Event, Family, Person, Pet, Town
from metalm_cli.miniworld.rng import SeededRandom

TOWN_COUNT = 10
FAMILY_COUNT = 13
_RESERVE = FAMILY_COUNT
_OWNED = tuple(thing for thing in lex.THINGS if thing.owned)
_PETS = tuple(animal for animal in lex.ANIMALS if animal.pet)


class Builder:
    """Draws entities in a fixed order, so that they depend on the seed alone.

    Args:
        seed: The seed of the world.
    """

    def __init__(self, seed: int) -> None:
        self.dice = SeededRandom(seed, "world")
        self.women = self.dice.shuffled(lex.WOMEN)
        self.men = self.dice.shuffled(lex.MEN)
        self.pet_names = self.dice.shuffled(lex.PET_NAMES)
        self.towns: dict[str, Town] = {}
        self.buildings: dict[str, Building] = {}
        self.people: dict[str, Person] = {}
        self.pets: dict[str, Pet] = {}
        self.belongings: dict[str, Belonging] = {}
        self.families: list[Family] = []
        self.friendships: list[tuple[str, str]] = []
        self.events: dict[str, Event] = {}
        self._build_towns()
        for place, surname in enumerate(self.dice.some(lex.SURNAMES, FAMILY_COUNT)):
            self._build_family(surname, list(self.towns)[place % TOWN_COUNT])
        self._build_friendships()
        self._build_events()

    def _build_towns(self) -> None:
        dice = self.dice
        names = sorted(dice.some(lex.TOWNS, TOWN_COUNT))
        products = dice.some(lex.PRODUCTS, TOWN_COUNT)
        columns, rows = dice.shuffled(range(TOWN_COUNT)), dice.shuffled(range(TOWN_COUNT))
        sizes = dice.some(range(3, 30), TOWN_COUNT)
        for place, name in enumerate(names):
            kinds = dice.shuffled([*dice.some(lex.BUILDINGS, dice.between(5, 7)), "school"])
            self.towns[name] = Town(
                name=name,
                terrain=dice.pick(lex.TERRAINS),
                founded=dice.between(1200, 1899),
                product=products[place],
                population=sizes[place] * 100,
                x=columns[place] * 5,
                y=rows[place] * 5,
                buildings=tuple(kinds),
            )
            for kind in kinds:
                self.buildings[f"{name} {kind}"] = Building(
                    f"{name} {kind}", kind, name, dice.pick(("wood", "stone", "brick")), dice.between(7, 10)
                )

    def _build_family(self, surname: str, town: str) -> None:
        dice = self.dice
        genders = dice.shuffled(("he", "she"))
        ages = [dice.between(30, 45) for _ in genders]
        parents = tuple(
            self._build_person(gender, surname, town, age) for gender, age in zip(genders, ages, strict=True)
        )
        oldest = min(ages) - 24
        children = tuple(
            self._build_person(self._free_gender(), surname, town, age)
            for age in sorted(dice.some(range(5, min(oldest, 15) + 1), dice.between(1, 3)), reverse=True)
        )
        grandparents: tuple[str, ...] = ()
        if dice.chance(0.4):
            grandparents = (self._build_person(self._free_gender(), surname, town, ages[0] + dice.between(24, 34)),)
        self.families.append(Family(surname, town, grandparents, parents, children))

    def _free_gender(self) -> str:
        """A gender with names left, so that every later family still finds two parents."""
        gender = self.dice.pick(("he", "she"))
        if min(len(self.women), len(self.men)) <= _RESERVE:
            return "she" if len(self.women) > len(self.men) else "he"
        return gender

    def _build_person(self, gender: str, surname: str, town: str, age: int) -> str:
        dice = self.dice
        name = (self.women if gender == "she" else self.men).pop()
        buildings = self.towns[town].buildings
        jobs = [job.name for job in lex.JOBS if not job.place or job.place in buildings]
        foods = dice.some([food.name for food in lex.FOODS], 3)
        things = dice.some(_OWNED, dice.between(1, 2))
        for thing in things:
            owned = f"{name}'s {thing.name}"
            self.belongings[owned] = Belonging(
                owned, thing.name, dice.pick(lex.COLOURS), dice.pick(thing.materials), name
            )
        pet = ""
        if self.pet_names and dice.chance(0.45):
            pet = self.pet_names.pop()
            self.pets[pet] = Pet(pet, dice.pick(_PETS).name, dice.pick(lex.COATS), name)
        self.people[name] = Person(
            name=name,
            surname=surname,
            gender=gender,
            town=town,
            age=age,
            job=dice.pick(jobs) if age >= 18 else "",
            hobby=dice.pick(lex.HOBBIES),
            likes=tuple(foods[:2]),
            dislikes=foods[2],
            colour=dice.pick(lex.COLOURS),
            trait=dice.pick(lex.TRAITS),
            hair=dice.pick(("grey", "white")) if age >= 54 else dice.pick(lex.HAIR[:4]),
            wakes_at=dice.between(5, 7),
            things=tuple(thing.name for thing in things),
            pet=pet,
        )
        return name

    def _build_friendships(self) -> None:
        """Each person finds up to two friends of a like age, outside the family."""
        for person in self.people.values():
            others = [
                other.name
                for other in self.people.values()
                if other.surname != person.surname and abs(other.age - person.age) <= 6
            ]
            for other in self.dice.some(others, self.dice.between(1, 2)):
                one, two = sorted((person.name, other))
                if (one, two) not in self.friendships:
                    self.friendships.append((one, two))

    def _build_events(self) -> None:
        dice = self.dice
        rooms = [name for name, building in self.buildings.items() if building.kind != "mill"]
        for name, building in zip(sorted(lex.EVENTS), dice.some(rooms, len(lex.EVENTS)), strict=True):
            hours = (18, 20) if name.endswith(("evening", "night")) else (13, 17)
            self.events[name] = Event(name, building, dice.pick(lex.DAYS), dice.between(*hours))
