"""English grammar for the documents: articles, plurals, numbers, lists, pronouns, times."""

from __future__ import annotations

from collections.abc import Sequence

_IRREGULAR_PLURALS = {
    "mouse": "mice",
    "goose": "geese",
    "sheep": "sheep",
    "deer": "deer",
    "trout": "trout",
    "wolf": "wolves",
    "knife": "knives",
    "loaf": "loaves",
    "scarf": "scarves",
    "child": "children",
    "fisherman": "fishermen",
    "calf": "calves",
    "woman": "women",
    "man": "men",
    "potato": "potatoes",
    "tomato": "tomatoes",
}

_SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

PRONOUNS: dict[str, dict[str, str]] = {
    "he": {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her", "himself": "herself"},
}
"""Pronouns of each gender; the keys are the masculine forms, which are the slots in templates."""

KIN: dict[str, dict[str, str]] = {
    "he": {"parent": "father", "child": "son", "sibling": "brother", "grandparent": "grandfather"},
    "she": {"parent": "mother", "child": "daughter", "sibling": "sister", "grandparent": "grandmother"},
}
"""Words for relatives by gender."""


def with_article(noun: str) -> str:
    """Return the noun phrase with ``a`` or ``an``, by its first letter (the lexicon has no words such as "hour").

    >>> with_article("owl"), with_article("red owl")
    ('an owl', 'a red owl')
    """
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """Return the plural of a noun.

    >>> [plural(noun) for noun in ("dog", "fox", "puppy", "day", "goose")]
    ['dogs', 'foxes', 'puppies', 'days', 'geese']
    """
    irregular = _IRREGULAR_PLURALS.get(noun)
    if irregular is not None:
        return irregular
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def third_person(verb: str) -> str:
    """Return the third person singular of a regular verb.

    >>> third_person("bark"), third_person("hiss")
    ('barks', 'hisses')
    """
    return verb + ("es" if verb.endswith(("s", "x", "ch", "sh")) else "s")


def in_words(number: int) -> str:
    """Return a number below 100 in words.

    >>> in_words(7), in_words(34), in_words(40)
    ('seven', 'thirty-four', 'forty')
    """
    if number < 20:
        return _SMALL_NUMBERS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_SMALL_NUMBERS[ones]}" if ones else "")


def number_with_noun(count: int, noun: str) -> str:
    """Return a number in words with its noun.

    >>> number_with_noun(1, "box"), number_with_noun(3, "box")
    ('one box', 'three boxes')
    """
    return f"{in_words(count)} {noun if count == 1 else plural(noun)}"


def join_list(items: Sequence[str]) -> str:
    """Join items with commas and ``and``.

    >>> join_list(["bread"]), join_list(["bread", "milk", "honey"])
    ('bread', 'bread, milk and honey')
    """
    if len(items) < 2:
        return items[0]
    return f"{', '.join(items[:-1])} and {items[-1]}"


def capitalise(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[0].upper() + text[1:]


def clock_time(hour: int) -> str:
    """Return a full hour of the day (5 to 22) in words.

    >>> clock_time(7), clock_time(12), clock_time(15), clock_time(19)
    ('seven in the morning', 'noon', 'three in the afternoon', 'seven in the evening')
    """
    if hour == 12:
        return "noon"
    part_of_day = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    return f"{in_words(hour if hour < 12 else hour - 12)} in the {part_of_day}"
