"""Drafting of a task card and its templates from the columns of a data file; each guess is noted in a comment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from metalm_cli.common.languages import guess_language
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import DEFAULT_VALIDATION_SHARE
from metalm_cli.tasks.column_types import (
    ANSWER_COLUMNS,
    ID_COLUMNS,
    LABEL_COLUMNS,
    MAX_CLASS_LENGTH,
    OPTION_COLUMNS,
    Column,
    field_name,
    one_line,
    quote,
    summarize_columns,
    with_entries,
)

LONG_FIELD_LENGTH = 200
"""A field with texts longer than this becomes the card's truncatable field."""
MAX_LANGUAGE_TEXTS = 1_000
"""Maximum number of texts from which the language is guessed."""
OPTION_LETTERS = "ABCDEFGHIJ"
BOOLEAN_WORDS = {"True": "yes", "False": "no", "true": "yes", "false": "no"}


@dataclass(frozen=True)
class CardDraft:
    """A drafted card and its templates as YAML, with notes on the guesses."""

    card: str
    templates: str
    notes: tuple[str, ...]


@dataclass
class AnswerGuess:
    """A guess of how rows contain the answer.

    Args:
        lines: YAML lines of the card's ``answer``.
        note: Description of the guess.
        columns: Columns that the answer uses.
        metric: Suitable metric.
        row_filter: Condition that rows with an answer fulfil; empty: all rows have one.
        has_options: Whether the answer is one of classes or options.
        language: Language of the answers, if their letters tell it.
    """

    lines: list[str]
    note: str
    columns: list[str]
    metric: str
    row_filter: str = ""
    has_options: bool = True
    language: str | None = None


def draft_card(
    rows: Sequence[Mapping[str, Any]], *, name: str, cluster: str, file: str, source: str, splits: str = "train: rows"
) -> CardDraft:
    """Draft a card and its templates.

    Args:
        rows: Rows of the file.
        name: Name of the task.
        cluster: Cluster of the task.
        file: Path of the file, as written into the card.
        source: Name of the file, for comments.
        splits: Entries of the card's ``splits``.

    Raises:
        MetalmError: There are no rows, or no columns suitable as input and answer.
    """
    rows = [with_entries(row) for row in rows]
    columns, count = summarize_columns(rows)
    if not count:
        raise MetalmError("the file has no rows", remedy="add rows; the card is drafted from them")
    usable = [column for column in columns if column.kinds and not {"other", "image"} & column.kinds]
    images = _image_fields([column for column in columns if column.kinds == {"image"}])
    guess = _guess_answer(usable, rows)
    if guess is None:
        raise _no_draft_error(columns, "an answer: classes, options or a text")
    notes = [f"answer: {guess.note}"]
    fields, unused = _select_fields([column for column in usable if column.name not in guess.columns], count)
    notes += [f"not used: {reason}" for reason in unused]
    notes += [
        f"not used: {column.name}: nested, or blank in every row"
        for column in columns
        if column not in usable and column.kinds != {"image"}
    ]
    notes += [f"{name}: image in {expression}" for name, expression in images.items()]
    if not fields and not images:
        raise _no_draft_error(columns, "an input beside the answer")
    notes += [f"language: {guess.language}, by the letters of the answers"] if guess.language else []
    optional = [name for name, column in fields.items() if column.blank_rows]
    notes += [f"{name}: optional, blank in {fields[name].blank_rows:,} of {count:,} rows" for name in optional]
    conditions = [guess.row_filter] if guess.row_filter else []
    if fields and not images and len(optional) == len(fields):
        conditions.append(f"({' or '.join(column.not_blank_expression for column in fields.values())})")
    notes += [f"row_filter: rows are left out unless {' and '.join(conditions)}"] if conditions else []
    long_fields = [name for name in fields if fields[name].max_length > LONG_FIELD_LENGTH]
    long_field = max(long_fields, key=lambda name: fields[name].max_length, default=None)
    notes += (
        [f"long_inputs: {long_field}, with texts of up to {fields[long_field].max_length:,} characters"]
        if long_field is not None
        else []
    )
    share = DEFAULT_VALIDATION_SHARE if count > 1 else 0
    place = [f"file: {quote(file)}", f"splits: {{{splits}}}"]
    if "validation" not in splits:
        place.append(
            f"validation_share: {share}     # the share of the rows that validates, chosen by a hash of the fields"
        )
    title = f"# Drafted from {one_line(source)} ({count:,} rows). All entries are guesses: check them."
    head = [title, f"name: {name}", f"cluster: {cluster}"]
    card = _card_yaml(name, head, place, fields, images, guess, " and ".join(conditions), long_field)
    return CardDraft(card, _templates_yaml(fields, images, guess.has_options, source), tuple(notes))


def _no_draft_error(columns: Sequence[Column], role: str) -> MetalmError:
    return MetalmError(
        "no card can be drafted",
        why=f"no column looks like {role}; the columns are {', '.join(column.name for column in columns) or 'none'}",
        remedy="write the card by hand; metalm tasks show NAME prints an existing card as an example",
    )


def _guess_answer(columns: list[Column], rows: Sequence[Mapping[str, Any]]) -> AnswerGuess | None:
    """Guess the answer: options first, then classes, then a text."""
    options = _guess_options(columns, rows)
    if options is not None:
        return options
    labels = [
        column
        for column in columns
        if column.is_label(len(rows)) and not (column.is_id and column.name not in LABEL_COLUMNS)
    ]
    answers = [column for column in columns if column.is_plain and not column.is_id]
    label_column = _likeliest_column(labels, LABEL_COLUMNS)
    text_column = _likeliest_column([column for column in answers if column not in labels], ANSWER_COLUMNS)
    has_answer_name = text_column is not None and text_column.name.lower() in ANSWER_COLUMNS
    if label_column is not None and (label_column.name.lower() in LABEL_COLUMNS or not has_answer_name):
        return _guess_classes(label_column)
    list_column = _likeliest_column([column for column in columns if column.kinds == {"list"}], ANSWER_COLUMNS)
    if list_column is not None and (not has_answer_name or list_column.name.lower() in ANSWER_COLUMNS):
        text_column = list_column
    if text_column is None or len(columns) < 2:
        return None
    note = (
        f"text in {text_column.name}"
        if text_column.kinds != {"list"}
        else f"any text of the list in {text_column.name}"
    )
    lines = [f"  text: {quote(text_column.expression)}"]
    row_filter = text_column.not_blank_expression if text_column.blank_rows else ""
    return AnswerGuess(
        lines,
        note,
        [text_column.name],
        "rougeL" if text_column.max_length > MAX_CLASS_LENGTH else "exact_match",
        row_filter,
        False,
        guess_language(islice(_texts(rows, text_column.name), MAX_LANGUAGE_TEXTS)),
    )


def _texts(rows: Sequence[Mapping[str, Any]], column: str) -> Iterator[str]:
    """Yield the texts of a column, and the texts in its lists."""
    for row in rows:
        value = row.get(column)
        yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))


def _likeliest_column(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    """Return the column with the likeliest name, else the last column."""
    ranked = [column for name in names for column in columns if column.name.lower() == name] or columns[-1:]
    return ranked[0] if ranked else None


def _guess_classes(column: Column) -> AnswerGuess:
    names = sorted(column.classes, key=lambda text: (_numeric_value(text), text))
    is_numeric = column.kinds == {"number"}
    verbalizers = {text: BOOLEAN_WORDS.get(text, text.replace("_", " ")) for text in names}
    if len(set(verbalizers.values())) < len(verbalizers):
        verbalizers = {text: text for text in names}
    lines = [f"  label: {quote(f'{column.expression} | string' if is_numeric else _trimmed_expression(column))}"]
    lines += [f"  class_names: [{', '.join(map(quote, names))}]"]
    lines += [
        "  verbalizers:"
        + ("     # replace by the meaning of each number" if is_numeric else "     # words in answers and options")
    ]
    lines += [f"    {quote(name)}: {quote(verbalizers[name])}" for name in names]
    conditions = [column.not_blank_expression] if column.blank_rows else []
    conditions += [f"{column.expression} | string | trim != '-1'"] if column.unlabelled_rows else []
    note = f"class in {column.name}, one of {', '.join(names)}"
    if "-1" in names:
        note += "; -1 is a class: if it marks rows without a label, remove it and leave these rows out with row_filter"
    if is_numeric:
        note += "; replace the numbers by words in verbalizers"
    return AnswerGuess(lines, note, [column.name], "accuracy", " and ".join(conditions))


def _trimmed_expression(column: Column) -> str:
    return f"{column.expression} | trim" if column.kinds == {"text"} else f"{column.expression} | string"


def _numeric_value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _guess_options(columns: list[Column], rows: Sequence[Mapping[str, Any]]) -> AnswerGuess | None:
    """Guess options: a column of lists, or columns such as choice1 and choice2, and a column for the correct option."""
    list_columns = [
        candidate
        for candidate in columns
        if candidate.kinds == {"list"} and candidate.min_items >= 2 and not candidate.blank_rows
    ]
    column = next(
        (candidate for name in OPTION_COLUMNS for candidate in list_columns if candidate.name.lower() == name), None
    )
    if column is not None:
        expression, option_columns = column.expression, [column.name]
    else:
        group = _numbered_columns(columns)
        if group is None:
            return None
        expression, option_columns = (
            f"[{', '.join(candidate.expression for candidate in group)}]",
            [candidate.name for candidate in group],
        )
    others = [
        candidate
        for candidate in columns
        if candidate.name not in option_columns and candidate.name.lower() not in ID_COLUMNS
    ]
    ranked = sorted(others, key=lambda candidate: candidate.name.lower() not in (*LABEL_COLUMNS, *ANSWER_COLUMNS))
    for candidate in ranked:
        line, note = _correct_option(candidate, option_columns, rows)
        if line:
            lines = [f"  options: {quote(expression)}", line]
            return AnswerGuess(
                lines, f"options in {', '.join(option_columns)}; {note}", [*option_columns, candidate.name], "accuracy"
            )
    return None


def _numbered_columns(columns: list[Column]) -> list[Column] | None:
    """Return text columns whose names differ only in a final number or letter: ``choice1``, ``option_b``."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        match = re.fullmatch(r"(.*?[a-z]_?)(\d|_[a-e]|[A-E])", column.name)
        if match and column.is_plain and not column.blank_rows and match[1].rstrip("_").lower() in (
            "choice", "option", "ending", "sol", "answer", "candidate", "opa", "alternative"
        ):  # fmt: skip
            groups.setdefault(match[1], []).append(column)
    return next((group for group in groups.values() if len(group) >= 2), None)


def _correct_option(
    column: Column, option_columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return the YAML line for the correct option and a note, if the column identifies it; else empty strings."""
    if column.blank_rows or column.kinds not in ({"text"}, {"number"}):
        return "", ""
    expression, name = column.expression, column.name
    pairs = [(row[name], _option_texts(row, option_columns)) for row in rows]
    texts = [str(value).strip() for value, _ in pairs]
    if all(text in choices for text, (_, choices) in zip(texts, pairs, strict=True)):
        return f"  text: {quote(expression)}", f"the correct option is in {name}"
    to_integer = "" if column.kinds == {"number"} else " | int"
    if all(re.fullmatch(r"\d+", text) for text in texts):
        in_range = [
            all(first <= int(text) < first + len(choices) for text, (_, choices) in zip(texts, pairs, strict=True))
            for first in (0, 1)
        ]
        if any(in_range):
            first = in_range.index(True)
            index = f"{expression}{to_integer}" if first == 0 else f"{expression}{to_integer} - 1"
            line, note = f"  index: {quote(index)}", f"{name} is its number, from {first}"
            if not all(in_range):
                return line, note
            line += f"     # CHECK: if the numbers begin at 1, write {expression}{to_integer} - 1"
            return line, f"{note}; or from 1, which fits all rows as well: check it, for it decides about every answer"
    if all(
        text.upper() in OPTION_LETTERS[: len(choices)] and len(text) == 1
        for text, (_, choices) in zip(texts, pairs, strict=True)
    ):
        return (
            f"  index: {quote(f'{json.dumps(OPTION_LETTERS)}.index({expression} | trim | upper)')}",
            f"{name} is its letter",
        )
    return "", ""


def _option_texts(row: Mapping[str, Any], option_columns: Sequence[str]) -> list[str]:
    values = row[option_columns[0]] if len(option_columns) == 1 else [row[name] for name in option_columns]
    return [str(value).strip() for value in values]


def _select_fields(columns: Sequence[Column], row_count: int) -> tuple[dict[str, Column], list[str]]:
    """Select the columns that become fields, by field name; return also why other columns are not used."""
    fields: dict[str, Column] = {}
    unused = []
    for column in columns:
        if column.is_id:
            unused.append(f"{column.name}: row id, such as {next(iter(column.value_counts), '')!s:.40}")
        elif not column.is_plain:
            unused.append(f"{column.name}: not text or numbers")
        elif len(column.value_hashes) == 1 and row_count > 1 and not column.blank_rows:
            unused.append(f"{column.name}: same value in every row")
        else:
            name = field_name(column.name)
            fields[name if name not in fields else f"{name}_{len(fields)}"] = column
    return fields, unused


def _card_yaml(
    name: str,
    head: Sequence[str],
    place: Sequence[str],
    fields: Mapping[str, Column],
    images: Mapping[str, str],
    guess: AnswerGuess,
    row_filter: str,
    long_field: str | None,
) -> str:
    inputs = ", ".join([*images, *fields])
    optional = [field for field, column in fields.items() if column.blank_rows]
    lines = [
        *head,
        f"description: {quote(f'What is the answer, given {inputs}?')}     # describe the task",
        *place,
        *([f"row_filter: {quote(row_filter)}     # other rows are left out"] if row_filter else []),
        "fields:" if fields else "fields: {}",
        *(f"  {field}: {quote(column.expression)}" for field, column in fields.items()),
        *(["images:"] if images else []),
        *(f"  {field}: {quote(expression)}" for field, expression in images.items()),
        *([f"optional_fields: [{', '.join(optional)}]     # blank in some rows"] if optional else []),
        f"answer:     # {one_line(guess.note)}",
        *guess.lines,
        *(
            [f"long_inputs: {{field: {long_field}, truncate: tail}}     # the field that may be truncated"]
            if long_field
            else []
        ),
        f"metric: {{name: {guess.metric}, source: drafted}}",
        *([f"language: {guess.language}     # guessed from the letters of the answers"] if guess.language else []),
        f"templates: templates/{name}.yaml     # used if a collection has no templates for this task",
        "licence: unknown",
        "citation: unknown",
    ]
    return "\n".join(lines) + "\n"


def _templates_yaml(fields: Mapping[str, Column], images: Mapping[str, str], has_options: bool, source: str) -> str:
    labels = {name: one_line(name.replace("_", " ").capitalize()) for name in fields}
    texts = [f"{label}: {{{{ {name} }}}}\n" for name, label in labels.items()]
    columns = zip(texts, fields.items(), strict=True)
    texts = [f"{{% if {name} %}}{text}{{% endif %}}" if column.blank_rows else text for text, (name, column) in columns]
    text = "".join([*texts, "{{ options }}" if has_options else ""])
    lines = [f"# Drafted from {one_line(source)}: describe the task in words, and add templates of your own."]
    lines += ["templates:", "  - name: fields"]
    if images:
        lines += ["    parts:", *(f"      - image: {name}" for name in images)]
    if text:
        indent = "          " if images else "      "
        lines += ["      - text: |-"] if images else ["    input: |-"]
        lines += [f"{indent}{line}" for line in text.rstrip("\n").split("\n")]
    return "\n".join(lines) + "\n"


def _image_fields(columns: Sequence[Column]) -> dict[str, str]:
    """Expressions of image fields: one for all columns that are not in every row, else one for each column."""
    if len(columns) > 1 and all(column.blank_rows for column in columns):
        first, *others = (column.expression for column in columns)
        return {"image": first + "".join(f" | default({other})" for other in others)}
    if len(columns) == 1:
        return {"image": columns[0].expression}
    return {field_name(column.name): column.expression for column in columns}
