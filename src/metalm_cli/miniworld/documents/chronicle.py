"""Writer of the long documents: journeys of several days, made of scenes."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.lessons import state_some_facts
from metalm_cli.miniworld.documents.numbers import describe_purchases
from metalm_cli.miniworld.documents.people import (
    describe_pet,
    describe_relationships,
    describe_thing,
    introduce_person,
    statable_facts,
)
from metalm_cli.miniworld.documents.places import announce_event, describe_neighbours
from metalm_cli.miniworld.documents.stories import WEATHER
from metalm_cli.miniworld.english import PRONOUNS, in_words, join_list, with_article
from metalm_cli.miniworld.facts import Fact, Person, Town


def write_chronicle(writer: DocumentWriter) -> None:
    """Write about a traveller who visits several towns, one a day, and what there is to see in each."""
    rng, world = writer.rng, writer.world
    traveller = rng.choice([person for person in world.people.values() if not person.is_child])
    towns = rng.sample([town for town in world.towns.values() if town.name != traveller.town], 7)
    length = rng.choice((2, 2, 3, 3, 4, 5, 7))
    start = rng.randbelow(7)
    introduce_person(writer, traveller)
    for fact in rng.sample(statable_facts(writer, traveller, ("age", "trait", "hobby", "likes")), 2):
        writer.state_fact(fact)
    writer.add_sentence(
        rng.choice(
            (
                f"This week {traveller.name} wants to see {in_words(length)} towns.",
                f"{traveller.name} has {in_words(length)} free days and packs a bag.",
                f"For {in_words(length)} days {traveller.name} is on a journey.",
            )
        )
    )
    if length > 2 and rng.chance(0.5):
        writer.add_sentence(f"The journey goes to {join_list([town.name for town in towns[:length]])}.")
    for day in range(length):
        writer.start_paragraph()
        weekday = lex.DAYS[(start + day) % 7]
        _describe_arrival(writer, traveller, towns[day], weekday)
        for scene in rng.sample(
            (_describe_encounter, _describe_street, _describe_map, _describe_purchase, _describe_notice),
            rng.randint(1, 4),
        ):
            scene(writer, traveller, towns[day])
        if rng.chance(0.5):
            _describe_animal(writer, traveller, towns[day])
    writer.start_paragraph()
    pronoun = PRONOUNS[traveller.gender]["he"]
    writer.add_sentence(
        rng.choice(
            (
                f"At the end of the journey {traveller.name} is happy to be back in {traveller.town}.",
                f"Back in {traveller.town}, {traveller.name} tells everyone about the journey.",
            )
        ),
        Fact("lives_in", traveller.name, traveller.town),
    )
    if rng.chance(0.5):
        writer.add_sentence(f"Next year {pronoun} wants to go again.")
    if rng.chance(0.4):
        describe_relationships(writer, traveller, 1)


def _describe_arrival(writer: DocumentWriter, traveller: Person, town: Town, weekday: str) -> None:
    weather = writer.rng.choice(WEATHER)
    travel = "the train stops" if "station" in town.buildings else "a cart stops"
    writer.add_sentence(
        writer.rng.choice(
            (
                f"On {weekday} {traveller.name} comes to {town.name}, and the weather is {weather}.",
                f"{weekday} is {with_article(weather)} day, and {traveller.name} walks to {town.name}.",
                f"On {weekday} {travel} in {town.name}, and {traveller.name} gets off.",
            )
        )
    )
    state_some_facts(writer, town.name, ("terrain", "known_for", "population", "founded"), writer.rng.randint(1, 2))


def _describe_encounter(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    people = [inhabitant for inhabitant in writer.world.people.values() if inhabitant.town == town.name]
    if not people:
        return
    person = writer.rng.choice(people)
    writer.add_sentence(
        f"In the town {traveller.name} meets {person.full_name}, who lives there.",
        Fact("lives_in", person.name, town.name),
    )
    writer.topic = "" if person.gender == traveller.gender else person.name
    for fact in writer.rng.sample(statable_facts(writer, person, ("job", "age", "hobby", "likes", "trait", "hair")), 2):
        writer.state_fact(fact)
    writer.rng.choice((describe_pet, describe_thing))(writer, person)


def _describe_street(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    kinds = writer.rng.sample(town.buildings, writer.rng.randint(2, 3))
    writer.add_sentence(
        f"In the main street {traveller.name} sees {join_list([with_article(kind) for kind in kinds])}.",
        *(Fact("has_building", town.name, kind) for kind in kinds),
    )
    state_some_facts(writer, f"{town.name} {kinds[0]}", ("built_of", "opens_at", "next_to"), writer.rng.randint(1, 2))


def _describe_animal(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    animal = writer.rng.choice(lex.ANIMALS)
    writer.add_sentence(f"On the way out of {town.name}, {traveller.name} sees {with_article(animal.name)}.")
    state_some_facts(writer, animal.name, ("legs", "eats", "habitat", "sound", "ability"), writer.rng.randint(1, 3))


def _describe_map(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    writer.add_sentence(f"{traveller.name} looks at the map.")
    describe_neighbours(writer, town, writer.rng.randint(1, 2))


def _describe_purchase(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    writer.add_sentence(f"{traveller.name} buys something in a little shop.")
    describe_purchases(writer, traveller)


def _describe_notice(writer: DocumentWriter, traveller: Person, town: Town) -> None:
    local_events = [event for event in writer.world.events.values() if event.building.startswith(f"{town.name} ")]
    for event in writer.rng.sample(local_events, 1):
        writer.add_sentence(f"On a wall {traveller.name} reads a notice.")
        announce_event(writer, event)
