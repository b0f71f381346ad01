"""Writers of educational documents: dictionary entries, passages with questions, and how-to guides."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter, place_name
from metalm_cli.miniworld.documents.guides import GUIDES
from metalm_cli.miniworld.documents.people import (
    describe_pet,
    describe_thing,
    introduce_person,
    pick_person,
    statable_facts,
    statable_relationships,
)
from metalm_cli.miniworld.documents.places import pick_town
from metalm_cli.miniworld.english import capitalise, plural, with_article
from metalm_cli.miniworld.facts import Fact

_ANIMAL_RELATIONS = ("legs", "covering", "eats", "habitat", "sound", "baby", "ability")
_PERSON_RELATIONS = ("lives_in", "age", "job", "works_at", "attends", "hobby", "likes", "dislikes", "favourite_colour")
_OPEN_RELATIONS = ("likes", "dislikes", "spouse")
"""Relations that allow several values for a subject, or that bind two people."""
_EXTRA_PERSON_RELATIONS = ("hair", "wakes_at", "has_pet", "spouse")
_TOWN_RELATIONS = ("terrain", "known_for", "population", "founded")


def state_some_facts(writer: DocumentWriter, name: str, relations: Sequence[str], limit: int) -> list[Fact]:
    """State up to ``limit`` facts about a subject; return the facts that are stated."""
    facts = [fact for relation in relations for fact in writer.world.query(relation, name)]
    return [fact for fact in writer.rng.sample(facts, limit) if writer.state_fact(fact)]


def write_dictionary_entry(writer: DocumentWriter) -> None:
    """Write an encyclopaedia entry about a kind of animal, food, job, thing or material, or about a town."""
    writer.rng.choice(
        (
            _write_animal_entry,
            _write_animal_entry,
            _write_animal_entry,
            _write_food_entry,
            _write_job_entry,
            _write_thing_entry,
            _write_thing_entry,
            _write_material_entry,
            _write_town_entry,
            _write_causes_entry,
        )
    )(writer)


def _write_heading(writer: DocumentWriter, name: str) -> None:
    if writer.rng.chance(0.4):
        writer.separator = "\n"
        writer.add_sentence(f"About {name}.")
        writer.start_paragraph()


def _write_animal_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    animal = rng.choice(lex.ANIMALS)
    _write_heading(writer, plural(animal.name))
    writer.add_sentence(
        rng.choice(
            (
                f"{capitalise(with_article(animal.name))} is an animal.",
                f"{capitalise(plural(animal.name))} are animals that most people know.",
                f"Among the animals of this country is the {animal.name}.",
            )
        )
    )
    state_some_facts(writer, animal.name, _ANIMAL_RELATIONS, rng.randint(2, 7))
    if rng.chance(0.6):
        writer.start_paragraph()
        for other in rng.sample(
            [candidate for candidate in lex.ANIMALS if candidate.size != animal.size], rng.randint(1, 3)
        ):
            if animal.size > other.size:
                writer.state_fact(Fact("bigger_than", animal.name, other.name))
            else:
                writer.state_fact(Fact("bigger_than", other.name, animal.name), reverse=True)
    pets = [pet for pet in writer.world.pets.values() if pet.kind == animal.name]
    if pets and rng.chance(0.6):
        writer.start_paragraph()
        writer.add_sentence(f"Some people keep {with_article(animal.name)} as a pet.")
        describe_pet(writer, writer.world.people[rng.choice(pets).owner])
    if rng.chance(0.3):
        other = rng.choice([candidate for candidate in lex.ANIMALS if candidate is not animal])
        writer.start_paragraph()
        writer.add_sentence(f"{capitalise(with_article(other.name))} is another animal.")
        state_some_facts(writer, other.name, _ANIMAL_RELATIONS, rng.randint(1, 4))


def _write_food_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    for index, food in enumerate(rng.sample(lex.FOODS, rng.choice((1, 2, 3, 4)))):
        if index:
            writer.start_paragraph()
        else:
            _write_heading(writer, food.name)
        writer.add_sentence(
            f"{capitalise(food.name)} {'are' if food.singular else 'is'} "
            + rng.choice(("something that people eat.", "a kind of food.", "good food."))
        )
        state_some_facts(writer, food.name, ("taste", "origin"), 2)
        for relation in ("likes", "dislikes"):
            facts = writer.world.query(relation, value=food.name)
            for fact in rng.sample(facts, rng.randint(0, 2)):
                writer.state_fact(fact)


def _write_job_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    job = rng.choice(lex.JOBS)
    _write_heading(writer, plural(job.name))
    writer.add_sentence(
        rng.choice(
            (f"Many towns have {with_article(job.name)}.", f"It takes years to become {with_article(job.name)}.")
        )
    )
    state_some_facts(writer, job.name, ("job_does", "job_place", "job_tool"), rng.randint(1, 3))
    people = [person for person in writer.world.people.values() if person.job == job.name]
    if people:
        writer.start_paragraph()
        for person in rng.sample(people, rng.randint(1, 3)):
            introduce_person(writer, person)
            for fact in rng.sample(
                statable_facts(writer, person, ("trait", "age", "hobby", "wakes_at")), rng.randint(0, 2)
            ):
                writer.state_fact(fact)


def _write_thing_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    for index, tool in enumerate(rng.sample(lex.THINGS, rng.choice((1, 1, 2, 3)))):
        if index:
            writer.start_paragraph()
        else:
            _write_heading(writer, plural(tool.name))
        writer.add_sentence(
            rng.choice(
                (f"{capitalise(with_article(tool.name))} is a thing that many people have at home.",
                 f"Almost every house has {with_article(tool.name)}.",
                 f"What would we do without {with_article(tool.name)}?")
            )
        )  # fmt: skip
        state_some_facts(writer, tool.name, ("used_to", "kept"), 2)
        owners = [person for person in writer.world.people.values() if tool.name in person.things]
        if owners and rng.chance(0.7):
            describe_thing(writer, rng.choice(owners))
        properties = writer.world.query("property", rng.choice(tool.materials))
        if rng.chance(0.5):
            writer.state_fact(rng.choice(properties))


def _write_material_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    for index, name in enumerate(rng.sample(list(lex.MATERIALS), rng.randint(1, 4))):
        if index:
            writer.start_paragraph()
        writer.add_sentence(
            rng.choice(
                (f"{capitalise(name)} is a material.", f"Many things are made of {name}.", f"Let us look at {name}.")
            )
        )
        state_some_facts(writer, name, ("property",), 2)
        belongings = [thing for thing in writer.world.belongings.values() if thing.material == name]
        for thing in rng.sample(belongings, rng.randint(0, 2)):
            writer.state_fact(Fact("thing_material", thing.name, name))


def _write_town_entry(writer: DocumentWriter) -> None:
    town, rng = pick_town(writer), writer.rng
    _write_heading(writer, town.name)
    state_some_facts(writer, town.name, _TOWN_RELATIONS, rng.randint(2, 4))
    facts = [fact for relation in ("north_of", "east_of") for fact in writer.world.query(relation, town.name)]
    for fact in rng.sample(facts, rng.randint(1, 3)):
        writer.state_fact(fact)


def _write_causes_entry(writer: DocumentWriter) -> None:
    rng = writer.rng
    writer.add_sentence(
        rng.choice(("Why do things happen?", "Everything has a cause.", "This is how the world works."))
    )
    for fact in rng.sample(writer.world.query("causes"), rng.randint(3, 7)):
        if rng.chance(0.3):
            writer.start_paragraph()
        cause, effect = fact.subject, fact.value
        forms = [f"When {cause}, {effect}.", f"If {cause}, {effect}."]
        forms.append(f"What happens when {cause}? {capitalise(effect)}.")
        if effect.split()[0] not in ("it", "they", "their"):
            forms.append(f"{capitalise(effect)} when {cause}.")
        writer.add_sentence(rng.choice(forms), fact)


def write_questions(writer: DocumentWriter) -> None:
    """Write a passage and questions that it answers."""
    rng = writer.rng
    write_passage = rng.choice(
        (
            _write_person_passage,
            _write_person_passage,
            _write_person_passage,
            _write_town_passage,
            _write_animal_passage,
            _write_event_passage,
        )
    )
    facts = write_passage(writer)
    person = writer.world.people.get(facts[0].subject) if facts else None
    writer.start_paragraph()
    layout = rng.choice((("Question: ", "Answer: ", "\n"), ("Q: ", "A: ", "\n"), ("", "", " ")))
    writer.separator = "\n" if rng.chance(0.6) else "\n\n"
    for fact in rng.sample(facts, rng.randint(1, 4)):
        if person is not None and rng.chance(0.25):
            question, answer = _yes_or_no_question(writer, fact)
        else:
            question, answer = writer.question_and_answer(fact)
        writer.add_paragraph(f"{layout[0]}{question}{layout[2]}{layout[1]}{answer}")


def _write_person_passage(writer: DocumentWriter) -> list[Fact]:
    person, rng = pick_person(writer), writer.rng
    introduce_person(writer, person)
    facts = rng.sample(statable_facts(writer, person, _PERSON_RELATIONS + _EXTRA_PERSON_RELATIONS), rng.randint(3, 7))
    facts = list({fact.relation: fact for fact in facts if fact.subject == person.name}.values())
    for fact in facts:
        writer.state_fact(fact)
    for fact in rng.sample(statable_relationships(writer, person), rng.randint(0, 2)):
        writer.state_fact_about(person.name, fact)
    return facts


def _write_town_passage(writer: DocumentWriter) -> list[Fact]:
    town = pick_town(writer)
    facts = state_some_facts(writer, town.name, _TOWN_RELATIONS, writer.rng.randint(2, 4))
    kind = writer.rng.choice([kind for kind in town.buildings if kind not in lex.OPEN_AIR_PLACES])
    writer.add_sentence(f"There is {with_article(kind)} in {town.name}.", Fact("has_building", town.name, kind))
    return facts + state_some_facts(writer, f"{town.name} {kind}", ("built_of", "opens_at"), 2)


def _write_animal_passage(writer: DocumentWriter) -> list[Fact]:
    animal = writer.rng.choice(lex.ANIMALS)
    writer.add_sentence(f"{capitalise(with_article(animal.name))} is an animal.")
    return state_some_facts(writer, animal.name, _ANIMAL_RELATIONS, writer.rng.randint(3, 7))


def _write_event_passage(writer: DocumentWriter) -> list[Fact]:
    event = writer.rng.choice(list(writer.world.events.values()))
    writer.add_sentence(f"Do you know the {event.name} in {place_name(event.building).rsplit(' ', 1)[1]}?")
    return state_some_facts(writer, event.name, ("event_place", "event_day", "event_hour"), 3)


def _yes_or_no_question(writer: DocumentWriter, fact: Fact) -> tuple[str, str]:
    """Return a yes/no question about the fact, or about the fact with another person's value, and its answer."""
    true_claim = writer.claim_clause(fact)
    candidates = [other for other in writer.world.query(fact.relation) if other.value != fact.value]
    false_fact = Fact(fact.relation, fact.subject, writer.rng.choice(candidates).value)
    if writer.rng.chance(0.5) or writer.world.holds(false_fact) or fact.relation in _OPEN_RELATIONS:
        return f"Is it true that {true_claim}?", f"Yes, {true_claim}."
    return (
        f"Is it true that {writer.claim_clause(false_fact)}?",
        f"No, {true_claim}.",
    )


def write_howto(writer: DocumentWriter) -> None:
    """Write how to make or mend something, step by step, sometimes with a person who does it."""
    rng = writer.rng
    guide = rng.choice(GUIDES)
    numbered = rng.chance(0.5)
    writer.separator = "\n" if numbered else "\n\n"
    writer.add_sentence(
        rng.choice((f"How to {guide.goal}.", f"How do you {guide.goal}?", f"It is not hard to {guide.goal}."))
    )
    if rng.chance(0.5):
        person = pick_person(writer)
        writer.add_sentence(
            f"{person.full_name} from {person.town} does it like this.", Fact("lives_in", person.name, person.town)
        )
    if rng.chance(0.7):
        writer.add_sentence(f"You need {guide.needs}.")
    writer.start_paragraph()
    steps = [rng.choice(step) for step in guide.steps]
    for index, step in enumerate(steps):
        if numbered:
            writer.add_paragraph(f"{index + 1}. {step}.")
        else:
            first = "First" if index == 0 else "Finally" if index == len(steps) - 1 else rng.choice(_STEP_OPENERS)
            writer.add_sentence(f"{first} {step[0].lower()}{step[1:]}." if first else f"{step}.")
    writer.start_paragraph()
    writer.add_sentence(rng.choice(guide.closings))
    for tool in rng.sample(guide.tools, rng.randint(0, len(guide.tools))):
        state_some_facts(writer, tool, ("used_to", "kept"), rng.randint(1, 2))


_STEP_OPENERS = ("Then", "After that", "Next", "", "Now")
