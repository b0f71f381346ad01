"""The English of the documents follows rules."""

from __future__ import annotations

import re

import pytest

from metalm_cli.miniworld import english, lexicon, miniworld_documents
from metalm_cli.miniworld.english import clock_time, in_words, join_list, number_with_noun, plural

LETTER = re.compile(r"^Dear [A-Z][a-z]+,$")
HEADING = re.compile(r"^[A-Z].*:$")
ITEM = re.compile(r"^(?:[-*]|\d+\.) \S")
SPEECH = re.compile(r"^[A-Z][a-z]+: [A-Z]")
LABEL = re.compile(r"^(?:Question|Answer|Q|A): [A-Z0-9]")
SINGULAR_SUBJECTS = {animal.name for animal in lexicon.ANIMALS} | {tool.name for tool in lexicon.THINGS}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [row["text"] for seed in (0, 5) for row in miniworld_documents(3000, seed)]


def lines(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n") if line]


def matching_lines(texts: list[str], pattern: str) -> list[str]:
    return [line for line in lines(texts) if re.search(pattern, line)][:3]


def test_lines_begin_with_a_capital_and_end_with_punctuation(texts):
    for line in lines(texts):
        if ITEM.match(line) or LETTER.match(line):
            continue
        assert re.match(r'^["A-Z0-9]', line), line
        assert re.search(r'[.?!]"?$', line) or HEADING.match(line), line


def test_documents_end_with_punctuation(texts):
    assert not [text for text in texts if text[-1] not in '.?!"']


def test_spacing(texts):
    for text in texts:
        assert text == text.strip()
        assert "  " not in text
        assert "\n\n\n" not in text
        assert not re.search(r" [.,?!:]|\n | \n|[{}]|\.\.|,\.|,,|\?\.|!\.", text), text


def test_sentences_begin_with_a_capital(texts):
    assert not matching_lines(texts, r'[a-z]["]?[.?!] +["]?[a-z]')


def test_articles(texts):
    assert not matching_lines(texts, r"\b[Aa] [aeiouAEIOU]")
    assert not matching_lines(texts, r"\b[Aa]n (?!hour\b)[^aeiouAEIOU]")
    assert not matching_lines(texts, r"\b(?:a|an|the) (?:a|an|the)\b")
    assert not matching_lines(texts, r"\b[Aa]n? (?:bread|cheese|butter|honey|rice|apples|pears|nuts)\b")


def test_plurals_after_numbers(texts):
    nouns = {food.singular for food in lexicon.FOODS if food.singular} | {
        "box",
        "basket",
        "bag",
        "bowl",
        "coin",
        "button",
        "book",
    }
    singulars, plurals = "|".join(sorted(nouns)), "|".join(sorted(plural(noun) for noun in nouns))
    assert matching_lines(texts, rf"\bthree (?:{plurals})\b")
    assert not matching_lines(
        texts, rf"\b(?:two|three|four|five|six|seven|eight|nine|ten|\w+teen|\w+ty) (?:{singulars})\b"
    )
    assert not matching_lines(texts, rf"\b[Oo]ne (?:{plurals})\b")
    assert not matching_lines(texts, r"\bone (?:days|towns|people|things|legs|free days)\b")


def test_verbs_agree(texts):
    for verb in ("live", "like", "enjoy", "work", "have", "eat", "own", "go", "get", "wake", "meet", "need"):
        assert not matching_lines(texts, rf"(?:^|[.?!] )(?:He|She|It) {verb}\b"), verb
    assert not matching_lines(texts, r"(?:^|[.?!] )(?:He|She|It) (?:are|were)\b")
    assert not matching_lines(texts, r"(?:^|[.?!] )They (?:is|was|has|\w+(?<!s)s)\b")
    assert not matching_lines(texts, r"\bI (?:is|are|has|lives|likes|works|enjoys)\b")
    singular = "|".join(sorted(SINGULAR_SUBJECTS))
    assert not matching_lines(texts, rf"(?:^|[.?!] )An? (?:{singular}) (?:are|have|eat|live|bark|purr)\b")
    plurals = "|".join(capital_plural(noun) for noun in sorted(SINGULAR_SUBJECTS) if plural(noun) != noun)
    assert not matching_lines(texts, rf"(?:^|[.?!] )(?:{plurals}) (?:is|has|eats|lives)\b")
    assert not matching_lines(texts, r"\b(?:does|do|can) \w+ (?:lives|likes|eats|has|works)\b")


def capital_plural(noun: str) -> str:
    return english.capitalise(plural(noun))


def test_no_word_is_repeated(texts):
    assert not matching_lines(texts, r"\b(\w+) \1\b")


def test_pronouns_have_the_gender_of_the_only_person_named(texts):
    """A document that names people of one gender only has no singular pronoun of the other gender."""
    women, men = set(lexicon.WOMEN), set(lexicon.MEN)
    checked = 0
    for text in texts:
        names = set(re.findall(r"\b[A-Z][a-z]+\b", text))
        if bool(names & women) == bool(names & men):
            continue
        wrong_pronouns = r"\b(?:he|him|his)\b" if names & women else r"\b(?:she|her)\b"
        assert not re.search(wrong_pronouns, text, re.IGNORECASE), text
        checked += 1
    assert checked > 500


def test_quotes_are_closed(texts):
    assert not [line for line in lines(texts) if line.count('"') % 2]


def test_helpers():
    assert [plural(noun) for noun in ("cherry", "box", "wolf", "deer", "knife", "bus")] == [
        *("cherries", "boxes", "wolves", "deer", "knives", "buses"),
    ]
    assert number_with_noun(1, "egg") == "one egg"
    assert number_with_noun(21, "egg") == "twenty-one eggs"
    assert [in_words(number) for number in (0, 19, 20, 99)] == ["zero", "nineteen", "twenty", "ninety-nine"]
    assert join_list(["a", "b"]) == "a and b"
    assert clock_time(20) == "eight in the evening"
