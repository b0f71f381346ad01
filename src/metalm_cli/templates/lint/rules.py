"""The rules that templates are linted by, and the findings that they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """A rule: how bad a finding is, and what to do about it."""

    severity: Severity
    remedy: str


RULES: dict[str, Rule] = {
    "unreadable": Rule("error", "correct the file"),
    "no-card": Rule("warning", "name the file after a task card, or after what its `templates` key says"),
    "unknown-field": Rule("error", "correct the name, or add the field to the card"),
    "unused-field": Rule("error", "use the field, list it under `optional` of the file, or mark the template turned"),
    "answer-in-input": Rule("error", "take the answer out of the input, or mark the template turned"),
    "target-in-input": Rule("error", "ask for something that the input does not hold"),
    "options-not-listed": Rule("warning", "add {{ options }}, or name every option in the wording"),
    "duplicate": Rule("error", "word one of the two differently, or drop it"),
    "stray-n": Rule("error", "write a line break where \\n was meant"),
    "stray-escape": Rule("error", "write a line break or a tab itself; \\n means one in double quotes only"),
    "stray-braces": Rule("error", "a field is written {{ field }}; braces that are text, {{ '{' }}"),
    "lone-brace": Rule("warning", "close it, drop it, or write {{ '{' }} where a brace is meant"),
    "stray-separator": Rule("error", "put what follows ||| into the target"),
    "special-token": Rule("error", "take it out: tokenisers add it, so that it would stand there twice or as text"),
    "doubled-space": Rule("warning", "leave one space"),
    "trailing-space": Rule("warning", "remove it"),
    "doubled-punctuation": Rule("warning", "leave one mark"),
    "loose-punctuation": Rule("warning", "join the mark to a word, or drop it"),
    "not-marked-inverted": Rule("error", "set inverted: true, or make {{ answer }} the target"),
    "wrongly-inverted": Rule("error", "remove inverted: true; it asks for the answer and can be scored"),
    "labels-swapped": Rule("error", "call every class what it means, in the order of the class names"),
    "target-not-an-option": Rule("error", "make {{ answer }} the target, as the options list it"),
    "fails": Rule("error", "correct the expression"),
    "empty-rendering": Rule("error", "write something that does not depend on the row"),
    "lost-when-cut": Rule("error", "print the fields and options whatever the long field holds, each by itself"),
    "answer-in-fields": Rule("warning", "look at the columns that the card's fields read"),
    "option-order": Rule("warning", "shuffle the options by row in the card, or know that a constant guess scores so"),
}
"""All rules by id. An error makes a template unfit for use; a warning asks for a look."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a template.

    Args:
        rule: Id of the rule.
        message: What is wrong, with what was found.
        template: Name of the template; empty: the whole file, or the card.
        task: Name of the card that it was read with, or empty.
        collection: Name of the collection, or empty.
        where: ``file:line``, or empty.
    """

    rule: str
    message: str
    template: str = ""
    task: str = ""
    collection: str = ""
    where: str = ""

    @property
    def severity(self) -> Severity:
        """``error`` or ``warning``."""
        return RULES[self.rule].severity

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return RULES[self.rule].remedy
