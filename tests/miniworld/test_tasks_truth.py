"""Labels of the miniature world's tasks are correct, checked by patterns and rules independent of the generator."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from metalm_cli.miniworld import Fact, World, generate_document, get_world, lexicon
from metalm_cli.miniworld.english import in_words
from metalm_cli.miniworld.tasks import task_rows
from metalm_cli.miniworld.tasks.splits import TASK_WORLD_SEEDS, task_worlds
from sentence_parser import ORDERS, check_claim, parse_clause, parse_text, split_clauses

SPLITS = ("train", "validation", "test")
HOURS = {in_words(hour): hour for hour in range(25)}
JOBS = {job.name: job for job in lexicon.JOBS}
ANIMALS = {animal.name: animal for animal in lexicon.ANIMALS}
THINGS = {thing.name: thing for thing in lexicon.THINGS}


def rows(task: str) -> list[dict]:
    return [row for split in SPLITS for row in task_rows.rows(task, split)]


def test_nli():
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows("nli"):
        hypothesis = re.sub(r"^It is not true that ", "", row["hypothesis"])
        claim = parse_clause(hypothesis.rstrip("."))
        is_true = check_claim(parse_text(row["premise"]), claim)
        if hypothesis != row["hypothesis"] and is_true is not None:
            is_true = not is_true
        assert {True: "entailment", False: "contradiction", None: "neutral"}[is_true] == row["label"], row
        counts[claim[0], row["label"]] += 1
    assert len(counts) >= 40
    assert min(counts.values()) >= 10


def test_paraphrase():
    for row in rows("paraphrase"):
        same = parse_text(row["sentence1"]) == parse_text(row["sentence2"])
        assert same == (row["label"] == "equivalent"), row
        assert row["sentence1"] != row["sentence2"]


def test_yes_no():
    for row in rows("yes_no"):
        facts = parse_text(row["passage"])
        for numeric_relation, order in (("age", "age order"), ("population", "size")):
            numbers = [(subject, int(value)) for relation, subject, value in facts if relation == numeric_relation]
            facts |= {(order, a, b) for a, first in numbers for b, second in numbers if first > second}
        assert check_claim(facts, statement(row["question"])) is (row["label"] == "yes"), row


def statement(question: str) -> tuple[str, str, str]:
    """Return the claim that a question asks about."""
    subject = r"(?P<s>[A-Z]\w+'s \w+|[A-Z]\w+|the \w+ in \w+|the \w+ \w+)"
    sentence = question[:-1]
    forms = (
        (r"Is (?P<o>\w+ in the morning) the time when (?P<s>\w+) gets up", "{s} gets up at {o}"),
        (r"Is (?P<o>\w+ in the morning) when (?P<s>.+) opens", "{s} opens at {o}"),
        (r"Is (?P<o>\w+) the (?:colour) of (?P<s>.+)", "{s} is {o}"),
        (r"Is (?P<o>\w+) what (?P<s>.+) is made of", "{s} is made of {o}"),
        (r"Is (?P<o>\d+) the year in which (?P<s>.+) was founded", "{s} was founded in {o}"),
        (r"Is (?P<o>\w+) the day of (?P<s>.+)", "{s} is always on {o}"),
        (r"Are the walls of (?P<s>.+) of (?P<o>\w+)", "{s} is built of {o}"),
        (r"Was (?P<s>\w+) founded in (?P<o>\d+)", "{s} was founded in {o}"),
        (r"Is (?P<s>\w+)'s (?P<w>home|age|hair|favourite colour|pet) (?P<o>.+)", "{s}'s {w} is {o}"),
        (rf"Is {subject} (?P<o>held at .+|built of .+|made of .+|always on .+|older .+|younger .+)", "{s} is {o}"),
        (rf"Is {subject} (?P<o>larger .+|smaller .+|\d+ years old|an? .+|\w+)", "{s} is {o}"),
        (rf"Does {subject} like (?P<o>\w+) best of all colours", "of all colours {s} likes {o} best"),
        (rf"Does {subject} have (?P<o>.+)", "{s} has {o}"),
        (rf"Does {subject} (?P<w>live|lie|work|open|start|begin|take|get) (?P<o>.+)", "{s} {w}s {o}"),
    )
    for pattern, clause in forms:
        match = re.fullmatch(pattern, sentence)
        if match:
            return parse_clause(clause.format(**match.groupdict()))
    raise AssertionError(f"no pattern matches the question {question}")


def test_pronouns():
    counts: Counter[str] = Counter()
    for row in rows("pronouns"):
        *sentences, clue = re.split(r"(?<=\.) ", row["text"])
        assert re.search(rf"\b{row['pronoun']}\b", clue, re.IGNORECASE), row
        facts, pets = [], {}
        for sentence in sentences:
            pet = re.fullmatch(r"(\w+) has an? (\w+) called (\w+)\.", sentence)
            if pet:
                pets[pet[1]] = (pet[2], pet[3])
            elif not re.search(r"\b(?:meet|talks to|spend|walks through|writes a letter)\b", sentence):
                facts.append(parse_clause(sentence.rstrip(".")))
        fitting = [name for name in row["options"] if clue_fits(clue, name, facts, pets)]
        assert fitting == [row["options"][row["index"]]], (row, fitting)
        counts[facts[0][0] if facts else "pet"] += 1
    assert len(counts) == 9, counts
    assert min(counts.values()) > 60, counts


def clue_fits(clue: str, name: str, facts: list, pets: dict[str, tuple[str, str]]) -> bool:
    """Return whether a clue fits the facts about a person."""
    if pets:
        kind, pet = pets[name]
        animal = ANIMALS[kind]
        sound = re.search(r"pet often (\w+?)s\.", clue)
        food = re.search(r"looks for (.+) that", clue)
        return sound[1] == animal.sound if sound else food[1] == animal.food if food else f" {pet} is" in clue
    relation, _, value = next(fact for fact in facts if fact[1] == name)
    others = [fact[2] for fact in facts if fact[1] != name]
    if relation == "job":
        job = JOBS[value]
        return any(
            part in clue
            for part in (f" {job.activity}.", f"be {job.workplace} again", f"work to {job.activity_infinitive}.")
        )
    if relation == "owns":
        return THINGS[value].purpose in clue
    if relation == "age":
        return (int(value) > int(others[0])) == ("older" in clue)
    if relation == "wakes_at":
        late = HOURS[value] > HOURS[others[0]]
        half_past = re.search(r"half past (\w+)", clue)
        if half_past and not min(HOURS[value], HOURS[others[0]]) <= HOURS[half_past[1]] < max(
            HOURS[value], HOURS[others[0]]
        ):
            return False
        return late == bool(re.search(r"still in bed|sleep longer", clue))
    return re.search(rf"\b{value}\b", clue) is not None


def test_outcomes():
    counts: Counter[str] = Counter()
    for row in rows("outcomes"):
        rule, option = decide_outcome(row["context"], row["options"])
        assert option == row["options"][row["index"]], row
        counts[rule] += 1
    assert len(counts) == 7, counts
    assert min(counts.values()) > 100, counts


def decide_outcome(context: str, options: list[str]) -> tuple[str, str]:
    """Return the rule that determines the outcome, and the option that it allows."""

    def choose(rule: str, pattern: str) -> tuple[str, str]:
        matches = [option for option in options if re.search(pattern, option)]
        assert len(matches) == 1, (rule, context, options)
        return rule, matches[0]

    opens = re.search(r"opens at (\w+)", context)
    begins = re.search(r"begins at (\w+)", context)
    if opens or begins:
        start = opens or begins
        comes = next(
            hour for hour in re.findall(r"\bat (\w+)", context, re.IGNORECASE) if hour in HOURS and hour != start[1]
        )
        early = HOURS[comes] < HOURS[start[1]]
        if opens:
            return choose("opening", "closed|wait" if early else "open|can go in at once")
        return choose("beginning", "yet|nothing" if early else "already|the beginning")
    if "breaks" in "".join(options) or re.search(r"(floats|burns)\.", "".join(options)):
        material = hit_material(context)
        if "floor" in context:
            return choose("material", "breaks" if material == "glass" else "whole")
        if "lake" in context:
            return choose("material", "floats" if material == "wood" else "sinks")
        return choose("material", r"It burns" if material in ("paper", "straw") else "not burn")
    if "hungry" in context or "something to eat while" in context:
        pet = re.search(r"(\w+) is hungry|give (\w+) something", context)
        pet = pet[1] or pet[2]
        kinds = dict(re.findall(r"(\w+) is an? (\w+)", context))
        kinds |= {name: kind for kind, name in re.findall(r"an? (\w+) called (\w+)", context)}
        return choose("hungry", rf"{pet} some {ANIMALS[kinds[pet]].food}\.")
    if "needed to" in context or "looking for somebody" in context or "needs a person" in context:
        duty = re.search(r"(?:needed|somebody|person) to (.+?)\.", context)[1]
        works = re.findall(r"(\w+) (?:is|works as) an? (\w+)", context)
        return choose(
            "asked",
            rf"\b{next(person for person, job in works if JOBS.get(job) and JOBS[job].activity_infinitive == duty)}\b",
        )
    if "eats" in options[0] or ("asks for" in options[0] and "help" not in options[0]):
        disliked = re.search(r"never eats (\w+) ?\.|never eats, and that is (\w+);|does not like (\w+)\.", context)
        disliked = next(food for food in disliked.groups() if food)
        served = re.search(r"plate of (\w+)\.|brings (\w+)\.|gets (\w+)\.", context)
        served = next(food for food in served.groups() if food)
        return choose("dinner", "nothing|something else" if disliked == served else "everything|more")
    purpose = re.search(r"(?:wants|would like) to (.+?)\.", context)[1]
    person = re.search(r"(\w+) (?:wants|would like) to", context)[1]
    if person == "Today":
        raise AssertionError(context)
    if (owned := re.search(r"In (?:his|her) house there is an? (\w+)", context)) is None:
        owned = re.search(rf"{person} (?:has|owns) an? (\w+)", context)
    can_do = THINGS[owned[1]].purpose == purpose
    return choose("tool", "right thing|needs no help" if can_do else "borrow|asks")


def hit_material(context: str) -> str:
    """Return the material of the thing that has the accident."""
    *facts, accident = re.split(r"(?<=\.) ", context)
    owner = re.search(r"(\w+)'s .*(?:falls|comes)|of (\w+) (?:falls|comes)", accident)
    owner = owner[1] or owner[2]
    match = re.search(
        rf"\b{owner} (?:has a [\w ]+? of|owns a [\w ]+? made of|owns one made of|is made of) (\w+)", " ".join(facts)
    )
    return match[1]


def test_passages():
    """The answer is true in one of the worlds, and is part of the passage."""
    facts = {fact for world in task_worlds() for fact in world.facts}
    counts: Counter[str] = Counter()
    for row in rows("passages"):
        assert re.search(rf"\b{re.escape(row['answer'])}\b", row["passage"]), row
        relation, subject, value = fact_asked_for(row["question"], row["answer"])
        names = [subject] if relation != "building" else [f"{town} {subject}" for town in lexicon.TOWNS]
        relations = ("built_of", "opens_at") if relation == "building" else (relation,)
        assert any(Fact(candidate, name, value) in facts for candidate in relations for name in names), row
        counts[relation] += 1
    assert len(counts) >= 16, counts


def fact_asked_for(question: str, answer: str) -> tuple[str, str, str]:
    """Return the fact that a question and its answer state."""
    hour = (
        str(HOURS[answer.split(" ")[0]] + 12 * ("noon" in answer or "evening" in answer))
        if answer.split(" ")[0] in HOURS
        else ""
    )
    building = answer.split(" ")[-1] + " " + answer.split(" ")[1] if answer.startswith("the ") else ""
    forms = (
        (r"Where does the (.+) take place", "event_place", building),
        (r"(?:On which day does|When is) the (.+?)(?: take place)?", "event_day", answer),
        (r"At what time does the (.+) begin", "event_hour", hour),
        (r"When does the (\w+) open", "building", hour),
        (r"What is the (\w+) built of", "building", answer),
        (r"(?:Where|In which town) does ([A-Z]\w+) live", "lives_in", answer),
        (r"Where is (\w+)'s home", "lives_in", answer),
        (r"How old is (\w+)|What is (\w+)'s age", "age", answer),
        (r"What is (\w+)'s job|What does (\w+) do for a living|What work does (\w+) do", "job", answer),
        (r"What is (\w+)'s favourite hobby|What does (\w+) enjoy in (?:his|her) free time", "hobby", answer),
        (r"What food does (\w+) like|What does (\w+) like to eat", "likes", answer),
        (r"What food does (\w+) not like|What does (\w+) never eat", "dislikes", answer),
        (r"What is (\w+)'s favourite colour|Which colour does (\w+) like best", "favourite_colour", answer),
        (r"What colour is (\w+)'s hair", "hair", answer),
        (r"When does ([A-Z]\w+) get up|At what time does ([A-Z]\w+) wake up", "wakes_at", hour),
        (r"What is the name of (\w+)'s pet|What is (\w+)'s pet called", "has_pet", answer),
        (r"Where does (\w+) lie", "terrain", answer),
        (r"When was (\w+) founded|In which year was (\w+) founded", "founded", answer),
        (r"What is (\w+) known for|What do people buy in (\w+)", "known_for", answer),
        (r"How many people live in (\w+)", "population", answer),
    )
    for pattern, relation, value in forms:
        match = re.fullmatch(pattern, question.rstrip("?"))
        if match:
            return relation, next(subject for subject in match.groups() if subject), value
    who_forms = (
        (r"lives in (\w+)", "lives_in"),
        (r"is (\d+) years old", "age"),
        (r"is an? (\w+)", "job"),
        (r"enjoys (.+)", "hobby"),
        (r"likes (\w+)", "likes"),
        (r"never eats (\w+)", "dislikes"),
        (r"has (\w+) hair", "hair"),
        (r"gets up at (\w+)", "wakes_at"),
    )
    for pattern, relation in who_forms:
        match = re.fullmatch(f"Who {pattern}", question.rstrip("?"))
        if match:
            return relation, answer, str(HOURS[match[1]]) if relation == "wakes_at" else match[1]
    raise AssertionError(f"no pattern matches the question {question}")


# -- facts of the world -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> World:
    return get_world(0)


@pytest.fixture(scope="module")
def stated_facts() -> set[Fact]:
    return {fact for index in range(4000) for fact in generate_document(0, index).facts}


def test_closed_book_answers_are_true_and_stated(world, stated_facts):
    """Documents state the first answer of every question about a person or a town that can be parsed."""
    checked: Counter[str] = Counter()
    for row in rows("facts"):
        sums = re.fullmatch(r"(?:What is|How much is) (\d+) (plus|times) (\d+)\?", row["question"])
        comparison = re.fullmatch(
            r"Which (?:town|animal) (?:is|lies further) (\w+), (?:an? )?(\w+) or (?:an? )?(\w+)\?", row["question"]
        )
        if sums:
            first, second = int(sums[1]), int(sums[3])
            assert row["answers"] == [str(first + second if sums[2] == "plus" else first * second)]
            checked["sum"] += 1
        elif comparison:
            greater = row["answers"][0].split(" ")[-1]
            lesser = comparison[2] if greater == comparison[3] else comparison[3]
            relation = {"larger": "larger_than", "bigger": "bigger_than", "north": "north_of", "east": "east_of"}[
                comparison[1]
            ]
            fact = Fact(relation, greater, lesser)
            assert world.holds(fact), row
            assert not world.held_out(fact), row
            checked["order"] += 1
        else:
            try:
                relation, subject, value = fact_asked_for(row["question"], row["answers"][0])
            except AssertionError:
                continue
            if subject not in world.people and subject not in world.towns and subject not in world.events:
                continue
            fact = Fact(relation, subject, value)
            assert world.holds(fact), row
            assert not world.held_out(fact), row
            assert fact in stated_facts, row
            checked["told"] += 1
    assert checked["told"] > 700, checked
    assert checked["sum"] > 100, checked
    assert checked["order"] > 200, checked


def test_closed_book_answers_are_all_that_are_true(world):
    """A question with several correct answers accepts all of them, from both sides of a symmetric fact."""
    friend_rows = [row for row in rows("facts") if row["question"].startswith("Who is a friend of ")]
    assert len(friend_rows) > 20
    for row in friend_rows:
        name = row["question"].removeprefix("Who is a friend of ").rstrip("?")
        friends = {(pair[1] if pair[0] == name else pair[0]) for pair in world.friendships if name in pair}
        assert set(row["answers"]) == friends


def test_triples_are_true_and_every_reference_states_all_of_them():
    task_worlds = [get_world(seed) for seed in TASK_WORLD_SEEDS]
    values = {(fact.subject, fact.value) for world in task_worlds for fact in world.facts}
    for row in rows("triples"):
        assert 1 <= len(row["references"]) <= 3
        assert len(set(row["references"])) == len(row["references"])
        for subject, relation, value in row["triples"]:
            fact_value = value
            if relation == "gets up at":
                fact_value = str(HOURS[value])
            elif relation == "begins at":
                fact_value = str(HOURS[value.split(" ")[0]] + 12)
            elif relation == "where":
                fact_value = f"{value.split(' ')[-1]} {value.split(' ')[1]}"
            assert (subject, fact_value) in values, row
            for text in row["references"]:
                assert re.search(rf"\b{re.escape(subject)}\b", text), row
                assert re.search(rf"\b{re.escape(value)}\b", text), row


def test_gists_agree_with_the_document():
    kinds: Counter[str] = Counter()
    for row in rows("gist"):
        text = row["document"]
        for reference in row["references"]:
            for name in re.findall(r"(?<!^)(?<!\. )\b[A-Z]\w+", reference):
                assert re.search(rf"\b{name}\b", text), row
            for value in re.findall(r"who enjoys ([\w ]+)\.|known for its (\w+)|begins at the (\w+)", reference):
                assert next(filter(None, value)) in text, row
        first = row["references"][0]
        kinds[" ".join(re.findall(r"\b[a-z]+\b", first)[:2])] += 1
        size = re.search(r"a family of (\d+)", first)
        if size:
            assert re.search(rf"\b{in_words(int(size[1]))} people\b", text), row
        letter = re.fullmatch(r"A letter from (\w+) to (\w+)\.", first)
        if letter:
            assert text.startswith(f"Dear {letter[2]},"), row
            assert text.endswith(f" {letter[1]}."), row
    assert len(kinds) > 8


def test_parser_distinguishes_true_from_false():
    facts = parse_text("Ada is older than Ben. Carl is younger than Ben. Ada's hair is red.")
    assert check_claim(facts, parse_clause("Ada is older than Carl")) is True
    assert check_claim(facts, parse_clause("Ada is younger than Carl")) is False
    assert check_claim(facts, parse_clause("Ben has red hair")) is None
    assert check_claim(facts, parse_clause("Ada has grey hair")) is False
    assert split_clauses("It is a fact that Ada is kind, but Ben is not.") == ["Ada is kind", "Ben is not"]
    assert "age order" in ORDERS
