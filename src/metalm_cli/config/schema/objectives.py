"""Objectives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from metalm_cli.config.schema.base import InconsistentValues, Section


class Supervised(Section):
    """The objective of finetuning: answers are predicted from what stands before them."""

    name: Literal["answers"] = "answers"


Range = Annotated[list[int], Field(min_length=2, max_length=2)]


def _ordered(value: list[int], least: int) -> list[int]:
    low, high = value
    if not least <= low <= high:
        raise InconsistentValues(f"expected [low, high] with {least} <= low <= high, got {value}")
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
