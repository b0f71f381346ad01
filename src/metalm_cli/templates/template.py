"""Template files, which render the examples of a data set, and collections of them."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import TemplateError
from pydantic import Field, field_validator, model_validator

from metalm_cli.common.paths import expand_user, read_regular
from metalm_cli.config.locate import display, shipped_root
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.yaml_records import read_node, read_record
from metalm_cli.errors import MetalmError, NoTemplatesError
from metalm_cli.tasks import Card
from metalm_cli.tasks.expressions import ROW_NAME, names_in
from metalm_cli.templates.lint.rules import RULES

ANSWER_EXPRESSION = "{{ answer }}"
IMAGE_ENCODER = "vision"
"""Name of the encoder that images are docked into, unless a template names another."""
GENERIC_STEM = "any"
"""Stem of a collection's generic file, used for tasks without a file of their own."""
BUILTIN_NAMES = frozenset({"answer", "options", "choices", "rationale", "fields", "task", ROW_NAME})
"""Names available to every template, besides the card's fields."""
CHOICES_SEPARATOR = "|||"
"""Text between the answer choices of a template, as in promptsource."""


def _check_text(source: str) -> str:
    try:
        names_in(source, expression=False)
    except TemplateError as error:
        raise InconsistentValues(f"{source!r:.80} is not a valid template: {error!s:.300}") from error
    return source


def _check_rules(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise InconsistentValues(f"no rule is named {unknown[0]}", remedy=f"choose from {', '.join(RULES)}")
    return names


class InputPart(Section):
    """A part of an input with its own route: a text, an image field, or images in a text."""

    text: str = Field(default="", description="Text of this part, a Jinja template over the card's fields.")
    image: str | None = Field(
        default=None,
        description="Image field whose images are docked, before the text or at its marks. If encoder and "
        "image_encoder have the same name, one dock holds image and text, for an encoder that reads both.",
    )
    image_mark: str | None = Field(
        default=None, min_length=1, description="Text that stands for the next image, such as <image>."
    )
    image_encoder: str = Field(default=IMAGE_ENCODER, description="Name of the encoder that reads the images.")
    route: Literal["encoder", "decoder"] = Field(
        default="encoder", description="Whether the part is docked into an encoder, or read by the decoder."
    )
    encoder: str = Field(default="text", description="Name of the encoder that reads a docked part.")

    _check = field_validator("text")(_check_text)

    @model_validator(mode="after")
    def _is_complete(self) -> InputPart:
        if not self.text and self.image is None:
            raise InconsistentValues(
                "expected text or image, got none", remedy="write the text, or name an image field"
            )
        if self.image_mark is not None and (self.image is None or not self.text):
            raise InconsistentValues("a mark of images needs image and text", key="image_mark")
        return self

    @property
    def keys_without_effect(self) -> set[str]:
        """Keys that fingerprints leave out, because the part has no image."""
        return {"image", "image_mark", "image_encoder"} if self.image is None else set()

    @property
    def encoders(self) -> set[str]:
        """Names of the encoders that the part docks into."""
        names = {self.encoder} if self.text else set()
        return names if self.image is None else {*names, self.image_encoder}


class Template(Section):
    """A template: an input and a target."""

    one_of = (("input", "parts"),)
    renamed: ClassVar[dict[str, str]] = {"turned": "inverted"}

    name: str = Field(
        pattern=r"^[a-z0-9][\w-]*$",
        examples=["does-it-follow"],
        description="Name of the template, unique in its file.",
    )
    input: str | None = Field(default=None, description="The input: Jinja over the card's fields and options.")
    parts: list[InputPart] | None = Field(
        default=None, description="The input in several parts, each with its own route; instead of input."
    )
    target: str = Field(default=ANSWER_EXPRESSION, description="The target: Jinja over the card's fields and answer.")
    choices: str | None = Field(
        default=None,
        examples=["Yes ||| No"],
        description="Answer choices of this template, instead of the card's words or options and in their order: Jinja,"
        " with ||| between them.",
    )
    inverted: bool = Field(
        default=False,
        description="Whether the template asks for something other than the answer (FLAN's inverted templates); never"
        " scored.",
    )
    allow: list[str] = Field(default=[], description="Linter rules that the template breaks intentionally.")

    _check = field_validator("input", "target", "choices")(lambda value: None if value is None else _check_text(value))
    _allow = field_validator("allow")(_check_rules)

    @model_validator(mode="after")
    def _has_input(self) -> Template:
        if self.input is None and not self.parts:
            raise InconsistentValues("expected input or parts, got none", remedy="write the input")
        return self

    @property
    def keys_without_effect(self) -> set[str]:
        """Keys that fingerprints leave out, because the template does not use them."""
        return set() if self.choices is not None else {"choices"}

    @cached_property
    def input_parts(self) -> tuple[InputPart, ...]:
        """The input in parts; a single text is one docked part."""
        return tuple(self.parts) if self.parts is not None else (InputPart(text=self.input or ""),)

    @property
    def names(self) -> set[str]:
        """Names that the input, the target and the choices read."""
        texts = (self.target, self.choices or "", *self._input_texts())
        return set().union(*(names_in(text, expression=False) for text in texts))

    @property
    def input_names(self) -> set[str]:
        """Names that the input reads."""
        return set().union(*(names_in(text, expression=False) for text in self._input_texts()))

    @property
    def image_names(self) -> set[str]:
        """Image fields that the input docks."""
        return {part.image for part in self.input_parts if part.image is not None}

    def _input_texts(self) -> list[str]:
        return [part.text for part in self.input_parts]

    @property
    def lists_options(self) -> bool:
        """Whether the input lists the options."""
        return "options" in self.input_names


class TemplateFile(Section):
    """The templates of a data set in a collection."""

    description: str = Field(default="", description="One-line description of the templates.")
    origin: str = Field(default="", description="Where the templates were imported from.")
    optional: list[str] = Field(default=[], description="Fields that templates may leave out.")
    allow: list[str] = Field(default=[], description="Linter rules that all templates of the file break intentionally.")
    templates: list[Template] = Field(min_length=1, description="The templates; multi-task finetuning uses the first.")

    _allow = field_validator("allow")(_check_rules)

    @field_validator("templates")
    @classmethod
    def _names_differ(cls, templates: list[Template]) -> list[Template]:
        names = [template.name for template in templates]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InconsistentValues(
                f"expected distinct names, got {', '.join(repeated)} twice", remedy="rename one of them"
            )
        return templates


@cache
def read_templates(path: Path) -> TemplateFile:
    """Read a template file, or the templates of a task file that defines them itself.

    Args:
        path: YAML, or a Natural Instructions task (JSON), whose definition becomes templates.

    Raises:
        MetalmError: The file cannot be read or is invalid.
    """
    if path.suffix == ".json":
        return _definition_templates(path)
    return read_record(path, TemplateFile, "template file")


def is_template_file(path: Path) -> bool:
    """Whether a YAML file holds templates rather than a task card, whose ``templates`` is a name.

    Raises:
        MetalmError: The file is YAML and cannot be read.
    """
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    templates = read_node(path, "template file").value.get("templates")
    return templates is not None and isinstance(templates.value, list)


def _definition_templates(path: Path) -> TemplateFile:
    from metalm_cli.templates.importers.draft import ImportRefused
    from metalm_cli.templates.importers.natural_instructions import read

    try:
        drafts = read(read_regular(path).decode("utf-8"), {}, path.name)[0].drafts
    except (OSError, UnicodeDecodeError, ImportRefused) as error:
        raise MetalmError("cannot read the templates of a task", where=display(path), why=str(error)) from error
    templates = [
        Template(name=draft.name, input=draft.input, target=draft.target, allow=draft.allow) for draft in drafts
    ]
    return TemplateFile(origin=path.name, templates=templates)


class TemplateCollection:
    """A collection of template files, one per data set.

    Args:
        name: Name of a shipped collection (``flan``, ``t5``, ``plain``, ``none``), or a folder.

    Raises:
        MetalmError: There is no such collection.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        folder = expand_user(name)
        shipped = shipped_root("templates")
        self.folder = folder if folder.is_dir() and ("/" in name or name not in collection_names()) else shipped / name
        if not self.folder.is_dir():
            raise MetalmError(
                f"there is no template collection {name}",
                where=display(folder),
                remedy=f"choose from {', '.join(collection_names())}, or give a folder of template files",
            )

    def path_for(self, card: Card) -> Path:
        """Return the template file of a card: by its name, by its ``templates`` key, the generic file, or its own.

        Raises:
            MetalmError: Neither the collection nor the card has templates.
        """
        bundled = card.bundled_templates
        template_name = card.templates if bundled is None else None
        for name in (card.data_name, template_name, GENERIC_STEM):
            if name is not None and (self.folder / f"{name}.yaml").is_file():
                return self.folder / f"{name}.yaml"
        if bundled is not None:
            return bundled
        raise NoTemplatesError(
            f"the collection {self.name} has no templates for {card.name}",
            where=display(self.folder),
            remedy=f"write {template_name or card.name}.yaml there, or use plain, which serves every task",
        )

    def templates_for(self, card: Card) -> list[Template]:
        """Return the templates of a card.

        Raises:
            MetalmError: There are none, or a template reads a name that the card does not have.
        """
        path = self.path_for(card)
        templates = read_templates(path).templates
        if path.stem == GENERIC_STEM:
            templates = [with_images(template, card) for template in templates]
        for template in templates:
            _check_names(template, card, path)
        return templates


def with_images(template: Template, card: Card) -> Template:
    """Return a generic template with the images of a card in front of its input."""
    if not card.images:
        return template
    images = [InputPart(image=name) for name in card.images]
    texts = template.input_parts if card.fields or card.answer.class_names or card.answer.options else ()
    return Template(
        name=template.name,
        parts=[*images, *texts],
        target=template.target,
        inverted=template.inverted,
        allow=template.allow,
    )


def _check_names(template: Template, card: Card, path: Path) -> None:
    unknown = sorted((template.names - set(card.fields) - BUILTIN_NAMES) | (template.image_names - set(card.images)))
    if not unknown:
        return
    why = f"the card's fields are {', '.join(card.fields) or 'none'}"
    why += f"; its images are {', '.join(card.images)}" if card.images else ""
    remedy = "correct the name, or add the field to the card"
    if unknown[0] in card.images:
        remedy = f"dock the image in a part of its own: parts: [{{image: {unknown[0]}}}, …]"
    elif unknown[0] in card.fields:
        why = f"{unknown[0]} is a text; {why}"
        remedy = "name an image field of the card, or move the field to `images` of the card"
    raise MetalmError(
        f"template {template.name} of {card.name} reads {', '.join(unknown)}, which the card does not have",
        where=display(path),
        why=why,
        remedy=remedy,
    )


def collection_names() -> list[str]:
    """Return the names of the shipped collections."""
    return sorted(path.name for path in shipped_root("templates").iterdir() if path.is_dir())
