"""Writers of documents about places: descriptions of towns, directions, and notices of events."""

from __future__ import annotations

from itertools import pairwise

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, place_name
from metalm_cli.miniworld.english import capitalise, clock_time, join_list, with_article
from metalm_cli.miniworld.facts import Event, Fact, Town

_TOWN_RELATIONS = ("terrain", "known_for", "population", "founded")


def pick_town(writer: DocumentWriter) -> Town:
    """Draw a town of the world."""
    return writer.rng.choice(list(writer.world.towns.values()))


def write_place(writer: DocumentWriter) -> None:
    """Write about a town: its location, what it is known for, its buildings and people."""
    town, rng = pick_town(writer), writer.rng
    writer.state_fact(Fact("terrain", town.name, town.terrain))
    query = writer.world.query
    for fact in rng.sample(
        [fact for relation in _TOWN_RELATIONS[1:] for fact in query(relation, town.name)], rng.randint(1, 3)
    ):
        writer.state_fact(fact)
    sections = rng.sample(("street", "map", "people", "buildings", "events"), rng.choice((1, 1, 2, 2, 3, 4, 5)))
    for section in sections:
        if rng.chance(0.6):
            writer.start_paragraph()
        if section == "street":
            _describe_street(writer, town)
        elif section == "map":
            describe_neighbours(writer, town, rng.randint(1, 3))
        elif section == "people":
            _describe_inhabitants(writer, town)
        elif section == "buildings":
            _describe_buildings(writer, town)
        else:
            local_events = [
                event for event in writer.world.events.values() if event.building.startswith(f"{town.name} ")
            ]
            for event in rng.sample(local_events, 2):
                announce_event(writer, event)
    if rng.chance(0.25):
        writer.start_paragraph()
        writer.add_sentence(
            rng.choice(
                (
                    f"Visitors are always welcome in {town.name}.",
                    f"If you come to {town.name}, bring good shoes.",
                    f"Most people who visit {town.name} want to come back.",
                    f"In summer the streets of {town.name} are full of children.",
                )
            )
        )


def _describe_street(writer: DocumentWriter, town: Town) -> None:
    rng = writer.rng
    kinds = rng.sample(town.buildings, rng.randint(2, 4))
    building_facts = [Fact("has_building", town.name, kind) for kind in kinds]
    writer.add_sentence(
        f"In the main street of {town.name} you find {join_list([with_article(kind) for kind in kinds])}.",
        *building_facts,
    )
    adjacency_facts = [fact for kind in town.buildings for fact in writer.world.query("next_to", f"{town.name} {kind}")]
    for fact in rng.sample(adjacency_facts, rng.randint(1, 3)):
        writer.state_fact(fact)


def describe_neighbours(writer: DocumentWriter, town: Town, limit: int) -> None:
    """Write how the town's location and size compare with up to ``limit`` other towns."""
    rng, world = writer.rng, writer.world
    others = [other for other in world.towns.values() if other.name != town.name]
    for other in rng.sample(others, limit):
        relation, is_true = rng.choice(
            (
                ("north_of", town.y > other.y),
                ("east_of", town.x > other.x),
                ("larger_than", town.population > other.population),
            )
        )
        subject, value = (town, other) if is_true else (other, town)
        writer.state_fact(Fact(relation, subject.name, value.name), reverse=not is_true)


def _describe_inhabitants(writer: DocumentWriter, town: Town) -> None:
    rng = writer.rng
    people = [person for person in writer.world.people.values() if person.town == town.name]
    for person in rng.sample(people, rng.randint(1, 3)):
        home = Fact("lives_in", person.name, town.name)
        if person.job:
            job = Fact("job", person.name, person.job)
            writer.add_sentence(
                rng.choice(
                    (
                        f"One of the people in the town is {person.full_name}, {with_article(person.job)}.",
                        f"{person.full_name} lives here and works as {with_article(person.job)}.",
                    )
                ),
                home,
                job,
            )
        else:
            writer.add_sentence(f"{person.full_name} is one of the children who live here.", home)
        writer.topic = person.name
        facts = [fact for relation in ("trait", "hobby", "age") for fact in writer.world.query(relation, person.name)]
        writer.state_fact(rng.choice(facts))


def _describe_buildings(writer: DocumentWriter, town: Town) -> None:
    rng = writer.rng
    for kind in rng.sample(town.buildings, rng.randint(1, 3)):
        building = f"{town.name} {kind}"
        writer.add_sentence(
            rng.choice((f"There is {with_article(kind)} in {town.name}.", f"{town.name} has {with_article(kind)}.")),
            Fact("has_building", town.name, kind),
        )
        facts = [
            fact for relation in ("built_of", "opens_at", "next_to") for fact in writer.world.query(relation, building)
        ]
        for fact in rng.sample(facts, rng.randint(1, 2)):
            writer.state_fact(fact)


def announce_event(writer: DocumentWriter, event: Event) -> None:
    """Write one sentence about when and where an event takes place, without the facts that are held out."""
    place = Fact("event_place", event.name, event.building)
    day, hour = Fact("event_day", event.name, event.day), Fact("event_hour", event.name, str(event.hour))
    venue = place_name(event.building)
    if writer.may_state(day, hour):
        writer.add_sentence(
            writer.rng.choice(
                (
                    f"The {event.name} takes place at {venue} every {event.day} at {clock_time(event.hour)}.",
                    f"Every {event.day} at {clock_time(event.hour)} there is the {event.name} at {venue}.",
                )
            ),
            place,
            day,
            hour,
        )
    elif writer.may_state(day):
        writer.add_sentence(f"Every {event.day} the {event.name} takes place at {venue}.", place, day)
    else:
        writer.state_fact(place)


def write_notice(writer: DocumentWriter) -> None:
    """Write a notice: which events take place when, and whom to ask about them."""
    rng, world = writer.rng, writer.world
    writer.separator = rng.choice(("\n", "\n\n"))
    events = rng.sample(list(world.events.values()), rng.choice((1, 2, 2, 3, 4)))
    writer.add_sentence(
        rng.choice(
            (
                "What is going on this week?",
                "News for everyone who likes company.",
                "Please read this notice.",
                "Here is the plan for the week.",
            )
        )
    )
    for event in events:
        writer.start_paragraph()
        announce_event(writer, event)
        if rng.chance(0.4):
            _mention_visitor(writer, event)
    if len(events) > 1 and events[0].hour != events[1].hour:
        early, late = sorted(events[:2], key=lambda event: event.hour)
        writer.start_paragraph()
        writer.state_fact(Fact("earlier_than", early.name, late.name), reverse=rng.chance(0.5))
    writer.add_paragraph(
        rng.choice(
            (
                "Everyone is welcome.",
                "Come early, because there are not many chairs.",
                "Please bring a friend.",
                "There will be tea and cake for all.",
                "Children may come with their parents.",
            )
        )
    )


def _mention_visitor(writer: DocumentWriter, event: Event) -> None:
    rng = writer.rng
    person = rng.choice(list(writer.world.people.values()))
    home = Fact("lives_in", person.name, person.town)
    if not event.building.startswith(f"{person.town} ") and rng.chance(0.3):
        writer.add_sentence(f"Last time {person.full_name} came all the way from {person.town}.", home)
        return
    writer.add_sentence(
        rng.choice(
            (
                f"If you have a question, ask {person.full_name} from {person.town}.",
                f"{person.full_name} from {person.town} says that the {event.name} is great fun.",
            )
        ),
        home,
    )


def write_directions(writer: DocumentWriter) -> None:
    """Write directions along the buildings of a town, in street order."""
    town, rng, query = pick_town(writer), writer.rng, writer.world.query
    writer.add_sentence(
        rng.choice(
            (
                f"How do you find your way in {town.name}?",
                f"This is a short guide to {town.name}.",
                f"A walk through {town.name} does not take long.",
            )
        )
    )
    writer.state_fact(Fact("terrain", town.name, town.terrain))
    writer.start_paragraph()
    start = rng.randbelow(len(town.buildings) - 2)
    route = town.buildings[start : start + rng.randint(3, 6)]
    writer.add_sentence(f"Start at the {route[0]}.", Fact("has_building", town.name, route[0]))
    for kind, next_kind in pairwise(route):
        first_building, second_building = sorted((f"{town.name} {kind}", f"{town.name} {next_kind}"))
        is_stated = writer.add_sentence(
            rng.choice(
                (
                    f"Next to the {kind} you see the {next_kind}.",
                    f"Beside the {kind} stands the {next_kind}.",
                    f"Go on from the {kind}, and the next place is the {next_kind}.",
                )
            ),
            Fact("next_to", first_building, second_building),
        )
        if not is_stated:
            writer.add_sentence(
                f"Walk on until you come to the {next_kind}.", Fact("has_building", town.name, next_kind)
            )
        facts = [fact for relation in ("built_of", "opens_at") for fact in query(relation, f"{town.name} {next_kind}")]
        if facts and rng.chance(0.5):
            writer.state_fact(rng.choice(facts))
    if rng.chance(0.6):
        writer.start_paragraph()
        writer.add_sentence(capitalise(f"the walk ends at the {route[-1]}."))
        describe_neighbours(writer, town, rng.randint(1, 2))
