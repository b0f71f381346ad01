"""Tasks with two options: who a pronoun means, and which outcome fits."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import PRONOUNS, article, capitalise, third_person, words
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import attribute, differing, sentence
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_JOBS = {job.name: job for job in lex.JOBS}
_ANIMALS = {animal.name: animal for animal in lex.ANIMALS}
_THINGS = {thing.name: thing for thing in lex.THINGS}
_ALIKE = (
    frozenset(("blanket", "scarf", "coat", "hat", "umbrella")),
    frozenset(("basket", "bag", "box", "bowl", "cup")),
    frozenset(("chair", "table")),
)
"""Things of which one may do for another."""
_SCENES = (
    "{a} and {b} meet at the {place} in {town}",
    "at the {place} in {town}, {a} talks to {b}",
    "{a} and {b} spend the afternoon together",
    "{a} walks through {town} with {b}",
    "one day {a} writes a letter to {b}",
)


def _separate(one: str, two: str) -> bool:
    return one != two and not any({one, two} <= alike for alike in _ALIKE)


def _by_job(facts: list[Fact]) -> tuple[str, ...]:
    one, two = (_JOBS[fact.value] for fact in facts)
    if one.where == two.where:
        return ()
    return (
        f"most days {{he}} {one.does}",
        f"on Monday {{he}} has to be {one.where} again",
        f"it is {{his}} work to {one.to}",
    )


def _by_home(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"in the evening {{he}} goes back to {facts[0].value}",
        f"later {{he}} tells {{his}} neighbours in {facts[0].value} about it",
    )


def _by_age(facts: list[Fact]) -> tuple[str, ...]:
    older = int(facts[0].value) > int(facts[1].value)
    return (f"{{he}} is the {'older' if older else 'younger'} of the two",)


def _by_morning(facts: list[Fact]) -> tuple[str, ...]:
    one, two = (int(fact.value) for fact in facts)
    if one > two:
        return (
            f"at half past {words(two)} in the morning {{he}} is still in bed",
            "{he} can sleep longer in the morning",
        )
    return (f"at half past {words(one)} in the morning only {{he}} is up", "{he} is always the first to get up")


def _by_thing(facts: list[Fact]) -> tuple[str, ...]:
    if not _separate(facts[0].value, facts[1].value):
        return ()
    purpose = _THINGS[facts[0].value].purpose
    return (
        f"{{he}} has just the right thing to {purpose}",
        f"with {{his}} own things {{he}} can {purpose}",
    )


def _by_food(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"at noon {{he}} asks for {facts[0].value}, the food {{he}} likes",
        f"as a present {{he}} gets {facts[0].value}, and that makes {{him}} very happy",
    )


def _by_hair(facts: list[Fact]) -> tuple[str, ...]:
    return (f"the wind plays with {{his}} {facts[0].value} hair", f"{{he}} combs {{his}} {facts[0].value} hair")


def _by_colour(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"of two hats {{he}} takes the {facts[0].value} one, because that is the colour {{he}} likes best",
        f"{{he}} wants to paint the door in the colour {{he}} likes best, and that is {facts[0].value}",
    )


_CLUES: dict[str, Callable[[list[Fact]], tuple[str, ...]]] = {
    "job": _by_job,
    "lives_in": _by_home,
    "age": _by_age,
    "wakes_at": _by_morning,
    "owns": _by_thing,
    "likes": _by_food,
    "hair": _by_hair,
    "favourite_colour": _by_colour,
}


def pronouns(world: World, dice: SeededRandom) -> RowGroup | None:
    """Two people of one gender, a fact about each, and a sentence whose pronoun the facts decide."""
    gender = dice.pick(("he", "she"))
    if dice.chance(0.12):
        return _by_pet(world, dice, gender)
    relation = dice.pick(tuple(_CLUES))
    found = differing(world, dice, relation, 2, gender)
    clues = _CLUES[relation](found) if found is not None else ()
    if found is None or not clues:
        return None
    one, two = (fact.subject for fact in found)
    forms = dice.below(3), dice.below(3)

    def told(first: str, second: str) -> list[str]:
        return [
            _owned(fact._replace(subject=name), form)
            for fact, name, form in zip(found, (first, second), forms, strict=True)
        ]

    return _meant(world, dice, (relation, one, two), told, dice.pick(clues), gender)


def _owned(fact: Fact, form: int) -> str:
    if fact.relation == "owns":
        return f"{fact.subject} {('has', 'owns')[form % 2]} {article(fact.value)}"
    return attribute(fact, form)


def _by_pet(world: World, dice: SeededRandom, gender: str) -> RowGroup | None:
    owners = [person for person in world.people.values() if person.pet and person.gender == gender]
    if len(owners) < 2:
        return None
    one, two = dice.some(owners, 2)
    pets = [world.pets[person.pet] for person in (one, two)]
    kinds = [_ANIMALS[pet.kind] for pet in pets]
    clues = [f"when {{he}} comes home, {pets[0].name} is waiting for {{him}}"]
    if kinds[0].food != kinds[1].food:
        clues.append(f"on the way home {{he}} looks for {kinds[0].food} that {{his}} pet can eat")
    if kinds[0].sound and kinds[0].sound != kinds[1].sound:
        clues.append(f"{{his}} pet often {third_person(kinds[0].sound)}")

    def told(first: str, second: str) -> list[str]:
        pairs = zip((first, second), pets, strict=True)
        return [f"{name} has {article(pet.kind)} called {pet.name}" for name, pet in pairs]

    return _meant(world, dice, ("has_pet", one.name, two.name), told, dice.pick(clues), gender)


def _meant(
    world: World,
    dice: SeededRandom,
    key: tuple[str, str, str],
    told: Callable[[str, str], list[str]],
    clue: str,
    gender: str,
) -> RowGroup:
    """Two rows: the facts of the one and the other are exchanged, and so is who the pronoun means."""
    relation, one, two = key
    a, b = dice.shuffled((one, two))
    town = dice.pick(list(world.towns.values()))
    scene = dice.pick(_SCENES).format(a=a, b=b, place=dice.pick(town.buildings), town=town.name)
    last = sentence(clue.format_map(PRONOUNS[gender]))
    swap, scene_first = dice.chance(0.5), dice.chance(0.3)
    options = dice.shuffled((one, two))
    rows: list[RowDict] = []
    for first, second in ((one, two), (two, one)):
        facts = told(first, second)
        if swap == (first == one):
            facts.reverse()
        clauses = [scene, *facts] if scene_first else [*facts, scene]
        body = " ".join(sentence(clause) for clause in clauses)
        word = _pronoun(last, gender)
        rows.append({"text": f"{body} {last}", "pronoun": word, "options": options, "index": options.index(first)})
    return (relation, *sorted((one, two))), rows


def _pronoun(last: str, gender: str) -> str:
    """The first pronoun of a sentence, as it stands there but small."""
    forms = {PRONOUNS[gender][name] for name in ("he", "him", "his")}
    return next(word for word in last.lower().replace(",", "").replace(".", "").split() if word in forms)


def outcomes(world: World, dice: SeededRandom) -> RowGroup | None:
    """A situation with two ways to go on, of which the rules of the world allow one."""
    return dice.pick((_opening, _beginning, _material, _tool, _asked, _dinner, _hungry))(world, dice)


def _either(dice: SeededRandom, key: tuple[str, ...], contexts: tuple[str, str], outcome: tuple[str, str]) -> RowGroup:
    """Two rows with the same options: each situation has its own outcome."""
    options = dice.shuffled(outcome)
    return key, [
        {"context": context, "options": options, "index": options.index(right)}
        for context, right in zip(contexts, outcome, strict=True)
    ]


def _opening(world: World, dice: SeededRandom) -> RowGroup:
    person, building = dice.pick(list(world.people.values())), dice.pick(list(world.buildings.values()))
    he = PRONOUNS[person.gender]["he"]
    early, late = (words(hour) for hour in sorted(dice.some(range(6, 12), 2)))
    frame = dice.pick(
        (
            "The {kind} in {town} opens at {opens} in the morning. {name} comes to its door at {comes}.",
            "{name} is at the door of the {kind} in {town} at {comes}. It opens at {opens} in the morning.",
            "At {comes} in the morning {name} wants to go into the {kind} in {town}, which opens at {opens}.",
        )
    )
    slots = {"kind": building.kind, "town": building.town, "name": person.name}
    contexts = (frame.format(opens=late, comes=early, **slots), frame.format(opens=early, comes=late, **slots))
    outcome = dice.pick(
        (
            (f"{capitalise(he)} finds the door still closed.", f"{capitalise(he)} finds the door open."),
            (f"{capitalise(he)} has to wait outside.", f"{capitalise(he)} can go in at once."),
        )
    )
    if building.kind in lex.OPEN_AIR:
        outcome = (f"{capitalise(he)} has to wait outside.", f"{capitalise(he)} can go in at once.")
        contexts = (contexts[0].replace("its door", "its gate"), contexts[1].replace("its door", "its gate"))
        contexts = (
            contexts[0].replace("the door of", "the gate of"),
            contexts[1].replace("the door of", "the gate of"),
        )
    return _either(dice, ("opening", person.name, building.kind), contexts, outcome)


def _beginning(world: World, dice: SeededRandom) -> RowGroup:
    person, event = dice.pick(list(world.people.values())), dice.pick(list(world.events))
    he = PRONOUNS[person.gender]["he"]
    early, late = (words(hour) for hour in sorted(dice.some(range(2, 9), 2)))
    frame = dice.pick(
        (
            "The {event} begins at {begins}. {name} gets there at {comes}.",
            "{name} comes to the {event} at {comes}. It begins at {begins}.",
            "At {comes} {name} takes a seat at the {event}, which begins at {begins}.",
        )
    )
    slots = {"event": event, "name": person.name}
    contexts = (frame.format(begins=late, comes=early, **slots), frame.format(begins=early, comes=late, **slots))
    outcome = dice.pick(
        (
            ("Nothing has begun yet.", "It has already begun."),
            (f"{capitalise(he)} misses nothing.", f"{capitalise(he)} misses the beginning."),
        )
    )
    return _either(dice, ("beginning", person.name, event), contexts, outcome)


_SOLID = ("ring", "button", "spoon", "hammer", "needle", "key", "toy horse", "chess piece")
_THIN = ("box", "lamp", "hat", "toy", "picture frame", "basket", "kite")
_SET_DOWN = ("cup", "bowl", "lamp", "plate", "vase", "bottle", "ball")
_ACCIDENTS = (
    ("glass", "steel", _SET_DOWN, "falls on the stone floor", ("It breaks.", "It stays whole.")),
    ("wood", "steel", _SOLID, "falls into the lake", ("It floats.", "It sinks.")),
    ("wood", "stone", _SOLID, "falls into the lake", ("It floats.", "It sinks.")),
    ("paper", "steel", _THIN, "comes too near to the fire", ("It burns.", "It does not burn.")),
    ("straw", "steel", _THIN, "comes too near to the fire", ("It burns.", "It does not burn.")),
)
"""Two materials, things made of them, what happens, and how it ends for each."""


def _material(world: World, dice: SeededRandom) -> RowGroup:
    weak, strong, kinds, accident, outcome = dice.pick(_ACCIDENTS)
    kind = dice.pick(kinds)
    a, b = dice.some(list(world.people), 2)
    frame = dice.pick(
        (
            "{a} has a {kind} of {x}, and {b} has a {kind} of {y}. One day {a}'s {kind} {accident}.",
            "The {kind} of {b} is made of {y}, that of {a} is made of {x}. Today {a}'s {kind} {accident}.",
            "{b} owns a {kind} made of {y}. {a} owns one made of {x}. The {kind} of {a} {accident}.",
        )
    )
    slots = {"a": a, "b": b, "kind": kind, "accident": accident}
    contexts = (frame.format(x=weak, y=strong, **slots), frame.format(x=strong, y=weak, **slots))
    return _either(dice, ("material", *sorted((a, b)), kind), contexts, outcome)


def _tool(world: World, dice: SeededRandom) -> RowGroup | None:
    a, b = dice.some(list(world.people.values()), 2)
    one, two = dice.some([thing for thing in lex.THINGS if thing.owned], 2)
    if not _separate(one.name, two.name):
        return None
    he = PRONOUNS[a.gender]
    frame = dice.pick(
        (
            "{a} has {x}, and {b} has {y}. {a} wants to {purpose}.",
            "{b} owns {y}, and {a} owns {x}. Today {a} would like to {purpose}.",
            "{a} would like to {purpose}. In {his} house there is {x}, and in the house of {b} there is {y}.",
        )
    )
    slots = {"a": a.name, "b": b.name, "purpose": one.purpose, "his": he["his"]}
    x, y = article(one.name), article(two.name)
    outcome = dice.pick(
        (
            (f"{he['He']} has the right thing for it.", f"{he['He']} has to borrow something from {b.name}."),
            (f"{a.name} needs no help.", f"{a.name} asks {b.name} for help."),
        )
    )
    contexts = (frame.format(x=x, y=y, **slots), frame.format(x=y, y=x, **slots))
    return _either(dice, ("tool", *sorted((a.name, b.name)), one.name), contexts, outcome)


def _asked(world: World, dice: SeededRandom) -> RowGroup | None:
    a, b = dice.some([person.name for person in world.people.values() if person.job], 2)
    one, two = dice.some(lex.JOBS, 2)
    if one.where == two.where or {one.name, two.name} <= {"cook", "baker"}:
        return None
    frame = dice.pick(
        (
            "{a} is {x}, and {b} is {y}. Somebody is needed to {to}.",
            "{b} works as {y}. {a} works as {x}. The town is looking for somebody to {to}.",
            "The town needs a person to {to}. {a} is {x} and {b} is {y}.",
        )
    )
    x, y = article(one.name), article(two.name)
    contexts = (frame.format(a=a, b=b, x=x, y=y, to=one.to), frame.format(a=a, b=b, x=y, y=x, to=one.to))
    outcome = dice.pick(((f"They ask {a}.", f"They ask {b}."), (f"{a} gets the work.", f"{b} gets the work.")))
    return _either(dice, ("asked", *sorted((a, b)), one.name), contexts, outcome)


def _dinner(world: World, dice: SeededRandom) -> RowGroup:
    person = dice.pick(list(world.people.values()))
    he = PRONOUNS[person.gender]
    good, bad = dice.some([food.name for food in lex.FOODS], 2)
    frame = dice.pick(
        (
            "{name} likes {x} and never eats {y}. Today the only thing on the table is a plate of {food}.",
            "There is one food {name} never eats, and that is {y}; but {he} is fond of {x}. A friend brings {food}.",
            "{name} could eat {x} every day, but {he} does not like {y}. For dinner {he} gets {food}.",
        )
    )
    slots = {"name": person.name, "he": he["he"], "food": good}
    contexts = (frame.format(x=good, y=bad, **slots), frame.format(x=bad, y=good, **slots))
    outcome = dice.pick(
        (
            (f"{he['He']} eats everything.", f"{he['He']} eats nothing."),
            (f"{he['He']} asks for more.", f"{he['He']} asks for something else."),
        )
    )
    return _either(dice, ("dinner", person.name, *sorted((good, bad))), contexts, outcome)


def _hungry(world: World, dice: SeededRandom) -> RowGroup | None:
    a, b = dice.some(list(world.people), 2)
    pet, other = dice.some(sorted(world.pets), 2)
    one, two = dice.some([animal for animal in lex.ANIMALS if animal.pet], 2)
    if one.food == two.food:
        return None
    frame = dice.pick(
        (
            "{a} has {x} called {pet}, and {b} has {y} called {other}. {pet} is hungry.",
            "{other} is {y} and belongs to {b}. {pet} is {x} and belongs to {a}. In the morning {pet} is hungry.",
            "{pet} is {x}, {other} is {y}. {a} wants to give {pet} something to eat while {b} is away.",
        )
    )
    slots = {"a": a, "b": b, "pet": pet, "other": other}
    x, y = article(one.name), article(two.name)
    contexts = (frame.format(x=x, y=y, **slots), frame.format(x=y, y=x, **slots))
    outcome = (f"{a} gives {pet} some {one.food}.", f"{a} gives {pet} some {two.food}.")
    return _either(dice, ("hungry", *sorted((a, b)), pet), contexts, outcome)
