"""Importer of FLAN's ``templates.py``, of both versions, which is read as literals and never executed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    TemplateImporter,
    as_jinja_text,
    file_name,
)
from metalm_cli.templates.importers.python_literals import Record, read_values

COLLECTIONS = {"PATTERNS": "flan", "INLINE_FS_PATTERNS": "inline", "FEWSHOT_PATTERNS": "few-shot"}
"""Collections of patterns that are read, with the prefixes of their templates' names."""
ANSWER = "answer"
FIELD_PATTERN = re.compile(r"\{(\w+)\}")
CARD_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "aeslc": ("aeslc", {"body": "email"}),
    "anli": ("anli_r1", {"context": "premise"}),
    "arc": ("arc_easy", {}),
    "bool_q": ("boolq", {"text": "passage"}),
    "cb": ("cb", {}),
    "cnn_dailymail": ("cnn_dailymail", {"text": "article"}),
    "cola": ("cola", {}),
    "common_gen": ("common_gen", {"concepts_newline": r"row.concepts | join('\n')"}),
    "copa": ("copa", {}),
    "cosmos_qa": ("cosmos_qa", {}),
    "dart": ("dart", {"tripleset": "triples", "tripleset_newline": "triples"}),
    "definite_pronoun_resolution": ("dpr", {}),
    "drop": ("drop", {"context": "passage"}),
    "e2e_nlg": ("e2e_nlg", {"meaning_representation": "attributes"}),
    "gigaword": ("gigaword", {"text": "sentence"}),
    "glue_mrpc": ("mrpc", {}),
    "glue_qqp": ("qqp", {}),
    "hellaswag": ("hellaswag", {"activity_label": "topic"}),
    "imdb_reviews": ("imdb", {}),
    "mnli": ("mnli", {}),
    "multirc": ("multirc", {"paragraph": "passage", "response": "candidate"}),
    "natural_questions": ("nq_open", {}),
    "openbookqa": ("openbookqa", {"fact": "row.fact1"}),
    "paws_wiki": ("paws_wiki", {}),
    "piqa": ("piqa", {}),
    "qnli": ("qnli", {}),
    "record": ("record", {}),
    "rte": ("rte", {}),
    "samsum": ("samsum", {}),
    "sentiment140": ("sentiment140", {}),
    "snli": ("snli", {}),
    "squad_v1": ("squad", {"title": "row.title.replace('_', ' ')"}),
    "squad_v2": ("squad_v2", {}),
    "sst2": ("sst2", {}),
    "story_cloze": ("story_cloze", {"context": "story"}),
    "stsb": ("stsb", {}),
    "trec": ("trec", {"text": "question"}),
    "trivia_qa": ("trivia_qa", {}),
    "web_nlg_en": ("web_nlg", {"input_string": "triples"}),
    "wic": ("wic", {}),
    "wnli": ("wnli", {"sentence1": "premise", "sentence2": "hypothesis"}),
    "wsc": ("wsc", {"context": "passage", "text1": "mention", "text2": "pronoun"}),
    "xsum": ("xsum", {"text": "document"}),
    "yelp_polarity_reviews": ("yelp", {}),
}
"""Card of each of FLAN's keys, and the names of its fields where they differ from FLAN's, or columns (``row.x``).

Keys whose rows FLAN splits into other fields (winogrande, wsc273) are left out; their templates keep
FLAN's field names.
"""


Pair = tuple[str, str]


def parse_patterns(text: str) -> dict[str, dict[str, Pair]]:
    """Parse the pairs of input and target patterns in a file, by key and name.

    ``PATTERNS`` is of both versions; ``INLINE_FS_PATTERNS`` and ``FEWSHOT_PATTERNS`` are of the second. A few-shot
    pattern is read as the format of one exemplar.

    Raises:
        ImportRefused: The file is not Python, or its patterns are not made of literals.
    """
    values = read_values(text)
    collections = {
        prefix: _check_patterns(values[name], name) for name, prefix in COLLECTIONS.items() if name in values
    }
    if not collections:
        raise ImportRefused("missing: PATTERNS, a dictionary of lists of (input, target)")
    patterns: dict[str, dict[str, Pair]] = {}
    for prefix, pairs_by_key in collections.items():
        for key, pairs in pairs_by_key.items():
            patterns.setdefault(key, {}).update({f"{prefix}-{index}": pair for index, pair in enumerate(pairs)})
    return patterns


def _check_patterns(patterns: object, name: str) -> dict[str, list[Pair]]:
    if isinstance(patterns, ImportRefused):
        raise patterns
    if not isinstance(patterns, dict) or not patterns:
        raise ImportRefused(f"missing: {name}, a dictionary of lists of (input, target)")
    checked: dict[str, list[Pair]] = {}
    for key, entries in patterns.items():
        pairs = [_pair(entry) for entry in entries] if isinstance(entries, list | tuple) else []
        if not isinstance(key, str) or not pairs or None in pairs:
            raise ImportRefused(f"{name}[{key!r:.40}] is not a list of (input, target)")
        checked[key] = [pair for pair in pairs if pair is not None]
    return checked


def _pair(entry: object) -> Pair | None:
    """Return the input and target of an entry: a pair, or a few-shot pattern."""
    if isinstance(entry, Record):
        parts = [entry.get(name) for name in ("inputs_prefix", "inputs", "x_y_delimiter", "targets_prefix")]
        target = entry.get("targets")
        return ("".join(map(str, parts)), target) if None not in parts and isinstance(target, str) else None
    if isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(text, str) for text in entry):
        return entry[0], entry[1]
    return None


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Read the templates of FLAN's file.

    The answer is the field ``answer``, or else the field that the first pattern of a key asks for, or most of them;
    patterns that ask for another field are inverted.

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
        names = {**(renamed if card is not None else {}), "options_": "options", "options_str": "options"}
        answer = _answer_field(list(pairs.values()))
        names |= {} if answer is None else {answer: ANSWER}
        file = TemplateDraftFile(file_name(card, key), f"{source}: {key}", card)
        file.drafts = [_draft(name, pair, names) for name, pair in pairs.items()]
        files.append(file)
    return files


def _answer_field(pairs: Sequence[Pair]) -> str | None:
    """Return the field ``answer`` if there is one, or the field that the first target is, or else the most targets."""
    if any(ANSWER in FIELD_PATTERN.findall(text) for pair in pairs for text in pair):
        return ANSWER
    targets = [FIELD_PATTERN.fullmatch(target.strip()) for _, target in pairs]
    fields = [match[1] for match in targets if match is not None]
    if targets[0] is not None:
        return targets[0][1]
    return Counter(fields).most_common(1)[0][0] if fields else None


def _draft(name: str, pair: Pair, names: Mapping[str, str]) -> TemplateDraft:
    input_text, target = (to_jinja(text, names) for text in pair)
    return TemplateDraft(name, input_text, target, inverted=target.strip() != "{{ answer }}")


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
