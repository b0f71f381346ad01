"""Task cards: one declarative record a data set, from its columns to examples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from jinja2 import TemplateError
from pydantic import Field, field_validator, model_validator

from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.tasks.expressions import names_in

CLUSTERS = (
    "nli",
    "sentiment",
    "paraphrase",
    "coreference",
    "commonsense",
    "reading",
    "misc",
    "closed_book_qa",
    "struct_to_text",
    "summarization",
)
"""Ids of the paper's ten clusters: published, stable."""

SPLIT = re.compile(r"(?P<name>[A-Za-z0-9_][\w.-]*)(\[(?P<first>-?\d+)?:(?P<last>-?\d+)?\])?\Z")

Expression = Annotated[str, Field(min_length=1)]
"""A Jinja expression over the columns of a row."""


@dataclass(frozen=True)
class Split:
    """Rows of a split: its name, and a slice of it (Python's).

    Example:
        >>> Split.parse("train[-200:]")
        Split(name='train', first=-200, last=None)
    """

    name: str
    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Split:
        """Raises ValueError for what is no split."""
        found = SPLIT.match(text)
        if found is None:
            raise ValueError(f"expected a split such as train or train[-200:], got {text!r}")
        first, last = (None if found[part] is None else int(found[part]) for part in ("first", "last"))
        return cls(found["name"], first, last)

    def rows(self, count: int) -> range:
        """The rows of the slice, of so many."""
        return range(count)[self.first : self.last]


def _expression(source: str) -> str:
    try:
        names_in(source)
    except TemplateError as error:
        raise InconsistentValues(
            f"{source!r} is no expression: {error}", remedy="write a column, or Jinja over columns"
        ) from error
    return source


def _splits(splits: dict[str, str]) -> dict[str, str]:
    for text in splits.values():
        try:
            Split.parse(text)
        except ValueError as error:
            raise InconsistentValues(str(error)) from error
    return splits


class Hub(Section):
    """Where a data set is on the hub."""

    id: str = Field(description="Data set, as owner/name.")
    config: str | None = Field(default=None, description="Its configuration.")
    revision: str | None = Field(default=None, description="Its revision.")


class Local(Section):
    """Where a data set is below --data-root, where that differs from the hub."""

    name: str = Field(description="Folder.")
    splits: dict[str, str] = Field(default={}, description="Splits that differ from the card's, by role.")

    _check = field_validator("splits")(_splits)


class Answer(Section):
    """How a row says what the answer is: a class, one of its own options, or a text."""

    one_of = (("label", "index", "text"),)
    renamed: ClassVar[dict[str, str]] = {"names": "class_names", "words": "verbalizers"}

    label: Expression | None = Field(default=None, description="Class id or class name of the row.")
    class_names: list[str] = Field(default=[], description="Class names of the data set, in the order of their ids.")
    verbalizers: dict[str, str] = Field(default={}, description="What each class is called in answers and options.")
    options: Expression | None = Field(default=None, description="The row's options, a list of texts.")
    index: Expression | None = Field(default=None, description="Number of the right option, from 0.")
    text: Expression | None = Field(default=None, description="The answer, or a list of references.")
    rationale: Expression | None = Field(default=None, description="The reasoning that leads to the answer.")

    _check = field_validator("label", "options", "index", "text", "rationale")(
        lambda value: None if value is None else _expression(value)
    )

    @model_validator(mode="after")
    def _whole(self) -> Answer:
        if self.label is None and self.index is None and self.text is None:
            raise InconsistentValues("expected label, index or text, got none", remedy="say where the answer stands")
        if self.label is not None:
            if not self.class_names:
                raise InconsistentValues(
                    "missing: class names", key="class_names", remedy="list the data set's names by id"
                )
            if set(self.verbalizers) != set(self.class_names):
                odd = ", ".join(sorted(set(self.verbalizers) ^ set(self.class_names)))
                raise InconsistentValues(
                    f"expected one word for each class name, got a difference in {odd}", key="verbalizers"
                )
            if len(set(self.verbalizers.values())) < len(self.verbalizers):
                raise InconsistentValues(
                    "two classes have the same word", key="verbalizers", remedy="make them different"
                )
        if self.index is not None and self.options is None:
            raise InconsistentValues(
                "missing: an index counts options", key="options", remedy="say where the options stand"
            )
        return self


class LongInputs(Section):
    """The one field that may be cut when a session is too long."""

    renamed: ClassVar[dict[str, str]] = {"cut": "truncate"}

    field: str = Field(description="Its name.")
    truncate: Literal["tail", "head", "middle"] = Field(default="tail", description="Which part goes first.")


MetricName = Literal[
    "accuracy",
    "exact_match",
    "token_f1",
    "trivia_em",
    "trivia_f1",
    "drop_em",
    "drop_f1",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "chrf",
    "number",
    "s1",
]
"""What ``evaluation/metrics.py`` knows; exact_match and token_f1 are SQuAD's."""


class Metric(Section):
    """How answers are scored."""

    name: MetricName = Field(description="Primary metric.")
    also: list[MetricName] = Field(default=[], description="Further columns, beside those that go with the metric.")
    source: str = Field(description="Who scores this data set so.")


class Card(Section):
    """A task card."""

    one_of = (("hub", "world", "file"),)
    kind: ClassVar[str] = "task card"
    renamed: ClassVar[dict[str, str]] = {"use": "usage", "where": "row_filter", "long": "long_inputs"}
    renamed_values: ClassVar[dict[str, dict[str, str]]] = {"usage": {"train+eval": "train_and_eval"}}

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", examples=["rte"], description="Name; the file's.")
    cluster: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", examples=["nli"], description="Cluster; the paper's ten.")
    description: str = Field(description="What is asked, in a line.")
    core: bool = Field(default=False, description="One of the paper's: mixtures and clusters take these.")
    usage: Literal["train_and_eval", "eval"] = Field(default="train_and_eval", description="May it be trained on?")
    hub: Hub | None = Field(default=None, description="Where it is on the hub.")
    file: str | None = Field(default=None, description="A JSONL or CSV file, relative to the card.")
    world: str | None = Field(default=None, description="A task of the embedded miniature world.")
    local: Local | None = Field(default=None, description="Where it is below --data-root.")
    splits: dict[str, str] = Field(
        description="Split of each role (train, validation, test, ...), such as train[:-200]."
    )
    row_filter: Expression | None = Field(default=None, description="Rows for which this is false are left out.")
    fields: dict[str, str] = Field(description="What templates may use: an expression over the columns each.")
    answer: Answer = Field(description="What the answer is.")
    long_inputs: LongInputs | None = Field(default=None, description="The one field that may be cut.")
    demonstrations: str = Field(default="train", description="Role that demonstrations come from.")
    metric: Metric = Field(description="How answers are scored.")
    templates: str | None = Field(
        default=None,
        description="Name of its template files; default the card's. Or a file that it brings along (x.yaml).",
    )
    tags: list[str] = Field(default=[], description="Tags that leak rules speak of.")
    language: str = Field(default="en", description="Language code.")
    licence: str = Field(description="Licence of the data, or unknown.")
    citation: str = Field(description="Whom to cite.")

    _fields = field_validator("fields")(lambda value: {key: _expression(source) for key, source in value.items()})
    _row_filter = field_validator("row_filter")(lambda value: None if value is None else _expression(value))
    _splits = field_validator("splits")(_splits)

    @model_validator(mode="after")
    def _fits(self) -> Card:
        if self.hub is None and self.world is None and self.file is None:
            raise InconsistentValues("expected one of hub, file and world, got none", remedy="say where the rows are")
        reserved = {"answer", "options", "choices", "rationale", "fields", "task", "demonstrations"} & set(self.fields)
        if reserved:
            raise InconsistentValues(f"a field cannot be named {', '.join(sorted(reserved))}", key="fields")
        if self.long_inputs is not None and self.long_inputs.field not in self.fields:
            known = ", ".join(self.fields)
            raise InconsistentValues(f"got {self.long_inputs.field}, expected one of {known}", key="long_inputs.field")
        two = sorted({"f1", "matthews"} & set(self.metric.also))
        if two and self.answer.label is not None and len(self.answer.class_names) != 2:
            raise InconsistentValues(
                f"{two[0]} needs two classes, got {len(self.answer.class_names)}", key="metric.also"
            )
        if self.demonstrations not in self.splits and self.usage == "train_and_eval":
            raise InconsistentValues(f"got {self.demonstrations}, expected one of the roles", key="demonstrations")
        return self

    @property
    def own_templates(self) -> Path | None:
        """The template file that the card brings along; it serves where a collection has none."""
        return Path(self.templates) if self.templates is not None and "." in self.templates else None

    @property
    def columns(self) -> set[str]:
        """Columns that the card reads."""
        answer = (self.answer.label, self.answer.options, self.answer.index, self.answer.text, self.answer.rationale)
        sources = [*self.fields.values(), *(one for one in (self.row_filter, *answer) if one is not None)]
        return set().union(*map(names_in, sources))

    @property
    def verbalizers(self) -> tuple[str, ...]:
        """Answer words by class id; empty where a row has options or texts of its own."""
        return tuple(self.answer.verbalizers[name] for name in self.answer.class_names)

    def split(self, role: str, local: bool) -> Split | None:
        """The split of a role, on the hub or below ``--data-root``; None: the card has none."""
        own = self.local.splits if local and self.local is not None else {}
        text = own.get(role, self.splits.get(role))
        return None if text is None else Split.parse(text)
