"""Model families: how the models of each kind are built, loaded, saved and trained.

A family is a class with the interface of :class:`~metalm_cli.models.families.base.ModelFamily`, registered by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metalm_cli.common.registry import model_families

if TYPE_CHECKING:
    from metalm_cli.config.schema.model import ModelConfig
    from metalm_cli.models.families.base import ModelFamily

DECODER_ONLY, ENCODER_ONLY, ENCODER_DECODER = "decoder-only", "encoder-only", "encoder-decoder"
DUAL_ENCODER = "dual-encoder"


def load_family(name: str) -> ModelFamily:
    """Return the family of a name.

    Raises:
        MetalmError: The name is unknown, or a plug-in's family cannot be imported.
    """
    return model_families.load(name)()


def family_of_recipe(model: ModelConfig, objective: str) -> ModelFamily:
    """Return the family of the model that a recipe builds: the first that claims it, or else decoder-only.

    Args:
        model: The recipe's ``model``. With ``model.checkpoint`` the family is that of the checkpoint, and this is only
            a guess.
        objective: Name of the recipe's objective.
    """
    families = (load_family(name) for name in model_families.names() if name != DECODER_ONLY)
    return next((family for family in families if family.claims(model, objective)), load_family(DECODER_ONLY))


def family_of_config(config: Any) -> ModelFamily:
    """Return the family of a finished model that is loaded with its tokenizer, from its Hugging Face config."""
    if config.model_type == "metalm-dual-encoder":
        return load_family(DUAL_ENCODER)
    return load_family(ENCODER_DECODER if getattr(config, "is_encoder_decoder", False) else DECODER_ONLY)


def family_of_model(model: Any) -> ModelFamily:
    """Return the family of an assembled model."""
    return load_family(getattr(model, "family", ENCODER_ONLY))
