"""Schema of the ``model`` section: parts, tokenizers and adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from metalm_cli.common import registry
from metalm_cli.config.schema.base import (
    MAX_LEARNING_RATE,
    TRAINS_OF_A_PART,
    InconsistentValues,
    Section,
    TrainableLayers,
)
from metalm_cli.config.schema.connectors import ConnectorConfig

POLICY_KEYS = frozenset({"trains", "learning_rate"})
"""Keys of a part that also apply to the part of a checkpoint."""


class TokenizerTraining(Section):
    """A byte-level BPE tokenizer, trained on the run's sources before the first step."""

    vocab_size: int = Field(default=8192, ge=300, description="Vocabulary size, including special tokens.")
    documents: int = Field(default=10_000, ge=1, description="Number of documents that the tokenizer is trained on.")


class NewTokenizer(Section):
    """A new tokenizer instead of an existing one."""

    renamed: ClassVar[dict[str, str]] = {"train": "new"}

    new: TokenizerTraining = Field(
        description="Train a new byte-level BPE tokenizer; only for a model that is built from a config."
    )


class SpecialTokensConfig(Section):
    """Tokens that mark starts and ends. They are saved with the model; a checkpoint keeps its own."""

    start: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Start token of each session. auto: if the decoder's tokenizer adds one, or if the first token of"
        " the session is trained, since no other token could predict it.",
    )
    document: str = Field(
        default="eos", description="Token at the end of a document: eos, or any token of the decoder's vocabulary."
    )
    paragraph: str = Field(
        default="newline",
        description="End of a paragraph: newline (the text is unchanged), or a token that replaces it.",
    )
    target_delimiter: str = Field(
        default=" ", description="Text between a docked input and its answer; part of the causal span."
    )


class DecoderConfig(Section):
    """The causal decoder: the paper's universal task layer, or interface."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}
    renamed: ClassVar[dict[str, str]] = {"train": "trains"}

    checkpoint: str | None = Field(default=None, description="Name, folder or .gguf file of a causal language model.")
    config: dict[str, Any] | None = Field(
        default=None, description="Hugging Face config with model_type, to initialise the decoder from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint: a branch, tag or commit.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None,
        description="Hub id or folder of a tokenizer; or {new: ...} with config, to train one. Default: the tokenizer"
        " of the checkpoint.",
    )
    trains: TrainableLayers | None = Field(default=None, description=TRAINS_OF_A_PART)
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of the decoder; default: train.learning_rate, and for pretrained weights at most "
        "train.pretrained_learning_rate.decoder.",
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout probability, for all dropout layers; default: the values of the checkpoint or config.",
    )
    attention: Literal["auto", "eager", "sdpa", "flex_attention"] = Field(
        default="auto",
        description="Attention implementation. auto: the default of Transformers (sdpa if the model family supports "
        "it).",
    )


class Seq2SeqConfig(Section):
    """An encoder–decoder (T5, mT5, BART, ...) in place of a decoder with docked encoders."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}

    checkpoint: str | None = Field(default=None, description="Name or folder of an encoder–decoder.")
    config: dict[str, Any] | None = Field(
        default=None,
        description="Hugging Face config with model_type, to initialise the model from scratch. Its decoder starts "
        "with the pad token, unless the config sets decoder_start_token_id.",
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint: a branch, tag or commit.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None,
        description="Hub id or folder of a tokenizer; or {new: ...} with config, to train one. Default: the tokenizer"
        " of the checkpoint. Encoder and decoder share it.",
    )
    trains: TrainableLayers | None = Field(
        default=None,
        description="Trainable parameters: all, none, or last_N (the last N layers of the encoder and of the decoder). "
        "Default: all; with model.checkpoint, the setting saved in it.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of the model; default: train.learning_rate, and for pretrained weights at most "
        "train.pretrained_learning_rate.seq2seq.",
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout probability, for all dropout layers; default: the values of the checkpoint or config.",
    )
    attention: Literal["auto", "eager", "sdpa"] = Field(
        default="auto",
        description="Attention implementation. auto: the default of Transformers (sdpa if the model family supports "
        "it).",
    )


if TYPE_CHECKING:
    AdapterName = str
else:
    AdapterName = Literal[tuple(registry.encoder_adapters.names())]


class EncoderConfig(Section):
    """A bidirectional encoder, docked into the decoder through its connector."""

    one_of = (("checkpoint", "config"),)
    companions: ClassVar[dict[str, tuple[str, ...]]] = {"checkpoint": ("revision",), "config": ("tokenizer",)}
    renamed: ClassVar[dict[str, str]] = {"train": "trains"}

    checkpoint: str | None = Field(
        default=None,
        description="Name or folder of a text or vision encoder. Of a checkpoint with two towers (CLIP, SigLIP) "
        "the vision tower is docked, or with adapter: text the text tower.",
    )
    config: dict[str, Any] | None = Field(
        default=None, description="Hugging Face config with model_type, to initialise the encoder from scratch."
    )
    revision: str | None = Field(default=None, description="Hub revision of the checkpoint: a branch, tag or commit.")
    tokenizer: str | NewTokenizer | None = Field(
        default=None,
        description="Hub id or folder of a tokenizer; same, for the decoder's tokenizer; or {new: ...} with config, "
        "to train one. Default: the tokenizer of the checkpoint.",
    )
    trains: TrainableLayers | None = Field(default=None, description=TRAINS_OF_A_PART)
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of the encoder; default: train.learning_rate, and for pretrained weights at most "
        "train.pretrained_learning_rate.encoders.",
    )
    adapter: AdapterName | None = Field(
        default=None,
        description="How the encoder is run, and which of its outputs are docked. Default: vision for a config with "
        "image patches, else text.",
    )
    max_length: int | None = Field(
        default=None,
        ge=4,
        description="Maximum tokens of a docked text, including special tokens. Default: the encoder's number of "
        "positions, at most 512.",
    )
    keep_special: bool = Field(
        default=False,
        description="Also dock the outputs of the encoder's special tokens (such as [CLS] and [SEP]), or the class "
        "vectors and registers of a vision transformer.",
    )
    layer: int = Field(
        default=-1,
        le=-1,
        description="Layer whose outputs are docked, counted from the last, -1. Outputs of other layers are those "
        "before the encoder's final norm; -2 is the choice of LLaVA.",
    )
    image_size: int | None = Field(
        default=None,
        ge=1,
        description="Height and width of the images that a vision encoder reads, in pixels; its position embeddings "
        "are interpolated. Default: the size that its image processor gives.",
    )
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout probability, for all dropout layers; default: the values of the checkpoint or config.",
    )
    pooling: Literal["mean", "class", "pooler"] | None = Field(
        default=None,
        description="How objective contrastive makes one vector of the outputs. mean: their mean, with keep_special "
        "that of the special tokens as well; class: the output of the class vector, or of the token that begins a "
        "text; pooler: the vector that the encoder pools itself, as the towers of CLIP do. Default: mean.",
    )
    connector: ConnectorConfig | None = Field(
        default=None, description="Connector of this encoder; default: model.connector."
    )


class TrainableParts(Section):
    """Trainable parameters by kind of part; null keeps the setting of each part or of the checkpoint."""

    decoder: TrainableLayers | None = Field(
        default=None, description="Trainable parameters of the decoder: all, none, or last_N."
    )
    encoders: TrainableLayers | None = Field(
        default=None, description="Trainable parameters of every encoder: all, none, or last_N."
    )
    connectors: TrainableLayers | None = Field(
        default=None, description="Trainable parameters of every connector: all, none, or last_N."
    )
    seq2seq: TrainableLayers | None = Field(
        default=None, description="Trainable parameters of an encoder–decoder: all, none, or last_N."
    )
    logit_scale: Literal["all", "none"] | None = Field(
        default=None, description="Whether the temperature of objective contrastive trains: all or none."
    )


class PartLearningRates(Section):
    """Learning rates by kind of part. The learning_rate of a part itself takes precedence."""

    decoder: float | None = Field(default=None, gt=0, le=MAX_LEARNING_RATE, description="Learning rate of the decoder.")
    encoders: float | None = Field(
        default=None, gt=0, le=MAX_LEARNING_RATE, description="Learning rate of every encoder that sets none."
    )
    connectors: float | None = Field(
        default=None, gt=0, le=MAX_LEARNING_RATE, description="Learning rate of every connector that sets none."
    )
    seq2seq: float | None = Field(
        default=None, gt=0, le=MAX_LEARNING_RATE, description="Learning rate of an encoder–decoder."
    )
    logit_scale: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of the temperature of objective contrastive.",
    )


class Lora(Section):
    """Low-rank adapters (LoRA, by peft): the weights of the adapted parts stay frozen."""

    parts: list[Annotated[str, Field(pattern=r"^(decoder|encoders(\.[A-Za-z0-9_-]+)?)$")]] = Field(
        default=["encoders", "decoder"],
        min_length=1,
        examples=["decoder", "encoders", "encoders.text"],
        description="Parts that get adapters: decoder, encoders (all of them) or encoders.NAME. Connectors train in "
        "full, and so do other parts for which trains is set; parts without adapters are frozen by default.",
    )
    rank: int = Field(default=8, ge=1, description="Rank of the adapter matrices.")
    alpha: float = Field(
        default=16.0, gt=0, description="Scaling numerator: the low-rank update is multiplied by alpha / rank."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout probability of the adapters' inputs.")
    targets: list[str] = Field(
        default=["all-linear"], description="Names of the linear layers to adapt, or all-linear."
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=MAX_LEARNING_RATE,
        description="Learning rate of all adapters; default: that of the adapted part, if the recipe sets it, else "
        "train.learning_rate.",
    )

    def adapts(self, part: str) -> bool:
        """Whether a part gets adapters.

        Args:
            part: Key path of the part: ``decoder``, ``encoders.NAME``, ``connectors.NAME`` or ``seq2seq``.
        """
        return part == "seq2seq" or part in self.parts or part.partition(".")[0] in self.parts


class ModelConfig(Section):
    """The parts of a new MetaLM, or a trained MetaLM to continue from."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {
        "checkpoint": ("decoder", "encoders", "seq2seq", "special_tokens", "connector", "projection_dim"),
        "decoder": ("checkpoint", "seq2seq"),
        "encoders": ("checkpoint", "seq2seq"),
        "seq2seq": ("checkpoint", "decoder", "encoders", "connector"),
    }
    renamed: ClassVar[dict[str, str]] = {"tokens": "special_tokens"}

    checkpoint: str | None = Field(
        default=None,
        description="A trained model to continue from: a run folder, a model folder (a MetaLM, or any causal or "
        "encoder–decoder language model) or a hub id. Excludes special_tokens, and all keys of decoder, encoders, "
        "connector and seq2seq but trains and learning_rate.",
    )
    trains: TrainableParts = Field(
        default=TrainableParts(),
        description="Which parameters train; overrides the trains keys of the parts and the settings saved in the "
        "checkpoint.",
    )
    learning_rates: PartLearningRates = Field(
        default=PartLearningRates(),
        description="Learning rates by kind of part, for parts that set none; they take precedence over those saved in "
        "the checkpoint.",
    )
    lora: Lora | None = Field(
        default=None, description="Train low-rank adapters instead of the weights of decoder or encoders."
    )
    special_tokens: SpecialTokensConfig = Field(
        default=SpecialTokensConfig(),
        description="Tokens that mark the start and end of sessions, documents and paragraphs.",
    )
    decoder: DecoderConfig | None = Field(
        default=None, description="The causal decoder; omit it for the objectives mlm, rtd and contrastive."
    )
    encoders: dict[str, EncoderConfig] = Field(
        default={}, description="Docked encoders by name; without any, the model is a plain causal language model."
    )
    connector: ConnectorConfig = Field(
        default=ConnectorConfig(), description="Connector of every encoder that does not set its own."
    )
    projection_dim: int | None = Field(
        default=None,
        ge=1,
        description="Width of the embeddings of objective contrastive, which the connectors project to. Default: 512.",
    )
    seq2seq: Seq2SeqConfig | None = Field(
        default=None,
        description="An encoder–decoder. It reads the same sessions: each trained span is predicted from all text "
        "before it. Excludes decoder, encoders and connector.",
    )

    @classmethod
    def takes_part_in_exclusion(cls, key: str, value: Any) -> bool:
        if key not in ("decoder", "encoders", "connector", "seq2seq") or not isinstance(value, dict):
            return True
        if key == "connector":
            return bool(value.keys() - POLICY_KEYS)
        parts = list(value.values()) if key == "encoders" else [value]
        return any(isinstance(part, dict) and (part.get("checkpoint") or part.get("config")) for part in parts)

    @property
    def builds_parts(self) -> bool:
        """Whether a part is loaded or built from a checkpoint or config of its own."""
        return any(map(_is_built, (self.decoder, *self.encoders.values(), self.seq2seq)))

    @property
    def builds_seq2seq(self) -> bool:
        """Whether an encoder–decoder is loaded or built from a checkpoint or config of its own."""
        return _is_built(self.seq2seq)

    @model_validator(mode="after")
    def _parts_or_checkpoint(self) -> ModelConfig:
        if self.checkpoint is not None and self.builds_parts:
            parts_key = "decoder" if _is_built(self.decoder) else "seq2seq" if _is_built(self.seq2seq) else "encoders"
            raise InconsistentValues(
                f"expected a checkpoint or parts, got checkpoint and {parts_key}",
                key=parts_key,
                remedy=f"remove checkpoint or {parts_key}: the checkpoint of a model includes its parts",
            )
        if self.builds_seq2seq and (_is_built(self.decoder) or any(map(_is_built, self.encoders.values()))):
            parts_key = "decoder" if _is_built(self.decoder) else "encoders"
            raise InconsistentValues(
                f"expected an encoder–decoder or a decoder with encoders, got seq2seq and {parts_key}",
                key="seq2seq",
                remedy=f"remove seq2seq or {parts_key}: an encoder–decoder docks nothing",
            )
        return self


def _is_built(part: DecoderConfig | EncoderConfig | Seq2SeqConfig | None) -> bool:
    return part is not None and (part.checkpoint is not None or part.config is not None)
