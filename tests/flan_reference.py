"""FLAN's own way from a row to a prompt, written again: its fields of each data set, and its patterns' formatting.

The fields are those of flan/tasks.py at e9e4ec6 (Wei et al. 2022), from the columns of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metalm_cli.tasks import Example

Row = Mapping[str, Any]
Fields = dict[str, Any]
NLI = ("yes", "it is not possible to tell", "no")
NO_YES = ("no", "yes")
SENTIMENTS = ("negative", "positive")


def format_pattern(pattern: str, fields: Mapping[str, Any]) -> str:
    """Insert fields into a pattern, as format_from_feature_dictionary does."""
    parts = [part for part in re.split(r"({\w*})", pattern) if part]
    return "".join(str(fields[part[1:-1]]) if part[0] == "{" and part[-1] == "}" else part for part in parts)


def _of_classes(words: Sequence[str], label: str = "label", **columns: str) -> Callable[[Row], Fields]:
    return lambda row: {
        **{name: row[column] for name, column in columns.items()},
        "options": words,
        "answer": words[int(row[label])],
    }


def _of_options(options: Callable[[Row], Sequence[str]], index: Callable[[Row], int], **columns: str) -> Any:
    return lambda row: {
        **{name: row[column] for name, column in columns.items()},
        "options": options(row),
        "answer": options(row)[index(row)],
    }


def _of_text(answer: Callable[[Row], str], name: str = "answer", **columns: str) -> Callable[[Row], Fields]:
    return lambda row: {**{field: row[column] for field, column in columns.items()}, name: answer(row)}


def _labelled_index(row: Row) -> int:
    return list(row["choices"]["label"]).index(row["answerKey"])


def _squad(row: Row) -> Fields:
    answers = row["answers"]["text"]
    return {
        "title": row["title"].replace("_", " "),
        "context": row["context"],
        "question": row["question"],
        "answer": answers[0] if answers else "unanswerable",
    }


PAIR = {"premise": "premise", "hypothesis": "hypothesis"}
SENTENCES = {"sentence1": "sentence1", "sentence2": "sentence2"}
FIELDS: dict[str, Callable[[Row], Fields]] = {
    "aeslc": _of_text(lambda row: row["subject_line"].replace("\n", ""), "subject"),
    "anli": _of_classes(NLI, context="premise", hypothesis="hypothesis"),
    "arc": _of_options(lambda row: row["choices"]["text"], _labelled_index, question="question"),
    "bool_q": _of_classes(NO_YES, text="passage"),
    "cb": _of_classes(NLI, **PAIR),
    "cola": _of_classes(("unacceptable", "acceptable"), sentence="sentence"),
    "common_gen": lambda row: {
        "concepts": ", ".join(row["concepts"]),
        "concepts_newline": "\n".join(row["concepts"]),
        "target": row["target"],
    },
    "copa": _of_options(
        lambda row: (row["choice1"], row["choice2"]), lambda row: row["label"], premise="premise", question="question"
    ),
    "definite_pronoun_resolution": _of_options(
        lambda row: row["candidates"], lambda row: int(row["label"]), sentence="sentence", pronoun="pronoun"
    ),
    "drop": _of_text(lambda row: row["answers_spans"]["spans"][0], context="passage", question="question"),
    "e2e_nlg": _of_text(lambda row: row["human_reference"], "target"),
    "glue_mrpc": _of_classes(NO_YES, **SENTENCES),
    "glue_qqp": _of_classes(NO_YES, question1="question1", question2="question2"),
    "hellaswag": lambda row: {"activity_label": row["activity_label"]},
    "imdb_reviews": _of_classes(SENTIMENTS),
    "mnli": _of_classes(NLI, **PAIR),
    "natural_questions": lambda row: {"question": row["question"] + "?", "answer": row["answer"][0]},
    "openbookqa": lambda row: {
        "question": row["question_stem"],
        "options": row["choices"]["text"],
        "answer": row["choices"]["text"][_labelled_index(row)],
        **({"fact": row["fact1"]} if "fact1" in row else {}),  # a column of the configuration "additional" only
    },
    "piqa": _of_options(lambda row: (row["sol1"], row["sol2"]), lambda row: int(row["label"]), goal="goal"),
    "qnli": _of_classes(("yes", "no"), sentence="sentence", question="question"),
    "rte": _of_classes(("yes", "no"), premise="sentence1", hypothesis="sentence2"),
    "sentiment140": lambda row: {"options": SENTIMENTS, "answer": SENTIMENTS[row["sentiment"] in (3, 4)]},
    "snli": _of_classes(NLI, **PAIR),
    "squad_v1": _squad,
    "squad_v2": _squad,
    "sst2": _of_classes(SENTIMENTS, sentence="sentence"),
    "trec": _of_text(
        lambda row: ("abbreviation", "entity", "description", "human", "location", "numeric")[row["coarse_label"]],
        text="text",
    ),
    "wic": _of_classes(("different meanings", "the same meaning"), word="word", **SENTENCES),
    "wnli": _of_classes(NO_YES, **SENTENCES),
    "wsc": _of_classes(NO_YES, text1="span1_text", text2="span2_text"),
    "xsum": _of_text(lambda row: row["summary"], "summary", text="document"),
}
"""FLAN's fields of a row, by its key, without those of :data:`CARD_FIELDS`."""

CARD_FIELDS: dict[str, dict[str, str]] = {
    "aeslc": {"body": "email"},
    "anli": {"answer": "answer", "options": "options"},
    "bool_q": {"question": "question"},
    "cb": {"answer": "answer", "options": "options"},
    "e2e_nlg": {"meaning_representation": "attributes"},
    "hellaswag": {"context": "context", "answer": "answer", "options": "options"},
    "imdb_reviews": {"text": "text"},
    "sentiment140": {"text": "text"},
    "trec": {"options": "options"},
    "wsc": {"context": "passage"},
}
"""FLAN's fields that cards prepare otherwise (line breaks, markup, a question mark, words, order of options), by key,
with the card's names; their values are the card's."""


def fields_of(key: str, row: Row, example: Example) -> Fields:
    """FLAN's fields of a row; a card removes white space at the ends of each."""
    fields = FIELDS[key](row)
    card_values = {**example.fields, "answer": example.answers[0], "options": example.options}
    fields |= {name: card_values[field] for name, field in CARD_FIELDS.get(key, {}).items()}
    fields = {name: value.strip() if isinstance(value, str) else value for name, value in fields.items()}
    options = "OPTIONS:\n- " + "\n- ".join(option.strip() for option in fields.get("options", ()))
    return {**fields, "options_": options, "options_str": options}
