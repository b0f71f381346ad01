"""The recipe schema: the one definition of every key, its type, default, limits and help.

Everything that explains or checks a recipe (errors, ``metalm recipe schema``, the recipe reference, shell
completion) is derived from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from metalm_cli.config.schema.base import InconsistentValues, Section

Train = Annotated[str, Field(pattern=r"^(all|none|last_[1-9][0-9]*)$", examples=["all", "none", "last_2"])]


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer trained on the run's own sources before step 1."""

    vocab_size: int = Field(default=8192, ge=300, description="Entries, special tokens included.")
    documents: int = Field(default=10_000, ge=1, description="Documents read to train it.")


class NewTokenizer(Section):
    """A tokenizer of the run's own."""

    renamed: ClassVar[dict[str, str]] = {"train": "new"}

    new: TrainTokenizer = Field(description="Train a tokenizer for a model made from a config.")


class Tokens(Section):
    """Which tokens mark starts and ends. Saved with the model; inherited from a checkpoint."""

    start: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Start token of a session. auto: where the decoder's own tokenizer adds one, or the session "
        "begins with a trained token, which nothing else could predict.",
    )
    document: str = Field(default="eos", description="Token that ends a document: eos, or a token of the vocabulary.")
    paragraph: str = Field(
        default="newline", description="End of paragraph: newline (the text as it is), or a token that replaces it."
    )
    target_delimiter: str = Field(
        default=" ", description="Text between a docked input and an answer; part of the causal span."
    )


class Decoder(Section):
    """The causal decoder: the universal task layer, or interface."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}
    renamed: ClassVar[dict[str, str]] = {"train": "trains"}

    checkpoint: str | None = Field(default=None, description="Hub id or folder of a causal language model.")
    config: dict[str, Any] | None = Field(
        default=None, description="A Hugging Face config with model_type: weights from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None, description="Hub id or folder; or {new: ...} with config. Default: the checkpoint's own."
    )
    trains: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Own learning rate; default train.learning_rate."
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Sets every dropout rate; default as configured."
    )
    attention: Literal["auto", "eager", "sdpa", "flex_attention"] = Field(
        default="auto", description="Attention implementation. auto: sdpa where the family has it."
    )


class Connector(Section):
    """Projects encoder outputs to the width of the decoder's token embeddings."""

    renamed: ClassVar[dict[str, str]] = {"train": "trains"}

    kind: Literal["linear", "mlp"] = Field(default="linear", description="linear, or mlp with GELU between layers.")
    layers: int = Field(default=3, ge=2, le=12, description="Layers of an mlp; a linear connector has one.")
    trains: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Own learning rate; default train.learning_rate."
    )


class Encoder(Section):
    """A bidirectional encoder that docks into the decoder."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}
    renamed: ClassVar[dict[str, str]] = {"train": "trains"}

    checkpoint: str | None = Field(default=None, description="Hub id or folder of a text or vision encoder.")
    config: dict[str, Any] | None = Field(
        default=None, description="A Hugging Face config with model_type: weights from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None,
        description="Hub id or folder; same: the decoder's; or {new: ...} with config. Default: its own.",
    )
    trains: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Own learning rate; default train.learning_rate."
    )
    max_length: int | None = Field(
        default=None,
        ge=4,
        description="Most encoder tokens of a docked text, specials included; default its positions, at most 512.",
    )
    keep_special: bool = Field(default=False, description="Dock the outputs of the encoder's special tokens too.")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Sets every dropout rate; default as configured."
    )
    connector: Connector | None = Field(default=None, description="Connector of this encoder; default model.connector.")


class TrainedParts(Section):
    """Which parameters train; what is left out is as each part says, or as the checkpoint was saved."""

    decoder: Train | None = Field(default=None, description="The decoder (the interface): all, none, or last_N.")
    encoders: Train | None = Field(default=None, description="All encoders, likewise.")
    connectors: Train | None = Field(default=None, description="All connectors, likewise.")


class Model(Section):
    """The parts of a MetaLM, or a finished model to go on from."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {
        "checkpoint": ("decoder", "encoders", "special_tokens", "connector"),
        "decoder": ("checkpoint",),
        "encoders": ("checkpoint",),
    }
    renamed: ClassVar[dict[str, str]] = {"tokens": "special_tokens"}

    checkpoint: str | None = Field(
        default=None, description="A finished MetaLM (run folder, model folder or hub id); excludes the parts below."
    )
    trains: TrainedParts = Field(default=TrainedParts(), description="What trains, whatever parts or checkpoint say.")
    special_tokens: Tokens = Field(default=Tokens(), description="Start, document, paragraph and delimiter tokens.")
    decoder: Decoder | None = Field(default=None, description="The causal decoder; none for mlm and rtd.")
    encoders: dict[str, Encoder] = Field(default={}, description="Docked encoders by name; none: a plain causal LM.")
    connector: Connector = Field(default=Connector(), description="Of every encoder that has none of its own.")

    @model_validator(mode="after")
    def _parts_or_checkpoint(self) -> Model:
        if self.checkpoint is not None and (self.decoder is not None or self.encoders):
            given = "decoder" if self.decoder is not None else "encoders"
            raise InconsistentValues(
                f"expected a checkpoint or parts, got checkpoint and {given}",
                key=given,
                remedy=f"remove checkpoint or {given}: a finished MetaLM brings its own parts",
            )
        return self


class Lora(Section):
    """Low-rank adapters (peft): the model's own weights stay as they are."""

    parts: list[Literal["encoders", "decoder"]] = Field(
        default=["encoders", "decoder"], min_length=1, description="What is adapted; connectors train whole."
    )
    rank: int = Field(default=8, ge=1, description="Rank.")
    alpha: float = Field(default=16.0, gt=0, description="Scale; the update is alpha / rank times the product.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapters' inputs.")
    targets: list[str] = Field(default=["all-linear"], description="Names of linear layers, or all-linear.")


class TaskModel(Model):
    """What is finetuned."""

    lora: Lora | None = Field(default=None, description="Train low-rank adapters instead.")
