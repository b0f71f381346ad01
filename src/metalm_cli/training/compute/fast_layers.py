"""Faster computation of a model's layers: attention by segments, fused activations, and compilation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.attention import FP32_IF_SHORT, register_attention
from metalm_cli.models.capabilities import use_segmented_attention
from metalm_cli.models.dual_encoder.docked_encoders import DockedEncoders
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import transformer_layers


def use_fast_attention(assembly: Assembly, recipe: Recipe, device: torch.device) -> None:
    """On a CPU, use the attention that is fastest there, unless the recipe names the decoder's or compiles the layers.

    A decoder computes the segments of packed rows apart: SDPA with a mask computes every pair of positions of a row (a
    GPU has ``flex_attention`` instead). Encoders that train compute short texts in fp32.
    """
    if device.type != "cpu" or recipe.train.compile or not isinstance(assembly.model, DockedEncoders):
        return
    part = recipe.model.decoder
    if isinstance(assembly.model, MetaLM) and (part is None or part.attention == "auto"):
        use_segmented_attention(assembly.model.decoder)
    register_attention()
    encoder: Any
    for encoder in assembly.model.encoders.values():
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        if trains and getattr(encoder.config, "_attn_implementation", None) == "sdpa":
            encoder.set_attn_implementation(FP32_IF_SHORT)


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
