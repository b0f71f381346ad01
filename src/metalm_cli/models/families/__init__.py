"""Model families: how the models of each kind are built, loaded, saved and trained.

A family is an object with the interface of :class:`~metalm_cli.models.families.base.ModelFamily`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalm_cli.config.schema.model import ModelConfig
    from metalm_cli.models.families.base import ModelFamily

DECODER_ONLY, ENCODER_ONLY, ENCODER_DECODER = "decoder-only", "encoder-only", "encoder-decoder"

FAMILIES = {
    ENCODER_ONLY: "metalm_cli.models.families.encoder_only:EncoderOnly",
    ENCODER_DECODER: "metalm_cli.models.families.encoder_decoder:EncoderDecoder",
    DECODER_ONLY: "metalm_cli.models.families.decoder_only:DecoderOnly",
}
"""Families by name, in the order in which they are asked whether a recipe is theirs."""


def load_family(name: str) -> ModelFamily:
    """Return the family of a name."""
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(import_module(module), attribute)()


def family_of_recipe(model: ModelConfig, objective: str) -> ModelFamily:
    """Return the family of the model that a recipe builds.

    Args:
        model: The recipe's ``model``. With ``model.checkpoint`` the family is that of the checkpoint, and this is only
            a guess.
        objective: Name of the recipe's objective.
    """
    families = map(load_family, FAMILIES)
    return next(family for family in families if family.claims(model, objective))


def family_of_config(config: Any) -> ModelFamily:
    """Return the family of a checkpoint that continues texts, from its Hugging Face config."""
    return load_family(ENCODER_DECODER if getattr(config, "is_encoder_decoder", False) else DECODER_ONLY)


def family_of_model(model: Any) -> ModelFamily:
    """Return the family of an assembled model."""
    return load_family(getattr(model, "family", ENCODER_ONLY))
