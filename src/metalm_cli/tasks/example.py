"""From a row to an example: what templates render and metrics score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError, UndefinedError

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.tasks.card import Card
from metalm_cli.tasks.expressions import compile_expression


@dataclass(frozen=True)
class Example:
    """One example of a task.

    Args:
        task: Name of its card.
        row: Its row in the split.
        fields: What templates use, by name.
        answers: Right answers; the first is the one that trains.
        options: What the answer is chosen from, in the order they are listed; empty for open tasks.
        label: Number of the right option, or None.
        rationale: The reasoning that leads to the answer, or empty.
    """

    task: str
    row: int
    fields: Mapping[str, str]
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    label: int | None = None
    rationale: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


Where = Callable[[], str]


class ExampleMaker:
    """Reads the rows of a card.

    Args:
        card: The card.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self._words = card.verbalizers
        self._fields = {name: compile_expression(source) for name, source in card.fields.items()}
        answer = card.answer
        self._where, self._label, self._options, self._index, self._text, self._rationale = (
            None if source is None else compile_expression(source)
            for source in (card.row_filter, answer.label, answer.options, answer.index, answer.text, answer.rationale)
        )

    def __reduce__(self) -> Any:
        return ExampleMaker, (self.card,)

    def __call__(self, row: Any, number: int, where: Where) -> Example | None:
        """The example in a row.

        Args:
            row: Its columns.
            number: Its number in the split.
            where: Says where it stands.

        Returns:
            None for a row that the card leaves out.

        Raises:
            MetalmError: A column is missing, a class is out of range, the answer is not among the options, a text is
                empty.
        """
        if not isinstance(row, Mapping):
            raise self._wrong(where, f"got {type(row).__name__}, expected an object with columns")
        if self._where is not None and not self._read(self._where, row, "where", where):
            return None
        fields = {
            name: self._string(self._read(read, row, f"fields.{name}", where), f"fields.{name}", where)
            for name, read in self._fields.items()
        }
        answers, options, label = self._answer(row, where)
        rationale = ""
        if self._rationale is not None:
            rationale = self._string(
                self._read(self._rationale, row, "answer.rationale", where), "answer.rationale", where
            )
        return Example(self.card.name, number, fields, answers, options, label, rationale, row)

    def _answer(self, row: Any, where: Where) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
        if self._label is not None:
            words = self._words
            label = self._class(self._read(self._label, row, "answer.label", where), where)
            return (words[label],), words, label
        options: tuple[str, ...] = ()
        if self._options is not None:
            options = self._strings(self._read(self._options, row, "answer.options", where), "answer.options", where)
            if len(options) < 2:
                raise self._wrong(where, f"answer.options: got {len(options)}, expected at least two")
        if self._index is not None:
            index = self._read(self._index, row, "answer.index", where)
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
                raise self._wrong(where, f"answer.index: got {index!r}, expected 0 to {len(options) - 1}")
            return (options[index],), options, index
        assert self._text is not None, "the card has one of the three"
        found = self._read(self._text, row, "answer.text", where)
        answers = self._strings(found if isinstance(found, list | tuple) else [found], "answer.text", where)
        if options and answers[0] not in options:
            raise self._wrong(where, f"the answer {answers[0]!r} is not among the options {', '.join(options)}")
        return answers, options, options.index(answers[0]) if options else None

    def _class(self, value: Any, where: Where) -> int:
        names = self.card.answer.class_names
        if isinstance(value, str) and value in names:
            return names.index(value)
        if isinstance(value, int | bool) and 0 <= int(value) < len(names):
            return int(value)
        why = f"answer.label: got {value!r}, expected 0 to {len(names) - 1} or one of {', '.join(names)}"
        hint = "; -1 marks rows without a label: set `where` to leave them out" if value == -1 else ""
        raise self._wrong(where, why + hint)

    def _read(self, read: Callable[[Any], Any], row: Any, key: str, where: Where) -> Any:
        try:
            return read(row)
        except UndefinedError as error:
            columns = ", ".join(map(str, row)) or "none"
            raise self._wrong(where, f"{key}: {error.message}; the row's columns are {columns}") from error
        except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise self._wrong(where, f"{key}: {error}") from error

    def _strings(self, values: Any, key: str, where: Where) -> tuple[str, ...]:
        if not isinstance(values, list | tuple) or not values:
            raise self._wrong(where, f"{key}: got {values!r:.60}, expected a list of texts that is not empty")
        return tuple(self._string(value, key, where) for value in values)

    def _string(self, value: Any, key: str, where: Where) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self._wrong(where, f"{key}: got {value!r:.60}, expected text")
        text = value.strip()
        if not text:
            raise self._wrong(where, f"{key}: the text is empty")
        return text

    def _wrong(self, where: Where, why: str) -> MetalmError:
        return MetalmError(
            f"a row does not fit the card of {self.card.name}",
            where=where(),
            why=why,
            remedy=f"correct the card, or leave such rows out with its `where`; metalm tasks check {self.card.name}",
            exit_code=Exit.USAGE,
        )
