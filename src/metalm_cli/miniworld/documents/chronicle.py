"""The long documents: a journey or a week made of scenes."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.lessons import introduce_kind
from metalm_cli.miniworld.documents.numbers import addition_text
from metalm_cli.miniworld.documents.people import (
    describe_bonds,
    describe_pet,
    describe_thing,
    introduce,
    sentences_about,
)
from metalm_cli.miniworld.documents.places import announce, neighbours
from metalm_cli.miniworld.documents.stories import WEATHER
from metalm_cli.miniworld.english import PRONOUNS, article, listed, words
from metalm_cli.miniworld.facts import Fact, Person, Town


def chronicle(draft: DocumentWriter) -> None:
    """A traveller comes through several towns, one a day, and tells what there is to see."""
    dice, world = draft.dice, draft.world
    traveller = dice.pick([person for person in world.people.values() if not person.is_child])
    towns = dice.some([town for town in world.towns.values() if town.name != traveller.town], 7)
    length = dice.pick((2, 2, 3, 3, 4, 5, 7))
    start = dice.below(7)
    introduce(draft, traveller)
    for fact in dice.some(sentences_about(draft, traveller, ("age", "trait", "hobby", "likes")), 2):
        draft.tell(fact)
    draft.say(
        dice.pick(
            (
                f"This week {traveller.name} wants to see {words(length)} towns.",
                f"{traveller.name} has {words(length)} free days and packs a bag.",
                f"For {words(length)} days {traveller.name} is on a journey.",
            )
        )
    )
    if length > 2 and dice.chance(0.5):
        draft.say(f"The journey goes to {listed([town.name for town in towns[:length]])}.")
    for place in range(length):
        draft.turn()
        weekday = lex.DAYS[(start + place) % 7]
        _arrive(draft, traveller, towns[place], weekday)
        for scene in dice.some((_person, _street, _map, _market, _events), dice.between(1, 4)):
            scene(draft, traveller, towns[place])
        if dice.chance(0.5):
            _animal(draft, traveller, towns[place])
    draft.turn()
    he = PRONOUNS[traveller.gender]["he"]
    draft.say(
        dice.pick(
            (
                f"At the end of the journey {traveller.name} is happy to be back in {traveller.town}.",
                f"Back in {traveller.town}, {traveller.name} tells everyone about the journey.",
            )
        ),
        Fact("lives_in", traveller.name, traveller.town),
    )
    if dice.chance(0.5):
        draft.say(f"Next year {he} wants to go again.")
    if dice.chance(0.4):
        describe_bonds(draft, traveller, 1)


def _arrive(draft: DocumentWriter, traveller: Person, town: Town, weekday: str) -> None:
    weather = draft.dice.pick(WEATHER)
    travel = "the train stops" if "station" in town.buildings else "a cart stops"
    draft.say(
        draft.dice.pick(
            (
                f"On {weekday} {traveller.name} comes to {town.name}, and the weather is {weather}.",
                f"{weekday} is {article(weather)} day, and {traveller.name} walks to {town.name}.",
                f"On {weekday} {travel} in {town.name}, and {traveller.name} gets off.",
            )
        )
    )
    introduce_kind(draft, town.name, ("terrain", "known_for", "population", "founded"), draft.dice.between(1, 2))


def _person(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    people = [one for one in draft.world.people.values() if one.town == town.name]
    if not people:
        return
    person = draft.dice.pick(people)
    draft.say(
        f"In the town {traveller.name} meets {person.full_name}, who lives there.",
        Fact("lives_in", person.name, town.name),
    )
    draft.topic = "" if person.gender == traveller.gender else person.name
    for fact in draft.dice.some(sentences_about(draft, person, ("job", "age", "hobby", "likes", "trait", "hair")), 2):
        draft.tell(fact)
    draft.dice.pick((describe_pet, describe_thing))(draft, person)


def _street(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    kinds = draft.dice.some(town.buildings, draft.dice.between(2, 3))
    draft.say(
        f"In the main street {traveller.name} sees {listed([article(kind) for kind in kinds])}.",
        *(Fact("has_building", town.name, kind) for kind in kinds),
    )
    introduce_kind(draft, f"{town.name} {kinds[0]}", ("built_of", "opens_at", "next_to"), draft.dice.between(1, 2))


def _animal(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    animal = draft.dice.pick(lex.ANIMALS)
    draft.say(f"On the way out of {town.name}, {traveller.name} sees {article(animal.name)}.")
    introduce_kind(draft, animal.name, ("legs", "eats", "habitat", "sound", "ability"), draft.dice.between(1, 3))


def _map(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    draft.say(f"{traveller.name} looks at the map.")
    neighbours(draft, town, draft.dice.between(1, 2))


def _market(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    draft.say(f"{traveller.name} buys something in a little shop.")
    addition_text(draft, traveller)


def _events(draft: DocumentWriter, traveller: Person, town: Town) -> None:
    here = [event for event in draft.world.events.values() if event.building.startswith(f"{town.name} ")]
    for event in draft.dice.some(here, 1):
        draft.say(f"On a wall {traveller.name} reads a notice.")
        announce(draft, event)
