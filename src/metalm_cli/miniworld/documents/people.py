"""Documents about people: portraits and families."""

from __future__ import annotations

from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.english import article, capitalise, listed, words
from metalm_cli.miniworld.facts import Fact, Person

_HOME = ("works_at", "attends", "wakes_at")
_SELF = ("age", "hair", "trait")
_TASTES = ("likes", "dislikes", "hobby", "favourite_colour")


def some_person(draft: DocumentWriter) -> Person:
    """Any person of the world."""
    return draft.dice.pick(list(draft.world.people.values()))


def sentences_about(draft: DocumentWriter, person: Person, relations: tuple[str, ...]) -> list[Fact]:
    """The person's facts of some relations that a document may state."""
    query = draft.world.query
    return [fact for relation in relations for fact in query(relation, person.name) if draft.can(fact)]


def relatives(draft: DocumentWriter, person: Person) -> list[Fact]:
    """The statable facts that bind a person to others, whichever side the person is on."""
    return [fact for fact in draft.world.bonds[person.name] if draft.can(fact)]


def introduce(draft: DocumentWriter, person: Person) -> None:
    """The first sentence about a person, with the full name and the home."""
    home = Fact("lives_in", person.name, person.town)
    who = person.full_name
    if person.is_child:
        what = "boy" if person.gender == "he" else "girl"
        draft.say(
            draft.dice.pick(
                (
                    f"{who} is a {what} from {person.town}.",
                    f"{who} is a {what} who lives in {person.town}.",
                    f"In {person.town} there lives a {what} called {who}.",
                    f"This is the story of {who}, a {what} from {person.town}.",
                )
            ),
            home,
        )
    else:
        what = article(person.job)
        draft.say(
            draft.dice.pick(
                (
                    f"{who} is {what} in {person.town}.",
                    f"{who} lives in {person.town} and works as {what}.",
                    f"In {person.town} there lives {what} called {who}.",
                    f"Everybody in {person.town} knows {who}, who is {what}.",
                    f"This is the story of {who}, {what} from {person.town}.",
                )
            ),
            home,
            Fact("job", person.name, person.job),
        )
    draft.topic = person.name


def describe_pet(draft: DocumentWriter, person: Person) -> None:
    """A sentence or two about the pet, if there is one."""
    if not person.pet:
        return
    pet = draft.world.pets[person.pet]
    kind, colour = Fact("pet_kind", pet.name, pet.kind), Fact("pet_colour", pet.name, pet.colour)
    owned = Fact("has_pet", person.name, pet.name)
    if draft.can(colour) and draft.dice.chance(0.6):
        draft.say(f"{person.name} has {article(f'{pet.colour} {pet.kind}')} called {pet.name}.", owned, kind, colour)
    else:
        draft.say(f"{person.name} has {article(pet.kind)} called {pet.name}.", owned, kind)
    eats = Fact("eats", pet.kind, draft.world.value("eats", pet.kind) or "")
    if draft.can(eats) and draft.dice.chance(0.4):
        draft.say(f"Like every {pet.kind}, {pet.name} eats {eats.value}.", eats)


def describe_thing(draft: DocumentWriter, person: Person) -> None:
    """What a person owns, and how it looks."""
    kind = draft.dice.pick(person.things)
    thing = draft.world.belongings[f"{person.name}'s {kind}"]
    owned = Fact("owns", person.name, kind)
    colour, material = (
        Fact("thing_colour", thing.name, thing.colour),
        Fact("thing_material", thing.name, thing.material),
    )
    if draft.can(colour) and draft.dice.chance(0.7):
        draft.say(f"{person.name} owns {article(f'{thing.colour} {kind}')}.", owned, colour)
    else:
        draft.tell(owned)
    if draft.can(material) and draft.dice.chance(0.6):
        draft.say(f"It is made of {thing.material}.", material)
        properties = [fact for fact in draft.world.query("property", thing.material) if draft.can(fact)]
        if properties and draft.dice.chance(0.4):
            draft.tell(draft.dice.pick(properties))
    purpose = draft.world.query("used_to", kind)[0]
    if draft.can(purpose) and draft.dice.chance(0.4):
        draft.say(f"{capitalise(person.name)} uses the {kind} to {purpose.value}.", purpose)


def describe_bonds(draft: DocumentWriter, person: Person, most: int) -> None:
    """Some of a person's family and friends, told from that person's side."""
    for fact in draft.dice.some(relatives(draft, person), most):
        draft.tell_of(person.name, fact)
        other = draft.world.people[fact.value if fact.subject == person.name else fact.subject]
        more = sentences_about(draft, other, ("age", "job", "hobby", "likes", "trait"))
        if more and draft.dice.chance(0.45):
            draft.topic = ""
            draft.tell(draft.dice.pick(more))


def portrait(draft: DocumentWriter) -> None:
    """Who a person is, what they like, whom they know."""
    person, dice = some_person(draft), draft.dice
    introduce(draft, person)
    for fact in dice.some(sentences_about(draft, person, _SELF), dice.between(1, 3)):
        draft.tell(fact)
    parts = dice.some(("work", "tastes", "bonds", "things", "pet", "home"), dice.pick((2, 2, 3, 3, 4, 5, 6)))
    for part in parts:
        if dice.chance(0.4):
            draft.turn()
        if part == "work":
            _describe_work(draft, person)
        elif part == "tastes":
            for fact in dice.some(sentences_about(draft, person, _TASTES), dice.between(2, 4)):
                draft.tell(fact)
        elif part == "bonds":
            describe_bonds(draft, person, dice.between(1, 3))
        elif part == "things":
            describe_thing(draft, person)
        elif part == "pet":
            describe_pet(draft, person)
        else:
            _describe_home(draft, person)
    if dice.chance(0.3):
        _compare_age(draft, person)


def _describe_work(draft: DocumentWriter, person: Person) -> None:
    for fact in draft.dice.some(sentences_about(draft, person, _HOME), draft.dice.between(1, 3)):
        draft.tell(fact)
    if person.job:
        kinds = [fact for relation in ("job_does", "job_tool") for fact in draft.world.query(relation, person.job)]
        for fact in draft.dice.some(kinds, draft.dice.between(0, 2)):
            draft.tell(fact)


def _describe_home(draft: DocumentWriter, person: Person) -> None:
    relations = ("terrain", "known_for", "population", "founded")
    facts = [fact for relation in relations for fact in draft.world.query(relation, person.town)]
    for fact in draft.dice.some(facts, draft.dice.between(1, 2)):
        draft.tell(fact)


def _compare_age(draft: DocumentWriter, person: Person) -> None:
    others = [other for other in draft.world.people.values() if other.age != person.age]
    other = draft.dice.pick(others)
    if person.age > other.age:
        draft.tell(Fact("older_than", person.name, other.name))
    else:
        draft.tell(Fact("older_than", other.name, person.name), reverse=True)


def family(draft: DocumentWriter) -> None:
    """A household: its members, their ages and how they belong together."""
    dice, world = draft.dice, draft.world
    home = dice.pick(world.families)
    members = [world.people[name] for name in (*home.grandparents, *home.parents, *home.children)]
    lives = [Fact("lives_in", member.name, home.town) for member in members]
    names = listed([member.name for member in members])
    draft.say(
        dice.pick(
            (
                f"The {home.surname} family lives in {home.town}.",
                f"There is a house in {home.town} where the {home.surname} family lives.",
                f"One of the families in {home.town} is called {home.surname}.",
            )
        )
    )
    draft.say(
        dice.pick(
            (
                f"There are {words(len(members))} people in the family: {names}.",
                f"The {words(len(members))} people in the house are {names}.",
            )
        ),
        *lives,
    )
    if dice.chance(0.5):
        draft.turn()
    for member in dice.some(members, dice.between(2, len(members))):
        if dice.chance(0.3):
            draft.turn()
        inside = [fact for fact in relatives(draft, member) if fact.relation != "friend"]
        for fact in dice.some(inside, dice.between(1, 2)):
            draft.tell_of(member.name, fact)
        for fact in dice.some(sentences_about(draft, member, (*_SELF, *_TASTES, "job")), dice.between(1, 3)):
            draft.tell(fact)
    if dice.chance(0.5):
        _close_family(draft, members)


def _close_family(draft: DocumentWriter, members: list[Person]) -> None:
    dice = draft.dice
    draft.turn()
    one, other = sorted(dice.some(members, 2), key=lambda member: -member.age)
    if one.age > other.age:
        draft.tell(Fact("older_than", one.name, other.name), reverse=dice.chance(0.5))
    draft.say(
        dice.pick(
            (
                "On Sunday they all eat together.",
                "In the evening they sit around the table and talk.",
                "They often sing together in the evening.",
                "When the weather is good, they go for a walk.",
            )
        )
    )
