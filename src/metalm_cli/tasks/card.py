"""Task cards: the declarative description of a data set, from its columns to examples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from jinja2 import TemplateError
from pydantic import Field, field_validator, model_validator

from metalm_cli.common import registry
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
"""Ids of the paper's ten clusters of texts; published, so they must not change."""

VISION_CLUSTERS = ("captioning", "visual_qa", "visual_reasoning", "visual_entailment")
"""Ids of the clusters of tasks with images; published, so they must not change."""

COMPLETE_PROMPTS = Path(__file__).parent / "complete_prompts.yaml"
"""Template file of rows that hold complete inputs and targets."""
PROMPTS_WITH_IMAGES = Path(__file__).parent / "prompts_with_images.yaml"
"""Template file of such rows with images, which the marks in their texts stand for."""
DEFAULT_VALIDATION_SHARE = 0.05

SPLIT_PATTERN = re.compile(r"(?P<name>[A-Za-z0-9_][\w.-]*)(\[(?P<first>-?\d+)?:(?P<last>-?\d+)?\])?\Z")

RESERVED_NAMES = {"answer", "options", "choices", "rationale", "fields", "task", "demonstrations"}
"""Names of templates that no field may have."""

Expression = Annotated[str, Field(min_length=1)]
"""A Jinja expression over the columns of a row."""


@dataclass(frozen=True)
class Split:
    """A split, optionally sliced as in Python.

    Example:
        >>> Split.parse("train[-200:]")
        Split(name='train', first=-200, last=None)
    """

    name: str
    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Split:
        """Parse a split such as ``train`` or ``train[-200:]``.

        Raises:
            ValueError: The text is not a split.
        """
        match = SPLIT_PATTERN.match(text)
        if match is None:
            raise ValueError(f"expected a split such as train or train[-200:], got {text!r}")
        first, last = (None if match[part] is None else int(match[part]) for part in ("first", "last"))
        return cls(match["name"], first, last)

    def rows(self, row_count: int) -> range:
        """Return the rows of the slice, given the number of rows of the split."""
        return range(row_count)[self.first : self.last]


def _check_expression(source: str) -> str:
    try:
        names_in(source)
    except TemplateError as error:
        raise InconsistentValues(
            f"{source!r:.80} is not a valid expression: {error!s:.300}",
            remedy="use a column name or a Jinja expression",
        ) from error
    return source


def _check_splits(splits: dict[str, str]) -> dict[str, str]:
    for text in splits.values():
        try:
            Split.parse(text)
        except ValueError as error:
            raise InconsistentValues(str(error)) from error
    return splits


class HubDataset(Section):
    """A data set on the Hugging Face hub."""

    id: str = Field(description="Hub id of the data set (owner/name).")
    config: str | None = Field(default=None, description="Configuration (subset) of the data set on the hub.")
    revision: str | None = Field(default=None, description="Revision of the data set: a branch, tag or commit.")


class LocalDataset(Section):
    """The local copy of a data set below --data-root, if its folder or splits differ from the hub's."""

    name: str = Field(description="Name of the folder.")
    splits: dict[str, str] = Field(default={}, description="Splits that differ from the card's, by role.")

    _check = field_validator("splits")(_check_splits)


class AnswerSpec(Section):
    """How to obtain the answer from a row: as a class, as one of the row's options, or as a text."""

    one_of = (("label", "index", "text"),)
    renamed: ClassVar[dict[str, str]] = {"names": "class_names", "words": "verbalizers"}

    label: Expression | None = Field(
        default=None, description="Expression for the row's class: an id (from 0) or a class name."
    )
    class_names: list[str] = Field(default=[], description="Class names of the data set, in the order of their ids.")
    verbalizers: dict[str, str] = Field(
        default={}, description="Word of each class name, used as answer and as option, without surrounding spaces."
    )
    options: Expression | None = Field(
        default=None, description="Expression for the row's answer options, a list of texts."
    )
    index: Expression | None = Field(
        default=None, description="Expression for the index of the correct option, from 0."
    )
    text: Expression | None = Field(
        default=None, description="Expression for the answer text, or for a list of reference answers."
    )
    rationale: Expression | None = Field(
        default=None, description="Expression for the reasoning that leads to the answer."
    )

    _check = field_validator("label", "options", "index", "text", "rationale")(
        lambda value: None if value is None else _check_expression(value)
    )

    _strip = field_validator("verbalizers")(lambda words: {name: word.strip() for name, word in words.items()})

    @model_validator(mode="after")
    def _is_complete(self) -> AnswerSpec:
        if self.label is None and self.index is None and self.text is None:
            raise InconsistentValues("expected label, index or text, got none", remedy="set one of them")
        if self.label is not None:
            if not self.class_names:
                raise InconsistentValues(
                    "missing, label needs class names", key="class_names", remedy="list the class names in id order"
                )
            if set(self.verbalizers) != set(self.class_names):
                difference = ", ".join(sorted(set(self.verbalizers) ^ set(self.class_names)))
                raise InconsistentValues(
                    f"expected a word for each class name, no match for {difference}", key="verbalizers"
                )
            if not all(self.verbalizers.values()):
                raise InconsistentValues(
                    "the word of a class is empty", key="verbalizers", remedy="write a word for each class"
                )
            if len(set(self.verbalizers.values())) < len(self.verbalizers):
                raise InconsistentValues(
                    "two classes have the same word", key="verbalizers", remedy="use distinct words"
                )
        if self.index is not None and self.options is None:
            raise InconsistentValues(
                "missing, index needs options", key="options", remedy="set the expression of the options"
            )
        return self


class LongInputs(Section):
    """The field that may be truncated if a session is too long."""

    renamed: ClassVar[dict[str, str]] = {"cut": "truncate"}

    field: str = Field(description="Name of the field.")
    truncate: Literal["tail", "head", "middle"] = Field(
        default="tail", description="Part of the text that is removed first: tail, head or middle."
    )


if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[tuple(registry.metrics.names())]
"""A registered metric; those of metalm that are named after a data set follow its official script."""


class Metric(Section):
    """How answers are scored."""

    name: MetricName = Field(description="Primary metric.")
    also: list[MetricName] = Field(
        default=[], description="Additional metrics to report, besides those that accompany the primary metric."
    )
    source: str = Field(description="Benchmark or paper that scores the data set with this metric.")


class Card(Section):
    """A task card."""

    one_of = (("hub", "world", "file"),)
    kind: ClassVar[str] = "task card"
    renamed: ClassVar[dict[str, str]] = {"use": "usage", "where": "row_filter", "long": "long_inputs"}
    renamed_values: ClassVar[dict[str, dict[str, str]]] = {"usage": {"train+eval": "train_and_eval"}}

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_]*$", examples=["rte"], description="Name of the task; must equal the file's stem."
    )
    cluster: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_]*$",
        examples=["nli"],
        description="Cluster of the task: one of the paper's ten, or your own.",
    )
    description: str = Field(description="One-line description of what the task asks.")
    core: bool = Field(
        default=False,
        description="Whether the task is part of the paper's task set, which cluster names select by default.",
    )
    usage: Literal["train_and_eval", "eval"] = Field(
        default="train_and_eval", description="Whether the task may be used for training, or only for evaluation."
    )
    hub: HubDataset | None = Field(default=None, description="Data set on the Hugging Face hub.")
    file: str | None = Field(
        default=None,
        description="JSONL, JSON, CSV, TSV, Parquet or text file, a folder of save_to_disk, or WebDataset shards: a "
        "tar file, a pattern such as train-{000..010}.tar, or their folder; relative paths start at the card's folder.",
    )
    world: str | None = Field(default=None, description="Name of a task of the embedded miniature world.")
    local: LocalDataset | None = Field(
        default=None, description="Name and splits of the local copy below --data-root, if they differ from the hub's."
    )
    splits: dict[str, str] = Field(
        description="Split of each role (train, validation, test, ...), optionally with a slice, such as train[:-200]."
    )
    validation_share: float = Field(
        default=DEFAULT_VALIDATION_SHARE,
        ge=0,
        lt=1,
        description="Share of the training rows that validate instead, if validation names the same rows as train, or "
        "if a file has no other split than train; chosen by a hash of the input. 0: none.",
    )
    row_filter: Expression | None = Field(
        default=None, description="Expression that must be true; other rows are left out."
    )
    fields: dict[str, str] = Field(
        description="Fields available to templates, each an expression over the columns of a row."
    )
    optional_fields: list[str] = Field(
        default=[],
        description="Fields that may be empty: a missing, null or blank value is an empty text, or no image. "
        "Templates write {% if field %}.",
    )
    images: dict[str, Expression] = Field(
        default={},
        description="Image fields available to templates, each an expression for an image (a path, bytes, or bytes and "
        "path as in the Image feature of datasets) or a list of images.",
    )
    image_folder: str | None = Field(
        default=None,
        description="Folder that the paths of images start at and do not leave; a relative one starts at the folder "
        "of the data. Default: the folder of the data.",
    )
    answer: AnswerSpec = Field(description="How to obtain the answer from a row.")
    long_inputs: LongInputs | None = Field(
        default=None, description="Field that may be truncated if a session is too long."
    )
    demonstrations: str = Field(default="train", description="Role of the split that demonstrations are drawn from.")
    metric: Metric = Field(description="How answers are scored.")
    templates: str | None = Field(
        default=None,
        description="Name of the task's template files in a collection; default: the card's name. Or a template file "
        "that belongs to the card (x.yaml).",
    )
    tags: list[str] = Field(default=[], description="Tags, which leak rules refer to.")
    language: str = Field(default="en", description="Language code of the texts; und: unknown.")
    licence: str = Field(description="Licence of the data, or unknown.")
    citation: str = Field(description="Reference to cite.")

    _fields = field_validator("fields", "images")(
        lambda value: {key: _check_expression(source) for key, source in value.items()}
    )
    _row_filter = field_validator("row_filter")(lambda value: None if value is None else _check_expression(value))
    _splits = field_validator("splits")(_check_splits)

    @model_validator(mode="after")
    def _is_consistent(self) -> Card:
        if self.hub is None and self.world is None and self.file is None:
            raise InconsistentValues("expected one of hub, file and world, got none", remedy="set one of them")
        self._check_field_names()
        if self.long_inputs is not None and self.long_inputs.field not in self.fields:
            known = ", ".join(self.fields)
            raise InconsistentValues(f"got {self.long_inputs.field}, expected one of {known}", key="long_inputs.field")
        binary_metrics = sorted({"f1", "matthews"} & set(self.metric.also))
        if binary_metrics and self.answer.label is not None and len(self.answer.class_names) != 2:
            raise InconsistentValues(
                f"{binary_metrics[0]} needs two classes, the card has {len(self.answer.class_names)}", key="metric.also"
            )
        if self.demonstrations not in self.splits and self.usage == "train_and_eval":
            raise InconsistentValues(f"got {self.demonstrations}, expected a role of splits", key="demonstrations")
        return self

    def _check_field_names(self) -> None:
        names = [*self.fields, *self.images]
        if reserved := RESERVED_NAMES & set(names):
            raise InconsistentValues(f"reserved field name: {', '.join(sorted(reserved))}", key="fields")
        if repeated := sorted(set(self.fields) & set(self.images)):
            raise InconsistentValues(f"{repeated[0]} is both a text and an image", key="images")
        if unknown := [name for name in self.optional_fields if name not in names]:
            raise InconsistentValues(
                f"got {unknown[0]}, expected fields of the card: {', '.join(names)}", key="optional_fields"
            )
        if self.image_folder is not None and not self.images:
            raise InconsistentValues("got a folder of images, but the card has no images", key="image_folder")

    @property
    def data_name(self) -> str:
        """Name of the task in prompts, messages and training records; that of the original for a derived card."""
        return self.name

    @property
    def bundled_templates(self) -> Path | None:
        """Template file that belongs to the card, used if a collection has no templates for the task."""
        return Path(self.templates) if self.templates is not None and "." in self.templates else None

    @property
    def is_verbatim(self) -> bool:
        """Whether rows hold complete inputs and targets, whose texts are used exactly as they are."""
        return self.templates in (str(COMPLETE_PROMPTS), str(PROMPTS_WITH_IMAGES))

    @property
    def shares_validation(self) -> bool:
        """Whether training and validation share the same rows, of which ``validation_share`` are for validation."""
        return bool(self.validation_share) and self.splits.get("train", "") == self.splits.get("validation")

    @property
    def keys_without_effect(self) -> set[str]:
        """Keys that fingerprints leave out, because the card does not use them."""
        keys = {
            "validation_share": self.shares_validation,
            "optional_fields": bool(self.optional_fields),
            "images": bool(self.images),
            "image_folder": self.image_folder is not None,
        }
        return {key for key, has_effect in keys.items() if not has_effect}

    @property
    def columns(self) -> set[str]:
        """Columns that the card's expressions read."""
        answer = (self.answer.label, self.answer.options, self.answer.index, self.answer.text, self.answer.rationale)
        fields = (*self.fields.values(), *self.images.values())
        sources = [*fields, *(source for source in (self.row_filter, *answer) if source is not None)]
        return set().union(*map(names_in, sources))

    @property
    def verbalizers(self) -> tuple[str, ...]:
        """Words of the classes, in the order of their ids; empty if rows have options or texts of their own."""
        return tuple(self.answer.verbalizers[name] for name in self.answer.class_names)

    def split(self, role: str, local: bool) -> Split | None:
        """Return the split of a role, on the hub or below ``--data-root``; None if the card has none."""
        local_splits = self.local.splits if local and self.local is not None else {}
        text = local_splits.get(role, self.splits.get(role))
        return None if text is None else Split.parse(text)
