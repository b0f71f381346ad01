"""Tasks with two options: the referent of a pronoun, and the outcome of a situation."""

from __future__ import annotations

from collections.abc import Callable

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.english import PRONOUNS, capitalise, in_words, third_person, with_article
from metalm_cli.miniworld.facts import Fact
from metalm_cli.miniworld.rng import SeededRandom
from metalm_cli.miniworld.tasks.clauses import attribute_clause, clause_to_sentence, sample_distinct_facts
from metalm_cli.miniworld.tasks.splits import RowDict, RowGroup
from metalm_cli.miniworld.world import World

_JOBS = {job.name: job for job in lex.JOBS}
_ANIMALS = {animal.name: animal for animal in lex.ANIMALS}
_THINGS = {thing.name: thing for thing in lex.THINGS}
_INTERCHANGEABLE = (
    frozenset(("blanket", "scarf", "coat", "hat", "umbrella")),
    frozenset(("basket", "bag", "box", "bowl", "cup")),
    frozenset(("chair", "table")),
)
"""Groups of things that can replace each other."""
_SCENES = (
    "{a} and {b} meet at the {place} in {town}",
    "at the {place} in {town}, {a} talks to {b}",
    "{a} and {b} spend the afternoon together",
    "{a} walks through {town} with {b}",
    "one day {a} writes a letter to {b}",
)


def _are_distinct(first: str, second: str) -> bool:
    return first != second and not any({first, second} <= group for group in _INTERCHANGEABLE)


def _job_clues(facts: list[Fact]) -> tuple[str, ...]:
    first, second = (_JOBS[fact.value] for fact in facts)
    if first.workplace == second.workplace:
        return ()
    return (
        f"most days {{he}} {first.activity}",
        f"on Monday {{he}} has to be {first.workplace} again",
        f"it is {{his}} work to {first.activity_infinitive}",
    )


def _home_clues(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"in the evening {{he}} goes back to {facts[0].value}",
        f"later {{he}} tells {{his}} neighbours in {facts[0].value} about it",
    )


def _age_clues(facts: list[Fact]) -> tuple[str, ...]:
    older = int(facts[0].value) > int(facts[1].value)
    return (f"{{he}} is the {'older' if older else 'younger'} of the two",)


def _morning_clues(facts: list[Fact]) -> tuple[str, ...]:
    first, second = (int(fact.value) for fact in facts)
    if first > second:
        return (
            f"at half past {in_words(second)} in the morning {{he}} is still in bed",
            "{he} can sleep longer in the morning",
        )
    return (f"at half past {in_words(first)} in the morning only {{he}} is up", "{he} is always the first to get up")


def _thing_clues(facts: list[Fact]) -> tuple[str, ...]:
    if not _are_distinct(facts[0].value, facts[1].value):
        return ()
    purpose = _THINGS[facts[0].value].purpose
    return (
        f"{{he}} has just the right thing to {purpose}",
        f"with {{his}} own things {{he}} can {purpose}",
    )


def _food_clues(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"at noon {{he}} asks for {facts[0].value}, the food {{he}} likes",
        f"as a present {{he}} gets {facts[0].value}, and that makes {{him}} very happy",
    )


def _hair_clues(facts: list[Fact]) -> tuple[str, ...]:
    return (f"the wind plays with {{his}} {facts[0].value} hair", f"{{he}} combs {{his}} {facts[0].value} hair")


def _colour_clues(facts: list[Fact]) -> tuple[str, ...]:
    return (
        f"of two hats {{he}} takes the {facts[0].value} one, because that is the colour {{he}} likes best",
        f"{{he}} wants to paint the door in the colour {{he}} likes best, and that is {facts[0].value}",
    )


_CLUE_WRITERS: dict[str, Callable[[list[Fact]], tuple[str, ...]]] = {
    "job": _job_clues,
    "lives_in": _home_clues,
    "age": _age_clues,
    "wakes_at": _morning_clues,
    "owns": _thing_clues,
    "likes": _food_clues,
    "hair": _hair_clues,
    "favourite_colour": _colour_clues,
}


def make_pronoun_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows about two people of one gender: a fact about each determines the referent of a pronoun."""
    gender = rng.choice(("he", "she"))
    if rng.chance(0.12):
        return _make_pet_rows(world, rng, gender)
    relation = rng.choice(tuple(_CLUE_WRITERS))
    facts = sample_distinct_facts(world, rng, relation, 2, gender)
    clues = _CLUE_WRITERS[relation](facts) if facts is not None else ()
    if facts is None or not clues:
        return None
    first_name, second_name = (fact.subject for fact in facts)
    forms = rng.randbelow(3), rng.randbelow(3)

    def write_facts(first: str, second: str) -> list[str]:
        return [
            _fact_clause(fact._replace(subject=name), form)
            for fact, name, form in zip(facts, (first, second), forms, strict=True)
        ]

    return _make_pronoun_pair(world, rng, (relation, first_name, second_name), write_facts, rng.choice(clues), gender)


def _fact_clause(fact: Fact, form: int) -> str:
    if fact.relation == "owns":
        return f"{fact.subject} {('has', 'owns')[form % 2]} {with_article(fact.value)}"
    return attribute_clause(fact, form)


def _make_pet_rows(world: World, rng: SeededRandom, gender: str) -> RowGroup | None:
    owners = [person for person in world.people.values() if person.pet and person.gender == gender]
    if len(owners) < 2:
        return None
    first_owner, second_owner = rng.sample(owners, 2)
    pets = [world.pets[person.pet] for person in (first_owner, second_owner)]
    kinds = [_ANIMALS[pet.kind] for pet in pets]
    clues = [f"when {{he}} comes home, {pets[0].name} is waiting for {{him}}"]
    if kinds[0].food != kinds[1].food:
        clues.append(f"on the way home {{he}} looks for {kinds[0].food} that {{his}} pet can eat")
    if kinds[0].sound and kinds[0].sound != kinds[1].sound:
        clues.append(f"{{his}} pet often {third_person(kinds[0].sound)}")

    def write_facts(first: str, second: str) -> list[str]:
        pairs = zip((first, second), pets, strict=True)
        return [f"{name} has {with_article(pet.kind)} called {pet.name}" for name, pet in pairs]

    return _make_pronoun_pair(
        world, rng, ("has_pet", first_owner.name, second_owner.name), write_facts, rng.choice(clues), gender
    )


def _make_pronoun_pair(
    world: World,
    rng: SeededRandom,
    key: tuple[str, str, str],
    write_facts: Callable[[str, str], list[str]],
    clue: str,
    gender: str,
) -> RowGroup:
    """Make two rows; the second exchanges the two people's facts and so the referent of the pronoun."""
    relation, first_name, second_name = key
    a, b = rng.shuffled((first_name, second_name))
    town = rng.choice(list(world.towns.values()))
    scene = rng.choice(_SCENES).format(a=a, b=b, place=rng.choice(town.buildings), town=town.name)
    clue_sentence = clause_to_sentence(clue.format_map(PRONOUNS[gender]))
    swap, scene_first = rng.chance(0.5), rng.chance(0.3)
    options = rng.shuffled((first_name, second_name))
    rows: list[RowDict] = []
    for first, second in ((first_name, second_name), (second_name, first_name)):
        facts = write_facts(first, second)
        if swap == (first == first_name):
            facts.reverse()
        clauses = [scene, *facts] if scene_first else [*facts, scene]
        body = " ".join(clause_to_sentence(clause) for clause in clauses)
        pronoun = _find_pronoun(clue_sentence, gender)
        rows.append(
            {"text": f"{body} {clue_sentence}", "pronoun": pronoun, "options": options, "index": options.index(first)}
        )
    return (relation, *sorted((first_name, second_name))), rows


def _find_pronoun(clue_sentence: str, gender: str) -> str:
    """Return the first pronoun of a sentence in lower case."""
    forms = {PRONOUNS[gender][name] for name in ("he", "him", "his")}
    return next(word for word in clue_sentence.lower().replace(",", "").replace(".", "").split() if word in forms)


def make_outcome_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    """Make rows with a situation and two outcomes, one of which the rules of the world allow."""
    return rng.choice(
        (
            _make_opening_rows,
            _make_beginning_rows,
            _make_material_rows,
            _make_tool_rows,
            _make_job_rows,
            _make_dinner_rows,
            _make_hunger_rows,
        )
    )(world, rng)


def _make_outcome_pair(
    rng: SeededRandom, key: tuple[str, ...], contexts: tuple[str, str], outcomes: tuple[str, str]
) -> RowGroup:
    """Make two rows with the same options; each situation has a different outcome."""
    options = rng.shuffled(outcomes)
    return key, [
        {"context": context, "options": options, "index": options.index(answer)}
        for context, answer in zip(contexts, outcomes, strict=True)
    ]


def _make_opening_rows(world: World, rng: SeededRandom) -> RowGroup:
    person, building = rng.choice(list(world.people.values())), rng.choice(list(world.buildings.values()))
    pronoun = PRONOUNS[person.gender]["he"]
    early, late = (in_words(hour) for hour in sorted(rng.sample(range(6, 12), 2)))
    frame = rng.choice(
        (
            "The {kind} in {town} opens at {opens} in the morning. {name} comes to its door at {comes}.",
            "{name} is at the door of the {kind} in {town} at {comes}. It opens at {opens} in the morning.",
            "At {comes} in the morning {name} wants to go into the {kind} in {town}, which opens at {opens}.",
        )
    )
    slots = {"kind": building.kind, "town": building.town, "name": person.name}
    contexts = (frame.format(opens=late, comes=early, **slots), frame.format(opens=early, comes=late, **slots))
    outcomes = rng.choice(
        (
            (f"{capitalise(pronoun)} finds the door still closed.", f"{capitalise(pronoun)} finds the door open."),
            (f"{capitalise(pronoun)} has to wait outside.", f"{capitalise(pronoun)} can go in at once."),
        )
    )
    if building.kind in lex.OPEN_AIR_PLACES:
        outcomes = (f"{capitalise(pronoun)} has to wait outside.", f"{capitalise(pronoun)} can go in at once.")
        contexts = (contexts[0].replace("its door", "its gate"), contexts[1].replace("its door", "its gate"))
        contexts = (
            contexts[0].replace("the door of", "the gate of"),
            contexts[1].replace("the door of", "the gate of"),
        )
    return _make_outcome_pair(rng, ("opening", person.name, building.kind), contexts, outcomes)


def _make_beginning_rows(world: World, rng: SeededRandom) -> RowGroup:
    person, event = rng.choice(list(world.people.values())), rng.choice(list(world.events))
    pronoun = PRONOUNS[person.gender]["he"]
    early, late = (in_words(hour) for hour in sorted(rng.sample(range(2, 9), 2)))
    frame = rng.choice(
        (
            "The {event} begins at {begins}. {name} gets there at {comes}.",
            "{name} comes to the {event} at {comes}. It begins at {begins}.",
            "At {comes} {name} takes a seat at the {event}, which begins at {begins}.",
        )
    )
    slots = {"event": event, "name": person.name}
    contexts = (frame.format(begins=late, comes=early, **slots), frame.format(begins=early, comes=late, **slots))
    outcomes = rng.choice(
        (
            ("Nothing has begun yet.", "It has already begun."),
            (f"{capitalise(pronoun)} misses nothing.", f"{capitalise(pronoun)} misses the beginning."),
        )
    )
    return _make_outcome_pair(rng, ("beginning", person.name, event), contexts, outcomes)


_SOLID_THINGS = ("ring", "button", "spoon", "hammer", "needle", "key", "toy horse", "chess piece")
_THIN_THINGS = ("box", "lamp", "hat", "toy", "picture frame", "basket", "kite")
_FRAGILE_THINGS = ("cup", "bowl", "lamp", "plate", "vase", "bottle", "ball")
_ACCIDENTS = (
    ("glass", "steel", _FRAGILE_THINGS, "falls on the stone floor", ("It breaks.", "It stays whole.")),
    ("wood", "steel", _SOLID_THINGS, "falls into the lake", ("It floats.", "It sinks.")),
    ("wood", "stone", _SOLID_THINGS, "falls into the lake", ("It floats.", "It sinks.")),
    ("paper", "steel", _THIN_THINGS, "comes too near to the fire", ("It burns.", "It does not burn.")),
    ("straw", "steel", _THIN_THINGS, "comes too near to the fire", ("It burns.", "It does not burn.")),
)
"""Two materials, things made of them, an accident, and its outcome for each material."""


def _make_material_rows(world: World, rng: SeededRandom) -> RowGroup:
    fragile_material, robust_material, kinds, accident, outcomes = rng.choice(_ACCIDENTS)
    kind = rng.choice(kinds)
    a, b = rng.sample(list(world.people), 2)
    frame = rng.choice(
        (
            "{a} has a {kind} of {x}, and {b} has a {kind} of {y}. One day {a}'s {kind} {accident}.",
            "The {kind} of {b} is made of {y}, that of {a} is made of {x}. Today {a}'s {kind} {accident}.",
            "{b} owns a {kind} made of {y}. {a} owns one made of {x}. The {kind} of {a} {accident}.",
        )
    )
    slots = {"a": a, "b": b, "kind": kind, "accident": accident}
    contexts = (
        frame.format(x=fragile_material, y=robust_material, **slots),
        frame.format(x=robust_material, y=fragile_material, **slots),
    )
    return _make_outcome_pair(rng, ("material", *sorted((a, b)), kind), contexts, outcomes)


def _make_tool_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    a, b = rng.sample(list(world.people.values()), 2)
    thing, other_thing = rng.sample([candidate for candidate in lex.THINGS if candidate.is_ownable], 2)
    if not _are_distinct(thing.name, other_thing.name):
        return None
    pronouns = PRONOUNS[a.gender]
    frame = rng.choice(
        (
            "{a} has {x}, and {b} has {y}. {a} wants to {purpose}.",
            "{b} owns {y}, and {a} owns {x}. Today {a} would like to {purpose}.",
            "{a} would like to {purpose}. In {his} house there is {x}, and in the house of {b} there is {y}.",
        )
    )
    slots = {"a": a.name, "b": b.name, "purpose": thing.purpose, "his": pronouns["his"]}
    x, y = with_article(thing.name), with_article(other_thing.name)
    outcomes = rng.choice(
        (
            (
                f"{pronouns['He']} has the right thing for it.",
                f"{pronouns['He']} has to borrow something from {b.name}.",
            ),
            (f"{a.name} needs no help.", f"{a.name} asks {b.name} for help."),
        )
    )
    contexts = (frame.format(x=x, y=y, **slots), frame.format(x=y, y=x, **slots))
    return _make_outcome_pair(rng, ("tool", *sorted((a.name, b.name)), thing.name), contexts, outcomes)


def _make_job_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    a, b = rng.sample([person.name for person in world.people.values() if person.job], 2)
    job, other_job = rng.sample(lex.JOBS, 2)
    if job.workplace == other_job.workplace or {job.name, other_job.name} <= {"cook", "baker"}:
        return None
    frame = rng.choice(
        (
            "{a} is {x}, and {b} is {y}. Somebody is needed to {to}.",
            "{b} works as {y}. {a} works as {x}. The town is looking for somebody to {to}.",
            "The town needs a person to {to}. {a} is {x} and {b} is {y}.",
        )
    )
    x, y = with_article(job.name), with_article(other_job.name)
    contexts = (
        frame.format(a=a, b=b, x=x, y=y, to=job.activity_infinitive),
        frame.format(a=a, b=b, x=y, y=x, to=job.activity_infinitive),
    )
    outcomes = rng.choice(((f"They ask {a}.", f"They ask {b}."), (f"{a} gets the work.", f"{b} gets the work.")))
    return _make_outcome_pair(rng, ("asked", *sorted((a, b)), job.name), contexts, outcomes)


def _make_dinner_rows(world: World, rng: SeededRandom) -> RowGroup:
    person = rng.choice(list(world.people.values()))
    pronouns = PRONOUNS[person.gender]
    liked, disliked = rng.sample([food.name for food in lex.FOODS], 2)
    frame = rng.choice(
        (
            "{name} likes {x} and never eats {y}. Today the only thing on the table is a plate of {food}.",
            "There is one food {name} never eats, and that is {y}; but {he} is fond of {x}. A friend brings {food}.",
            "{name} could eat {x} every day, but {he} does not like {y}. For dinner {he} gets {food}.",
        )
    )
    slots = {"name": person.name, "he": pronouns["he"], "food": liked}
    contexts = (frame.format(x=liked, y=disliked, **slots), frame.format(x=disliked, y=liked, **slots))
    outcomes = rng.choice(
        (
            (f"{pronouns['He']} eats everything.", f"{pronouns['He']} eats nothing."),
            (f"{pronouns['He']} asks for more.", f"{pronouns['He']} asks for something else."),
        )
    )
    return _make_outcome_pair(rng, ("dinner", person.name, *sorted((liked, disliked))), contexts, outcomes)


def _make_hunger_rows(world: World, rng: SeededRandom) -> RowGroup | None:
    a, b = rng.sample(list(world.people), 2)
    pet, other_pet = rng.sample(sorted(world.pets), 2)
    kind, other_kind = rng.sample([animal for animal in lex.ANIMALS if animal.pet], 2)
    if kind.food == other_kind.food:
        return None
    frame = rng.choice(
        (
            "{a} has {x} called {pet}, and {b} has {y} called {other}. {pet} is hungry.",
            "{other} is {y} and belongs to {b}. {pet} is {x} and belongs to {a}. In the morning {pet} is hungry.",
            "{pet} is {x}, {other} is {y}. {a} wants to give {pet} something to eat while {b} is away.",
        )
    )
    slots = {"a": a, "b": b, "pet": pet, "other": other_pet}
    x, y = with_article(kind.name), with_article(other_kind.name)
    contexts = (frame.format(x=x, y=y, **slots), frame.format(x=y, y=x, **slots))
    outcomes = (f"{a} gives {pet} some {kind.food}.", f"{a} gives {pet} some {other_kind.food}.")
    return _make_outcome_pair(rng, ("hungry", *sorted((a, b)), pet), contexts, outcomes)
