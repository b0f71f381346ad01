"""Towers of checkpoints that hold an encoder of images and one of texts (CLIP, SigLIP)."""

from __future__ import annotations

from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.models.encoders import FUSED


def tower_config(config: Any, adapter: str | None, where: str) -> Any:
    """Return the config of the tower that is docked; of a config without towers, the config itself.

    Args:
        config: Config of a checkpoint.
        adapter: Encoder adapter of the recipe: ``text`` docks the text tower; None or ``vision`` the vision tower.
        where: Key of the encoder, for messages.

    Raises:
        MetalmError: transformers has no model of the tower alone.
    """
    if config.model_type in FUSED or not is_two_tower(config) or adapter not in (None, "text", "vision"):
        return config
    from transformers import AutoModel

    tower = config.text_config if adapter == "text" else config.vision_config
    if type(tower) not in AutoModel._model_mapping:
        raise MetalmError(
            f"the {adapter or 'vision'} tower of a {config.model_type} model cannot be docked",
            where=where,
            why=f"transformers has no model of a {type(tower).__name__} alone",
            remedy="set a vision transformer, or a checkpoint of CLIP or SigLIP",
        )
    if getattr(tower, "vision_use_head", False):
        tower.vision_use_head = False  # the pooling head gives one vector, which is not docked
    return tower


def is_two_tower(config: Any) -> bool:
    """Whether a config has the configs of a vision and a text tower."""
    return all(hasattr(getattr(config, name, None), "model_type") for name in ("vision_config", "text_config"))


def tower_note(config: Any, tower: Any, where: str) -> str:
    """Describe which tower is docked, for the plan."""
    docked, other = ("text", "vision") if tower is config.text_config else ("vision", "text")
    return f"{where}: the {docked} tower of the {config.model_type} model is docked; its {other} tower is not used"
