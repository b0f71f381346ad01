"""Writers of stories: the course of a day, conversations and letters."""

from __future__ import annotations

from metalm_cli.miniworld import lexicon as lex
from metalm_cli.miniworld.documents.document_writer import DocumentWriter
from metalm_cli.miniworld.documents.people import pick_person, statable_facts, statable_relationships
from metalm_cli.miniworld.documents.places import announce_event
from metalm_cli.miniworld.english import PRONOUNS, capitalise, in_words
from metalm_cli.miniworld.facts import RELATIONS, Fact, Person

WEATHER = ("sunny", "rainy", "windy", "cold", "warm", "cloudy", "snowy")
_TALK_RELATIONS = ("lives_in", "age", "job", "works_at", "attends", "hobby", "likes", "dislikes", "favourite_colour")
_SMALL_TALK = (
    "It is good to see you.",
    "What a nice day it is.",
    "I have not seen you for a long time.",
    "You look well today.",
)


def write_day(writer: DocumentWriter) -> None:
    """Write about a person's day from morning to night."""
    rng, person = writer.rng, pick_person(writer)
    pronouns = PRONOUNS[person.gender]
    name, weekday = person.name, rng.choice(lex.DAYS)
    home = Fact("lives_in", name, person.town)
    writer.add_sentence(
        rng.choice(
            (
                f"It is a {rng.choice(WEATHER)} {weekday} in {person.town}, where {person.full_name} lives.",
                f"This is what {person.full_name} from {person.town} does on a {rng.choice(WEATHER)} {weekday}.",
                f"{person.full_name} lives in {person.town}, and today it is {weekday}.",
            )
        ),
        home,
    )
    writer.topic = name
    wakes = Fact("wakes_at", name, str(person.wakes_at))
    if writer.may_state(wakes):
        writer.state_fact(wakes)
    writer.add_sentence(f"{_pick_opening(writer, 0)} {name} {rng.choice(_MORNING)}.".format_map(pronouns))
    writer.add_sentence(f"Then {pronouns['he']} has {rng.choice(_select_meals(person, _BREAKFAST))} for breakfast.")
    _maybe_start_paragraph(writer)
    if weekday not in lex.DAYS[5:]:
        _describe_work(writer, person)
        _maybe_start_paragraph(writer)
    for index in sorted(rng.sample(range(len(_DAY_SCENES)), rng.randint(1, 5))):
        _DAY_SCENES[index](writer, person)
        _maybe_start_paragraph(writer)
    writer.add_sentence(f"{_pick_opening(writer, 3)} {name} {rng.choice(_EVENING)}.".format_map(pronouns))
    bedtime = rng.randint(8, 10)
    writer.add_sentence(
        rng.choice(
            (
                f"At {in_words(bedtime)} {pronouns['he']} goes to bed.",
                f"{pronouns['He']} is tired and falls asleep at {in_words(bedtime)}.",
                f"{capitalise(pronouns['he'])} turns off the lamp at {in_words(bedtime)} "
                "and sleeps until the next morning.",
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


def _pick_opening(writer: DocumentWriter, time_of_day: int) -> str:
    return writer.rng.choice(_OPENINGS[time_of_day])


def _maybe_start_paragraph(writer: DocumentWriter) -> None:
    if writer.rng.chance(0.35):
        writer.start_paragraph()


def _describe_work(writer: DocumentWriter, person: Person) -> None:
    name = person.name
    if person.is_child:
        school = Fact("attends", name, f"{person.town} school")
        writer.add_sentence(f"{_pick_opening(writer, 1)} {name} walks to the school in {person.town}.", school)
        writer.add_sentence(writer.rng.choice(_LESSONS).format(name=name))
        return
    workplace = Fact("works_at", name, writer.world.value("works_at", name) or "")
    job = next(job for job in lex.JOBS if job.name == person.job)
    writer.add_sentence(f"{_pick_opening(writer, 1)} {name} works {workplace.value}.", workplace)
    activity = Fact("job_does", job.name, job.activity)
    is_stated = writer.add_sentence(
        f"As {'an' if job.name[0] in 'aeiou' else 'a'} {job.name}, {PRONOUNS[person.gender]['he']} {job.activity}.",
        Fact("job", name, job.name),
        activity,
    )
    if is_stated and writer.rng.chance(0.4):
        writer.add_sentence(
            writer.rng.choice(("It is hard work.", "The work goes well today.", "There is a lot to do."))
        )


_LESSONS = (
    "Today the children learn to count to a hundred.",
    "In the first lesson {name} reads a story about a fox.",
    "The teacher shows the class a map of the towns.",
    "The children sing a song about the moon.",
    "In the last lesson {name} paints a picture of a boat.",
)


def _select_meals(person: Person, meals: tuple[str, ...]) -> list[str]:
    """Return the meals without the food that the person dislikes."""
    food = next(food for food in lex.FOODS if food.name == person.dislikes)
    return [meal for meal in meals if (food.singular or food.name) not in meal]


def _describe_lunch(writer: DocumentWriter, person: Person) -> None:
    pronoun = PRONOUNS[person.gender]["he"]
    writer.add_sentence(f"At noon {pronoun} has {writer.rng.choice(_select_meals(person, _LUNCH))} for lunch.")


def _describe_meeting(writer: DocumentWriter, person: Person) -> None:
    friends = [fact for fact in statable_relationships(writer, person) if fact.relation == "friend"]
    if not friends:
        return
    fact = writer.rng.choice(friends)
    friend = fact.value if fact.subject == person.name else fact.subject
    writer.add_sentence(
        f"{_pick_opening(writer, 2)} {person.name} meets {PRONOUNS[person.gender]['his']} friend {friend}.", fact
    )
    writer.add_sentence(writer.rng.choice(_JOINT_ACTIVITIES))
    facts = statable_facts(writer, writer.world.people[friend], ("trait", "hobby", "lives_in", "job"))
    if writer.rng.chance(0.5):
        writer.state_fact(writer.rng.choice(facts))


_JOINT_ACTIVITIES = (
    "They walk along the river and talk about old times.",
    "They drink tea and laugh a lot.",
    "They play a game, and nobody wants to stop.",
    "They sit on a bench and watch the people.",
    "They look at the boats and count them.",
)


def _describe_shopping(writer: DocumentWriter, person: Person) -> None:
    liked = statable_facts(writer, person, ("likes",))
    foods = writer.rng.sample([food.name for food in lex.FOODS if food.name != person.dislikes], 2)
    writer.add_sentence(f"{_pick_opening(writer, 2)} {person.name} goes shopping and buys {foods[0]} and {foods[1]}.")
    if liked:
        writer.state_fact(writer.rng.choice(liked))


def _describe_event(writer: DocumentWriter, person: Person) -> None:
    event = writer.rng.choice(list(writer.world.events.values()))
    writer.add_sentence(f"{person.name} also reads about the {event.name}.")
    announce_event(writer, event)


def _describe_hobby(writer: DocumentWriter, person: Person) -> None:
    hobby = Fact("hobby", person.name, person.hobby)
    if writer.may_state(hobby):
        his = PRONOUNS[person.gender]["his"]
        writer.add_sentence(
            f"{_pick_opening(writer, 2)} {person.name} has time for {his} favourite hobby, {person.hobby}.", hobby
        )


_DAY_SCENES = (_describe_lunch, _describe_meeting, _describe_shopping, _describe_hobby, _describe_event)


def _write_turns(writer: DocumentWriter, turns: list[tuple[str, str]]) -> None:
    """Write the turns of a conversation, as a script or as quoted speech."""
    script = writer.rng.chance(0.5)
    merged: list[tuple[str, str]] = []
    for speaker, utterance in turns:
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]} {utterance}")
        else:
            merged.append((speaker, utterance))
    for speaker, utterance in merged:
        if script:
            writer.add_paragraph(f"{speaker}: {utterance}")
        elif utterance.endswith("."):
            writer.add_paragraph(f'"{utterance[:-1]}," says {speaker}.')
        else:
            writer.add_paragraph(f'"{utterance}" {"asks" if utterance.endswith("?") else "says"} {speaker}.')


def write_dialogue(writer: DocumentWriter) -> None:
    """Write a conversation: two people meet and ask each other questions."""
    rng, world = writer.rng, writer.world
    host = pick_person(writer)
    guest = rng.choice([person for person in world.people.values() if person.town != host.town])
    place = rng.choice(world.towns[host.town].buildings)
    writer.separator = rng.choice(("\n", "\n\n"))
    writer.add_sentence(
        rng.choice(
            (
                f"{host.name} and {guest.name} meet at the {place} in {host.town}.",
                f"One {rng.choice(WEATHER)} day {host.name} sees {guest.name} at the {place} in {host.town}.",
                f"At the {place} in {host.town}, {host.name} talks to {guest.name}.",
            )
        ),
        Fact("has_building", host.town, place),
    )
    turns = [
        (host.name, f"Hello, {guest.name}!"),
        (guest.name, f"Good day, {host.name}. {rng.choice(_SMALL_TALK)}"),
    ]
    used_questions: set[str] = set()
    for turn in range(rng.choice((2, 3, 4, 4, 5, 6, 8))):
        asker, speaker = (host, guest) if turn % 2 == 0 else (guest, host)
        turns += _draw_exchange(writer, asker, speaker, used_questions)
    closer, last_speaker = (host, guest) if turns[-1][0] == guest.name else (guest, host)
    turns.append((closer.name, rng.choice(_FAREWELLS)))
    turns.append((last_speaker.name, rng.choice((f"Goodbye, {closer.name}!", "See you soon!", "Have a good day!"))))
    _write_turns(writer, turns)


def _draw_exchange(
    writer: DocumentWriter, asker: Person, speaker: Person, used_questions: set[str]
) -> list[tuple[str, str]]:
    """Draw a question, its answer, and sometimes a remark after it; return them with their speakers."""
    facts = [
        fact
        for fact in statable_facts(writer, speaker, _TALK_RELATIONS)
        if speaker.name + fact.relation not in used_questions
    ]
    if not facts:
        return []
    fact = writer.rng.choice(facts)
    used_questions.add(speaker.name + fact.relation)
    writer.facts.append(fact)
    turns = [(asker.name, writer.question_to_subject(fact)), (speaker.name, writer.in_first_person(speaker.name, fact))]
    shared_fact = Fact(fact.relation, asker.name, fact.value)
    if fact.relation in _SHARED_RELATIONS and writer.world.holds(shared_fact) and writer.may_state(shared_fact):
        writer.facts.append(shared_fact)
        turns.append((asker.name, f"It is the same with me. {writer.in_first_person(asker.name, shared_fact)}"))
    elif writer.rng.chance(0.3):
        turns.append((speaker.name, writer.rng.choice(_ASIDES)))
    return turns


_SHARED_RELATIONS = ("hobby", "likes", "dislikes", "favourite_colour")
_ASIDES = ("That is how it is.", "Everyone at home knows it.", "Now you know.", "I tell that to everyone.")
_FAREWELLS = ("It is late. I have to go now.", "Thank you for the nice talk.", "Let us meet again soon.")


def write_letter(writer: DocumentWriter) -> None:
    """Write a letter from one person to another."""
    rng = writer.rng
    sender = pick_person(writer)
    recipient = rng.choice([person for person in writer.world.people.values() if person.surname != sender.surname])
    writer.add_sentence(f"Dear {recipient.name},")
    writer.start_paragraph()
    writer.add_sentence(
        rng.choice(
            (
                "How are you?",
                "I hope that you are well.",
                "Thank you for your last letter.",
                "It is a long time since I wrote to you.",
            )
        )
    )
    writer.add_sentence(f"The weather is {rng.choice(WEATHER)} today.")
    personal_facts = statable_facts(writer, sender, (*_TALK_RELATIONS, "wakes_at", "has_pet"))
    relationships = [
        fact for fact in statable_relationships(writer, sender) if fact.subject == sender.name or _is_symmetric(fact)
    ]
    for fact in rng.sample(personal_facts, rng.randint(2, 6)) + rng.sample(relationships, rng.randint(0, 3)):
        if rng.chance(0.25):
            writer.start_paragraph()
        writer.add_sentence(writer.in_first_person(sender.name, fact), fact)
    writer.start_paragraph()
    town = writer.world.towns[sender.town]
    if rng.chance(0.5):
        writer.add_sentence("Let me tell you something about the place where I live.")
        facts = [
            fact
            for relation in ("terrain", "known_for", "population")
            for fact in writer.world.query(relation, town.name)
        ]
        for fact in rng.sample(facts, 2):
            writer.state_fact(fact)
    _maybe_start_paragraph(writer)
    questions = rng.sample(
        [fact for fact in statable_facts(writer, recipient, _TALK_RELATIONS) if fact.relation != "lives_in"], 2
    )
    for question in dict.fromkeys(writer.question_to_subject(fact) for fact in questions):
        writer.add_sentence(question)
    writer.add_sentence(
        rng.choice(("Please write soon.", "I look forward to your letter.", "Come and visit me one day."))
    )
    close = rng.choice(("With love from", "Best wishes from", "Greetings from", "Your friend,"))
    writer.add_paragraph(f"{close} {sender.name}.")


def _is_symmetric(fact: Fact) -> bool:
    return RELATIONS[fact.relation].symmetric
