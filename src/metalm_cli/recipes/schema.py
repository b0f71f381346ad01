"""The recipe schema: the one definition of every key, its type, default, limits and help.

Everything that explains or checks a recipe (errors, ``metalm recipe schema``, the recipe reference, shell
completion) is derived from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Train = Annotated[str, Field(pattern=r"^(all|none|last_[1-9][0-9]*)$", examples=["all", "none", "last_2"])]


class Misfit(ValueError):
    """Values that are right one by one and wrong together.

    Args:
        message: What was got and what was expected.
        key: Key of the section that the user should look at; empty: the section itself.
        remedy: What to change.
    """

    def __init__(self, message: str, *, key: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.remedy = remedy


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are errors; values are checked, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False)

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which at most one may be set. Setting one in a later layer drops the others."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that go when another is set in a later layer, besides those of ``one_of``."""

    companions: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that mean nothing without another, and go when a later layer drops or replaces it."""

    @model_validator(mode="after")
    def _at_most_one(self) -> Section:
        for group in self.one_of:
            given = [key for key in group if getattr(self, key) is not None]
            if len(given) > 1:
                raise Misfit(
                    f"expected only one of {', '.join(group)}, got {' and '.join(given)}",
                    key=given[-1],
                    remedy=f"remove {' or '.join(given)}",
                )
        return self


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer trained on the run's own sources before step 1."""

    vocab_size: int = Field(default=8192, ge=300, description="Entries, special tokens included.")
    documents: int = Field(default=10_000, ge=1, description="Documents read to train it.")


class NewTokenizer(Section):
    """A tokenizer of the run's own."""

    train: TrainTokenizer = Field(description="Train a tokenizer for a model made from a config.")


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

    checkpoint: str | None = Field(default=None, description="Hub id or folder of a causal language model.")
    config: dict[str, Any] | None = Field(
        default=None, description="A Hugging Face config with model_type: weights from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None, description="Hub id or folder; or {train: ...} with config. Default: the checkpoint's own."
    )
    train: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
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

    kind: Literal["linear", "mlp"] = Field(default="linear", description="linear, or mlp with GELU between layers.")
    layers: int = Field(default=3, ge=2, le=12, description="Layers of an mlp; a linear connector has one.")
    train: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Own learning rate; default train.learning_rate."
    )


class Encoder(Section):
    """A bidirectional encoder that docks into the decoder."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}

    checkpoint: str | None = Field(default=None, description="Hub id or folder of a text or vision encoder.")
    config: dict[str, Any] | None = Field(
        default=None, description="A Hugging Face config with model_type: weights from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None,
        description="Hub id or folder; same: the decoder's; or {train: ...} with config. Default: its own.",
    )
    train: Train = Field(default="all", description="Parameters that train: all, none, or last_N layers.")
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


class Trains(Section):
    """Which parameters train; what is left out is as each part says, or as the checkpoint was saved."""

    decoder: Train | None = Field(default=None, description="The decoder (the interface): all, none, or last_N.")
    encoders: Train | None = Field(default=None, description="All encoders, likewise.")
    connectors: Train | None = Field(default=None, description="All connectors, likewise.")


class Model(Section):
    """The parts of a MetaLM, or a finished model to go on from."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {
        "checkpoint": ("decoder", "encoders", "tokens", "connector"),
        "decoder": ("checkpoint",),
        "encoders": ("checkpoint",),
    }

    checkpoint: str | None = Field(
        default=None, description="A finished MetaLM (run folder, model folder or hub id); excludes the parts below."
    )
    trains: Trains = Field(default=Trains(), description="What trains, whatever parts or checkpoint say.")
    tokens: Tokens = Field(default=Tokens(), description="Start, document, paragraph and delimiter tokens.")
    decoder: Decoder | None = Field(default=None, description="The causal decoder; none for mlm and rtd.")
    encoders: dict[str, Encoder] = Field(default={}, description="Docked encoders by name; none: a plain causal LM.")
    connector: Connector = Field(default=Connector(), description="Of every encoder that has none of its own.")

    @model_validator(mode="after")
    def _parts_or_checkpoint(self) -> Model:
        if self.checkpoint is not None and (self.decoder is not None or self.encoders):
            given = "decoder" if self.decoder is not None else "encoders"
            raise Misfit(
                f"expected a checkpoint or parts, got checkpoint and {given}",
                key=given,
                remedy=f"remove checkpoint or {given}: a finished MetaLM brings its own parts",
            )
        return self


class World(Section):
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
    world: World | None = Field(default=None, description="The embedded miniature world.")
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
            raise Misfit("expected one of hub, path and world, got none", remedy="say where the documents are")
        return self


Range = Annotated[list[int], Field(min_length=2, max_length=2)]


def _ordered(value: list[int], least: int) -> list[int]:
    low, high = value
    if not least <= low <= high:
        raise Misfit(f"expected [low, high] with {least} <= low <= high, got {value}")
    return value


class SemiCausal(Section):
    """Equation 1 of the paper: random spans are docked, all other tokens predicted."""

    name: Literal["semi_causal"]
    span_length: Range = Field(default=[64, 128], description="Span lengths, in decoder tokens, drawn uniformly.")
    span_fraction: float = Field(
        default=0.25, gt=0, lt=1, description="Expected share of a document's tokens in spans."
    )

    _check = field_validator("span_length")(lambda value: _ordered(value, 1))


class CausalLM(Section):
    """Every token is predicted from those before it."""

    name: Literal["causal"]


class PrefixLM(Section):
    """The beginning of each document is docked, the rest predicted."""

    name: Literal["prefix"]
    prefix_length: Range = Field(default=[64, 128], description="Prefix lengths, in decoder tokens, drawn uniformly.")

    _check = field_validator("prefix_length")(lambda value: _ordered(value, 1))


class MaskedLM(Section):
    """Masked language modelling of an encoder alone."""

    name: Literal["mlm"]
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="Share of tokens chosen for prediction.")
    keep_rate: float = Field(default=0.1, ge=0, le=1, description="Share of the chosen that stay as they are.")
    random_rate: float = Field(default=0.1, ge=0, le=1, description="Share of the chosen that become a random token.")


class ReplacedTokens(Section):
    """Replaced token detection (ELECTRA): a small generator corrupts, the encoder detects."""

    name: Literal["rtd"]
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="Share of tokens that the generator fills in.")
    generator_size: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Width of the generator as a share of the encoder's (heads, feed-forward too).",
    )
    discriminator_weight: float = Field(default=50.0, gt=0, description="Weight of the detection loss.")


Objective = Annotated[SemiCausal | CausalLM | PrefixLM | MaskedLM | ReplacedTokens, Field(discriminator="name")]


class Validation(Section):
    """Documents held out of training and used to validate."""

    documents: int = Field(default=500, ge=0, description="Documents per source; 0: no validation.")
    every: int = Field(
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
                raise Misfit(f"expected different names, got two sources named {name}", remedy="rename one")
        return sources


class Training(Section):
    one_of = (("steps", "epochs"),)

    steps: int | None = Field(default=None, ge=1, description="Optimiser steps; or give epochs.")
    epochs: float | None = Field(
        default=None, gt=0, description="Passes over the sources, turned into steps from a sample of their lengths."
    )
    max_time: str | None = Field(
        default=None,
        pattern=r"^\d+(\.\d+)?[smh]$",
        examples=["90s", "30m", "2h"],
        description="Stop so long after training (re)started (90s, 30m, 2h), with a checkpoint and exit code 75.",
    )
    batch_size: int = Field(default=32, ge=1, description="Rows of an optimiser step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Rows of one forward pass in one process; default all of its rows, on a CPU those of like length.",
    )
    optimizer: Literal["adamw"] = Field(default="adamw", description="AdamW with decoupled weight decay.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, description="On matrices; never on biases, norms and embeddings.")
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.98], description="AdamW's two decay rates."
    )
    epsilon: float = Field(default=1e-8, gt=0, description="AdamW's epsilon.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest gradient norm; null: no clipping.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="After warm-up, down to 0.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps of linear warm-up.")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="bf16: autocast over fp32 master weights.")
    compile: bool = Field(default=False, description="torch.compile the decoder and encoders.")
    checkpoint_activations: bool = Field(default=False, description="Recompute activations: less memory, more time.")
    seed: int = Field(default=0, ge=0, description="Seeds weights, order, spans and dropout.")
    log_every: int = Field(default=10, ge=1, description="Steps between logged lines.")
    validate_every: int = Field(default=500, ge=0, description="Steps between validations; 0: only at the end.")
    checkpoint_every: int = Field(default=500, ge=0, description="Steps between checkpoints; 0: only at the end.")
    keep: int = Field(default=2, ge=1, description="Newest checkpoints kept; the best is kept beside them.")
    samples: int = Field(default=2, ge=0, description="Sample continuations shown at each validation.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="Also log through these trackers."
    )


class Dangerous(Section):
    """Options that can harm this machine."""

    trust_remote_code: bool = Field(
        default=False, description="Run Python code that a checkpoint brings along. It can do anything you can."
    )


class PretrainRecipe(Section):
    """A recipe of ``metalm pretrain``."""

    command: Literal["pretrain"] = Field(default="pretrain", description="The command that runs this recipe.")
    extends: str | None = Field(default=None, description="A shipped name or a path, merged below this file.")
    description: str = Field(default="", description="One line for metalm recipe list.")
    model: Model = Field(description="What is trained.")
    data: Data = Field(description="What it is trained on.")
    objective: Objective = Field(description="What it is trained to do.")
    train: Training = Field(default=Training(), description="How it is trained.")
    dangerous: Dangerous = Field(default=Dangerous(), description="Options that can harm this machine.")
