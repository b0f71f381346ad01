"""Faster computation of a model's layers: attention by segments, fused activations, and compilation."""

from __future__ import annotations

import torch
from torch import nn

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.capabilities import use_segmented_attention
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import transformer_layers


def use_fast_attention(assembly: Assembly, recipe: Recipe, device: torch.device) -> None:
    """On a CPU, compute the segments of packed rows apart, unless the recipe names an attention or compiles the layers.

    SDPA with a mask computes every pair of positions of a row; a GPU has ``flex_attention`` instead.
    """
    part = recipe.model.decoder
    is_chosen = part is not None and part.attention != "auto"
    if device.type == "cpu" and isinstance(assembly.model, MetaLM) and not is_chosen and not recipe.train.compile:
        use_segmented_attention(assembly.model.decoder)


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's GELU, which transformers composes of eight operations, by the same function in one.

    In fp32 the values differ by rounding only (about 1e-7).
    """
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def compile_layers(assembly: Assembly) -> None:
    """Compile the layers of every stack; equal layers share one compilation."""
    for name, part in assembly.parts().items():
        if not name.startswith("connectors."):
            for layer in transformer_layers(part):
                layer.compile()
