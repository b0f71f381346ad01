"""Phrases for each relation: statements, questions and short answers.

Slots in phrases about people: ``{N}``, ``{n}``, ``{m}`` are the name or pronoun at the start of a sentence, inside it
and as its object; ``{Ns}``, ``{ns}`` the possessives; ``{he} {him} {his}`` pronouns; ``{o}`` the value, ``{ao}`` the
value with its article; ``{kin}`` and ``{kin_o}`` the words for the two relatives. Slots in phrases about kinds:
``{A}``, ``{a}`` with the article, ``{Ps}``, ``{ps}`` in the plural. Slots in phrases about names and substances:
``{S}``, ``{s}``, ``{be}``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Phrases that state the facts of one relation or ask for them."""

    statements: tuple[str, ...]
    """Statements about the subject."""
    questions: tuple[str, ...] = ()
    """Questions whose answer is the value."""
    short_answer: str = ""
    """The short answer."""
    first_person_statements: tuple[str, ...] = ()
    """Statements by the subject in the first person."""
    questions_to_subject: tuple[str, ...] = ()
    """Questions to the subject in the second person."""
    claim: str = ""
    """The statement as a clause with the full name, for yes/no questions."""
    reverse_statements: tuple[str, ...] = field(default=())
    """Statements with the value as the subject of the sentence, for relations that allow this."""


PERSON_PHRASES: dict[str, Phrasing] = {
    "lives_in": Phrasing(
        ("{N} lives in {o}.", "{N} lives in the town of {o}.", "{Ns} home is in {o}.", "{N} has a house in {o}."),
        ("Where does {n} live?", "In which town does {n} live?", "Where is {ns} home?"),
        "In {o}.",
        ("I live in {o}.", "My home is in {o}.", "I have a house in {o}."),
        ("Where do you live?", "Which town do you live in?"),
        "{n} lives in {o}",
    ),
    "age": Phrasing(
        ("{N} is {o} years old.", "At the moment {n} is {o} years old."),
        ("How old is {n}?", "What is {ns} age?"),
        "{O} years old.",
        ("I am {o} years old.", "I am {o}."),
        ("How old are you?", "May I ask how old you are?"),
        "{n} is {o} years old",
    ),
    "job": Phrasing(
        ("{N} is {ao}.", "{N} works as {ao}.", "{Ns} job is that of {ao}.", "{N} earns {his} living as {ao}."),
        ("What is {ns} job?", "What does {n} do for a living?", "What work does {n} do?"),
        "{AO}.",
        ("I am {ao}.", "I work as {ao}."),
        ("What do you do for a living?", "What is your job?"),
        "{n} is {ao}",
    ),
    "works_at": Phrasing(
        ("{N} works {o}.", "From Monday to Friday {n} works {o}.", "Most days you can find {m} {o}."),
        ("Where does {n} work?",),
        "{O}.",
        ("I work {o}.",),
        ("Where do you work?",),
        "{n} works {o}",
    ),
    "attends": Phrasing(
        ("{N} goes to the {o}.", "{N} is a pupil at the {o}.", "{N} learns to read and write at the {o}."),
        ("Which school does {n} go to?", "Where does {n} go to school?"),
        "The {o}.",
        ("I go to the {o}.", "I am a pupil at the {o}."),
        ("Which school do you go to?",),
        "{n} goes to the {o}",
    ),
    "hobby": Phrasing(
        (
            "{N} enjoys {o}.",
            "In {his} free time {n} enjoys {o}.",
            "{Ns} favourite hobby is {o}.",
            "What {n} likes best is {o}.",
        ),
        ("What is {ns} favourite hobby?", "What does {n} enjoy in {his} free time?"),
        "{O}.",
        ("I enjoy {o} in my free time.", "My favourite hobby is {o}."),
        ("What do you do in your free time?", "What is your favourite hobby?"),
        "{n} enjoys {o}",
    ),
    "likes": Phrasing(
        ("{N} likes {o}.", "{N} likes to eat {o}.", "{N} is fond of {o}.", "{N} could eat {o} every day."),
        ("What food does {n} like?", "What does {n} like to eat?"),
        "{O}.",
        ("I like {o}.", "I could eat {o} every day.", "I am fond of {o}."),
        ("What do you like to eat?", "What food do you like?"),
        "{n} likes {o}",
    ),
    "dislikes": Phrasing(
        ("{N} does not like {o}.", "{N} never eats {o}.", "There is one thing {n} does not like, and that is {o}."),
        ("What food does {n} not like?", "What does {n} never eat?"),
        "{O}.",
        ("I do not like {o}.", "I never eat {o}."),
        ("Is there any food you do not like?", "What do you never eat?"),
        "{n} never eats {o}",
    ),
    "favourite_colour": Phrasing(
        ("{Ns} favourite colour is {o}.", "{N} likes {o} more than any other colour."),
        ("What is {ns} favourite colour?", "Which colour does {n} like best?"),
        "{O}.",
        ("My favourite colour is {o}.",),
        ("What is your favourite colour?", "Which colour do you like best?"),
        "{ns} favourite colour is {o}",
    ),
    "trait": Phrasing(
        ("{N} is very {o}.", "People say that {n} is {o}.", "Everyone knows that {n} is {o}."),
        ("What do people say about {n}?",),
        "{He} is {o}.",
        ("People say that I am {o}.",),
        ("What do people say about you?",),
        "{n} is {o}",
    ),
    "hair": Phrasing(
        ("{N} has {o} hair.", "{Ns} hair is {o}."),
        ("What colour is {ns} hair?",),
        "{O}.",
        ("I have {o} hair.", "My hair is {o}."),
        ("What colour is your hair?",),
        "{n} has {o} hair",
    ),
    "wakes_at": Phrasing(
        ("{N} gets up at {o} in the morning.", "{N} wakes up at {o} every morning.", "{Ns} day begins at {o}."),
        ("When does {n} get up?", "At what time does {n} wake up?"),
        "At {o}.",
        ("I get up at {o} in the morning.", "I wake up at {o} every morning."),
        ("When do you get up?", "At what time do you wake up?"),
        "{n} gets up at {o}",
    ),
    "owns": Phrasing(
        ("{N} has {ao}.", "{N} owns {ao}.", "There is {ao} in {ns} house."),
        ("What does {n} own?",),
        "{AO}.",
        ("I have {ao}.",),
        claim="{n} owns {ao}",
    ),
    "has_pet": Phrasing(
        ("{N} has a pet called {o}.", "The name of {ns} pet is {o}.", "{Ns} pet is called {o}."),
        ("What is the name of {ns} pet?", "What is {ns} pet called?"),
        "{O}.",
        ("I have a pet called {o}.", "My pet is called {o}."),
        ("Do you have a pet?", "What is your pet called?"),
        "{ns} pet is called {o}",
    ),
    "spouse": Phrasing(
        ("{N} is married to {o}.", "{Ns} {spouse} is called {o}."),
        ("Who is {n} married to?",),
        "{O}.",
        ("I am married to {o}.", "My {spouse} is called {o}."),
        ("Are you married?",),
        "{n} is married to {o}",
    ),
    "parent_of": Phrasing(
        ("{N} is the {kin} of {o}.", "{N} has a {kin_o} called {o}."),
        ("Who is a child of {n}?",),
        "{O}.",
        ("I am the {kin} of {o}.", "I have a {kin_o} called {o}."),
        claim="{n} is the {kin} of {o}",
        reverse_statements=("{N} is the {kin} of {o}.", "{Ns} {kin_o} is called {o}."),
    ),
    "sibling": Phrasing(
        ("{N} has a {kin_o} called {o}.", "{N} is the {kin} of {o}."),
        ("Who is a brother or sister of {n}?",),
        "{O}.",
        ("I have a {kin_o} called {o}.",),
        ("Do you have any brothers or sisters?",),
        "{n} is the {kin} of {o}",
    ),
    "grandparent_of": Phrasing(
        ("{N} is the {kin} of {o}.",),
        ("Who is a grandchild of {n}?",),
        "{O}.",
        ("I am the {kin} of {o}.",),
        claim="{n} is the {kin} of {o}",
        reverse_statements=("{Ns} {kin_o} is called {o}.", "{N} often visits {his} {kin_o}, {o}."),
    ),
    "friend": Phrasing(
        ("{N} is a good friend of {o}.", "{N} and {o} are friends.", "{N} often meets {his} friend {o}."),
        ("Who is a friend of {n}?", "Which friend does {n} often meet?"),
        "{O}.",
        ("I am a good friend of {o}.", "I often meet my friend {o}."),
        ("Who is your friend?",),
        "{n} is a friend of {o}",
    ),
    "older_than": Phrasing(
        ("{N} is older than {o}.",),
        claim="{n} is older than {o}",
        first_person_statements=("I am older than {o}.",),
        reverse_statements=("{N} is younger than {o}.",),
    ),
}

KIND_PHRASES: dict[str, Phrasing] = {
    "legs": Phrasing(("{A} has {o} legs.", "{Ps} have {o} legs."), ("How many legs does {a} have?",), "{O}."),
    "covering": Phrasing(
        ("{A} has a body covered with {o}.", "{Ps} are covered with {o}."),
        ("What is the body of {a} covered with?",),
        "{O}.",
    ),
    "eats": Phrasing(
        ("{A} eats {o}.", "{Ps} eat {o}.", "{Ps} like to eat {o}."),
        ("What does {a} eat?", "What do {ps} eat?"),
        "{O}.",
    ),
    "habitat": Phrasing(
        ("{A} lives {o}.", "{Ps} live {o}.", "You can find {ps} {o}."),
        ("Where does {a} live?", "Where do {ps} live?"),
        "{O}.",
    ),
    "sound": Phrasing(
        ("{Ps} {o}.", "{A} {os}.", "When {a} is excited, it {os}."),
        ("What sound does {a} make?",),
        "It {os}.",
    ),
    "baby": Phrasing(
        ("A young {s} is called {ao}.", "When {a} is still young, it is called {ao}."),
        ("What is a young {s} called?",),
        "{AO}.",
    ),
    "ability": Phrasing(
        ("{A} can {o}.", "{Ps} can {o}.", "{Ps} are able to {o}."), ("What can {a} do?",), "It can {o}."
    ),
    "bigger_than": Phrasing(
        ("{A} is bigger than {ao}.", "{Ps} are bigger than {os}."),
        reverse_statements=("{A} is smaller than {ao}.", "{Ps} are smaller than {os}."),
        claim="{a} is bigger than {ao}",
    ),
    "job_does": Phrasing(
        ("{A} {o}.", "The work of {a} is easy to describe: {a} {o}."), ("What does {a} do?",), "{A} {o}."
    ),
    "job_place": Phrasing(("{A} works {o}.", "You can find {a} {o}."), ("Where does {a} work?",), "{O}."),
    "job_tool": Phrasing(
        ("{A} needs {ao}.", "For this work {a} needs {ao}."), ("What does {a} need for the work?",), "{AO}."
    ),
    "used_to": Phrasing(
        ("{A} is used to {o}.", "People use {a} to {o}.", "With {a} you can {o}.", "You need {a} to {o}."),
        ("What is {a} used for?", "What do people do with {a}?"),
        "It is used to {o}.",
    ),
    "kept": Phrasing(
        ("{A} is usually kept {o}.", "Most people keep {a} {o}.", "Look for {a} {o}."),
        ("Where is {a} usually kept?", "Where do people keep {a}?"),
        "{O}.",
    ),
}

NAME_PHRASES: dict[str, Phrasing] = {
    "pet_kind": Phrasing(("{S} is {ao}.",), ("What kind of animal is {s}?",), "{AO}."),
    "pet_colour": Phrasing(("{S} is {o}.", "The colour of {s} is {o}."), ("What colour is {s}?",), "{O}."),
    "thing_colour": Phrasing(("{S} is {o}.", "The colour of {s} is {o}."), ("What colour is {s}?",), "{O}."),
    "thing_material": Phrasing(("{S} is made of {o}.",), ("What is {s} made of?",), "{O}."),
    "terrain": Phrasing(
        ("{S} lies {o}.", "{S} is a town {o}.", "The town of {s} lies {o}."), ("Where does {s} lie?",), "{O}."
    ),
    "founded": Phrasing(
        (
            "{S} was founded in {o}.",
            "The town of {s} was founded in the year {o}.",
            "The first houses of {s} were built in {o}.",
        ),
        ("When was {s} founded?", "In which year was {s} founded?"),
        "In {o}.",
    ),
    "known_for": Phrasing(
        ("{S} is known for its {o}.", "The town of {s} is famous for its {o}.", "People come to {s} to buy {o}."),
        ("What is {s} known for?", "What do people buy in {s}?"),
        "{O}.",
    ),
    "population": Phrasing(
        ("About {o} people live in {s}.", "{S} has about {o} people."),
        ("How many people live in {s}?",),
        "About {o}.",
    ),
    "has_building": Phrasing(("{S} has {ao}.", "There is {ao} in {s}."), ("Name a building in {s}.",), "The {o}."),
    "north_of": Phrasing(
        ("{S} lies north of {o}.",), reverse_statements=("{S} lies south of {o}.",), claim="{s} lies north of {o}"
    ),
    "east_of": Phrasing(
        ("{S} lies east of {o}.",), reverse_statements=("{S} lies west of {o}.",), claim="{s} lies east of {o}"
    ),
    "larger_than": Phrasing(
        ("{S} is larger than {o}.", "More people live in {s} than in {o}."),
        reverse_statements=("{S} is smaller than {o}.", "Fewer people live in {s} than in {o}."),
        claim="{s} is larger than {o}",
    ),
    "next_to": Phrasing(
        ("{S} is next to {o}.", "{S} stands beside {o}."), ("What is next to {s}?",), "{O}.", claim="{s} is next to {o}"
    ),
    "built_of": Phrasing(("{S} is built of {o}.",), ("What is {s} built of?",), "{O}."),
    "opens_at": Phrasing(
        ("{S} opens at {o} in the morning.", "The doors of {s} open at {o} in the morning."),
        ("When does {s} open?",),
        "At {o} in the morning.",
    ),
    "event_place": Phrasing(
        ("{S} is held at {o}.", "{S} takes place at {o}."), ("Where does {s} take place?",), "At {o}."
    ),
    "event_day": Phrasing(
        ("{S} takes place every {o}.", "{S} is always on {o}.", "{O} is the day of {s}."),
        ("On which day does {s} take place?", "When is {s}?"),
        "On {o}.",
    ),
    "event_hour": Phrasing(("{S} begins at {o}.", "{S} starts at {o}."), ("At what time does {s} begin?",), "At {o}."),
    "earlier_than": Phrasing(
        ("{S} begins at an earlier hour than {o}.",), reverse_statements=("{S} begins at a later hour than {o}.",)
    ),
    "taste": Phrasing(("{S} {be} {o}.", "{S} {taste} {o}."), ("How {do} {s} taste?",), "{O}."),
    "origin": Phrasing(("{S} {o}.", "As everyone knows, {s} {o}."), ("Where {do} {s} come from?",), "{S} {o}."),
    "property": Phrasing(("{S} {o}.", "Everyone knows that {s} {o}."), ("What do we know about {s}?",), "{S} {o}."),
}
