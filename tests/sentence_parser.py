"""Parser of the sentences in labelled tasks, with patterns independent of the generator's wordings."""

from __future__ import annotations

import re

from metalm_cli.miniworld import lexicon

ParsedFact = tuple[str, str, str]
"""Relation, subject and value; for a comparison: the order, the greater and the lesser."""

_SUBJECT = r"(?P<s>[A-Z]\w+|the [\w ]+?|[A-Z]\w+'s \w+)"
_NUMBER = r"(?P<o>\w+)"
_ATTRIBUTE_PATTERNS = (
    ("lives_in", rf"{_SUBJECT} lives in (?:the town of )?(?P<o>[A-Z]\w+)"),
    ("lives_in", rf"{_SUBJECT}'s home is in (?P<o>[A-Z]\w+)"),
    ("age", rf"(?:at the moment )?{_SUBJECT} is (?P<o>\d+) years old"),
    ("age", rf"{_SUBJECT}'s age is (?P<o>\d+)"),
    ("hair", rf"{_SUBJECT} has (?P<o>\w+) hair"),
    ("hair", rf"(?:the colour of )?{_SUBJECT}'s hair is (?P<o>\w+)"),
    ("favourite_colour", rf"{_SUBJECT}'s favourite colour is (?P<o>\w+)"),
    ("favourite_colour", rf"{_SUBJECT} likes (?P<o>\w+) more than any other colour"),
    ("favourite_colour", rf"of all colours {_SUBJECT} likes (?P<o>\w+) best"),
    ("wakes_at", rf"{_SUBJECT} gets up at {_NUMBER} in the morning"),
    ("wakes_at", rf"every morning {_SUBJECT} gets up at {_NUMBER}"),
    ("wakes_at", rf"at {_NUMBER} in the morning {_SUBJECT} gets up"),
    ("job", rf"{_SUBJECT}(?:'s job is that of| works as) an? (?P<o>\w+)"),
    ("has_pet", rf"{_SUBJECT} has a pet called (?P<o>\w+)"),
    ("has_pet", rf"(?:the name of )?{_SUBJECT}'s pet is (?:called )?(?P<o>\w+)"),
    ("dislikes", rf"{_SUBJECT} (?:does not like|is not fond of) (?P<o>\w+)"),
    ("likes", rf"{_SUBJECT} (?:likes|is fond of) (?P<o>\w+)"),
    ("owns", rf"{_SUBJECT} (?:has|owns) an? (?P<o>\w+)"),
    ("material", rf"(?:the material of )?{_SUBJECT} is (?:made of )?(?P<o>{'|'.join(lexicon.MATERIALS)})"),
    ("colour", rf"(?:the colour of )?{_SUBJECT} is (?P<o>{'|'.join({*lexicon.COLOURS, *lexicon.COAT_COLOURS})})"),
    ("kind", rf"(?:the pet called )?{_SUBJECT} is an? (?P<o>{'|'.join(animal.name for animal in lexicon.ANIMALS)})"),
    ("job", rf"{_SUBJECT} is an? (?P<o>{'|'.join(job.name for job in lexicon.JOBS)})"),
    ("founded", rf"(?:the town of )?{_SUBJECT} was founded in (?:the year )?(?P<o>\d+)"),
    ("known_for", rf"(?:the town of )?{_SUBJECT} is (?:known|famous) for its (?P<o>\w+)"),
    ("population", rf"about (?P<o>\d+) people live in {_SUBJECT}"),
    ("population", rf"{_SUBJECT} has about (?P<o>\d+) people"),
    ("opens_at", rf"(?:the doors of )?{_SUBJECT} opens? at {_NUMBER} in the morning"),
    ("built_of", rf"(?:the walls of )?{_SUBJECT} (?:is built|are) of (?P<o>\w+)"),
    ("event_day", rf"(?:the day of )?{_SUBJECT} is always (?:on )?(?P<o>\w+day)"),
    ("event_hour", rf"{_SUBJECT} (?:begins|starts) at (?P<o>\w+(?: in the \w+)?)"),
    ("event_place", rf"{_SUBJECT} (?:takes place|is held) at (?P<o>the \w+ in \w+)"),
)
_ORDER_PATTERNS = (
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


def split_clauses(text: str) -> list[str]:
    """Split a text into clauses without conjunctions and full stops."""
    parts = re.split(r"\. |\.$|, and |, while |, but ", text)
    return [_FRAME.sub("", part) for part in parts if part]


def parse_clause(clause: str) -> ParsedFact:
    """Return the fact that a clause states.

    Raises:
        AssertionError: No pattern matches the clause.
    """
    for relation, pattern, greater_words in _ORDER_PATTERNS:
        match = re.fullmatch(pattern, clause, re.IGNORECASE)
        if match:
            a, b = normalise_subject(match["a"]), normalise_subject(match["b"])
            return (relation, a, b) if match["w"].lower() in greater_words.split() else (relation, b, a)
    for relation, pattern in _ATTRIBUTE_PATTERNS:
        match = re.fullmatch(pattern, clause[0].lower() + clause[1:]) or re.fullmatch(pattern, clause)
        if match:
            return relation, normalise_subject(match["s"]), match["o"]
    raise AssertionError(f"no pattern matches the clause {clause}")


def normalise_subject(subject: str) -> str:
    """Return a subject in the form that it has inside a sentence."""
    return subject[0].lower() + subject[1:] if re.match(r"(?:The|A|An) ", subject) else subject


def parse_text(text: str) -> set[ParsedFact]:
    """Return all facts that a text states."""
    return {parse_clause(clause) for clause in split_clauses(text)}


ORDERS = {order for order, _, _ in _ORDER_PATTERNS}


def check_claim(facts: set[ParsedFact], claim: ParsedFact) -> bool | None:
    """Return whether facts entail a claim (True), contradict it (False), or neither (None).

    Orders are transitive; in other relations a subject has one value.
    """
    relation, subject, value = claim
    if relation in ORDERS:
        return (
            True
            if _is_above(facts, relation, subject, value)
            else False
            if _is_above(facts, relation, value, subject)
            else None
        )
    values = {
        stated_value
        for stated_relation, stated_subject, stated_value in facts
        if (stated_relation, stated_subject) == (relation, subject)
    }
    return None if not values else value in values


def _is_above(facts: set[ParsedFact], relation: str, greater: str, lesser: str) -> bool:
    lower = {
        lesser_name
        for stated_relation, greater_name, lesser_name in facts
        if (stated_relation, greater_name) == (relation, greater)
    }
    return lesser in lower or any(_is_above(facts, relation, middle, lesser) for middle in lower)
