"""Importer of FLAN's ``templates.py``, which is parsed as literals and never executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    TemplateImporter,
    as_jinja_text,
    file_name,
)

FIELD_PATTERN = re.compile(r"\{(\w+)\}")
CARD_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
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
"""Card of each of FLAN's keys, and the names of its fields where they differ from FLAN's. Keys whose rows FLAN splits
into other fields (winogrande, wsc273) are left out; their templates keep FLAN's field names.
"""


def parse_patterns(text: str) -> dict[str, list[tuple[str, str]]]:
    """Parse the pairs of input and target patterns in a file, by key.

    Raises:
        ImportRefused: The file is not Python, or contains more than a docstring and literals.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ImportRefused(f"not valid Python: {error}") from error
    patterns = None
    for index, statement in enumerate(body):
        if index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        value, name = _assigned(statement)
        if value is None or name is None:
            raise ImportRefused(f"line {statement.lineno} is not a literal: template files are never executed")
        try:
            literal = ast.literal_eval(value)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise ImportRefused(
                f"{name} in line {statement.lineno} is not a literal: template files are never executed"
            ) from error
        patterns = literal if name == "PATTERNS" else patterns
    return _check_patterns(patterns)


def _assigned(statement: ast.stmt) -> tuple[ast.expr | None, str | None]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.value, statement.target.id
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.value, statement.targets[0].id
    return None, None


def _check_patterns(patterns: object) -> dict[str, list[tuple[str, str]]]:
    if not isinstance(patterns, dict) or not patterns:
        raise ImportRefused("missing: PATTERNS, a dictionary of lists of (input, target)")
    for key, pairs in patterns.items():
        is_valid = isinstance(key, str) and isinstance(pairs, list | tuple) and all(_is_pair(pair) for pair in pairs)
        if not is_valid or not pairs:
            raise ImportRefused(f"PATTERNS[{key!r:.40}] is not a list of (input, target)")
    return patterns


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Read the templates of FLAN's file.

    The field that the first pattern of a key asks for is the answer; patterns that ask for another field are inverted.

    Args:
        text: The file.
        cards: Cards by name.
        source: Name of the file.

    Raises:
        ImportRefused: The file is not in FLAN's format.
    """
    files = []
    for key, pairs in parse_patterns(text).items():
        name, renamed = CARD_FIELDS.get(key, ("", {}))
        card = cards.get(name)
        answer = FIELD_PATTERN.findall(pairs[0][1])
        if len(answer) != 1:
            file = TemplateDraftFile(file_name(card, key), f"{source}: {key}", card)
            file.refused = [(key, "the first target is not a single field, so the answer is unknown")]
        else:
            names = {**(renamed if card is not None else {}), answer[0]: "answer", "options_": "options"}
            names.setdefault("options_str", "options")
            file = TemplateDraftFile(file_name(card, key), f"{source}: {key}", card)
            file.drafts = [_draft(index, pair, names) for index, pair in enumerate(pairs)]
        files.append(file)
    return files


def _draft(index: int, pair: tuple[str, str], names: Mapping[str, str]) -> TemplateDraft:
    input_text, target = (to_jinja(text, names) for text in pair)
    return TemplateDraft(f"flan-{index}", input_text, target, inverted=target.strip() != "{{ answer }}")


def to_jinja(pattern: str, names: Mapping[str, str]) -> str:
    """Convert FLAN's pattern to Jinja.

    >>> to_jinja("{text}: {options_} { and {}", {"options_": "options"})
    '{{ text }}: {{ options }} { and {}'
    """
    parts = FIELD_PATTERN.split(pattern)
    return "".join(
        "{{ " + names.get(part, part) + " }}" if index % 2 else as_jinja_text(part) for index, part in enumerate(parts)
    )


IMPORTER = TemplateImporter(".py", read)
