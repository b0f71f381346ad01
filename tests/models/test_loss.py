"""The chunked cross-entropy against torch's own on full logits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from metalm_cli.models import loss as module
from metalm_cli.models.loss import Head, linear_cross_entropy
from model_families import LargestTensor

M, H, V = 50, 12, 37


class Problem:
    def __init__(self, *, bias: bool, scale: float, softcap: float | None, weighted: bool, m: int = M) -> None:
        torch.manual_seed(3)
        self.hidden = torch.randn(m, H, requires_grad=True)
        self.weight = torch.randn(V, H, requires_grad=True)
        self.bias = torch.randn(V, requires_grad=True) if bias else None
        self.targets = torch.randint(V, (m,))
        self.weights = torch.rand(m) if weighted else None
        self.scale, self.softcap = scale, softcap

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [
            tensor for tensor in (self.hidden, self.weight, self.bias) if tensor is not None and tensor.requires_grad
        ]

    def chunked(self) -> tuple[torch.Tensor, torch.Tensor]:
        head = Head(self.weight, self.bias, self.scale, self.softcap)
        return linear_cross_entropy(self.hidden, head, self.targets, self.weights)

    def full(self) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.hidden @ self.weight.t()
        if self.bias is not None:
            logits = logits + self.bias
        logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        losses = cross_entropy(logits.float(), self.targets, reduction="none")
        return (losses if self.weights is None else losses * self.weights).sum(), losses


@pytest.mark.parametrize(
    ("bias", "scale", "softcap", "weighted"),
    list(itertools.product([False, True], [1.0, 0.3], [None, 2.5], [False, True])),
)
@pytest.mark.parametrize("elements", [1 << 22, 17 * V])
def test_loss_and_gradients_are_those_of_full_logits(bias, scale, softcap, weighted, elements, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
    problem = Problem(bias=bias, scale=scale, softcap=softcap, weighted=weighted)
    total, losses = problem.chunked()
    gradients = torch.autograd.grad(total * 0.7, problem.leaves)
    reference, expected_losses = problem.full()
    expected = torch.autograd.grad(reference * 0.7, problem.leaves)
    torch.testing.assert_close(total, reference)
    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=1e-5)
    assert not losses.requires_grad
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("m", [1, 15, 16, 17, 32, 33])
def test_every_chunk_boundary(m, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)  # the smallest chunk: 16 targets
    problem = Problem(bias=True, scale=1.0, softcap=None, weighted=False, m=m)
    total, losses = problem.chunked()
    reference, expected_losses = problem.full()
    torch.testing.assert_close(losses, expected_losses)
    gradients = torch.autograd.grad(total, problem.leaves)
    for gradient, other in zip(gradients, torch.autograd.grad(reference, problem.leaves), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("m", [1, H, H + 1])
def test_a_scaled_loss_has_scaled_gradients(m) -> None:
    problem = Problem(bias=True, scale=1.0, softcap=None, weighted=True, m=m)
    gradients = torch.autograd.grad(problem.chunked()[0] * 0.25, problem.leaves)
    for gradient, other in zip(gradients, torch.autograd.grad(problem.full()[0] * 0.25, problem.leaves), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


def test_logits_of_a_head_are_those_that_the_loss_uses() -> None:
    problem = Problem(bias=True, scale=0.3, softcap=2.5, weighted=False)
    logits = Head(problem.weight, problem.bias, 0.3, 2.5).logits(problem.hidden)
    torch.testing.assert_close(cross_entropy(logits, problem.targets, reduction="none"), problem.chunked()[1])


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_the_others_theirs(frozen) -> None:
    problem = Problem(bias=True, scale=1.0, softcap=None, weighted=False)
    getattr(problem, frozen).requires_grad_(False)
    gradients = torch.autograd.grad(problem.chunked()[0], problem.leaves)
    expected = torch.autograd.grad(problem.full()[0], problem.leaves)
    assert len(gradients) == 2
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


def test_without_gradients_no_graph_is_built() -> None:
    problem = Problem(bias=False, scale=1.0, softcap=None, weighted=False)
    with torch.no_grad():
        total, _ = problem.chunked()
    assert not total.requires_grad
    torch.testing.assert_close(total, problem.full()[0])


def test_no_targets_no_loss() -> None:
    problem = Problem(bias=True, scale=1.0, softcap=None, weighted=False, m=0)
    total, losses = problem.chunked()
    total.backward()
    assert total.item() == 0
    assert losses.shape == (0,)
    assert not problem.weight.grad.any()  # type: ignore[union-attr]


def test_autocast_multiplies_in_bf16_and_keeps_fp32_gradients() -> None:
    problem = Problem(bias=True, scale=1.0, softcap=None, weighted=True)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = problem.chunked()
    gradients = torch.autograd.grad(total, problem.leaves)
    reference, expected_losses = problem.full()
    expected = torch.autograd.grad(reference, problem.leaves)
    assert total.dtype == losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected_losses, atol=0.05, rtol=0.02)
    assert not torch.equal(losses, expected_losses), "autocast took no effect"
    for gradient, other in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() < 0.02 * other.norm()


def test_a_bf16_hidden_state_gets_a_bf16_gradient() -> None:
    problem = Problem(bias=False, scale=1.0, softcap=None, weighted=False)
    hidden = problem.hidden.detach().bfloat16().requires_grad_()
    total, _ = linear_cross_entropy(hidden, Head(problem.weight), problem.targets)
    total.backward()
    expected = torch.autograd.grad(problem.full()[0], problem.hidden)[0]
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert (hidden.grad.float() - expected).norm() < 0.02 * expected.norm()


def test_a_second_backward_is_refused() -> None:
    total, _ = Problem(bias=False, scale=1.0, softcap=None, weighted=False).chunked()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


def test_no_tensor_of_vocabulary_times_targets() -> None:
    targets, vocabulary, width = 3000, 5000, 4
    torch.manual_seed(0)
    hidden = torch.randn(targets, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, Head(weight), torch.randint(vocabulary, (targets,)))[0].backward()
    assert largest.elements <= module.CHUNK_ELEMENTS < targets * vocabulary / 3
    assert hidden.grad is not None
    with LargestTensor() as largest:
        cross_entropy(hidden @ weight.t(), torch.zeros(targets, dtype=torch.long)).backward()
    assert largest.elements >= targets * vocabulary, "the measure misses the full logits"
