"""Writers of documents about people: portraits and families."""

from __future__ import annotations

from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.english import capitalise, in_words, join_list, with_article
from metalm_cli.miniworld.facts import Fact, Person

_ROUTINE_RELATIONS = ("works_at", "attends", "wakes_at")
_APPEARANCE_RELATIONS = ("age", "hair", "trait")
_TASTE_RELATIONS = ("likes", "dislikes", "hobby", "favourite_colour")


def pick_person(writer: DocumentWriter) -> Person:
    """Draw a person of the world."""
    return writer.rng.choice(list(writer.world.people.values()))


def statable_facts(writer: DocumentWriter, person: Person, relations: tuple[str, ...]) -> list[Fact]:
    """Return the facts about a person, of these relations, that documents may state."""
    query = writer.world.query
    return [fact for relation in relations for fact in query(relation, person.name) if writer.may_state(fact)]


def statable_relationships(writer: DocumentWriter, person: Person) -> list[Fact]:
    """Return the facts, with the person on either side, that bind a person to others and that documents may state."""
    return [fact for fact in writer.world.relationships[person.name] if writer.may_state(fact)]


def introduce_person(writer: DocumentWriter, person: Person) -> None:
    """Write the first sentence about a person, with the full name and the home."""
    home = Fact("lives_in", person.name, person.town)
    full_name = person.full_name
    if person.is_child:
        noun = "boy" if person.gender == "he" else "girl"
        writer.add_sentence(
            writer.rng.choice(
                (
                    f"{full_name} is a {noun} from {person.town}.",
                    f"{full_name} is a {noun} who lives in {person.town}.",
                    f"In {person.town} there lives a {noun} called {full_name}.",
                    f"This is the story of {full_name}, a {noun} from {person.town}.",
                )
            ),
            home,
        )
    else:
        noun = with_article(person.job)
        writer.add_sentence(
            writer.rng.choice(
                (
                    f"{full_name} is {noun} in {person.town}.",
                    f"{full_name} lives in {person.town} and works as {noun}.",
                    f"In {person.town} there lives {noun} called {full_name}.",
                    f"Everybody in {person.town} knows {full_name}, who is {noun}.",
                    f"This is the story of {full_name}, {noun} from {person.town}.",
                )
            ),
            home,
            Fact("job", person.name, person.job),
        )
    writer.topic = person.name


def describe_pet(writer: DocumentWriter, person: Person) -> None:
    """Write a sentence or two about the person's pet, if there is one."""
    if not person.pet:
        return
    pet = writer.world.pets[person.pet]
    kind, colour = Fact("pet_kind", pet.name, pet.kind), Fact("pet_colour", pet.name, pet.colour)
    has_pet = Fact("has_pet", person.name, pet.name)
    if writer.may_state(colour) and writer.rng.chance(0.6):
        writer.add_sentence(
            f"{person.name} has {with_article(f'{pet.colour} {pet.kind}')} called {pet.name}.", has_pet, kind, colour
        )
    else:
        writer.add_sentence(f"{person.name} has {with_article(pet.kind)} called {pet.name}.", has_pet, kind)
    eats = Fact("eats", pet.kind, writer.world.value("eats", pet.kind) or "")
    if writer.may_state(eats) and writer.rng.chance(0.4):
        writer.add_sentence(f"Like every {pet.kind}, {pet.name} eats {eats.value}.", eats)


def describe_thing(writer: DocumentWriter, person: Person) -> None:
    """Write about one of the person's things: its colour, material and purpose."""
    kind = writer.rng.choice(person.things)
    thing = writer.world.belongings[f"{person.name}'s {kind}"]
    owns = Fact("owns", person.name, kind)
    colour, material = (
        Fact("thing_colour", thing.name, thing.colour),
        Fact("thing_material", thing.name, thing.material),
    )
    if writer.may_state(colour) and writer.rng.chance(0.7):
        writer.add_sentence(f"{person.name} owns {with_article(f'{thing.colour} {kind}')}.", owns, colour)
    else:
        writer.state_fact(owns)
    if writer.may_state(material) and writer.rng.chance(0.6):
        writer.add_sentence(f"It is made of {thing.material}.", material)
        properties = [fact for fact in writer.world.query("property", thing.material) if writer.may_state(fact)]
        if properties and writer.rng.chance(0.4):
            writer.state_fact(writer.rng.choice(properties))
    purpose = writer.world.query("used_to", kind)[0]
    if writer.may_state(purpose) and writer.rng.chance(0.4):
        writer.add_sentence(f"{capitalise(person.name)} uses the {kind} to {purpose.value}.", purpose)


def describe_relationships(writer: DocumentWriter, person: Person, limit: int) -> None:
    """Write about up to ``limit`` relatives and friends, with this person as the subject of the sentences."""
    for fact in writer.rng.sample(statable_relationships(writer, person), limit):
        writer.state_fact_about(person.name, fact)
        other = writer.world.people[fact.value if fact.subject == person.name else fact.subject]
        facts = statable_facts(writer, other, ("age", "job", "hobby", "likes", "trait"))
        if facts and writer.rng.chance(0.45):
            writer.topic = ""
            writer.state_fact(writer.rng.choice(facts))


def write_portrait(writer: DocumentWriter) -> None:
    """Write who a person is, what they like, and whom they know."""
    person, rng = pick_person(writer), writer.rng
    introduce_person(writer, person)
    for fact in rng.sample(statable_facts(writer, person, _APPEARANCE_RELATIONS), rng.randint(1, 3)):
        writer.state_fact(fact)
    sections = rng.sample(("work", "tastes", "bonds", "things", "pet", "home"), rng.choice((2, 2, 3, 3, 4, 5, 6)))
    for section in sections:
        if rng.chance(0.4):
            writer.start_paragraph()
        if section == "work":
            _describe_work(writer, person)
        elif section == "tastes":
            for fact in rng.sample(statable_facts(writer, person, _TASTE_RELATIONS), rng.randint(2, 4)):
                writer.state_fact(fact)
        elif section == "bonds":
            describe_relationships(writer, person, rng.randint(1, 3))
        elif section == "things":
            describe_thing(writer, person)
        elif section == "pet":
            describe_pet(writer, person)
        else:
            _describe_home(writer, person)
    if rng.chance(0.3):
        _compare_age(writer, person)


def _describe_work(writer: DocumentWriter, person: Person) -> None:
    for fact in writer.rng.sample(statable_facts(writer, person, _ROUTINE_RELATIONS), writer.rng.randint(1, 3)):
        writer.state_fact(fact)
    if person.job:
        kinds = [fact for relation in ("job_does", "job_tool") for fact in writer.world.query(relation, person.job)]
        for fact in writer.rng.sample(kinds, writer.rng.randint(0, 2)):
            writer.state_fact(fact)


def _describe_home(writer: DocumentWriter, person: Person) -> None:
    relations = ("terrain", "known_for", "population", "founded")
    facts = [fact for relation in relations for fact in writer.world.query(relation, person.town)]
    for fact in writer.rng.sample(facts, writer.rng.randint(1, 2)):
        writer.state_fact(fact)


def _compare_age(writer: DocumentWriter, person: Person) -> None:
    others = [other for other in writer.world.people.values() if other.age != person.age]
    other = writer.rng.choice(others)
    if person.age > other.age:
        writer.state_fact(Fact("older_than", person.name, other.name))
    else:
        writer.state_fact(Fact("older_than", other.name, person.name), reverse=True)


def write_family(writer: DocumentWriter) -> None:
    """Write about a household: its members, their ages and how they are related."""
    rng, world = writer.rng, writer.world
    family = rng.choice(world.families)
    members = [world.people[name] for name in (*family.grandparents, *family.parents, *family.children)]
    homes = [Fact("lives_in", member.name, family.town) for member in members]
    names = join_list([member.name for member in members])
    writer.add_sentence(
        rng.choice(
            (
                f"The {family.surname} family lives in {family.town}.",
                f"There is a house in {family.town} where the {family.surname} family lives.",
                f"One of the families in {family.town} is called {family.surname}.",
            )
        )
    )
    writer.add_sentence(
        rng.choice(
            (
                f"There are {in_words(len(members))} people in the family: {names}.",
                f"The {in_words(len(members))} people in the house are {names}.",
            )
        ),
        *homes,
    )
    if rng.chance(0.5):
        writer.start_paragraph()
    for member in rng.sample(members, rng.randint(2, len(members))):
        if rng.chance(0.3):
            writer.start_paragraph()
        family_facts = [fact for fact in statable_relationships(writer, member) if fact.relation != "friend"]
        for fact in rng.sample(family_facts, rng.randint(1, 2)):
            writer.state_fact_about(member.name, fact)
        for fact in rng.sample(
            statable_facts(writer, member, (*_APPEARANCE_RELATIONS, *_TASTE_RELATIONS, "job")), rng.randint(1, 3)
        ):
            writer.state_fact(fact)
    if rng.chance(0.5):
        _close_family_document(writer, members)


def _close_family_document(writer: DocumentWriter, members: list[Person]) -> None:
    rng = writer.rng
    writer.start_paragraph()
    older, younger = sorted(rng.sample(members, 2), key=lambda member: -member.age)
    if older.age > younger.age:
        writer.state_fact(Fact("older_than", older.name, younger.name), reverse=rng.chance(0.5))
    writer.add_sentence(
        rng.choice(
            (
                "On Sunday they all eat together.",
                "In the evening they sit around the table and talk.",
                "They often sing together in the evening.",
                "When the weather is good, they go for a walk.",
            )
        )
    )
