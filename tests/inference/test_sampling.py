"""Sampling: the distribution of the tokens, and a generator for each sequence."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference.sampling import GumbelSampler, SamplingOptions, nucleus_mask

SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def draw(sampling: SamplingOptions, count: int, logits: torch.Tensor) -> list[int]:
    drawing = GumbelSampler(sampling, [(0,)])
    return [int(drawing(None, logits[None]).argmax()) for _ in range(count)]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_tokens_are_drawn_from_the_softmax(temperature) -> None:
    count = 6000
    counts = Counter(draw(SamplingOptions(temperature), count, SHARES.log() + 7))
    expected = (SHARES.log() / temperature).softmax(0) * count
    chi = sum(
        (counts[token] - float(expected_count)) ** 2 / float(expected_count)
        for token, expected_count in enumerate(expected)
    )
    assert chi < 16.3, "chi-square with three degrees of freedom: p = 0.001"


def test_top_p_keeps_the_likeliest() -> None:
    assert nucleus_mask(SHARES.log()[None], 0.79).isfinite().tolist() == [[True, True, False, False]]
    assert nucleus_mask(SHARES.log()[None], 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert nucleus_mask(SHARES.flip(0).log()[None], 0.1).isfinite().tolist() == [[False, False, False, True]]
    assert nucleus_mask(torch.zeros(1, 4), 0.6).isfinite().sum() == 3, "ties are broken by token id"
    counts = Counter(draw(SamplingOptions(1.0, 0.6), 4000, SHARES.log()))
    assert set(counts) == {0, 1}
    assert math.isclose(counts[0] / 4000, 0.625, abs_tol=0.03)


def test_samples_of_a_sequence_do_not_depend_on_the_batch() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    keys = [(4, 0), (4, 1), (9, 0)]
    together = GumbelSampler(SamplingOptions(seed=5), keys)
    alone = [GumbelSampler(SamplingOptions(seed=5), [key]) for key in keys]
    for _ in range(4):
        rows = together(None, logits)
        for index, sampler in enumerate(alone):
            assert torch.equal(rows[index], sampler(None, logits[index : index + 1])[0])
    assert (
        len(
            {
                tuple(row.tolist())
                for row in GumbelSampler(SamplingOptions(seed=5), keys)(None, logits[:1].expand(3, -1))
            }
        )
        == 3
    )
    other = GumbelSampler(SamplingOptions(seed=6), keys)(None, logits)
    assert not torch.equal(other, GumbelSampler(SamplingOptions(seed=5), keys)(None, logits))


def test_no_draw_is_infinite(monkeypatch) -> None:
    drawing = GumbelSampler(SamplingOptions(), [(0,)])

    class Zeros:
        def standard_exponential(self, size: int) -> np.ndarray:
            return np.zeros(size)

    drawing.generators = [Zeros()]  # type: ignore[list-item]
    assert drawing(None, torch.zeros(1, 4)).isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_invalid_sampling_options_are_errors(wrong) -> None:
    with pytest.raises(MetalmError, match="got"):
        SamplingOptions(**wrong)
    with pytest.raises(MetalmError, match="seed"):
        SamplingOptions(seed=-1)
