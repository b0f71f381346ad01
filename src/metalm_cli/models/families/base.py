"""Interface of a model family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import nn

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import DecoderTokenizer, Processor
from metalm_cli.sessions.end_tokens import EndToken


class ModelParts(NamedTuple):
    """A model with its tokenizer and processors.

    Args:
        model: The model.
        tokenizer: Tokenizer of the texts that the model continues; None if it continues none.
        processors: Processors by encoder name.
    """

    model: Any
    tokenizer: DecoderTokenizer | None
    processors: dict[str, Processor]


class ModelFamily(Protocol):
    """A kind of model.

    Attributes:
        name: Name of the family.
        streams: Streams of its batches, in words for documentation.
        objectives: Pretraining objectives that it trains with; the first is the usual one.
        generates: Whether its models continue texts.
        auto_class: Name of the Auto class of transformers that loads a saved model.
    """

    name: str
    streams: tuple[str, ...]
    objectives: tuple[str, ...]
    generates: bool
    auto_class: str

    def claims(self, model: ModelConfig, objective: str) -> bool:
        """Whether a recipe with this model and objective builds a model of the family."""

    def build(self, model: ModelConfig, objective: str, loader: PartLoader, seed: int) -> ModelParts:
        """Load or build the parts that a recipe names, and connect them.

        Raises:
            MetalmError: A part is missing, does not fit, or is of the wrong kind.
        """

    def wrap(
        self, model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
    ) -> ModelParts:
        """Make the model of a loaded folder.

        Args:
            model: What the Auto class has loaded.
            config: Its config.
            tokenizer: Its Hugging Face tokenizer.
            folder: The folder, for processors and messages.
            end_tokens: Further tokens that end a generated text.

        Raises:
            MetalmError: The model is not one of the family, or an end token is not a token of it.
        """

    def parts(self, built: Any) -> dict[str, nn.Module]:
        """Return the modules by key path below ``model``, in the order of the optimiser's groups.

        Args:
            built: :class:`ModelParts` or an assembly.
        """

    def length_limit(self, built: Any) -> tuple[int | None, str]:
        """Return the maximum length of a row (None: any), and the model type for messages."""

    def tokenizers(self, built: Any) -> dict[str, Any]:
        """Return what must be saved to read the same tokens again, by relative path of its folder."""

    def save(self, folder: Path, built: Any) -> None:
        """Save a model with its tokenizer and processors into a new folder."""

    def notes(self, built: Any) -> list[str]:
        """Return notes for the user about what the model can do exactly."""
