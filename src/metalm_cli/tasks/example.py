"""Conversion of rows to examples, which templates render and metrics score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, UndefinedError

from metalm_cli.common.unicode_text import is_blank, well_formed
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.sessions import ImageSource
from metalm_cli.tasks.card import Card
from metalm_cli.tasks.expressions import compile_expression, names_in


@dataclass(frozen=True)
class Example:
    """An example of a task.

    Args:
        task: Name of the task.
        row: Index of the row in the split.
        fields: Fields for templates, by name.
        answers: Correct answers; training uses the first.
        options: Answer options in the order they are listed; empty for open-ended tasks.
        label: Index of the correct option, or None.
        rationale: The reasoning that leads to the answer, or empty.
        raw: The row's columns.
        language: Language code of the texts.
        images: Images of each image field, by name; mostly one.
    """

    task: str
    row: int
    fields: Mapping[str, str]
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    label: int | None = None
    rationale: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    language: str = "en"
    images: Mapping[str, tuple[ImageSource, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> Mapping[str, str | tuple[ImageSource, ...]]:
        """All fields, of texts and of images: examples of equal inputs are the same question."""
        return {**self.fields, **self.images} if self.images else self.fields


LocateRow = Callable[[], str]

BOOLEAN_NAMES = {True: ("true", "yes"), False: ("false", "no")}
"""Lower-case names of the classes that boolean labels mean."""


class ExampleMaker:
    """Converter of a task's rows to examples.

    Args:
        card: The card.
        label_ids: Whether integers in the label column are class ids even where they spell class names.
        image_root: Folder that the paths of images start at; None: the rows hold their images.
    """

    def __init__(self, card: Card, label_ids: bool = False, image_root: str | None = None) -> None:
        self.card, self.label_ids, self.image_root = card, label_ids, image_root
        self._verbalizers = card.verbalizers
        self._has_class_ids = label_ids or not any(name.lstrip("-").isdecimal() for name in card.answer.class_names)
        self._fields = {name: compile_expression(source) for name, source in card.fields.items()}
        self._images = {name: compile_expression(source) for name, source in card.images.items()}
        answer = card.answer
        self._row_filter, self._label, self._options, self._index, self._text, self._rationale = (
            None if source is None else compile_expression(source)
            for source in (card.row_filter, answer.label, answer.options, answer.index, answer.text, answer.rationale)
        )

    def __reduce__(self) -> Any:
        return ExampleMaker, (self.card, self.label_ids, self.image_root)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Names of the columns that the card reads."""
        answer = self.card.answer
        sources = [*self.card.fields.values(), *self.card.images.values(), self.card.row_filter]
        sources += [answer.label, answer.options, answer.index, answer.text, answer.rationale]
        return frozenset().union(*(names_in(source) for source in sources if source is not None))

    def __call__(self, row: Any, index: int, where: LocateRow) -> Example | None:
        """Convert a row to an example.

        Args:
            row: Columns of the row.
            index: Index of the row in the split.
            where: Function that returns the row's location, for messages.

        Returns:
            None for a row that the card's ``row_filter`` leaves out.

        Raises:
            MetalmError: A column is missing, a class is out of range, the answer is not among the options, or a text is
                empty.
        """
        if not self.includes(row, where):
            return None
        fields = {name: self._field(name, expression, row, where) for name, expression in self._fields.items()}
        answers, options, label = self._answer(row, where)
        rationale = ""
        if self._rationale is not None:
            rationale = self._string(
                self._evaluate(self._rationale, row, "answer.rationale", where), "answer.rationale", where
            )
        language = self.card.language
        images = self.images(row, where) if self._images else {}
        return Example(self.card.data_name, index, fields, answers, options, label, rationale, row, language, images)

    def images(self, row: Any, where: LocateRow) -> dict[str, tuple[ImageSource, ...]]:
        """Return the images of a row by field; no file is opened.

        Raises:
            MetalmError: A column is missing, or holds no image.
        """
        return {name: self._image(name, expression, row, where) for name, expression in self._images.items()}

    def _image(
        self, name: str, expression: Callable[[Any], Any], row: Any, where: LocateRow
    ) -> tuple[ImageSource, ...]:
        key, is_optional = f"images.{name}", name in self.card.optional_fields
        try:
            value = expression(row)
        except UndefinedError:
            value = None if is_optional else self._evaluate(expression, row, key, where)
        except TemplateError:
            value = self._evaluate(expression, row, key, where)
        if is_optional and value in (None, "", []):
            return ()
        values = value if isinstance(value, list | tuple) else [value]
        try:
            sources = tuple(ImageSource.of(item, self.image_root) for item in values)
        except ValueError as error:
            raise self._row_error(where, f"{key}: {error}") from error
        if not sources:
            raise self._row_error(where, f"{key}: got an empty list, expected at least one image")
        return sources

    def includes(self, row: Any, where: LocateRow) -> bool:
        """Whether the card's ``row_filter`` includes a row; True for every row of a card without a filter.

        Raises:
            MetalmError: The row is not an object, or the filter fails.
        """
        if not isinstance(row, Mapping):
            raise self._row_error(where, f"got {type(row).__name__}, expected an object with columns")
        return self._row_filter is None or bool(self._evaluate(self._row_filter, row, "row_filter", where))

    def _answer(self, row: Any, where: LocateRow) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
        if self._label is not None:
            words = self._verbalizers
            label = self._class_id(self._evaluate(self._label, row, "answer.label", where), where)
            return (words[label],), words, label
        options: tuple[str, ...] = ()
        if self._options is not None:
            options = self._strings(
                self._evaluate(self._options, row, "answer.options", where), "answer.options", where
            )
            if len(options) < 2:
                raise self._row_error(where, f"answer.options: got {len(options)}, expected at least two")
        if self._index is not None:
            index = self._evaluate(self._index, row, "answer.index", where)
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
                raise self._row_error(where, f"answer.index: got {index!r}, expected 0 to {len(options) - 1}")
            return (options[index],), options, index
        assert self._text is not None, "a valid card has label, index or text"
        value = self._evaluate(self._text, row, "answer.text", where)
        answers = self._strings(value if isinstance(value, list | tuple) else [value], "answer.text", where)
        if options and answers[0] not in options:
            raise self._row_error(where, f"the answer {answers[0]!r} is not among the options {', '.join(options)}")
        return answers, options, options.index(answers[0]) if options else None

    def _class_id(self, value: Any, where: LocateRow) -> int:
        names = self.card.answer.class_names
        has_ids = self._has_class_ids
        is_id = isinstance(value, int) and not isinstance(value, bool) and has_ids
        if not is_id and (name := _class_name(value, names)) is not None:
            return names.index(name)
        if is_id and 0 <= value < len(names):
            return value
        ids = f"0 to {len(names) - 1} or " if has_ids else ""
        hint = ""
        if value == -1:
            hint = "; -1 marks rows without a label: leave them out with row_filter"
        elif isinstance(value, str) and value.strip().isdecimal() and has_ids:
            hint = f"; the column holds text: write label: {self.card.answer.label} | int"
        elif isinstance(value, bool):
            hint = "; a boolean is a class that is named true or false, or yes or no"
        raise self._row_error(where, f"answer.label: got {value!r}, expected {ids}one of {', '.join(names)}{hint}")

    def _field(self, name: str, expression: Callable[[Any], Any], row: Any, where: LocateRow) -> str:
        key = f"fields.{name}"
        if name not in self.card.optional_fields:
            return self._string(self._evaluate(expression, row, key, where), key, where)
        try:
            value = expression(row)
        except UndefinedError:
            return ""
        except TemplateError:
            value = self._evaluate(expression, row, key, where)
        return "" if value is None or (isinstance(value, str) and is_blank(value)) else self._string(value, key, where)

    def _evaluate(self, expression: Callable[[Any], Any], row: Any, key: str, where: LocateRow) -> Any:
        try:
            return expression(row)
        except UndefinedError as error:
            columns = ", ".join(map(str, row)) or "none"
            raise self._row_error(where, f"{key}: {error.message}; the row's columns are {columns}") from error
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise self._row_error(where, f"{key}: {error!s:.300}") from error

    def _strings(self, values: Any, key: str, where: LocateRow) -> tuple[str, ...]:
        if not isinstance(values, list | tuple) or not values:
            raise self._row_error(where, f"{key}: got {values!r:.60}, expected a non-empty list of texts")
        return tuple(self._string(value, key, where) for value in values)

    def _string(self, value: Any, key: str, where: LocateRow) -> str:
        if not isinstance(value, str):
            value = self._number_as_text(value, key, where)
        text = well_formed(value)
        if is_blank(text):
            raise self._row_error(where, f"{key}: the text is empty")
        return text if self.card.is_verbatim else text.strip()

    def _number_as_text(self, value: Any, key: str, where: LocateRow) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            raise self._row_error(where, f"{key}: got {value}, expected text or a finite number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._row_error(where, f"{key}: got {value!r:.60}, expected text")
        return str(value)

    def _row_error(self, where: LocateRow, why: str) -> MetalmError:
        return MetalmError(
            f"a row does not match the card {self.card.name}",
            where=where(),
            why=why,
            remedy=f"correct the card or leave such rows out with row_filter; then metalm tasks check {self.card.name}",
            exit_code=Exit.USAGE,
        )


def _class_name(value: Any, names: Sequence[str]) -> str | None:
    """Return the class name that a label spells, or None; booleans spell true and false, or yes and no."""
    if isinstance(value, bool):
        meant = [name for name in names if name.casefold() in BOOLEAN_NAMES[value]]
        return meant[0] if len(meant) == 1 else None
    return str(value) if isinstance(value, str | int | float) and str(value) in names else None
