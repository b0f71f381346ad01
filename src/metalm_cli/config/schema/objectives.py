"""Schema of the training objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field, field_validator

from metalm_cli.common import registry
from metalm_cli.config.schema.base import InconsistentValues, Section
from metalm_cli.config.schema.plugin_sections import named_sections


class SupervisedObjective(Section):
    """The objective of finetuning: predict the answers from the text before them."""

    name: Literal["answers"] = "answers"


class Contrastive(Section):
    """Contrastive training of an image encoder and a text encoder (CLIP): each image matches its text in the batch."""

    name: Literal["contrastive"]


TaskObjective = Annotated[SupervisedObjective | Contrastive, Field(discriminator="name")]
"""Objectives of training on tasks."""

LengthRange = Annotated[list[int], Field(min_length=2, max_length=2)]


def _check_range(value: list[int], minimum: int) -> list[int]:
    low, high = value
    if not minimum <= low <= high:
        raise InconsistentValues(f"expected [low, high] with {minimum} <= low <= high, got {value}")
    return value


class SemiCausal(Section):
    """Semi-causal language modelling (the paper's equation 1): random spans are docked, other tokens are predicted."""

    name: Literal["semi_causal"]
    span_length: LengthRange = Field(
        default=[64, 128],
        description="Minimum and maximum length of a docked span, in decoder tokens; drawn uniformly.",
    )
    span_fraction: float = Field(
        default=0.25, gt=0, lt=1, description="Expected fraction of a document's tokens inside docked spans."
    )

    _check = field_validator("span_length")(lambda value: _check_range(value, 1))


class CausalLM(Section):
    """Causal language modelling: every token is predicted from the tokens before it."""

    name: Literal["causal"]


class PrefixLM(Section):
    """Prefix language modelling: the beginning of each document is docked, the following tokens are predicted."""

    name: Literal["prefix"]
    prefix_length: LengthRange = Field(
        default=[64, 128],
        description="Minimum and maximum length of the docked prefix, in decoder tokens; drawn uniformly.",
    )

    _check = field_validator("prefix_length")(lambda value: _check_range(value, 1))


DEFAULT_MARK = "\nRepeat:"
"""Text between a dock and its reconstruction."""


class Reconstruction(Section):
    """How documents are cut into docks that are reconstructed."""

    span_length: LengthRange = Field(
        default=[64, 128],
        description="Minimum and maximum length of a docked text, in decoder tokens; drawn uniformly. A document is "
        "cut into consecutive texts of these lengths at word boundaries; the last one may be shorter, and one that is "
        "too long for its encoder or for a row is halved.",
    )
    mark: str = Field(
        default=DEFAULT_MARK,
        min_length=1,
        description="What precedes the reconstruction, so that it differs from a continuation: a text, or a token of "
        "the decoder's vocabulary. Nothing is added to the vocabulary.",
    )

    _check = field_validator("span_length")(lambda value: _check_range(value, 1))


class _NamedReconstruct(Section):
    name: Literal["reconstruct"]


class Reconstruct(Reconstruction, _NamedReconstruct):
    """Reconstruction: each text of a document is docked, and predicted again after a mark."""


class Mixed(Section):
    """Continuation of some documents and reconstruction of others, to align a connector."""

    name: Literal["mixed"]
    continuation: SemiCausal | PrefixLM = Field(
        default=PrefixLM(name="prefix"),
        discriminator="name",
        description="Objective of the documents that are continued: prefix or semi_causal, with its keys.",
    )
    reconstruction: Reconstruction = Field(
        default=Reconstruction(), description="How the other documents are docked and reconstructed."
    )
    reconstruction_share: float = Field(
        default=0.2, gt=0, lt=1, description="Expected share of the documents that are reconstructed."
    )


class MaskedLM(Section):
    """Masked language modelling, which trains a single encoder."""

    name: Literal["mlm"]
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="Fraction of tokens selected for prediction.")
    keep_rate: float = Field(
        default=0.1, ge=0, le=1, description="Fraction of the selected tokens that are left unchanged."
    )
    random_rate: float = Field(
        default=0.1, ge=0, le=1, description="Fraction of the selected tokens that are replaced by a random token."
    )


class ReplacedTokenDetection(Section):
    """Replaced token detection (ELECTRA): a small generator replaces tokens, the encoder detects the replacements."""

    name: Literal["rtd"]
    mask_rate: float = Field(default=0.15, gt=0, lt=1, description="Fraction of tokens that the generator replaces.")
    generator_size: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Width of the generator (hidden size, heads, feed-forward size) as a fraction of the encoder's.",
    )
    discriminator_weight: float = Field(
        default=50.0, gt=0, description="Weight of the discriminator loss; the generator loss has weight 1."
    )


NOT_OBJECTIVES = {
    "distill": "a teacher is added to an objective: set train.distill={} beside semi_causal, prefix or mixed"
}
"""Remedies for names of objectives that are other keys."""

BUILT_IN_OBJECTIVES = (SemiCausal, CausalLM, PrefixLM, Reconstruct, Mixed, MaskedLM, ReplacedTokenDetection)

if TYPE_CHECKING:
    Objective = SemiCausal | CausalLM | PrefixLM | Reconstruct | Mixed | MaskedLM | ReplacedTokenDetection
else:  # also those of plug-ins, which are subclasses of Section
    Objective = Annotated[
        Union[(*BUILT_IN_OBJECTIVES, *named_sections(registry.objectives))],
        Field(discriminator="name"),
    ]
