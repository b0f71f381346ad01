"""Contrastive objective of a dual encoder (CLIP, arXiv 2103.00020, figure 3).

In a step of n pairs, the logit of each image and each text is the cosine of their embeddings times the logit scale.
The loss is the mean of two cross-entropies over n classes: of the right text of each image, and of the right image of
each text. All pairs of a step, of all processes, are compared in one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoder
from metalm_cli.objectives.base import StepModule, Term
from metalm_cli.objectives.decoder_objective import DecoderObjective
from metalm_cli.sessions import Batch

LOGIT_SCALE = "logit_scale"
"""Name of the term that reports the logit scale; it has no weight in the loss."""


class ContrastiveObjective(DecoderObjective):
    """Contrastive training of an image encoder and a text encoder.

    Args:
        assembly: A dual encoder.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly

    def step_module(self) -> ContrastiveStep:
        return ContrastiveStep(self.assembly.model)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Number of pairs."""
        pairs = batch.counts["trained_tokens"]
        return {"loss": pairs, LOGIT_SCALE: pairs}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, Any]:
        """Loss of all validation pairs as one batch, and share of images and texts whose own pair is the most similar.

        The loss grows with the logarithm of the number of pairs, so that it is not that of a step.
        """
        if not outputs:
            return {}
        images, texts, scales = (np.concatenate(arrays) for arrays in zip(*outputs, strict=True))
        logits = torch.from_numpy(scales[:1] * images @ texts.T)
        right = torch.arange(len(logits))
        loss = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
        return {
            "loss": float(loss),
            "right_text": float((logits.argmax(1) == right).double().mean()),
            "right_image": float((logits.argmax(0) == right).double().mean()),
            LOGIT_SCALE: float(scales[0]),
        }


class ContrastiveStep(StepModule):
    """Root module of contrastive training.

    Args:
        model: The dual encoder.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Term]:
        images, texts = (self._embed(name, batch) for name in (self.model.image_encoder, self.model.text_encoder))
        scale = self.model.logit_scale()
        pairs = len(images)
        if batch.step_counts is None:  # validation, which compares the embeddings of all batches
            return {"loss": Term(images.new_zeros(()), outputs=(images, texts, scale.expand(pairs)))}
        all_images, all_texts, first = images, texts, 0
        if batch.step_counts["loss"] != pairs:
            all_images, all_texts = gather(torch.stack([images, texts])).unbind()
            first = torch.distributed.get_rank() * pairs
        loss = contrastive_loss(images, texts, all_images, all_texts, scale, first)
        return {"loss": Term(loss), LOGIT_SCALE: Term(pairs * scale.detach(), 0.0, metric=LOGIT_SCALE)}

    def _embed(self, name: str, batch: Batch) -> Tensor:
        """Embeddings of an encoder's contents, one for each pair: ``[n, d]``."""
        table = batch.docks[name]
        return self.model.embed(name, table)[table.content_index]

    def after_update(self) -> None:
        self.model.logit_scale.clip()


def contrastive_loss(
    images: Tensor, texts: Tensor, all_images: Tensor, all_texts: Tensor, scale: Tensor, first: int = 0
) -> Tensor:
    """Sum over pairs of the mean of both cross-entropies, in nats.

    Args:
        images: Embeddings of images. ``[n, d]``
        texts: Embeddings of their texts. ``[n, d]``
        all_images: Embeddings of the images that the texts are compared with. ``[m, d]``
        all_texts: Embeddings of the texts that the images are compared with. ``[m, d]``
        scale: Factor of the cosines.
        first: Index of the first of the n pairs among the m.

    Example:
        >>> same = torch.nn.functional.normalize(torch.ones(4, 8), dim=-1)
        >>> round(float(contrastive_loss(same, same, same, same, torch.tensor(5.0))) / 4, 4)  # ln 4
        1.3863
    """
    right = first + torch.arange(len(images), device=images.device)
    with torch.autocast(images.device.type, enabled=False):
        of_images = cross_entropy(scale * images @ all_texts.T, right, reduction="sum")
        of_texts = cross_entropy(scale * texts @ all_images.T, right, reduction="sum")
    return (of_images + of_texts) / 2


def gather(embeddings: Tensor) -> Tensor:
    """Gather the embeddings of all processes, each of which has the same number of pairs.

    The gradient of a process's embeddings is the sum of their gradients in all processes, so that gradients of
    weights, summed over processes, are those of one process with all pairs.

    Args:
        embeddings: ``[2, n, d]``

    Returns:
        The pairs by rank. ``[2, processes * n, d]``

    Raises:
        MetalmError: There is one process, so that a step has more than one pass.
    """
    if not torch.distributed.is_initialized():
        raise MetalmError(
            "a pass does not hold all pairs of a step",
            where="train.micro_batch_size",
            why="objective contrastive compares all pairs of a step in one pass",
            remedy="remove train.micro_batch_size",
        )
    return _Gather.apply(embeddings)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        gathered = [torch.empty_like(embeddings) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, embeddings.contiguous())
        ctx.pairs = embeddings.shape[1]
        return torch.cat(gathered, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.narrow(1, torch.distributed.get_rank() * ctx.pairs, ctx.pairs)
