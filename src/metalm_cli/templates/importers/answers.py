"""The answer in the targets of promptsource's templates: a choice, the value of an expression, or a whole text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import ENVIRONMENT
from metalm_cli.templates.importers.column_names import ANSWER, CHOICES, bracketed_keys, expression_tree

ANSWER_TEXT = "{{ " + ANSWER + " }}"

_PICK = re.compile(r"\|\s*(?:choice|random)\b")
"""Pick at random, on which a whole text depends, so that no card has it as its answer."""


@dataclass(frozen=True)
class Answer:
    """What a target is.

    Two are equal if they mean the same: spaces, conditions around them and the notation of keys make no difference.

    Args:
        kind: One of the answer choices, a value that is printed, or a text of several parts.
        meaning: The key of the choice, the expression, or the text, in one notation.
        source: The target.
        replaced: The target with the answer in place of the choice or value.
    """

    kind: Literal["choice", "value", "text"]
    meaning: str
    source: str = field(compare=False)
    replaced: str = field(compare=False, default=ANSWER_TEXT)


class _OneNotation(NodeTransformer):
    """Writes ``a["b"]`` as ``a.b``."""

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return nodes.Getattr(node.node, node.arg.value, node.ctx)
        return node


def answer_of(target: str) -> Answer | None:
    """Return what a target is; None if it reads no column, or chooses in a way of its own.

    Conditions without ``else`` around the whole target select rows, so they are kept. A choice in each of two branches
    is one choice.
    """
    body = ENVIRONMENT.parse(target).body
    expression = _printed_under_conditions(body)
    if expression is not None:
        replaced = re.sub(r"\{\{.*\}\}", lambda _: ANSWER_TEXT, target, flags=re.DOTALL)
    else:
        expression, replaced = _choice_of_branches(body), ANSWER_TEXT
    if expression is None:
        is_text = "{" in target and CHOICES not in target and not _PICK.search(target)
        return Answer("text", " ".join(target.split()), target) if is_text else None
    key = _key_of_choice(expression)
    if key is not None:
        return Answer("choice", _meaning(_plain_key(key)), target, replaced)
    return Answer("value", _meaning(_whole_value(expression)), target, replaced)


def _printed_under_conditions(body: Sequence[nodes.Node]) -> nodes.Expr | None:
    """Return the expression that is all that a text prints, perhaps under conditions without ``else``."""
    match _without_spaces(body):
        case [nodes.If(elif_=[], else_=[]) as condition]:
            return _printed_under_conditions(condition.body)
        case [nodes.Expr() as expression] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None


def _choice_of_branches(body: Sequence[nodes.Node]) -> nodes.Expr | None:
    """Return the choice of a condition whose two branches are choices."""
    match _without_spaces(body):
        case [nodes.If(elif_=[]) as condition]:
            branches = [_without_spaces(branch) for branch in (condition.body, condition.else_)]
            keys = [
                _key_of_choice(branch[0]) if len(branch) == 1 and isinstance(branch[0], nodes.Expr) else None
                for branch in branches
            ]
            if keys[0] is not None and keys[1] is not None:
                choices = nodes.Name(CHOICES, "load")
                return nodes.Getitem(choices, nodes.CondExpr(condition.test, keys[0], keys[1]), "load")
    return None


def _without_spaces(body: Sequence[nodes.Node]) -> list[nodes.Node]:
    """Return what a text prints and its statements, without white space between them."""
    parts: list[nodes.Node] = []
    for node in body:
        parts += node.nodes if isinstance(node, nodes.Output) else [node]
    return [part for part in parts if not (isinstance(part, nodes.TemplateData) and not part.data.strip())]


def _key_of_choice(expression: nodes.Expr) -> nodes.Expr | None:
    match expression:
        case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Expr() as key) if name == CHOICES:
            return key
    return None


def _meaning(tree: nodes.Expr) -> str:
    return repr(_OneNotation().visit(tree))


def _plain_key(expression: nodes.Expr) -> nodes.Expr:
    """Return a key without ``| int`` around it."""
    while isinstance(expression, nodes.Filter) and expression.name == "int" and expression.node is not None:
        expression = expression.node
    return expression


def _whole_value(expression: nodes.Expr) -> nodes.Expr:
    """Return the list of which an expression takes the first value, or any."""
    match expression:
        case nodes.Getitem(node=nodes.Expr() as value, arg=nodes.Const(value=0)):
            return value
        case nodes.Filter(node=nodes.Expr() as value, name="choice" | "first" | "random"):
            return value
    return expression


def answers_of_card(card: Card) -> list[Answer]:
    """Return what is a card's answer: keys of its choices, and values."""
    answers = [
        Answer("choice", _meaning(_plain_key(expression_tree(key))), key)
        for key in (card.answer.label, card.answer.index)
        if key
    ]
    if card.answer.text is not None:
        answers.append(Answer("value", _meaning(expression_tree(card.answer.text)), card.answer.text))
    return answers


def most_frequent(answers: Sequence[Answer | None]) -> list[Answer]:
    """Return the most frequent of some answers; of several a choice or value rather than a text, and the first."""
    counts = Counter(answer for answer in answers if answer is not None)
    return [max(counts, key=lambda answer: (counts[answer], answer.kind != "text"))] if counts else []


def with_answer(text: str, answers: Sequence[Answer]) -> str:
    """Replace the correct choice by the answer."""
    pieces, position = [], 0
    for start, end, key in bracketed_keys(text):
        if start >= position and Answer("choice", _meaning(_plain_key(key)), "") in answers:
            pieces += [text[position:start], ANSWER]
            position = end
    return "".join([*pieces, text[position:]])
