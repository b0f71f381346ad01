"""Rules of the template linter, and its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """Severity of a rule's findings, and what to do about them."""

    severity: Severity
    remedy: str


RULES: dict[str, Rule] = {
    "unreadable": Rule("error", "correct the file"),
    "no-card": Rule("warning", "name the file after a task card or after a card's `templates` key"),
    "unknown-field": Rule("error", "correct the name, or add the field to the card"),
    "unused-field": Rule("error", "use the field, add it to the file's `optional`, or set inverted: true"),
    "answer-in-input": Rule("error", "remove the answer from the input, or set inverted: true"),
    "target-in-input": Rule("error", "choose a target that the input does not contain"),
    "options-not-listed": Rule("warning", "add {{ options }}, or name every option in the text"),
    "duplicate": Rule("error", "rephrase one of the two templates, or remove it"),
    "stray-n": Rule("error", "replace the n by a line break"),
    "stray-escape": Rule("error", "write an actual line break or tab; \\n is an escape only in double quotes"),
    "stray-braces": Rule("error", "write a field as {{ field }}, and a literal brace as {{ '{' }}"),
    "lone-brace": Rule("warning", "close it, remove it, or write a literal brace as {{ '{' }}"),
    "stray-separator": Rule("error", "move the text after ||| to the target"),
    "special-token": Rule("error", "remove it; the tokeniser adds special tokens itself"),
    "doubled-space": Rule("warning", "use one space"),
    "trailing-space": Rule("warning", "remove it"),
    "doubled-punctuation": Rule("warning", "use one mark"),
    "loose-punctuation": Rule("warning", "attach the mark to a word, or remove it"),
    "not-marked-inverted": Rule("error", "set inverted: true, or use {{ answer }} as the target"),
    "wrongly-inverted": Rule("error", "remove inverted: true; the template asks for the answer and can be scored"),
    "labels-swapped": Rule("error", "give every class the word of its meaning, in the order of the class names"),
    "target-not-an-option": Rule("error", "use {{ answer }}, one of the options, as the target"),
    "fails": Rule("error", "correct the expression"),
    "empty-rendering": Rule("error", "add text that does not depend on the row"),
    "lost-when-cut": Rule("error", "print fields and options independently of the long field"),
    "answer-in-fields": Rule("warning", "check the columns that the card's fields read"),
    "option-order": Rule(
        "warning", "shuffle the options by row in the card; otherwise a constant guess reaches this score"
    ),
}
"""All rules by id. An error makes a template unusable; a warning needs a check by the author."""


@dataclass(frozen=True)
class Finding:
    """A problem found by the linter.

    Args:
        rule: Id of the rule.
        message: Description of the problem, with the text or values found.
        template: Name of the template; empty: the whole file, or the card.
        task: Name of the card, or empty.
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
        """How to fix the problem."""
        return RULES[self.rule].remedy
