"""Weights of an encoder that its docked outputs depend on; the others must not train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalm_cli.errors import MetalmError
from metalm_cli.models.capabilities import measuring
from metalm_cli.sessions import Processor
from metalm_cli.sessions.batch import dock_table


def _gradients(total: Tensor, weights: list[nn.Parameter]) -> Sequence[Tensor | None]:
    if not total.requires_grad:
        return [None] * len(weights)
    return torch.autograd.grad(total, weights, allow_unused=True)


def freeze_unused_weights(model: Any, processors: Mapping[str, Processor]) -> None:
    """Freeze the weights of image encoders that no docked output depends on, in place.

    They have no gradient: norms and heads of pooled outputs, mask tokens, layers above the docked one. Weight decay
    would change them all the same, and sharded training would wait for their gradients.

    Args:
        model: A model whose trained weights are set; without encoders nothing happens.
        processors: Processors by encoder name.

    Raises:
        MetalmError: Weights of an encoder train, but none that its outputs depend on.
    """
    for name, encoder in getattr(model, "encoders", {}).items():
        trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        if not trained or model.encoder_ios[name].kind == "text":
            continue
        table = dock_table([(0, processors[name].dummy())], processors[name]).to(trained[0].device)
        with measuring(encoder), torch.enable_grad():
            gradients = _gradients(model.used_outputs(name, table).sum(), trained)
        if all(gradient is None for gradient in gradients):
            raise MetalmError(
                f"nothing of the encoder {name!r} would train: its docked outputs depend on no weight that trains",
                where=f"model.encoders.{name}.trains",
                why=f"the outputs of layer {model.encoder_ios[name].layer} are docked, and layers above it train",
                remedy="let more layers train, or dock the outputs of a later layer",
            )
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)
