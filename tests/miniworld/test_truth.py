"""What documents say is true in their world, and held-out facts never appear: by their trace, and by their text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from metalm_cli.miniworld import RELATIONS, Fact, World, render, world_of
from metalm_cli.miniworld.english import article, capitalise, plural, words
from metalm_cli.miniworld.phrases import NAME, PERSON

DOCUMENTS = 3000


@pytest.fixture(scope="module", params=[0, 7])
def shelf(request: pytest.FixtureRequest) -> tuple[World, list[tuple[str, tuple[Fact, ...]]]]:
    seed = request.param
    rows = [render(seed, index) for index in range(DOCUMENTS)]
    return world_of(seed), [(row.text, row.facts) for row in rows]


def test_every_stated_fact_is_true_and_open(shelf):
    world, rows = shelf
    stated = {fact for _, facts in rows for fact in facts}
    assert all(world.holds(fact) for fact in stated)
    assert not [fact for fact in stated if world.held_out(fact)]


def test_open_facts_are_told_and_held_out_ones_are_many(shelf):
    world, rows = shelf
    stated = Counter(fact.relation for fact in {fact for _, facts in rows for fact in facts})
    for name, relation in RELATIONS.items():
        facts = world.query(name)
        held = world.query(name, held_out=True)
        assert facts, name
        assert stated[name], f"no document states {name}"
        if relation.held_out and len(facts) >= 200:
            assert 0.5 < len(held) / len(facts) / relation.held_out < 1.6, name
    told = sum(stated.values()) / len(world.query(held_out=False))
    assert told > 0.5, "the documents tell too little of the world"


def sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.?!])\s+", text):
        if "Is it true" not in sentence:
            yield sentence


def read(world: World, sentence: str, subject: dict[str, str]) -> Iterator[Fact]:
    """The facts in a sentence, found by patterns written apart from the generator's phrases."""
    who = r"\b(?P<s>[A-Z][a-z]+)(?: [A-Z][a-z]+)?"
    patterns = (
        (rf"{who} lives in (?:the town of )?(?P<o>[A-Z]\w+)", "lives_in"),
        (rf"{who} is (?P<o>\d+) years old", "age"),
        (rf"{who} has (?P<o>[a-z]+) hair", "hair"),
        (r"\b(?P<s>\w+)(?:'s)? favourite colour is (?P<o>[a-z]+)", "favourite_colour"),
        (rf"{who} never eats (?P<o>[a-z]+)", "dislikes"),
        (rf"{who} is fond of (?P<o>[a-z]+)", "likes"),
        (rf"{who} enjoys (?P<o>[a-z ]+)\.", "hobby"),
        (
            rf"{who} has an? (?:[a-z]+ )?(?:pet|dog|cat|rabbit|parrot|turtle|mouse|goat|hen) called (?P<o>\w+)",
            "has_pet",
        ),
    )
    for pattern, relation in patterns:
        for match in re.finditer(pattern, sentence):
            name = subject.get(match["s"], match["s"])
            if name in world.people:
                yield Fact(relation, name, match["o"])
    for match in re.finditer(r"\b(\w+) is (older|younger) than (\w+)", sentence):
        one, other = subject.get(match[1], match[1]), match[3]
        yield Fact("older_than", *((one, other) if match[2] == "older" else (other, one)))
    for match in re.finditer(r"\b(\w+) lies (north|south|east|west) of (\w+)", sentence):
        if match[1] != "It":
            one, other = (match[1], match[3]) if match[2] in ("north", "east") else (match[3], match[1])
            yield Fact({"north": "north_of", "south": "north_of"}.get(match[2], "east_of"), one, other)
    for match in re.finditer(r"(\d+) ([+-]) (\d+) = (\d+)", sentence):
        one, other, value = int(match[1]), int(match[3]), int(match[4])
        low, high = sorted((one, other) if match[2] == "+" else (other, value))
        yield Fact("sum", f"{low} + {high}", str(value if match[2] == "+" else one))
    for match in re.finditer(r"\b[Aa]n? (\w+) is (bigger|smaller) than an? (\w+)", sentence):
        one, other = (match[1], match[3]) if match[2] == "bigger" else (match[3], match[1])
        yield Fact("bigger_than", one, other)


def test_text_read_back_is_true_with_pronouns_resolved(shelf):
    """A pronoun is read as the person of its gender who was named last."""
    world, rows = shelf
    found: Counter[str] = Counter()
    for text, _ in rows:
        last: dict[str, str] = {}
        for sentence in sentences(text):
            for fact in read(world, sentence, last):
                assert world.holds(fact), (fact, last, text)
                assert not world.held_out(fact), (fact, text)
                found[fact.relation] += 1
            for name in re.findall(r"\b[A-Z][a-z]+\b", sentence):
                if name in world.people:
                    for word in ("He", "His") if world.people[name].gender == "he" else ("She", "Her"):
                        last[word] = name
    assert len(found) == 13
    assert min(found.values()) > 20, found


def plain(world: World, fact: Fact) -> list[str]:
    """The plainest sentences for a fact, with names in full."""
    relation, subject, value = fact
    if RELATIONS[relation].subject == "person" and RELATIONS[relation].value not in ("person", "number"):
        slots = {"N": subject, "n": subject, "Ns": f"{subject}'s", "ns": f"{subject}'s", "o": value, "m": subject}
        slots |= {"his": "his", "he": "he", "ao": article(value)}
        return [template.format_map(slots) for template in PERSON[relation].third]
    if relation in ("north_of", "east_of", "larger_than"):
        names = NAME[relation]
        return [form.format(S=subject, s=subject, o=value) for form in names.third] + [
            form.format(S=value, s=value, o=subject) for form in names.reverse
        ]
    if relation == "bigger_than":
        return [
            f"{capitalise(article(subject))} is bigger than {article(value)}.",
            f"{capitalise(plural(value))} are smaller than {plural(subject)}.",
        ]
    if relation == "sum":
        one, other = (int(number) for number in subject.split(" + "))
        return [f" {subject} = {value}.", f" {value} - {one} = {other}.", f"{words(one)} and {words(other)} make"]
    return []


def test_held_out_sentences_never_occur(shelf):
    world, rows = shelf
    everything = "\n".join(text for text, _ in rows)
    told = [fact for fact in world.facts if any(form in everything for form in plain(world, fact))]
    assert len(told) > 300, "the sentences looked for must be ones that documents use"
    assert not [fact for fact in told if world.held_out(fact)]
