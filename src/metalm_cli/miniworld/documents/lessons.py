"""Documents that teach: entries about kinds of things, passages with questions, and how to do something."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter, place_name
from metalm_cli.miniworld.documents.guides import GUIDES
from metalm_cli.miniworld.documents.people import (
    describe_pet,
    describe_thing,
    introduce,
    relatives,
    sentences_about,
    some_person,
)
from metalm_cli.miniworld.documents.places import some_town
from metalm_cli.miniworld.english import article, capitalise, plural
from metalm_cli.miniworld.facts import Fact

_ANIMAL = ("legs", "covering", "eats", "habitat", "sound", "baby", "ability")
_PERSON = ("lives_in", "age", "job", "works_at", "attends", "hobby", "likes", "dislikes", "favourite_colour")
_OPEN = ("likes", "dislikes", "spouse")
"""Relations of which a different value is no contradiction, or which bind two people."""
_MORE = ("hair", "wakes_at", "has_pet", "spouse")
_TOWN = ("terrain", "known_for", "population", "founded")


def introduce_kind(draft: DocumentWriter, name: str, relations: Sequence[str], most: int) -> list[Fact]:
    """State up to ``most`` facts of a kind; return those stated."""
    facts = [fact for relation in relations for fact in draft.world.query(relation, name)]
    return [fact for fact in draft.dice.some(facts, most) if draft.tell(fact)]


def dictionary_entry(draft: DocumentWriter) -> None:
    """What an encyclopaedia says about a kind of animal, food, job, thing or material, or about a town."""
    draft.dice.pick((_animal, _animal, _animal, _food, _job, _tool, _tool, _material, _town, _causes))(draft)


def _heading(draft: DocumentWriter, name: str) -> None:
    if draft.dice.chance(0.4):
        draft.joint = "\n"
        draft.say(f"About {name}.")
        draft.turn()


def _animal(draft: DocumentWriter) -> None:
    dice = draft.dice
    animal = dice.pick(lex.ANIMALS)
    _heading(draft, plural(animal.name))
    draft.say(
        dice.pick(
            (
                f"{capitalise(article(animal.name))} is an animal.",
                f"{capitalise(plural(animal.name))} are animals that most people know.",
                f"Among the animals of this country is the {animal.name}.",
            )
        )
    )
    introduce_kind(draft, animal.name, _ANIMAL, dice.between(2, 7))
    if dice.chance(0.6):
        draft.turn()
        for other in dice.some([kind for kind in lex.ANIMALS if kind.size != animal.size], dice.between(1, 3)):
            if animal.size > other.size:
                draft.tell(Fact("bigger_than", animal.name, other.name))
            else:
                draft.tell(Fact("bigger_than", other.name, animal.name), reverse=True)
    pets = [pet for pet in draft.world.pets.values() if pet.kind == animal.name]
    if pets and dice.chance(0.6):
        draft.turn()
        draft.say(f"Some people keep {article(animal.name)} as a pet.")
        describe_pet(draft, draft.world.people[dice.pick(pets).owner])
    if dice.chance(0.3):
        other = dice.pick([kind for kind in lex.ANIMALS if kind is not animal])
        draft.turn()
        draft.say(f"{capitalise(article(other.name))} is another animal.")
        introduce_kind(draft, other.name, _ANIMAL, dice.between(1, 4))


def _food(draft: DocumentWriter) -> None:
    dice = draft.dice
    for place, food in enumerate(dice.some(lex.FOODS, dice.pick((1, 2, 3, 4)))):
        if place:
            draft.turn()
        else:
            _heading(draft, food.name)
        draft.say(
            f"{capitalise(food.name)} {'are' if food.one else 'is'} "
            + dice.pick(("something that people eat.", "a kind of food.", "good food."))
        )
        introduce_kind(draft, food.name, ("taste", "origin"), 2)
        for relation in ("likes", "dislikes"):
            facts = draft.world.query(relation, value=food.name)
            for fact in dice.some(facts, dice.between(0, 2)):
                draft.tell(fact)


def _job(draft: DocumentWriter) -> None:
    dice = draft.dice
    job = dice.pick(lex.JOBS)
    _heading(draft, plural(job.name))
    draft.say(dice.pick((f"Many towns have {article(job.name)}.", f"It takes years to become {article(job.name)}.")))
    introduce_kind(draft, job.name, ("job_does", "job_place", "job_tool"), dice.between(1, 3))
    people = [person for person in draft.world.people.values() if person.job == job.name]
    if people:
        draft.turn()
        for person in dice.some(people, dice.between(1, 3)):
            introduce(draft, person)
            for fact in dice.some(
                sentences_about(draft, person, ("trait", "age", "hobby", "wakes_at")), dice.between(0, 2)
            ):
                draft.tell(fact)


def _tool(draft: DocumentWriter) -> None:
    dice = draft.dice
    for place, tool in enumerate(dice.some(lex.THINGS, dice.pick((1, 1, 2, 3)))):
        if place:
            draft.turn()
        else:
            _heading(draft, plural(tool.name))
        draft.say(
            dice.pick(
                (f"{capitalise(article(tool.name))} is a thing that many people have at home.",
                 f"Almost every house has {article(tool.name)}.",
                 f"What would we do without {article(tool.name)}?")
            )
        )  # fmt: skip
        introduce_kind(draft, tool.name, ("used_to", "kept"), 2)
        owners = [person for person in draft.world.people.values() if tool.name in person.things]
        if owners and dice.chance(0.7):
            describe_thing(draft, dice.pick(owners))
        properties = draft.world.query("property", dice.pick(tool.materials))
        if dice.chance(0.5):
            draft.tell(dice.pick(properties))


def _material(draft: DocumentWriter) -> None:
    dice = draft.dice
    for place, name in enumerate(dice.some(list(lex.MATERIALS), dice.between(1, 4))):
        if place:
            draft.turn()
        draft.say(
            dice.pick(
                (f"{capitalise(name)} is a material.", f"Many things are made of {name}.", f"Let us look at {name}.")
            )
        )
        introduce_kind(draft, name, ("property",), 2)
        made = [thing for thing in draft.world.belongings.values() if thing.material == name]
        for thing in dice.some(made, dice.between(0, 2)):
            draft.tell(Fact("thing_material", thing.name, name))


def _town(draft: DocumentWriter) -> None:
    town, dice = some_town(draft), draft.dice
    _heading(draft, town.name)
    introduce_kind(draft, town.name, _TOWN, dice.between(2, 4))
    facts = [fact for relation in ("north_of", "east_of") for fact in draft.world.query(relation, town.name)]
    for fact in dice.some(facts, dice.between(1, 3)):
        draft.tell(fact)


def _causes(draft: DocumentWriter) -> None:
    dice = draft.dice
    draft.say(dice.pick(("Why do things happen?", "Everything has a cause.", "This is how the world works.")))
    for fact in dice.some(draft.world.query("causes"), dice.between(3, 7)):
        if dice.chance(0.3):
            draft.turn()
        cause, effect = fact.subject, fact.value
        forms = [f"When {cause}, {effect}.", f"If {cause}, {effect}."]
        forms.append(f"What happens when {cause}? {capitalise(effect)}.")
        if effect.split()[0] not in ("it", "they", "their"):
            forms.append(f"{capitalise(effect)} when {cause}.")
        draft.say(dice.pick(forms), fact)


def questions(draft: DocumentWriter) -> None:
    """A passage, and questions that it answers."""
    dice = draft.dice
    writer = dice.pick((_about_person, _about_person, _about_person, _about_town, _about_animal, _about_event))
    stated = writer(draft)
    person = draft.world.people.get(stated[0].subject) if stated else None
    draft.turn()
    style = dice.pick((("Question: ", "Answer: ", "\n"), ("Q: ", "A: ", "\n"), ("", "", " ")))
    draft.joint = "\n" if dice.chance(0.6) else "\n\n"
    for fact in dice.some(stated, dice.between(1, 4)):
        if person is not None and dice.chance(0.25):
            question, answer = _yes_or_no(draft, fact)
        else:
            question, answer = draft.asked(fact)
        draft.line(f"{style[0]}{question}{style[2]}{style[1]}{answer}")


def _about_person(draft: DocumentWriter) -> list[Fact]:
    person, dice = some_person(draft), draft.dice
    introduce(draft, person)
    facts = dice.some(sentences_about(draft, person, _PERSON + _MORE), dice.between(3, 7))
    facts = list({fact.relation: fact for fact in facts if fact.subject == person.name}.values())
    for fact in facts:
        draft.tell(fact)
    for fact in dice.some(relatives(draft, person), dice.between(0, 2)):
        draft.tell_of(person.name, fact)
    return facts


def _about_town(draft: DocumentWriter) -> list[Fact]:
    town = some_town(draft)
    stated = introduce_kind(draft, town.name, _TOWN, draft.dice.between(2, 4))
    kind = draft.dice.pick([kind for kind in town.buildings if kind not in lex.OPEN_AIR])
    draft.say(f"There is {article(kind)} in {town.name}.", Fact("has_building", town.name, kind))
    return stated + introduce_kind(draft, f"{town.name} {kind}", ("built_of", "opens_at"), 2)


def _about_animal(draft: DocumentWriter) -> list[Fact]:
    animal = draft.dice.pick(lex.ANIMALS)
    draft.say(f"{capitalise(article(animal.name))} is an animal.")
    return introduce_kind(draft, animal.name, _ANIMAL, draft.dice.between(3, 7))


def _about_event(draft: DocumentWriter) -> list[Fact]:
    event = draft.dice.pick(list(draft.world.events.values()))
    draft.say(f"Do you know the {event.name} in {place_name(event.building).rsplit(' ', 1)[1]}?")
    return introduce_kind(draft, event.name, ("event_place", "event_day", "event_hour"), 3)


def _yes_or_no(draft: DocumentWriter, fact: Fact) -> tuple[str, str]:
    """A question about the fact, or about the same fact of somebody else, with the true answer."""
    truth = draft.claim(fact)
    others = [other for other in draft.world.query(fact.relation) if other.value != fact.value]
    false = Fact(fact.relation, fact.subject, draft.dice.pick(others).value)
    if draft.dice.chance(0.5) or draft.world.holds(false) or fact.relation in _OPEN:
        return f"Is it true that {truth}?", f"Yes, {truth}."
    return (
        f"Is it true that {draft.claim(false)}?",
        f"No, {truth}.",
    )


def howto(draft: DocumentWriter) -> None:
    """How to make or mend something, step by step, sometimes with a person who does it."""
    dice = draft.dice
    guide = dice.pick(GUIDES)
    numbered = dice.chance(0.5)
    draft.joint = "\n" if numbered else "\n\n"
    draft.say(dice.pick((f"How to {guide.goal}.", f"How do you {guide.goal}?", f"It is not hard to {guide.goal}.")))
    if dice.chance(0.5):
        person = some_person(draft)
        draft.say(
            f"{person.full_name} from {person.town} does it like this.", Fact("lives_in", person.name, person.town)
        )
    if dice.chance(0.7):
        draft.say(f"You need {guide.needs}.")
    draft.turn()
    steps = [dice.pick(step) for step in guide.steps]
    for place, step in enumerate(steps):
        if numbered:
            draft.line(f"{place + 1}. {step}.")
        else:
            first = "First" if place == 0 else "Finally" if place == len(steps) - 1 else dice.pick(_THEN)
            draft.say(f"{first} {step[0].lower()}{step[1:]}." if first else f"{step}.")
    draft.turn()
    draft.say(dice.pick(guide.close))
    for tool in dice.some(guide.tools, dice.between(0, len(guide.tools))):
        introduce_kind(draft, tool, ("used_to", "kept"), dice.between(1, 2))


_THEN = ("Then", "After that", "Next", "", "Now")
