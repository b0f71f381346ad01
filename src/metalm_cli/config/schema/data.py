"""Data."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.schema.objectives import CausalLM, PrefixLM, SemiCausal


class MiniworldSource(Section):
    """Documents of the embedded miniature world."""

    documents: int = Field(default=20_000, ge=1, description="Number of documents.")
    seed: int = Field(default=0, ge=0, description="Seed of the world and its documents.")


class Source(Section):
    """Where documents come from: exactly one of hub, path and world."""

    one_of = (("hub", "path", "world"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"hub": ("config", "revision", "split")}

    name: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*$",
        examples=["pile", "my-notes"],
        description="Name in the plan, the logs and the lineage.",
    )
    hub: str | None = Field(
        default=None, description="Hub data set; read from --data-root DIR/<name>/<split> if present."
    )
    path: str | None = Field(
        default=None, description="Local JSONL (.gz, .zst too); a glob, or relative to --data-root."
    )
    world: MiniworldSource | None = Field(default=None, description="The embedded miniature world.")
    config: str | None = Field(default=None, description="Configuration of the hub data set.")
    revision: str | None = Field(default=None, description="Revision of the hub data set.")
    split: str = Field(default="train", description="Split of the hub data set.")
    text: str = Field(default="text", description="Column that holds the document.")
    weight: float | None = Field(
        default=None, gt=0, description="Share of documents drawn; default the row count, required for streams."
    )
    exclude: dict[str, list[Any]] = Field(
        default={}, description="Leave out rows whose field (dots reach inside) has one of these values."
    )
    streaming: bool | None = Field(
        default=None, description="Read in order through a shuffle block; default: only hub data that is not at hand."
    )

    @model_validator(mode="after")
    def _some_place(self) -> Source:
        if self.hub is None and self.path is None and self.world is None:
            raise InconsistentValues(
                "expected one of hub, path and world, got none", remedy="say where the documents are"
            )
        return self


class Validation(Section):
    """Documents held out of training and used to validate."""

    renamed: ClassVar[dict[str, str]] = {"every": "hold_out_every"}

    documents: int = Field(default=500, ge=0, description="Documents per source; 0: no validation.")
    hold_out_every: int = Field(
        default=200, ge=2, description="Documents whose text hash is 0 modulo this are kept out of training."
    )
    sources: list[Source] | None = Field(
        default=None, description="Validation sources of their own; then nothing is held out of training."
    )
    objective: SemiCausal | CausalLM | PrefixLM | None = Field(
        default=None,
        discriminator="name",
        description="How validation documents are divided; default the run's objective. A causal twin sets its "
        "MetaLM's, so that both are compared on the same positions.",
    )


class Data(Section):
    sources: list[Source] = Field(min_length=1, description="Training sources.")
    validation: Validation = Field(default=Validation(), description="What is held out, and how much of it is used.")
    sequence_length: int = Field(default=2048, ge=8, description="Decoder positions of a row (encoder's for mlm, rtd).")
    isolate_documents: bool = Field(default=True, description="Documents in a row do not see each other.")
    workers: int = Field(default=0, ge=0, le=64, description="Loader processes; 0: in the training process.")

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[Source]) -> list[Source]:
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise InconsistentValues(f"expected different names, got two sources named {name}", remedy="rename one")
        return sources
