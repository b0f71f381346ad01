"""Replaced token detection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from metalm_cli.config.schema.objectives import ReplacedTokens
from metalm_cli.models.encoder_pretraining import encode, make_generator
from metalm_cli.models.loss import CHUNK_ELEMENTS
from metalm_cli.models.mlm_heads import detection_scores, masked_head, measure_head
from metalm_cli.objectives.base import Term
from metalm_cli.objectives.masked_lm import EncoderObjective, masked_loss
from metalm_cli.sessions import ROOT, Batch, PackedTokens


class ReplacedTokenObjective(EncoderObjective):
    """Replaced token detection: a generator fills masked positions, the encoder says which tokens were replaced."""

    options: ReplacedTokens

    def step(self) -> DetectionStep:
        generator = make_generator(self.assembly.model, self.options.generator_size)
        return DetectionStep(self.assembly.model, generator, self.stream, self.options.discriminator_weight)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"generator": batch.counts["trained_tokens"], "detector": batch.counts["encoder_tokens"]}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, float]:
        """Both losses, and how well replaced tokens are told: accuracy beside its base rate, and the area under the
        ROC curve, which a constant answer leaves at 0.5."""
        generator = sums["generator"] / max(1, counts["generator"])
        detector = sums["detector"] / max(1, counts["detector"])
        found = {
            "loss": generator + self.options.discriminator_weight * detector,
            "generator_loss": generator,
            "detector_loss": detector,
        }
        if outputs:
            scores, labels = (np.concatenate([one[at] for one in outputs]) for at in (0, 1))
            found["accuracy"] = float(((scores > 0) == labels).mean())
            found["base_rate"] = float(max(labels.mean(), 1 - labels.mean()))
            found["auc"] = area_under_curve(scores, labels)
        return found


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2
    return float((ranks[inverse][labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


class DetectionStep(nn.Module):
    """The root module of replaced token detection (ELECTRA, arXiv 2003.10555, section 2).

    In evaluation mode the detector's term also gives its scores and the labels of every real position.

    Args:
        model: The encoder with its detection head.
        generator: A masked language model.
        stream: Name of the rows' stream.
        weight: Weight of the detection loss.
    """

    def __init__(self, model: Any, generator: Any, stream: str, weight: float) -> None:
        super().__init__()
        self.model = model
        self.generator = generator
        self.stream = stream
        self.weight = weight
        self.compact = measure_head(generator)

    def forward(self, batch: Batch) -> dict[str, Term]:
        stream = batch.streams[self.stream]
        masked, states = masked_loss(self.generator, stream, self.compact)
        scores, labels, real = self._detect(stream, states)
        detected = binary_cross_entropy_with_logits(scores.float(), labels.float(), reduction="none")
        observed = None if self.training else (scores[real].float(), labels[real])
        return {"generator": Term(masked), "detector": Term((detected * real).sum(), self.weight, observed)}

    def _detect(self, stream: PackedTokens, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            sampled = self._sample(states.detach(), stream)
            ids = stream.input_ids.flatten().index_copy(0, stream.predict_at, sampled).view_as(stream.input_ids)
            labels = torch.zeros_like(ids, dtype=torch.bool).flatten()
            labels[stream.predict_at] = sampled != stream.targets
        hidden = encode(self.model, ids, stream)
        scores = detection_scores(self.model, hidden)
        return scores, labels.view_as(ids), stream.segment_ids != ROOT

    def _sample(self, states: Tensor, stream: PackedTokens) -> Tensor:
        """Draw tokens from the generator by inverting its distribution at the batch's uniforms: ``[m]``."""
        assert stream.uniforms is not None, "an encoder's rows carry uniforms"
        parts = masked_head(self.generator) if self.compact else None
        drawn = torch.empty_like(stream.targets)
        vocabulary = self.generator.get_input_embeddings().num_embeddings
        step = max(16, CHUNK_ELEMENTS // vocabulary)
        for at in range(0, len(states), step):
            part = slice(at, at + step)
            logits = states[part] if parts is None else parts[1].logits(states[part])
            totals = torch.softmax(logits.float(), -1).cumsum(-1)
            point = stream.uniforms[part, None] * totals[:, -1:]
            drawn[part] = torch.searchsorted(totals, point, right=True).squeeze(1).clamp(max=vocabulary - 1)
        return drawn
