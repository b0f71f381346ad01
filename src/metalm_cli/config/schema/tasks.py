"""Schema of the ``data`` section of ``metalm finetune`` and ``metalm instruct``: tasks instead of documents."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from metalm_cli.config.schema.base import InconsistentValues, Section


class TemplateOptions(Section):
    """How examples are rendered as prompts."""

    renamed: ClassVar[dict[str, str]] = {
        "choose": "template_sampling",
        "count": "templates_per_task",
        "turned": "inverted",
        "options": "show_options",
        "rationale": "rationales",
        "route": "input_route",
    }

    collection: str = Field(
        default="flan",
        description="Template collection: flan, t5, plain, none, passages, fused, or a folder of template files.",
    )
    template_sampling: Literal["first", "index", "seed"] = Field(
        default="first",
        description="Template of each example. first: the first template of the task; index: by example index, round "
        "robin (as in FLAN); seed: drawn at random by seed.",
    )
    templates_per_task: int | None = Field(
        default=None, ge=1, description="Use only the first N templates of each task; default: all."
    )
    inverted: bool = Field(
        default=True,
        description="Also train on inverted templates, which ask for part of the input given the answer (FLAN). Has "
        "no effect with template_sampling: first.",
    )
    show_options: bool = Field(
        default=True, description="List the answer options in the prompt, where the template does."
    )
    rationales: bool = Field(
        default=False, description="Train on the rationale followed by the answer, for tasks that have rationales."
    )
    input_route: Literal["template", "encoder", "decoder"] = Field(
        default="template",
        description="Route of the inputs. template: as the template defines; encoder: all docked; decoder: all read "
        "by the decoder.",
    )


class DemonstrationOptions(Section):
    """Few-shot demonstrations: answered examples of the same task in front of each example."""

    renamed: ClassVar[dict[str, str]] = {
        "count": "shots",
        "layout": "demonstration_layout",
        "tokens": "max_tokens",
    }

    shots: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        default=[0, 0], description="Minimum and maximum number of demonstrations per example; drawn uniformly."
    )
    demonstration_layout: Literal["docks", "answered", "joined"] = Field(
        default="docks",
        description="docks: each demonstration's input is docked and its answer is causal text; answered: "
        "each demonstration is docked with its answer, as one text; joined: all demonstrations are text in front of "
        "the input.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Maximum decoder tokens of all demonstrations of an example; demonstrations that do not fit are "
        "dropped.",
    )

    @field_validator("shots")
    @classmethod
    def _ordered(cls, value: list[int]) -> list[int]:
        if not 0 <= value[0] <= value[1]:
            raise InconsistentValues(f"expected [minimum, maximum], got {value}")
        return value


class MixtureGroup(Section):
    """A group of tasks in a nested mixture."""

    tasks: list[str] = Field(min_length=1, description="Tasks or clusters of the group.")
    weight: float = Field(gt=0, description="Sampling weight of the group, relative to the other groups.")
    strategy: Literal["proportional", "equal"] = Field(
        default="proportional", description="Rates within the group: proportional to the number of examples, or equal."
    )


class MixtureConfig(Section):
    """Sampling rate of each task."""

    strategy: Literal["proportional", "equal", "explicit"] = Field(
        default="proportional",
        description="Sampling rate of each task. proportional: by number of examples; equal: the same for all; "
        "explicit: from `weights`.",
    )
    cap_examples: int | None = Field(
        default=30_000, ge=1, description="Maximum number of training examples used per task."
    )
    max_rate: int | None = Field(
        default=None,
        ge=1,
        description="Maximum rate of a task, in examples: larger tasks are sampled as if they had this many (FLAN: "
        "3,000).",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="Raise rates to the power of 1 / temperature, after max_rate is applied."
    )
    weights: dict[str, float] = Field(
        default={}, description="Rate of each task by name; only with `strategy: explicit`."
    )
    groups: list[MixtureGroup] = Field(
        default=[],
        description="Nested mixture: groups of tasks with weights and strategies of their own, instead of strategy "
        "and weights. Tasks outside all groups are not sampled.",
    )


class TaskValidationConfig(Section):
    """Validation examples of each training task."""

    renamed: ClassVar[dict[str, str]] = {"tokens": "tokens_per_task"}

    examples: int = Field(default=100, ge=0, description="Validation examples per task; 0 disables validation.")
    tokens_per_task: int | None = Field(
        default=20_000, ge=1, description="Maximum decoder positions of validation examples per task."
    )
    role: str = Field(default="validation", description="Split role of the task cards to validate on.")


class MatchedEncoder(Section):
    """Encoder of another model that is to read the same characters of long inputs, so that both can be compared."""

    tokenizer: str = Field(description="Folder or hub id of the encoder tokenizer of the model that is compared.")
    length: int = Field(
        ge=8, description="Maximum tokens of a docked text in the other model, including special tokens."
    )


class TaskDataConfig(Section):
    """Tasks to train on."""

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
        description="Tasks to train on: names of tasks or clusters; the groups core, non_core, world, lexical or all; "
        "or paths of task cards, of files of records (JSON, JSONL, CSV, TSV, Parquet, save_to_disk: input and target, "
        "Alpaca, prompt and completion, messages, ShareGPT), of tar shards of images with texts, of Natural "
        "Instructions tasks, or of folders of cards and tasks; or hub ids of such records.",
    )
    cards: list[str] = Field(default=[], description="Folders with additional task cards.")
    all_cards: bool = Field(default=False, description="Cluster names also select cards that are not core.")
    templates: TemplateOptions = Field(default=TemplateOptions(), description="How examples are rendered as prompts.")
    demonstrations: DemonstrationOptions = Field(
        default=DemonstrationOptions(), description="Few-shot demonstrations in training prompts."
    )
    answer_sampling: Literal["first", "index"] = Field(
        default="first",
        description="Answer of an example that has several, such as the captions of an image. first: the first; "
        "index: by example index and epoch, round robin.",
    )
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="Sampling rates of the tasks.")
    hold_out: list[str] = Field(
        default=[],
        description="Clusters or tasks to exclude from training, together with all tasks that leak into them.",
    )
    decontaminate: Literal["drop", "fail", "report"] = Field(
        default="drop",
        description="What to do with training rows that share a 13-gram with held-out evaluation rows: drop them, "
        "fail, or only report them.",
    )
    on_missing_data: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do with tasks whose data is missing: fail and list them all, or skip them with a note.",
    )
    broken_images: Literal["skip", "fail"] = Field(
        default="skip",
        description="What to do with rows whose images are missing, broken or too large: skip them, count them by "
        "reason and name some, or fail.",
    )
    sequence_length: int = Field(
        default=1024, ge=16, description="Maximum decoder positions of a session, and length of a packed row."
    )
    row_packing: Literal["auto", "pack", "pad"] = Field(
        default="auto",
        description="pack: several sessions per row; pad: one session per row, batched by length; auto: pack if the "
        "model computes packed rows exactly, else pad.",
    )
    encoder_tokens: int | None = Field(default=None, ge=16, description="Maximum encoder tokens of a packed row.")
    long_inputs: Literal["truncate", "windows"] = Field(
        default="truncate",
        description="Inputs longer than their encoder reads: truncate the card's long field, or dock it in several "
        "windows.",
    )
    truncate: Literal["tail", "head", "middle"] | None = Field(
        default=None,
        description="Part of the long field that is removed where it is truncated. Default: as its card says.",
    )
    long_field_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Maximum decoder tokens of the long field of each task; the rest is removed, whether the field is "
        "docked or not.",
    )
    match_input_lengths_of: list[MatchedEncoder] = Field(
        default=[],
        description="Encoders of other models to compare with: long inputs are truncated so that all models read the "
        "same characters.",
    )
    validation: TaskValidationConfig = Field(default=TaskValidationConfig(), description="Validation examples.")
    workers: int = Field(
        default=0, ge=0, le=64, description="Data loader worker processes; 0 loads data in the training process."
    )

    isolate_documents: ClassVar[bool] = True

    @property
    def keys_without_effect(self) -> set[str]:
        """Keys that fingerprints leave out: they are younger than recorded runs and have no effect where unset."""
        unset = {key for key in ("truncate", "long_field_tokens") if getattr(self, key) is None}
        return {*unset, *(["answer_sampling"] if self.answer_sampling == "first" else [])}
