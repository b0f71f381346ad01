"""The schema of ``metalm finetune`` and ``metalm instruct``: tasks instead of documents."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from metalm_cli.config.schema.base import InconsistentValues, Section


class TemplateOptions(Section):
    """How examples are put into words."""

    renamed: ClassVar[dict[str, str]] = {
        "choose": "template_sampling",
        "count": "templates_per_task",
        "turned": "inverted",
        "options": "show_options",
        "rationale": "rationales",
        "route": "input_route",
    }

    collection: str = Field(default="flan", description="flan, t5, plain, none, or a folder of template files.")
    template_sampling: Literal["first", "index", "seed"] = Field(
        default="first",
        description="The first template of each task; template i by example index, as FLAN does; or drawn by seed.",
    )
    templates_per_task: int | None = Field(
        default=None, ge=1, description="Take the first N templates of each task; default all."
    )
    inverted: bool = Field(
        default=True, description="Train on turned-around templates too (not with template_sampling: first)."
    )
    show_options: bool = Field(default=True, description="List the options where a template does.")
    rationales: bool = Field(default=False, description="Train the rationale, then the answer, where a task has one.")
    input_route: Literal["template", "encoder", "decoder"] = Field(
        default="template", description="Where inputs go: as the template says, all docked, or all to the decoder."
    )


class Demonstrations(Section):
    """Answered examples of the same task in front of each."""

    renamed: ClassVar[dict[str, str]] = {
        "count": "shots",
        "layout": "demonstration_layout",
        "tokens": "max_tokens",
    }

    shots: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        default=[0, 0], description="How many, drawn uniformly from [least, most]."
    )
    demonstration_layout: Literal["docks", "joined"] = Field(
        default="docks", description="Each input docked and each answer causal; or all as one text before the input."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most decoder tokens of all demonstrations; what does not fit is left out."
    )

    @field_validator("shots")
    @classmethod
    def _ordered(cls, value: list[int]) -> list[int]:
        if not 0 <= value[0] <= value[1]:
            raise InconsistentValues(f"expected [least, most], got {value}")
        return value


class MixtureGroup(Section):
    """Part of a nested mixture."""

    tasks: list[str] = Field(min_length=1, description="Tasks or clusters.")
    weight: float = Field(gt=0, description="Share of the group.")
    strategy: Literal["proportional", "equal"] = Field(default="proportional", description="Rates inside the group.")


class Mixture(Section):
    """How often each task is drawn."""

    strategy: Literal["proportional", "equal", "explicit"] = Field(
        default="proportional",
        description="By number of examples, all alike, or by `weights`.",
    )
    cap_examples: int | None = Field(default=30_000, ge=1, description="Most training examples used of each task.")
    max_rate: int | None = Field(
        default=None, ge=1, description="Examples beyond which a task's rate does not grow (FLAN: 3,000)."
    )
    temperature: float = Field(default=1.0, gt=0, description="Rates to the power of 1 / temperature, after max_rate.")
    weights: dict[str, float] = Field(default={}, description="Rates by task, for strategy: explicit.")
    groups: list[MixtureGroup] = Field(
        default=[], description="Groups with shares of their own; tasks in none are not drawn."
    )


class TaskValidation(Section):
    """Validation examples of every task that trains."""

    renamed: ClassVar[dict[str, str]] = {"tokens": "tokens_per_task"}

    examples: int = Field(default=100, ge=0, description="Examples per task; 0: no validation.")
    tokens_per_task: int | None = Field(default=20_000, ge=1, description="Most decoder positions per task.")
    role: str = Field(default="validation", description="Split of the cards.")


class MatchedEncoder(Section):
    """Another model that is to read the same characters of long inputs."""

    tokenizer: str = Field(description="Folder or hub id of its encoder's tokenizer.")
    length: int = Field(ge=8, description="Tokens that its encoder reads of a docked text, specials included.")


class TaskData(Section):
    """What is trained on."""

    renamed: ClassVar[dict[str, str]] = {
        "extras": "all_cards",
        "missing": "on_missing_data",
        "layout": "row_packing",
        "long": "long_inputs",
        "also_fit": "match_input_lengths_of",
    }
    renamed_values: ClassVar[dict[str, dict[str, str]]] = {
        "tasks": {"extras": "non_core"},
        "long_inputs": {"cut": "truncate"},
    }

    tasks: list[str] = Field(
        min_length=1,
        description="Tasks, clusters, core, non_core, world; or paths: cards, "
        "JSONL of {input, target}, tasks of Natural Instructions, folders.",
    )
    cards: list[str] = Field(default=[], description="Folders of task cards of your own.")
    all_cards: bool = Field(default=False, description="Clusters also stand for cards that are not core.")
    templates: TemplateOptions = Field(default=TemplateOptions(), description="How examples are put into words.")
    demonstrations: Demonstrations = Field(default=Demonstrations(), description="Few-shot training.")
    mixture: Mixture = Field(default=Mixture(), description="How often each task is drawn.")
    hold_out: list[str] = Field(
        default=[], description="Clusters or tasks that must not be trained on, nor what leaks into them."
    )
    decontaminate: Literal["drop", "fail", "report"] = Field(
        default="drop", description="Training rows that share a 13-gram with held-out evaluation rows."
    )
    on_missing_data: Literal["fail", "skip"] = Field(
        default="fail", description="Tasks whose rows cannot be had: an error that names all, or left out and said."
    )
    sequence_length: int = Field(default=1024, ge=16, description="Most decoder positions of a session and of a row.")
    row_packing: Literal["auto", "pack", "pad"] = Field(
        default="auto", description="Sessions packed into rows, or padded by length; auto: packed where that is exact."
    )
    encoder_tokens: int | None = Field(default=None, ge=16, description="Most encoder tokens of a packed row.")
    long_inputs: Literal["truncate", "windows"] = Field(
        default="truncate",
        description="A long field that its encoder does not read whole is cut, or docked in windows.",
    )
    match_input_lengths_of: list[MatchedEncoder] = Field(
        default=[], description="Cut long inputs so that these models, too, read them."
    )
    validation: TaskValidation = Field(default=TaskValidation(), description="Validation examples.")
    workers: int = Field(default=0, ge=0, le=64, description="Loader processes; 0: in the training process.")

    isolate_documents: ClassVar[bool] = True
