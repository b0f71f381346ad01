"""Documents state only true facts and no held-out facts, checked by their recorded facts and by their text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from metalm_cli.miniworld import RELATIONS, Fact, World, generate_document, get_world
from metalm_cli.miniworld.english import capitalise, in_words, plural, with_article
from metalm_cli.miniworld.phrases import NAME_PHRASES, PERSON_PHRASES

DOCUMENTS = 3000


@pytest.fixture(scope="module", params=[0, 7])
def documents(request: pytest.FixtureRequest) -> tuple[World, list[tuple[str, tuple[Fact, ...]]]]:
    seed = request.param
    rows = [generate_document(seed, index) for index in range(DOCUMENTS)]
    return get_world(seed), [(row.text, row.facts) for row in rows]


def test_stated_facts_are_true_and_not_held_out(documents):
    world, rows = documents
    stated = {fact for _, facts in rows for fact in facts}
    assert all(world.holds(fact) for fact in stated)
    assert not [fact for fact in stated if world.held_out(fact)]


def test_open_facts_are_stated_and_many_are_held_out(documents):
    world, rows = documents
    stated = Counter(fact.relation for fact in {fact for _, facts in rows for fact in facts})
    for name, relation in RELATIONS.items():
        facts = world.query(name)
        held_out = world.query(name, held_out=True)
        assert facts, name
        assert stated[name], f"no document states {name}"
        if relation.held_out and len(facts) >= 200:
            assert 0.5 < len(held_out) / len(facts) / relation.held_out < 1.6, name
    stated_share = sum(stated.values()) / len(world.query(held_out=False))
    assert stated_share > 0.5, "documents state too few facts of the world"


def sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.?!])\s+", text):
        if "Is it true" not in sentence:
            yield sentence


def parse_sentence(world: World, sentence: str, referents: dict[str, str]) -> Iterator[Fact]:
    """Yield the facts in a sentence, found by patterns independent of the generator's phrases."""
    person = r"\b(?P<s>[A-Z][a-z]+)(?: [A-Z][a-z]+)?"
    patterns = (
        (rf"{person} lives in (?:the town of )?(?P<o>[A-Z]\w+)", "lives_in"),
        (rf"{person} is (?P<o>\d+) years old", "age"),
        (rf"{person} has (?P<o>[a-z]+) hair", "hair"),
        (r"\b(?P<s>\w+)(?:'s)? favourite colour is (?P<o>[a-z]+)", "favourite_colour"),
        (rf"{person} never eats (?P<o>[a-z]+)", "dislikes"),
        (rf"{person} is fond of (?P<o>[a-z]+)", "likes"),
        (rf"{person} enjoys (?P<o>[a-z ]+)\.", "hobby"),
        (
            rf"{person} has an? (?:[a-z]+ )?(?:pet|dog|cat|rabbit|parrot|turtle|mouse|goat|hen) called (?P<o>\w+)",
            "has_pet",
        ),
    )
    for pattern, relation in patterns:
        for match in re.finditer(pattern, sentence):
            name = referents.get(match["s"], match["s"])
            if name in world.people:
                yield Fact(relation, name, match["o"])
    for match in re.finditer(r"\b(\w+) is (older|younger) than (\w+)", sentence):
        first, second = referents.get(match[1], match[1]), match[3]
        yield Fact("older_than", *((first, second) if match[2] == "older" else (second, first)))
    for match in re.finditer(r"\b(\w+) lies (north|south|east|west) of (\w+)", sentence):
        if match[1] != "It":
            first, second = (match[1], match[3]) if match[2] in ("north", "east") else (match[3], match[1])
            yield Fact({"north": "north_of", "south": "north_of"}.get(match[2], "east_of"), first, second)
    for match in re.finditer(r"(\d+) ([+-]) (\d+) = (\d+)", sentence):
        first, second, value = int(match[1]), int(match[3]), int(match[4])
        low, high = sorted((first, second) if match[2] == "+" else (second, value))
        yield Fact("sum", f"{low} + {high}", str(value if match[2] == "+" else first))
    for match in re.finditer(r"\b[Aa]n? (\w+) is (bigger|smaller) than an? (\w+)", sentence):
        first, second = (match[1], match[3]) if match[2] == "bigger" else (match[3], match[1])
        yield Fact("bigger_than", first, second)


def test_parsed_text_is_true_with_pronouns_resolved(documents):
    """A pronoun refers to the last named person of its gender."""
    world, rows = documents
    counts: Counter[str] = Counter()
    for text, _ in rows:
        referents: dict[str, str] = {}
        for sentence in sentences(text):
            for fact in parse_sentence(world, sentence, referents):
                assert world.holds(fact), (fact, referents, text)
                assert not world.held_out(fact), (fact, text)
                counts[fact.relation] += 1
            for name in re.findall(r"\b[A-Z][a-z]+\b", sentence):
                if name in world.people:
                    for word in ("He", "His") if world.people[name].gender == "he" else ("She", "Her"):
                        referents[word] = name
    assert len(counts) == 13
    assert min(counts.values()) > 20, counts


def plain_sentences(world: World, fact: Fact) -> list[str]:
    """Return simple sentences for a fact, with names instead of pronouns."""
    relation, subject, value = fact
    if RELATIONS[relation].subject == "person" and RELATIONS[relation].value not in ("person", "number"):
        slots = {"N": subject, "n": subject, "Ns": f"{subject}'s", "ns": f"{subject}'s", "o": value, "m": subject}
        slots |= {"his": "his", "he": "he", "ao": with_article(value)}
        return [template.format_map(slots) for template in PERSON_PHRASES[relation].statements]
    if relation in ("north_of", "east_of", "larger_than"):
        names = NAME_PHRASES[relation]
        return [form.format(S=subject, s=subject, o=value) for form in names.statements] + [
            form.format(S=value, s=value, o=subject) for form in names.reverse_statements
        ]
    if relation == "bigger_than":
        return [
            f"{capitalise(with_article(subject))} is bigger than {with_article(value)}.",
            f"{capitalise(plural(value))} are smaller than {plural(subject)}.",
        ]
    if relation == "sum":
        first, second = (int(number) for number in subject.split(" + "))
        return [
            f" {subject} = {value}.",
            f" {value} - {first} = {second}.",
            f"{in_words(first)} and {in_words(second)} make",
        ]
    return []


def test_held_out_sentences_never_occur(documents):
    world, rows = documents
    all_text = "\n".join(text for text, _ in rows)
    found_facts = [fact for fact in world.facts if any(form in all_text for form in plain_sentences(world, fact))]
    assert len(found_facts) > 300, "documents must contain the sentences that are searched for"
    assert not [fact for fact in found_facts if world.held_out(fact)]
