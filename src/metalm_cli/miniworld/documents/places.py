"""Documents about places: descriptions of towns, directions, and notices of what takes place there."""

from __future__ import annotations

from itertools import pairwise

from metalm_cli.miniworld.documents.document_writer import DocumentWriter, place_name
from metalm_cli.miniworld.english import article, capitalise, clock_time, listed
from metalm_cli.miniworld.facts import Event, Fact, Town

_ABOUT = ("terrain", "known_for", "population", "founded")


def some_town(draft: DocumentWriter) -> Town:
    """Any town of the world."""
    return draft.dice.pick(list(draft.world.towns.values()))


def place(draft: DocumentWriter) -> None:
    """A town: where it lies, what it is known for, its buildings and people."""
    town, dice = some_town(draft), draft.dice
    draft.tell(Fact("terrain", town.name, town.terrain))
    query = draft.world.query
    for fact in dice.some([fact for name in _ABOUT[1:] for fact in query(name, town.name)], dice.between(1, 3)):
        draft.tell(fact)
    parts = dice.some(("street", "map", "people", "buildings", "events"), dice.pick((1, 1, 2, 2, 3, 4, 5)))
    for part in parts:
        if dice.chance(0.6):
            draft.turn()
        if part == "street":
            _street(draft, town)
        elif part == "map":
            neighbours(draft, town, dice.between(1, 3))
        elif part == "people":
            _inhabitants(draft, town)
        elif part == "buildings":
            _buildings(draft, town)
        else:
            here = [event for event in draft.world.events.values() if event.building.startswith(f"{town.name} ")]
            for event in dice.some(here, 2):
                announce(draft, event)
    if dice.chance(0.25):
        draft.turn()
        draft.say(
            dice.pick(
                (
                    f"Visitors are always welcome in {town.name}.",
                    f"If you come to {town.name}, bring good shoes.",
                    f"Most people who visit {town.name} want to come back.",
                    f"In summer the streets of {town.name} are full of children.",
                )
            )
        )


def _street(draft: DocumentWriter, town: Town) -> None:
    dice = draft.dice
    kinds = dice.some(town.buildings, dice.between(2, 4))
    has = [Fact("has_building", town.name, kind) for kind in kinds]
    draft.say(f"In the main street of {town.name} you find {listed([article(kind) for kind in kinds])}.", *has)
    next_to = [fact for kind in town.buildings for fact in draft.world.query("next_to", f"{town.name} {kind}")]
    for fact in dice.some(next_to, dice.between(1, 3)):
        draft.tell(fact)


def neighbours(draft: DocumentWriter, town: Town, most: int) -> None:
    """Where the town lies as seen from others, and how large it is beside them."""
    dice, world = draft.dice, draft.world
    others = [other for other in world.towns.values() if other.name != town.name]
    for other in dice.some(others, most):
        relation, more = dice.pick(
            (
                ("north_of", town.y > other.y),
                ("east_of", town.x > other.x),
                ("larger_than", town.population > other.population),
            )
        )
        one, two = (town, other) if more else (other, town)
        draft.tell(Fact(relation, one.name, two.name), reverse=not more)


def _inhabitants(draft: DocumentWriter, town: Town) -> None:
    dice = draft.dice
    people = [person for person in draft.world.people.values() if person.town == town.name]
    for person in dice.some(people, dice.between(1, 3)):
        home = Fact("lives_in", person.name, town.name)
        if person.job:
            job = Fact("job", person.name, person.job)
            draft.say(
                dice.pick(
                    (
                        f"One of the people in the town is {person.full_name}, {article(person.job)}.",
                        f"{person.full_name} lives here and works as {article(person.job)}.",
                    )
                ),
                home,
                job,
            )
        else:
            draft.say(f"{person.full_name} is one of the children who live here.", home)
        draft.topic = person.name
        facts = [fact for name in ("trait", "hobby", "age") for fact in draft.world.query(name, person.name)]
        draft.tell(dice.pick(facts))


def _buildings(draft: DocumentWriter, town: Town) -> None:
    dice = draft.dice
    for kind in dice.some(town.buildings, dice.between(1, 3)):
        building = f"{town.name} {kind}"
        draft.say(
            dice.pick((f"There is {article(kind)} in {town.name}.", f"{town.name} has {article(kind)}.")),
            Fact("has_building", town.name, kind),
        )
        facts = [fact for name in ("built_of", "opens_at", "next_to") for fact in draft.world.query(name, building)]
        for fact in dice.some(facts, dice.between(1, 2)):
            draft.tell(fact)


def announce(draft: DocumentWriter, event: Event) -> None:
    """One sentence about when and where an event takes place, as far as documents may say."""
    where = Fact("event_place", event.name, event.building)
    day, hour = Fact("event_day", event.name, event.day), Fact("event_hour", event.name, str(event.hour))
    at = place_name(event.building)
    if draft.can(day, hour):
        draft.say(
            draft.dice.pick(
                (
                    f"The {event.name} takes place at {at} every {event.day} at {clock_time(event.hour)}.",
                    f"Every {event.day} at {clock_time(event.hour)} there is the {event.name} at {at}.",
                )
            ),
            where,
            day,
            hour,
        )
    elif draft.can(day):
        draft.say(f"Every {event.day} the {event.name} takes place at {at}.", where, day)
    else:
        draft.tell(where)


def notice(draft: DocumentWriter) -> None:
    """A notice on the wall: what takes place when, and whom to ask."""
    dice, world = draft.dice, draft.world
    draft.joint = dice.pick(("\n", "\n\n"))
    events = dice.some(list(world.events.values()), dice.pick((1, 2, 2, 3, 4)))
    draft.say(
        dice.pick(
            (
                "What is going on this week?",
                "News for everyone who likes company.",
                "Please read this notice.",
                "Here is the plan for the week.",
            )
        )
    )
    for event in events:
        draft.turn()
        announce(draft, event)
        if dice.chance(0.4):
            _attend(draft, event)
    if len(events) > 1 and events[0].hour != events[1].hour:
        early, late = sorted(events[:2], key=lambda event: event.hour)
        draft.turn()
        draft.tell(Fact("earlier_than", early.name, late.name), reverse=dice.chance(0.5))
    draft.line(
        dice.pick(
            (
                "Everyone is welcome.",
                "Come early, because there are not many chairs.",
                "Please bring a friend.",
                "There will be tea and cake for all.",
                "Children may come with their parents.",
            )
        )
    )


def _attend(draft: DocumentWriter, event: Event) -> None:
    dice = draft.dice
    person = dice.pick(list(draft.world.people.values()))
    home = Fact("lives_in", person.name, person.town)
    if not event.building.startswith(f"{person.town} ") and dice.chance(0.3):
        draft.say(f"Last time {person.full_name} came all the way from {person.town}.", home)
        return
    draft.say(
        dice.pick(
            (
                f"If you have a question, ask {person.full_name} from {person.town}.",
                f"{person.full_name} from {person.town} says that the {event.name} is great fun.",
            )
        ),
        home,
    )


def directions(draft: DocumentWriter) -> None:
    """How to find one's way between the buildings of a town, in street order."""
    town, dice, query = some_town(draft), draft.dice, draft.world.query
    draft.say(
        dice.pick(
            (
                f"How do you find your way in {town.name}?",
                f"This is a short guide to {town.name}.",
                f"A walk through {town.name} does not take long.",
            )
        )
    )
    draft.tell(Fact("terrain", town.name, town.terrain))
    draft.turn()
    first = dice.below(len(town.buildings) - 2)
    walk = town.buildings[first : first + dice.between(3, 6)]
    draft.say(f"Start at the {walk[0]}.", Fact("has_building", town.name, walk[0]))
    for one, two in pairwise(walk):
        low, high = sorted((f"{town.name} {one}", f"{town.name} {two}"))
        found = draft.say(
            dice.pick(
                (
                    f"Next to the {one} you see the {two}.",
                    f"Beside the {one} stands the {two}.",
                    f"Go on from the {one}, and the next place is the {two}.",
                )
            ),
            Fact("next_to", low, high),
        )
        if not found:
            draft.say(f"Walk on until you come to the {two}.", Fact("has_building", town.name, two))
        more = [fact for name in ("built_of", "opens_at") for fact in query(name, f"{town.name} {two}")]
        if more and dice.chance(0.5):
            draft.tell(dice.pick(more))
    if dice.chance(0.6):
        draft.turn()
        draft.say(capitalise(f"the walk ends at the {walk[-1]}."))
        neighbours(draft, town, dice.between(1, 2))
