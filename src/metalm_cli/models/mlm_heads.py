"""Masked-language-model heads: hidden states of chosen positions to logits, matched to the family's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metalm_cli.models.decoders import TOLERANCE
from metalm_cli.models.loss import Head

Transform = Callable[[Tensor], Tensor]


def masked_head(model: Any) -> tuple[Transform, Head] | None:
    """What a masked language model does to a hidden state before, and in, its projection onto the vocabulary.

    Returns:
        The transformation and the head; None for a family that is not known here, whose full logits are used then.
    """
    if model.config.model_type == "metalm-encoder":
        return lambda hidden: model.norm(model.activation(model.dense(hidden))), _head(model.lm_head)
    if hasattr(model, "generator_lm_head"):  # ELECTRA
        return model.generator_predictions, _head(model.generator_lm_head)
    predictions = getattr(getattr(model, "cls", None), "predictions", None)
    if predictions is not None and hasattr(predictions, "transform"):  # BERT
        return predictions.transform, _head(predictions.decoder)
    inner = getattr(model, "lm_head", None)
    if inner is not None and hasattr(inner, "dense") and hasattr(inner, "layer_norm"):  # RoBERTa, MPNet
        return lambda hidden: inner.layer_norm(torch.nn.functional.gelu(inner.dense(hidden))), _head(inner.decoder)
    return None


def detection_scores(model: Any, hidden: Tensor) -> Tensor:
    """A replaced token detector's logits: ``[b, s, h]`` to ``[b, s]``."""
    if model.config.model_type == "metalm-encoder":
        return model.classifier(model.activation(model.dense(hidden))).squeeze(-1)
    return model.discriminator_predictions(hidden)


def _head(layer: Any) -> Head:
    return Head(layer.weight, layer.bias)


@torch.no_grad()
def measure_head(model: Any) -> bool:
    """Whether :func:`masked_head` gives the model's own logits, measured on a few tokens."""
    parts = masked_head(model)
    if parts is None:
        return False
    transform, head = parts
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows = model.get_input_embeddings().num_embeddings
    ids = ((torch.arange(6, device=device) * 5 + 3) % rows)[None]
    own = model(input_ids=ids).logits
    try:
        found = head.logits(transform(model.base_model(input_ids=ids).last_hidden_state))
        return bool((own - found).abs().max() <= TOLERANCE * max(1.0, float(own.abs().max())))
    except (AttributeError, RuntimeError, TypeError):  # parts of the same names that fit together otherwise
        return False
    finally:
        model.train(training)
