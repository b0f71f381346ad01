"""Reads the sentences of labelled tasks back, by patterns written apart from the generator's wordings."""

from __future__ import annotations

import re

from metalm_cli.miniworld import lexicon

Told = tuple[str, str, str]
"""Relation, subject and value; of a comparison, its order, the greater and the lesser."""

_X = r"(?P<s>[A-Z]\w+|the [\w ]+?|[A-Z]\w+'s \w+)"
_NUMBER = r"(?P<o>\w+)"
_PATTERNS = (
    ("lives_in", rf"{_X} lives in (?:the town of )?(?P<o>[A-Z]\w+)"),
    ("lives_in", rf"{_X}'s home is in (?P<o>[A-Z]\w+)"),
    ("age", rf"(?:at the moment )?{_X} is (?P<o>\d+) years old"),
    ("age", rf"{_X}'s age is (?P<o>\d+)"),
    ("hair", rf"{_X} has (?P<o>\w+) hair"),
    ("hair", rf"(?:the colour of )?{_X}'s hair is (?P<o>\w+)"),
    ("favourite_colour", rf"{_X}'s favourite colour is (?P<o>\w+)"),
    ("favourite_colour", rf"{_X} likes (?P<o>\w+) more than any other colour"),
    ("favourite_colour", rf"of all colours {_X} likes (?P<o>\w+) best"),
    ("wakes_at", rf"{_X} gets up at {_NUMBER} in the morning"),
    ("wakes_at", rf"every morning {_X} gets up at {_NUMBER}"),
    ("wakes_at", rf"at {_NUMBER} in the morning {_X} gets up"),
    ("job", rf"{_X}(?:'s job is that of| works as) an? (?P<o>\w+)"),
    ("has_pet", rf"{_X} has a pet called (?P<o>\w+)"),
    ("has_pet", rf"(?:the name of )?{_X}'s pet is (?:called )?(?P<o>\w+)"),
    ("dislikes", rf"{_X} (?:does not like|is not fond of) (?P<o>\w+)"),
    ("likes", rf"{_X} (?:likes|is fond of) (?P<o>\w+)"),
    ("owns", rf"{_X} (?:has|owns) an? (?P<o>\w+)"),
    ("material", rf"(?:the material of )?{_X} is (?:made of )?(?P<o>{'|'.join(lexicon.MATERIALS)})"),
    ("colour", rf"(?:the colour of )?{_X} is (?P<o>{'|'.join({*lexicon.COLOURS, *lexicon.COATS})})"),
    ("kind", rf"(?:the pet called )?{_X} is an? (?P<o>{'|'.join(animal.name for animal in lexicon.ANIMALS)})"),
    ("job", rf"{_X} is an? (?P<o>{'|'.join(job.name for job in lexicon.JOBS)})"),
    ("founded", rf"(?:the town of )?{_X} was founded in (?:the year )?(?P<o>\d+)"),
    ("known_for", rf"(?:the town of )?{_X} is (?:known|famous) for its (?P<o>\w+)"),
    ("population", rf"about (?P<o>\d+) people live in {_X}"),
    ("population", rf"{_X} has about (?P<o>\d+) people"),
    ("opens_at", rf"(?:the doors of )?{_X} opens? at {_NUMBER} in the morning"),
    ("built_of", rf"(?:the walls of )?{_X} (?:is built|are) of (?P<o>\w+)"),
    ("event_day", rf"(?:the day of )?{_X} is always (?:on )?(?P<o>\w+day)"),
    ("event_hour", rf"{_X} (?:begins|starts) at (?P<o>\w+(?: in the \w+)?)"),
    ("event_place", rf"{_X} (?:takes place|is held) at (?P<o>the \w+ in \w+)"),
)
_ORDERS = (
    ("age order", r"(?P<a>.+) is (?P<w>older|younger) than (?P<b>.+)", "older"),
    ("size", r"(?P<a>.+) is (?P<w>larger|smaller|bigger) than (?P<b>.+)", "larger bigger"),
    ("north", r"(?P<a>.+) lies (?P<w>north|south) of (?P<b>.+)", "north"),
    ("east", r"(?P<a>.+) lies (?P<w>east|west) of (?P<b>.+)", "east"),
    ("hour", r"(?P<a>.+) begins at an? (?P<w>earlier|later) hour than (?P<b>.+)", "earlier"),
    ("parent", r"(?P<a>.+) is the (?P<w>mother|father|son|daughter) of (?P<b>.+)", "mother father"),
    ("parent", r"(?P<a>.+) has a (?P<w>son|daughter) called (?P<b>.+)", "son daughter"),
    ("parent", r"(?P<a>.+)'s (?P<w>mother|father) is called (?P<b>.+)", "-"),
)
_FRAME = re.compile(r"^it is (?:a fact|true|the case) that ", re.IGNORECASE)


def clauses(text: str) -> list[str]:
    """The clauses of a text, without their joints and stops."""
    parts = re.split(r"\. |\.$|, and |, while |, but ", text)
    return [_FRAME.sub("", part) for part in parts if part]


def read(clause: str) -> Told:
    """What a clause says.

    Raises:
        AssertionError: It is none that the patterns know.
    """
    for relation, pattern, first in _ORDERS:
        found = re.fullmatch(pattern, clause, re.IGNORECASE)
        if found:
            a, b = name(found["a"]), name(found["b"])
            return (relation, a, b) if found["w"].lower() in first.split() else (relation, b, a)
    for relation, pattern in _PATTERNS:
        found = re.fullmatch(pattern, clause[0].lower() + clause[1:]) or re.fullmatch(pattern, clause)
        if found:
            return relation, name(found["s"]), found["o"]
    raise AssertionError(f"what does this say? {clause}")


def name(subject: str) -> str:
    """A subject as it stands inside a sentence."""
    return subject[0].lower() + subject[1:] if re.match(r"(?:The|A|An) ", subject) else subject


def told(text: str) -> set[Told]:
    """Everything that a text says."""
    return {read(clause) for clause in clauses(text)}


ORDERS = {order for order, _, _ in _ORDERS}


def holds(facts: set[Told], claim: Told) -> bool | None:
    """Whether a claim follows from facts (True), its contrary does (False), or neither.

    Orders are transitive; of other relations a subject has one value.
    """
    relation, one, other = claim
    if relation in ORDERS:
        return True if _above(facts, relation, one, other) else False if _above(facts, relation, other, one) else None
    values = {value for what, subject, value in facts if (what, subject) == (relation, one)}
    return None if not values else other in values


def _above(facts: set[Told], relation: str, one: str, other: str) -> bool:
    lower = {b for what, a, b in facts if (what, a) == (relation, one)}
    return other in lower or any(_above(facts, relation, middle, other) for middle in lower)
