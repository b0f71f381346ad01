"""Template files: how the examples of a data set are put into words."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import TemplateError
from pydantic import Field, field_validator, model_validator

from metalm_cli.config.locate import display, shipped_root
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.yaml_records import read_record
from metalm_cli.errors import MetalmError, NoTemplatesError
from metalm_cli.tasks import PAIRS, Card
from metalm_cli.tasks.expressions import names_in
from metalm_cli.templates.lint.rules import RULES

ANSWER = "{{ answer }}"
GENERIC = "any"
"""File of a collection that serves data sets without one of their own."""
GIVEN = frozenset({"answer", "options", "choices", "rationale", "fields", "task"})
"""Names that every template may use, beside the card's fields."""


def _text(source: str) -> str:
    try:
        names_in(source, expression=False)
    except TemplateError as error:
        raise InconsistentValues(f"{source!r:.80} is no template: {error}") from error
    return source


def _rules(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise InconsistentValues(f"no rule is named {unknown[0]}", remedy=f"name some of {', '.join(RULES)}")
    return names


class InputPart(Section):
    """A part of an input, with a place of its own."""

    text: str = Field(description="Its text, Jinja over the fields.")
    route: Literal["encoder", "decoder"] = Field(default="encoder", description="Docked, or read by the decoder.")
    encoder: str = Field(default="text", description="The encoder that reads it, if docked.")

    _check = field_validator("text")(_text)


class Template(Section):
    """One wording."""

    one_of = (("input", "parts"),)
    renamed: ClassVar[dict[str, str]] = {"turned": "inverted"}

    name: str = Field(pattern=r"^[a-z0-9][\w-]*$", examples=["does-it-follow"], description="Its name in the file.")
    input: str | None = Field(default=None, description="The input, Jinja over the fields and options.")
    parts: list[InputPart] | None = Field(default=None, description="The input in parts that are routed apart.")
    target: str = Field(default=ANSWER, description="What is to be said, Jinja over the fields and answer.")
    inverted: bool = Field(default=False, description="Asks for something else than the answer; never scored.")
    allow: list[str] = Field(default=[], description="Rules of the linter that it is meant to break.")

    _check = field_validator("input", "target")(lambda value: None if value is None else _text(value))
    _allow = field_validator("allow")(_rules)

    @model_validator(mode="after")
    def _some_input(self) -> Template:
        if self.input is None and not self.parts:
            raise InconsistentValues("expected input or parts, got none", remedy="write the input")
        return self

    @cached_property
    def pieces(self) -> tuple[InputPart, ...]:
        """The input in parts; one, docked, where it is a single text."""
        return tuple(self.parts) if self.parts is not None else (InputPart(text=self.input or ""),)

    @property
    def reads(self) -> set[str]:
        """Names that input and target read."""
        return set().union(*(names_in(text, expression=False) for text in (self.target, *self._texts())))

    @property
    def input_reads(self) -> set[str]:
        """Names that the input reads."""
        return set().union(*(names_in(text, expression=False) for text in self._texts()))

    def _texts(self) -> list[str]:
        return [part.text for part in self.pieces]

    @property
    def lists_options(self) -> bool:
        """Whether the input lists the options."""
        return "options" in self.input_reads


class TemplateFile(Section):
    """The templates of a data set in a collection."""

    description: str = Field(default="", description="A line about them.")
    origin: str = Field(default="", description="Where imported templates come from.")
    optional: list[str] = Field(default=[], description="Fields that templates may leave out.")
    allow: list[str] = Field(default=[], description="Rules of the linter that all of them are meant to break.")
    templates: list[Template] = Field(min_length=1, description="The templates; the first is multi-task finetuning's.")

    _allow = field_validator("allow")(_rules)

    @field_validator("templates")
    @classmethod
    def _names_differ(cls, templates: list[Template]) -> list[Template]:
        names = [one.name for one in templates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InconsistentValues(f"expected different names, got {', '.join(twice)} twice", remedy="rename one")
        if all(one.inverted for one in templates):
            raise InconsistentValues("every template is turned around", remedy="write one that asks for the answer")
        return templates


@cache
def read_templates(path: Path) -> TemplateFile:
    """A template file, or the templates of a task that has none but says how it is put.

    Args:
        path: YAML; a task of Natural Instructions (JSON), whose definition becomes templates; or JSON lines of
            ``{input, target}``, whose inputs are prompts already.

    Raises:
        MetalmError: It cannot be read, or does not fit.
    """
    if path.suffix == ".json":
        return _defined(path)
    if path.name.endswith(PAIRS):
        return TemplateFile(templates=[Template(name="input", input="{{ input }}")])
    return read_record(path, TemplateFile, "template file")


def _defined(path: Path) -> TemplateFile:
    from metalm_cli.templates.importers.draft import ImportRefused
    from metalm_cli.templates.importers.natural_instructions import read

    try:
        drafts = read(path.read_text(encoding="utf-8"), {}, path.name)[0].drafts
    except (OSError, UnicodeDecodeError, ImportRefused) as error:
        raise MetalmError("a task gives no templates", where=display(path), why=str(error)) from error
    templates = [Template(name=one.name, input=one.input, target=one.target, allow=one.allow) for one in drafts]
    return TemplateFile(origin=path.name, templates=templates)


class Collection:
    """Templates of one manner, a file a data set.

    Args:
        name: A shipped collection (``flan``, ``t5``, ``plain``, ``none``), or a folder.

    Raises:
        MetalmError: There is no such collection.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        folder = Path(name).expanduser()
        shipped = shipped_root("templates")
        self.folder = folder if folder.is_dir() and ("/" in name or name not in collections()) else shipped / name
        if not self.folder.is_dir():
            raise MetalmError(
                f"there is no collection of templates {name}",
                where=display(folder),
                remedy=f"name one of {', '.join(collections())}, or a folder of template files",
            )

    def path(self, card: Card) -> Path:
        """The file that serves a card: of its name, of the name that it gives, for all tasks, or its own.

        Raises:
            MetalmError: The collection has none, and the card brings none along.
        """
        own = card.own_templates
        named = card.templates if own is None else None
        for name in (card.name, named, GENERIC):
            if name is not None and (self.folder / f"{name}.yaml").is_file():
                return self.folder / f"{name}.yaml"
        if own is not None:
            return own
        raise NoTemplatesError(
            f"the collection {self.name} has no templates for {card.name}",
            where=display(self.folder),
            remedy=f"write {named or card.name}.yaml there, or use plain, which serves every task",
        )

    def of(self, card: Card) -> list[Template]:
        """The templates of a card.

        Raises:
            MetalmError: There are none, or one reads what the card does not have.
        """
        path = self.path(card)
        found = read_templates(path).templates
        for template in found:
            unknown = sorted(template.reads - set(card.fields) - GIVEN)
            if unknown:
                raise MetalmError(
                    f"template {template.name} of {card.name} reads {', '.join(unknown)}, which the card does not have",
                    where=display(path),
                    why=f"its fields: {', '.join(card.fields)}",
                    remedy="correct the name, or add the field to the card",
                )
        return found


def collections() -> list[str]:
    """Names of the shipped collections."""
    return sorted(path.name for path in shipped_root("templates").iterdir() if path.is_dir())
