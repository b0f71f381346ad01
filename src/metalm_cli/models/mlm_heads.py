"""Masked-language-model heads: compute logits from the hidden states of selected positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metalm_cli.models.loss import Head

Transform = Callable[[Tensor], Tensor]


def masked_head(model: Any) -> tuple[Transform, Head] | None:
    """Return the transformation and the output head of a masked language model.

    Returns:
        The transformation of hidden states, and the head after it; None for an unknown family, which needs full logits.
    """
    if model.config.model_type == "metalm-encoder":
        return model.transform, _head(model.lm_head)
    if hasattr(model, "generator_lm_head"):  # ELECTRA
        return model.generator_predictions, _head(model.generator_lm_head)
    predictions = getattr(getattr(model, "cls", None), "predictions", None)
    if predictions is not None and hasattr(predictions, "transform"):  # BERT
        return predictions.transform, _head(predictions.decoder)
    lm_head = getattr(model, "lm_head", None)
    if lm_head is not None and hasattr(lm_head, "dense") and hasattr(lm_head, "layer_norm"):  # RoBERTa, MPNet
        return lambda hidden: lm_head.layer_norm(torch.nn.functional.gelu(lm_head.dense(hidden))), _head(
            lm_head.decoder
        )
    return None


def detection_scores(model: Any, hidden: Tensor) -> Tensor:
    """Compute the logits of a replaced token detector, ``[b, s, h]`` to ``[b, s]``."""
    if model.config.model_type == "metalm-encoder":
        return model.logits(hidden)
    return model.discriminator_predictions(hidden)


def _head(layer: Any) -> Head:
    return Head(layer.weight, layer.bias)
