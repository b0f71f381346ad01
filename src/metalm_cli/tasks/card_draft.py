"""Drafting a task card and its templates from the columns of a data file: guesses, each said in a comment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.tasks.column_types import IDS, LONG_LABEL, Column, columns_of
from metalm_cli.tasks.natural_instructions import slug

LONG_TEXT = 200
"""A field whose texts are longer than this is the one that may be cut."""
VALIDATION = 200
"""Last rows that validate, but no more than a tenth."""
BLANK = 0.2
"""A column that is blank in a greater share of the rows is no field."""
LABELS = ("label", "labels", "class", "category", "gold", "gold_label", "sentiment", "target", "answer", "output")
ANSWERS = (
    "target",
    "targets",
    "output",
    "answer",
    "answers",
    "response",
    "completion",
    "summary",
    "reference",
    "label",
)
OPTIONS = ("options", "choices", "candidates", "endings")
LETTERS = "ABCDEFGHIJ"
RESERVED = {"answer", "options", "choices", "rationale", "fields", "task", "demonstrations", "row"}
"""Names that fields cannot have."""
YES_NO = {"True": "yes", "False": "no", "true": "yes", "false": "no"}


@dataclass(frozen=True)
class CardDraft:
    """A card and its templates as YAML, and what was guessed."""

    card: str
    templates: str
    notes: tuple[str, ...]


@dataclass
class ColumnGuess:
    """How the answer stands in a row.

    Args:
        lines: Lines of the card's ``answer``.
        said: What was guessed.
        columns: Columns that it uses.
        metric: A metric that fits.
        where: A condition on rows that have an answer.
        chooses: Whether there are classes or options.
    """

    lines: list[str]
    said: str
    columns: list[str]
    metric: str
    where: str = ""
    chooses: bool = True


def draft(rows: Sequence[Mapping[str, Any]], *, name: str, cluster: str, file: str, source: str) -> CardDraft:
    """Draft a card and its templates.

    Args:
        rows: The rows of the file.
        name: Name of the task.
        cluster: Its cluster.
        file: Path of the file, as the card is to have it.
        source: Name of the file, for people.

    Raises:
        MetalmError: There are no rows, or no columns that an input and an answer can be made of.
    """
    columns, count = columns_of(rows)
    if not count:
        raise MetalmError("the file has no rows", remedy="a card is drafted from rows")
    usable = [one for one in columns if one.kinds and "other" not in one.kinds]
    guess = _guess(usable, rows)
    if guess is None:
        raise _nothing(columns, "an answer: classes, options or a text")
    notes = [f"answer: {guess.said}"]
    fields, left = _fields([one for one in usable if one.name not in guess.columns], count)
    notes += [f"not used: {one}" for one in left]
    notes += [f"not used: {one.name}: nested, or blank in every row" for one in columns if one not in usable]
    if not fields:
        raise _nothing(columns, "an input beside the answer")
    where = [one.present for one in fields.values() if one.blank]
    where += [guess.where] if guess.where else []
    notes += [f"left out: rows for which this is false: {' and '.join(where)}"] if where else []
    longest = max(fields, key=lambda one: fields[one].length)
    long = longest if fields[longest].length > LONG_TEXT else None
    notes += [f"long: {long}, whose texts have up to {fields[long].length:,} characters"] if long is not None else []
    card = _card(name, cluster, file, source, count, fields, guess, " and ".join(where), long)
    return CardDraft(card, _templates(fields, guess.chooses, source), tuple(notes))


def _nothing(columns: Sequence[Column], what: str) -> MetalmError:
    return MetalmError(
        "no card can be drafted",
        why=f"no column looks like {what}; there are {', '.join(one.name for one in columns) or 'none'}",
        remedy="write the card by hand; metalm tasks show NAME shows what one says",
    )


def _guess(columns: list[Column], rows: Sequence[Mapping[str, Any]]) -> ColumnGuess | None:
    """Options first, then classes, then a text."""
    found = _options(columns, rows)
    if found is not None:
        return found
    labels = [one for one in columns if one.is_label(len(rows)) and not (one.is_id and one.name not in LABELS)]
    answers = [one for one in columns if one.plain and not one.is_id]
    label = _best(labels, LABELS)
    text = _best([one for one in answers if one not in labels], ANSWERS)
    named = text is not None and text.name.lower() in ANSWERS
    if label is not None and (label.name.lower() in LABELS or not named):
        return _classes(label)
    lists = _best([one for one in columns if one.kinds == {"list"}], ANSWERS)
    if lists is not None and (not named or lists.name.lower() in ANSWERS):
        text = lists
    if text is None or len(columns) < 2:
        return None
    said = f"the text in {text.name}" if text.kinds != {"list"} else f"any of the texts in {text.name}"
    lines = [f"  text: {_quoted(text.expression)}"]
    blank = text.present if text.blank else ""
    return ColumnGuess(lines, said, [text.name], "rougeL" if text.length > LONG_LABEL else "exact_match", blank, False)


def _best(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    """The column with the likeliest name, else the last."""
    ranked = [one for name in names for one in columns if one.name.lower() == name] or columns[-1:]
    return ranked[0] if ranked else None


def _classes(column: Column) -> ColumnGuess:
    names = sorted(column.values, key=lambda text: (_number(text), text))
    numbered = column.kinds == {"number"}
    words = {text: YES_NO.get(text, text.replace("_", " ")) for text in names}
    if len(set(words.values())) < len(words):
        words = {text: text for text in names}
    lines = [f"  label: {_quoted(f'{column.expression} | string' if numbered else _trimmed(column))}"]
    lines += [f"  class_names: [{', '.join(map(_quoted, names))}]"]
    lines += [
        "  verbalizers:" + ("     # say what each number means" if numbered else "     # what answers and options say")
    ]
    lines += [f"    {_quoted(one)}: {_quoted(words[one])}" for one in names]
    where = [column.present] if column.blank else []
    where += [f"{column.expression} | string | trim != '-1'"] if column.unlabelled else []
    said = f"a class in {column.name}, one of {', '.join(names)}"
    if numbered:
        said += "; say in words what the numbers mean"
    return ColumnGuess(lines, said, [column.name], "accuracy", " and ".join(where))


def _trimmed(column: Column) -> str:
    return f"{column.expression} | trim" if column.kinds == {"text"} else f"{column.expression} | string"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _options(columns: list[Column], rows: Sequence[Mapping[str, Any]]) -> ColumnGuess | None:
    """A column of lists, or columns like choice1, choice2, and one that says which is right."""
    listed = [one for one in columns if one.kinds == {"list"} and one.least >= 2 and not one.blank]
    column = next((one for name in OPTIONS for one in listed if one.name.lower() == name), None)
    if column is not None:
        expression, used = column.expression, [column.name]
    else:
        group = _numbered(columns)
        if group is None:
            return None
        expression, used = f"[{', '.join(one.expression for one in group)}]", [one.name for one in group]
    others = [one for one in columns if one.name not in used and one.name.lower() not in IDS]
    ranked = sorted(others, key=lambda one: one.name.lower() not in (*LABELS, *ANSWERS))
    for one in ranked:
        line, said = _which(one, used, rows)
        if line:
            lines = [f"  options: {_quoted(expression)}", line]
            return ColumnGuess(lines, f"options in {', '.join(used)}; {said}", [*used, one.name], "accuracy")
    return None


def _numbered(columns: list[Column]) -> list[Column] | None:
    """Text columns that differ in a number or a letter at the end alone: ``choice1``, ``option_b``."""
    groups: dict[str, list[Column]] = {}
    for one in columns:
        found = re.fullmatch(r"(.*?[a-z]_?)(\d|_[a-e]|[A-E])", one.name)
        if found and one.plain and not one.blank and found[1].rstrip("_").lower() in (
            "choice", "option", "ending", "sol", "answer", "candidate", "opa", "alternative"
        ):  # fmt: skip
            groups.setdefault(found[1], []).append(one)
    return next((group for group in groups.values() if len(group) >= 2), None)


def _which(column: Column, used: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The line that finds the right option by a column, and what was guessed; empty where it does not."""
    if column.blank or column.kinds not in ({"text"}, {"number"}):
        return "", ""
    expression, name = column.expression, column.name
    pairs = [(row[name], _choices(row, used)) for row in rows]
    texts = [str(value).strip() for value, _ in pairs]
    if all(text in choices for text, (_, choices) in zip(texts, pairs, strict=True)):
        return f"  text: {_quoted(expression)}", f"the right one stands in {name}"
    integer = "" if column.kinds == {"number"} else " | int"
    if all(re.fullmatch(r"\d+", text) for text in texts):
        for first in (0, 1):
            inside = all(
                first <= int(text) < first + len(choices) for text, (_, choices) in zip(texts, pairs, strict=True)
            )
            if inside:
                index = f"{expression}{integer}" if first == 0 else f"{expression}{integer} - 1"
                return f"  index: {_quoted(index)}", f"{name} counts them from {first}"
    if all(
        text.upper() in LETTERS[: len(choices)] and len(text) == 1
        for text, (_, choices) in zip(texts, pairs, strict=True)
    ):
        return (
            f"  index: {_quoted(f'{json.dumps(LETTERS)}.index({expression} | trim | upper)')}",
            f"{name} is its letter",
        )
    return "", ""


def _choices(row: Mapping[str, Any], used: Sequence[str]) -> list[str]:
    values = row[used[0]] if len(used) == 1 else [row[name] for name in used]
    return [str(value).strip() for value in values]


def _fields(columns: Sequence[Column], rows: int) -> tuple[dict[str, Column], list[str]]:
    """Columns that become fields, by the field's name, and why others do not."""
    found: dict[str, Column] = {}
    left = []
    for one in columns:
        if one.is_id:
            left.append(f"{one.name}: it names or counts rows")
        elif not one.plain:
            left.append(f"{one.name}: neither text nor numbers")
        elif one.blank > BLANK * rows:
            left.append(f"{one.name}: blank in {one.blank:,} of {rows:,} rows")
        elif len(one.distinct) == 1 and rows > 1 and not one.unlabelled:
            left.append(f"{one.name}: the same in every row")
        else:
            name = slug(one.name)
            name = f"the_{name}" if name in RESERVED or not name[0].isalpha() else name
            found[name if name not in found else f"{name}_{len(found)}"] = one
    return found, left


def _card(
    name: str,
    cluster: str,
    file: str,
    source: str,
    rows: int,
    fields: Mapping[str, Column],
    guess: ColumnGuess,
    where: str,
    long: str | None,
) -> str:
    last = min(VALIDATION, rows // 10) or min(1, rows // 2)
    train = f"rows[:-{last}]" if last else "rows"
    asked = ", ".join(fields)
    lines = [
        f"# Drafted from {_one_line(source)} ({rows:,} rows). What stands here was guessed from the columns: read it.",
        f"name: {name}",
        f"cluster: {cluster}",
        f"description: {_quoted(f'What is the answer, given {asked}?')}     # say what is asked",
        f"file: {_quoted(file)}",
        "splits:     # the last rows validate: shuffle the file first if its order means anything",
        f"  train: {_quoted(train)}",
        *([f"  validation: {_quoted(f'rows[-{last}:]')}"] if last else []),
        *([f"row_filter: {_quoted(where)}     # rows for which this is false are left out"] if where else []),
        "fields:",
        *(f"  {field}: {_quoted(column.expression)}" for field, column in fields.items()),
        f"answer:     # {_one_line(guess.said)}",
        *guess.lines,
        *([f"long_inputs: {{field: {long}, truncate: tail}}     # the one field that may be cut"] if long else []),
        f"metric: {{name: {guess.metric}, source: drafted}}",
        f"templates: templates/{name}.yaml     # serves where a collection has none for this task",
        "licence: unknown",
        "citation: unknown",
    ]
    return "\n".join(lines) + "\n"


def _templates(fields: Mapping[str, Column], chooses: bool, source: str) -> str:
    options = ["      {{ options }}"] if chooses else []
    labels = {name: _one_line(name.replace("_", " ").capitalize()) for name in fields}
    lines = [
        f"# Drafted from {_one_line(source)}: say in words what is asked, and add wordings of your own.",
        "templates:",
        "  - name: fields",
        "    input: |-",
        *(f"      {label}: {{{{ {name} }}}}" for name, label in labels.items()),
        *options,
    ]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _quoted(text: str) -> str:
    """A text as YAML writes it between double quotes."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else _escape(char) for char in escaped)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
