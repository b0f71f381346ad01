"""Documents in which something happens: days told in order, conversations and letters."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.people import relatives, sentences_about, some_person
from metalm_cli.miniworld.documents.places import announce
from metalm_cli.miniworld.english import PRONOUNS, capitalise, words
from metalm_cli.miniworld.facts import RELATIONS, Fact, Person

WEATHER = ("sunny", "rainy", "windy", "cold", "warm", "cloudy", "snowy")
_TALK = ("lives_in", "age", "job", "works_at", "attends", "hobby", "likes", "dislikes", "favourite_colour")
_SMALL_TALK = (
    "It is good to see you.",
    "What a nice day it is.",
    "I have not seen you for a long time.",
    "You look well today.",
)


def day(draft: DocumentWriter) -> None:
    """A person's day from morning to night."""
    dice, person = draft.dice, some_person(draft)
    he = PRONOUNS[person.gender]
    name, weekday = person.name, dice.pick(lex.DAYS)
    home = Fact("lives_in", name, person.town)
    draft.say(
        dice.pick(
            (
                f"It is a {dice.pick(WEATHER)} {weekday} in {person.town}, where {person.full_name} lives.",
                f"This is what {person.full_name} from {person.town} does on a {dice.pick(WEATHER)} {weekday}.",
                f"{person.full_name} lives in {person.town}, and today it is {weekday}.",
            )
        ),
        home,
    )
    draft.topic = name
    wakes = Fact("wakes_at", name, str(person.wakes_at))
    if draft.can(wakes):
        draft.tell(wakes)
    draft.say(f"{_order(draft, 0)} {name} {dice.pick(_MORNING)}.".format_map(he))
    draft.say(f"Then {he['he']} has {dice.pick(_eaten(person, _BREAKFAST))} for breakfast.")
    _turn(draft)
    if weekday not in lex.DAYS[5:]:
        _work(draft, person)
        _turn(draft)
    for place in sorted(dice.some(range(len(_SCENES)), dice.between(1, 5))):
        _SCENES[place](draft, person)
        _turn(draft)
    draft.say(f"{_order(draft, 3)} {name} {dice.pick(_EVENING)}.".format_map(he))
    bed = dice.between(8, 10)
    draft.say(
        dice.pick(
            (
                f"At {words(bed)} {he['he']} goes to bed.",
                f"{he['He']} is tired and falls asleep at {words(bed)}.",
                f"{capitalise(he['he'])} turns off the lamp at {words(bed)} and sleeps until the next morning.",
            )
        )
    )


_MORNING = (
    "washes {his} face and brushes {his} teeth",
    "opens the window and looks at the sky",
    "makes the bed and gets dressed",
    "feeds the birds in the garden",
    "lights the fire and puts the kettle on",
)
_BREAKFAST = (
    "bread and butter",
    "an egg",
    "rice with milk",
    "two pancakes",
    "an apple",
    "bread and honey",
    "some cheese",
)
_EVENING = (
    "sits by the fire and reads a book",
    "writes a long letter",
    "listens to music",
    "washes the dishes",
    "tells {his} family about the day",
    "looks at the stars",
)
_LUNCH = ("soup", "bread and cheese", "fish with potatoes", "beans and rice", "a salad", "mushrooms with rice")
_OPENINGS = (
    ("First", "In the morning", "Early in the morning"),
    ("After breakfast", "Later in the morning", "After that"),
    ("In the afternoon", "Later", "After lunch"),
    ("In the evening", "At the end of the day", "After dinner"),
)


def _order(draft: DocumentWriter, part: int) -> str:
    return draft.dice.pick(_OPENINGS[part])


def _turn(draft: DocumentWriter) -> None:
    if draft.dice.chance(0.35):
        draft.turn()


def _work(draft: DocumentWriter, person: Person) -> None:
    name = person.name
    if person.is_child:
        school = Fact("attends", name, f"{person.town} school")
        draft.say(f"{_order(draft, 1)} {name} walks to the school in {person.town}.", school)
        draft.say(draft.dice.pick(_LESSONS).format(name=name))
        return
    where = Fact("works_at", name, draft.world.value("works_at", name) or "")
    job = next(job for job in lex.JOBS if job.name == person.job)
    draft.say(f"{_order(draft, 1)} {name} works {where.value}.", where)
    does = Fact("job_does", job.name, job.does)
    said = draft.say(
        f"As {'an' if job.name[0] in 'aeiou' else 'a'} {job.name}, {PRONOUNS[person.gender]['he']} {job.does}.",
        Fact("job", name, job.name),
        does,
    )
    if said and draft.dice.chance(0.4):
        draft.say(draft.dice.pick(("It is hard work.", "The work goes well today.", "There is a lot to do.")))


_LESSONS = (
    "Today the children learn to count to a hundred.",
    "In the first lesson {name} reads a story about a fox.",
    "The teacher shows the class a map of the towns.",
    "The children sing a song about the moon.",
    "In the last lesson {name} paints a picture of a boat.",
)


def _eaten(person: Person, meals: tuple[str, ...]) -> list[str]:
    """The meals without what the person does not eat."""
    food = next(food for food in lex.FOODS if food.name == person.dislikes)
    return [meal for meal in meals if (food.one or food.name) not in meal]


def _lunch(draft: DocumentWriter, person: Person) -> None:
    he = PRONOUNS[person.gender]["he"]
    draft.say(f"At noon {he} has {draft.dice.pick(_eaten(person, _LUNCH))} for lunch.")


def _meet(draft: DocumentWriter, person: Person) -> None:
    friends = [fact for fact in relatives(draft, person) if fact.relation == "friend"]
    if not friends:
        return
    fact = draft.dice.pick(friends)
    friend = fact.value if fact.subject == person.name else fact.subject
    draft.say(f"{_order(draft, 2)} {person.name} meets {PRONOUNS[person.gender]['his']} friend {friend}.", fact)
    draft.say(draft.dice.pick(_TOGETHER))
    more = sentences_about(draft, draft.world.people[friend], ("trait", "hobby", "lives_in", "job"))
    if draft.dice.chance(0.5):
        draft.tell(draft.dice.pick(more))


_TOGETHER = (
    "They walk along the river and talk about old times.",
    "They drink tea and laugh a lot.",
    "They play a game, and nobody wants to stop.",
    "They sit on a bench and watch the people.",
    "They look at the boats and count them.",
)


def _shop(draft: DocumentWriter, person: Person) -> None:
    liked = sentences_about(draft, person, ("likes",))
    bought = draft.dice.some([food.name for food in lex.FOODS if food.name != person.dislikes], 2)
    draft.say(f"{_order(draft, 2)} {person.name} goes shopping and buys {bought[0]} and {bought[1]}.")
    if liked:
        draft.tell(draft.dice.pick(liked))


def _event(draft: DocumentWriter, person: Person) -> None:
    event = draft.dice.pick(list(draft.world.events.values()))
    draft.say(f"{person.name} also reads about the {event.name}.")
    announce(draft, event)


def _hobby(draft: DocumentWriter, person: Person) -> None:
    hobby = Fact("hobby", person.name, person.hobby)
    if draft.can(hobby):
        his = PRONOUNS[person.gender]["his"]
        draft.say(f"{_order(draft, 2)} {person.name} has time for {his} favourite hobby, {person.hobby}.", hobby)


_SCENES = (_lunch, _meet, _shop, _hobby, _event)


def _speak(draft: DocumentWriter, turns: list[tuple[str, str]]) -> None:
    """Write the turns of a conversation, as a script or as quoted speech."""
    script = draft.dice.chance(0.5)
    merged: list[tuple[str, str]] = []
    for speaker, said in turns:
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]} {said}")
        else:
            merged.append((speaker, said))
    for speaker, said in merged:
        if script:
            draft.line(f"{speaker}: {said}")
        elif said.endswith("."):
            draft.line(f'"{said[:-1]}," says {speaker}.')
        else:
            draft.line(f'"{said}" {"asks" if said.endswith("?") else "says"} {speaker}.')


def dialogue(draft: DocumentWriter) -> None:
    """Two people meet and ask each other questions."""
    dice, world = draft.dice, draft.world
    one = some_person(draft)
    other = dice.pick([person for person in world.people.values() if person.town != one.town])
    place = dice.pick(world.towns[one.town].buildings)
    draft.joint = dice.pick(("\n", "\n\n"))
    draft.say(
        dice.pick(
            (
                f"{one.name} and {other.name} meet at the {place} in {one.town}.",
                f"One {dice.pick(WEATHER)} day {one.name} sees {other.name} at the {place} in {one.town}.",
                f"At the {place} in {one.town}, {one.name} talks to {other.name}.",
            )
        ),
        Fact("has_building", one.town, place),
    )
    turns = [(one.name, f"Hello, {other.name}!"), (other.name, f"Good day, {one.name}. {dice.pick(_SMALL_TALK)}")]
    asked: set[str] = set()
    for turn in range(dice.pick((2, 3, 4, 4, 5, 6, 8))):
        asker, speaker = (one, other) if turn % 2 == 0 else (other, one)
        turns += _exchange(draft, asker, speaker, asked)
    first, last = (one, other) if turns[-1][0] == other.name else (other, one)
    turns.append((first.name, dice.pick(_LEAVE)))
    turns.append((last.name, dice.pick((f"Goodbye, {first.name}!", "See you soon!", "Have a good day!"))))
    _speak(draft, turns)


def _exchange(draft: DocumentWriter, asker: Person, speaker: Person, asked: set[str]) -> list[tuple[str, str]]:
    """A question, its answer, and at times what the asker says to it."""
    facts = [fact for fact in sentences_about(draft, speaker, _TALK) if speaker.name + fact.relation not in asked]
    if not facts:
        return []
    fact = draft.dice.pick(facts)
    asked.add(speaker.name + fact.relation)
    draft.facts.append(fact)
    turns = [(asker.name, draft.you(fact)), (speaker.name, draft.first(speaker.name, fact))]
    same = Fact(fact.relation, asker.name, fact.value)
    if fact.relation in _SHARED and draft.world.holds(same) and draft.can(same):
        draft.facts.append(same)
        turns.append((asker.name, f"It is the same with me. {draft.first(asker.name, same)}"))
    elif draft.dice.chance(0.3):
        turns.append((speaker.name, draft.dice.pick(_ASIDES)))
    return turns


_SHARED = ("hobby", "likes", "dislikes", "favourite_colour")
_ASIDES = ("That is how it is.", "Everyone at home knows it.", "Now you know.", "I tell that to everyone.")
_LEAVE = ("It is late. I have to go now.", "Thank you for the nice talk.", "Let us meet again soon.")


def letter(draft: DocumentWriter) -> None:
    """A letter from one person to another."""
    dice = draft.dice
    writer = some_person(draft)
    reader = dice.pick([person for person in draft.world.people.values() if person.surname != writer.surname])
    draft.say(f"Dear {reader.name},")
    draft.turn()
    draft.say(
        dice.pick(
            (
                "How are you?",
                "I hope that you are well.",
                "Thank you for your last letter.",
                "It is a long time since I wrote to you.",
            )
        )
    )
    draft.say(f"The weather is {dice.pick(WEATHER)} today.")
    own = sentences_about(draft, writer, (*_TALK, "wakes_at", "has_pet"))
    bonds = [fact for fact in relatives(draft, writer) if fact.subject == writer.name or _symmetric(fact)]
    for fact in dice.some(own, dice.between(2, 6)) + dice.some(bonds, dice.between(0, 3)):
        if dice.chance(0.25):
            draft.turn()
        draft.say(draft.first(writer.name, fact), fact)
    draft.turn()
    town = draft.world.towns[writer.town]
    if dice.chance(0.5):
        draft.say("Let me tell you something about the place where I live.")
        facts = [fact for name in ("terrain", "known_for", "population") for fact in draft.world.query(name, town.name)]
        for fact in dice.some(facts, 2):
            draft.tell(fact)
    _turn(draft)
    questions = dice.some([fact for fact in sentences_about(draft, reader, _TALK) if fact.relation != "lives_in"], 2)
    for question in dict.fromkeys(draft.you(fact) for fact in questions):
        draft.say(question)
    draft.say(dice.pick(("Please write soon.", "I look forward to your letter.", "Come and visit me one day.")))
    close = dice.pick(("With love from", "Best wishes from", "Greetings from", "Your friend,"))
    draft.line(f"{close} {writer.name}.")


def _symmetric(fact: Fact) -> bool:
    return RELATIONS[fact.relation].symmetric
