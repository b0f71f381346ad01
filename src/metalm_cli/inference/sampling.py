"""Sampling that does not depend on the batch: each sequence has a random generator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from metalm_cli.errors import MetalmError


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling options.

    Args:
        temperature: Divisor of the logits; above 0.
        top_p: Probability of the nucleus: tokens outside it are never drawn (Holtzman et al. 2020).
        seed: Random seed, 0 or more.

    Raises:
        MetalmError: An option is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise MetalmError(
                f"got temperature {self.temperature}, expected more than 0",
                remedy="for greedy decoding do not sample",
            )
        if not 0 < self.top_p <= 1:
            raise MetalmError(f"got top-p {self.top_p}, expected more than 0 and at most 1")
        if self.seed < 0:
            raise MetalmError(f"got seed {self.seed}, expected 0 or more")


class GumbelSampler(LogitsProcessor):
    """Logits processor that turns greedy decoding into sampling.

    ``argmax(logits / temperature - log(E))`` with exponential ``E`` is a sample from the softmax (the Gumbel trick).
    At each step a sequence draws one number for each entry of the vocabulary, independent of the batch. A difference
    of 1e-6 between logits changes about one sample in a million.

    Args:
        sampling: Temperature, top-p and seed.
        keys: Seeds of each sequence's generator beside the global seed: numbers, 0 or more.
    """

    def __init__(self, sampling: SamplingOptions, keys: Sequence[tuple[int, ...]]) -> None:
        self.sampling = sampling
        self.generators = [np.random.default_rng([sampling.seed, *key]) for key in keys]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose argmax is the sampled token: ``[b, v]``."""
        scores = scores.float() / self.sampling.temperature
        if self.sampling.top_p < 1:
            scores = nucleus_mask(scores, self.sampling.top_p)
        vocabulary = scores.shape[-1]
        exponentials = np.stack([generator.standard_exponential(vocabulary) for generator in self.generators])
        noise = -np.log(np.maximum(exponentials, np.finfo(np.float64).tiny)).astype(np.float32)
        return scores + torch.from_numpy(noise).to(scores.device)


def nucleus_mask(scores: Tensor, top_p: float) -> Tensor:
    """Return scores with -inf outside the nucleus: the likeliest tokens with total probability ``top_p``, at least one.

    Args:
        scores: Logits. ``[b, v]``
        top_p: Above 0, at most 1.

    Example:
        >>> nucleus_mask(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6).isfinite().tolist()
        [[True, True, False]]
    """
    sorted_scores, order = scores.sort(descending=True, stable=True)
    probabilities = sorted_scores.double().softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    return scores.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -math.inf)
