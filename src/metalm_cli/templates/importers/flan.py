"""FLAN's ``templates.py``: read as a literal, never executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    as_jinja_text,
    file_name,
)

FIELD = re.compile(r"\{(\w+)\}")
CARDS: dict[str, tuple[str, dict[str, str]]] = {
    "aeslc": ("aeslc", {"body": "email"}),
    "anli": ("anli_r1", {"context": "premise"}),
    "arc": ("arc_easy", {}),
    "bool_q": ("boolq", {"text": "passage"}),
    "cb": ("cb", {}),
    "cnn_dailymail": ("cnn_dailymail", {"text": "article"}),
    "cola": ("cola", {}),
    "common_gen": ("common_gen", {"concepts_newline": "concepts"}),
    "copa": ("copa", {}),
    "cosmos_qa": ("cosmos_qa", {}),
    "dart": ("dart", {"tripleset": "triples", "tripleset_newline": "triples"}),
    "definite_pronoun_resolution": ("dpr", {}),
    "drop": ("drop", {"context": "passage"}),
    "e2e_nlg": ("e2e_nlg", {"meaning_representation": "attributes"}),
    "gigaword": ("gigaword", {"text": "sentence"}),
    "glue_mrpc": ("mrpc", {}),
    "glue_qqp": ("qqp", {}),
    "hellaswag": ("hellaswag", {}),
    "imdb_reviews": ("imdb", {}),
    "mnli": ("mnli", {}),
    "multirc": ("multirc", {"paragraph": "passage", "response": "candidate"}),
    "natural_questions": ("nq_open", {}),
    "openbookqa": ("openbookqa", {}),
    "paws_wiki": ("paws_wiki", {}),
    "piqa": ("piqa", {}),
    "qnli": ("qnli", {}),
    "record": ("record", {}),
    "rte": ("rte", {}),
    "samsum": ("samsum", {}),
    "sentiment140": ("sentiment140", {}),
    "snli": ("snli", {}),
    "squad_v1": ("squad", {}),
    "squad_v2": ("squad_v2", {}),
    "sst2": ("sst2", {}),
    "story_cloze": ("story_cloze", {"context": "story"}),
    "stsb": ("stsb", {}),
    "trec": ("trec", {"text": "question"}),
    "trivia_qa": ("trivia_qa", {}),
    "web_nlg_en": ("web_nlg", {"input_string": "triples"}),
    "wic": ("wic", {}),
    "wnli": ("wnli", {}),
    "wsc": ("wsc", {"context": "passage", "text1": "mention", "text2": "pronoun"}),
    "xsum": ("xsum", {"text": "document"}),
    "yelp_polarity_reviews": ("yelp", {}),
}
"""FLAN's keys: the card of the same data, and its fields where they are called otherwise. Keys whose rows FLAN cuts
into other fields (winogrande, wsc273) are not here: their templates are imported with FLAN's own fields."""


def parse_patterns(text: str) -> dict[str, list[tuple[str, str]]]:
    """The pairs of inputs and targets in a file, by key.

    Raises:
        Refused: The file is no Python, or holds more than a docstring and literals.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ImportRefused(f"it is no Python that can be read: {error}") from error
    found = None
    for at, statement in enumerate(body):
        if at == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        value, name = _assigned(statement)
        if value is None or name is None:
            raise ImportRefused(f"line {statement.lineno} is no literal: templates are read, never executed")
        try:
            read = ast.literal_eval(value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise ImportRefused(
                f"{name} in line {statement.lineno} is no literal: templates are never executed"
            ) from error
        found = read if name == "PATTERNS" else found
    return _checked(found)


def _assigned(statement: ast.stmt) -> tuple[ast.expr | None, str | None]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.value, statement.target.id
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.value, statement.targets[0].id
    return None, None


def _checked(found: object) -> dict[str, list[tuple[str, str]]]:
    if not isinstance(found, dict) or not found:
        raise ImportRefused("it has no PATTERNS, a dictionary of lists of (input, target)")
    for key, pairs in found.items():
        whole = isinstance(key, str) and isinstance(pairs, list | tuple) and all(_pair(pair) for pair in pairs)
        if not whole or not pairs:
            raise ImportRefused(f"PATTERNS[{key!r:.40}] is no list of (input, target)")
    return found


def _pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """The templates of FLAN's file.

    The field that the first pattern of a key asks for is the answer; a pattern that asks for something else is turned
    around.

    Args:
        text: The file.
        cards: Cards by name.
        source: What the file is called.

    Raises:
        Refused: The file is none of FLAN's.
    """
    files = []
    for key, pairs in parse_patterns(text).items():
        name, renamed = CARDS.get(key, ("", {}))
        card = cards.get(name)
        answer = FIELD.findall(pairs[0][1])
        if len(answer) != 1:
            file = TemplateDraftFile(file_name(card, key), f"{source}: {key}", card)
            file.refused = [(key, "its first target is no single field, so that the answer is not known")]
        else:
            names = {**(renamed if card is not None else {}), answer[0]: "answer", "options_": "options"}
            names.setdefault("options_str", "options")
            file = TemplateDraftFile(file_name(card, key), f"{source}: {key}", card)
            file.drafts = [_draft(at, pair, names) for at, pair in enumerate(pairs)]
        files.append(file)
    return files


def _draft(at: int, pair: tuple[str, str], names: Mapping[str, str]) -> TemplateDraft:
    given, target = (to_jinja(text, names) for text in pair)
    return TemplateDraft(f"flan-{at}", given, target, turned=target.strip() != "{{ answer }}")


def to_jinja(pattern: str, names: Mapping[str, str]) -> str:
    """FLAN's pattern as Jinja.

    >>> to_jinja("{text}: {options_} { and {}", {"options_": "options"})
    '{{ text }}: {{ options }} { and {}'
    """
    parts = FIELD.split(pattern)
    return "".join(
        "{{ " + names.get(part, part) + " }}" if at % 2 else as_jinja_text(part) for at, part in enumerate(parts)
    )
