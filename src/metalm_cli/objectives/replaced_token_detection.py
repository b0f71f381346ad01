"""ELECTRA's replaced token detection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from metalm_cli.config.schema.objectives import ReplacedTokenDetection
from metalm_cli.models.capabilities import measure_masked_head
from metalm_cli.models.families.encoder_only import encode, make_generator
from metalm_cli.models.loss import CHUNK_ELEMENTS
from metalm_cli.models.mlm_heads import detection_scores, masked_head
from metalm_cli.objectives.base import StepModule, Term
from metalm_cli.objectives.masked_lm import EncoderObjective, masked_loss
from metalm_cli.sessions import ROOT, Batch, PackedTokens


class ReplacedTokenObjective(EncoderObjective):
    """Replaced token detection: a generator fills masked positions, and the encoder detects the replaced tokens."""

    options: ReplacedTokenDetection

    def step_module(self) -> DetectionStep:
        generator = make_generator(self.assembly.model, self.options.generator_size)
        return DetectionStep(self.assembly.model, generator, self.stream, self.options.discriminator_weight)

    def extra_parts(self, root: nn.Module | None) -> dict[str, nn.Module]:
        """The generator."""
        if isinstance(root, DetectionStep):
            return {"generator": root.generator}
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return {"generator": make_generator(self.assembly.model, self.options.generator_size)}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"generator": batch.counts["trained_tokens"], "detector": batch.counts["encoder_tokens"]}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, float]:
        """Both losses, and the quality of detection: accuracy with its base rate, and the area under the ROC curve
        (0.5 for a constant prediction)."""
        generator = sums["generator"] / max(1, counts["generator"])
        detector = sums["detector"] / max(1, counts["detector"])
        metrics = {
            "loss": generator + self.options.discriminator_weight * detector,
            "generator_loss": generator,
            "detector_loss": detector,
        }
        if outputs:
            scores, labels = (np.concatenate([output[index] for output in outputs]) for index in (0, 1))
            metrics["accuracy"] = float(((scores > 0) == labels).mean())
            metrics["base_rate"] = float(max(labels.mean(), 1 - labels.mean()))
            metrics["auc"] = area_under_curve(scores, labels)
        return metrics


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative; ties count half.

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


class DetectionStep(StepModule):
    """Root module of replaced token detection (ELECTRA, arXiv 2003.10555, section 2).

    In evaluation mode the detector's term also outputs the scores and labels of all token positions.

    Args:
        model: The encoder with its detection head.
        generator: A masked language model.
        stream: Name of the stream of the rows.
        weight: Weight of the detection loss.
    """

    def __init__(self, model: Any, generator: Any, stream: str, weight: float) -> None:
        super().__init__()
        self.model = model
        self.generator = generator
        self.stream = stream
        self.weight = weight
        self.compact = measure_masked_head(generator)

    def forward(self, batch: Batch) -> dict[str, Term]:
        stream = batch.streams[self.stream]
        masked_sum, states = masked_loss(self.generator, stream, self.compact)
        scores, labels, is_token = self._detect(stream, states)
        losses = binary_cross_entropy_with_logits(scores.float(), labels.float(), reduction="none")
        outputs = None if self.training else (scores[is_token].float(), labels[is_token])
        return {"generator": Term(masked_sum), "detector": Term((losses * is_token).sum(), self.weight, outputs)}

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
        """Sample tokens from the generator by inverse transform sampling with the batch's uniforms: ``[m]``."""
        assert stream.uniforms is not None, "rows of an encoder have uniforms"
        head_parts = masked_head(self.generator) if self.compact else None
        sampled = torch.empty_like(stream.targets)
        vocabulary = self.generator.get_input_embeddings().num_embeddings
        chunk_size = max(16, CHUNK_ELEMENTS // vocabulary)
        for start in range(0, len(states), chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = states[chunk] if head_parts is None else head_parts[1].logits(states[chunk])
            cumulative = torch.softmax(logits.float(), -1).cumsum(-1)
            thresholds = stream.uniforms[chunk, None] * cumulative[:, -1:]
            sampled[chunk] = torch.searchsorted(cumulative, thresholds, right=True).squeeze(1).clamp(max=vocabulary - 1)
        return sampled
