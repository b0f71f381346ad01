"""Cross-entropy and divergence from a teacher, at trained positions only, in chunks.

Memory is independent of vocabulary times sequence length: a chunk's logits exist only while the chunk is processed,
because its gradients are computed along with its loss. The matrix products run in the compute dtype, softmax in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Number of logits in memory at once on a CPU (times 4 bytes: 16 MiB, about the size of its cache)."""
CUDA_CHUNK_ELEMENTS = 1 << 27
"""The same on a GPU (512 MiB): its matrix products need more rows, and additions to the gradient cost more."""


def chunk_elements(cuda: bool) -> int:
    """Return the number of logits in memory at once, on a GPU or on a CPU."""
    return CUDA_CHUNK_ELEMENTS if cuda else CHUNK_ELEMENTS


_shared_casts: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] | None = None
"""Weights of heads and their casts inside :func:`shared_head_casts`, by id of the weight and dtype."""


@contextmanager
def shared_head_casts() -> Iterator[None]:
    """Context manager in which each head's weight is cast to the compute dtype once; weights must not change in it."""
    global _shared_casts
    outer, _shared_casts = _shared_casts, {}
    try:
        yield
    finally:
        _shared_casts = outer


def _cast_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a head's weight, unless it is cast already."""
    if _shared_casts is None or weight.dtype == dtype:
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in _shared_casts:
        _shared_casts[key] = (weight, weight.to(dtype))  # the weight too, so that its id stays its own
    return _shared_casts[key][1]


@dataclass(frozen=True)
class Head:
    """Output head: maps a decoder's last hidden states to logits.

    ``logits = cap(scale * (hidden @ weight.T + bias))`` with ``cap(x) = softcap * tanh(x / softcap)``.

    Args:
        weight: ``[v, h]``.
        bias: ``[v]`` or None.
        scale: Factor of the logits (Cohere, Granite).
        softcap: Gemma's soft cap, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits, ``[..., h]`` to ``[..., v]``, in the dtype of the matrix product."""
        return self._cap(torch.nn.functional.linear(hidden, self.weight, self.bias) * self.scale)

    def _cap(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def linear_cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of a head over the vocabulary.

    Letters: m targets, h width, v vocabulary.

    Args:
        hidden: Hidden states that predict the targets. ``[m, h]``
        head: The output head.
        targets: ``[m]`` int64.
        weights: Weight of each target, or None for 1. ``[m]``

    Returns:
        The weighted sum of ``-log p(target)`` in nats (fp32, differentiable), and the unweighted loss of each target,
        without gradient. ``[m]`` fp32.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    grad = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(
        hidden, head.weight, head.bias, targets, weights, head.scale, head.softcap, dtype, grad
    )


def linear_divergence(hidden: Tensor, head: Head, teacher_hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the Kullback–Leibler divergence of a head's predictions from those of the same head for a teacher.

    Args:
        hidden: Hidden states of the student. ``[k, h]``
        head: The output head.
        teacher_hidden: Hidden states of the teacher, which have no gradient. ``[k, h]``

    Returns:
        The sum of ``sum p * log(p / q)`` in nats, p the teacher's and q the student's probabilities (fp32,
        differentiable), and each of them, without gradient. ``[k]`` fp32.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    grad = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(
        hidden, head.weight, head.bias, teacher_hidden.detach(), None, head.scale, head.softcap, dtype, grad
    )


def divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the Kullback–Leibler divergence of predictions from a teacher's, ``[k, v]`` each: ``[k]`` in nats."""
    teacher = torch.log_softmax(teacher_logits.detach().float(), -1)
    return (teacher.exp() * (teacher - torch.log_softmax(logits.float(), -1))).sum(-1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy, or divergence if the targets are floating-point hidden states of a teacher."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        scale: float,
        softcap: float | None,
        dtype: torch.dtype | None,
        grad: bool,
    ) -> tuple[Tensor, Tensor]:
        m, v = hidden.shape[0], weight.shape[0]
        compute = hidden.dtype if dtype is None else dtype
        states, matrix = hidden.to(compute), _cast_weight(weight, compute)
        losses = torch.empty(m, dtype=torch.float32, device=hidden.device)
        needs_grad = [grad and flag for flag in ctx.needs_input_grad[:3]]
        grad_hidden = torch.empty_like(states) if needs_grad[0] else None
        chunk_size = max(16, chunk_elements(hidden.is_cuda) // v)
        # A single chunk of few targets is deferred to backward: its logit gradients are smaller than the weight's.
        deferred = needs_grad[1] and m <= min(chunk_size, weight.shape[1])
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad[1] and not deferred else None
        grad_bias = torch.zeros(v, dtype=torch.float32, device=hidden.device) if needs_grad[2] else None
        logit_grad = states.new_zeros(0, v)
        for start in range(0, m, chunk_size):
            chunk = slice(start, start + chunk_size)
            logits = _chunk_logits(states[chunk], matrix, bias, scale, softcap)
            total = torch.logsumexp(logits, dim=1, keepdim=True)
            if targets.is_floating_point():
                teacher = _chunk_logits(targets[chunk].to(compute), matrix, bias, scale, softcap).log_softmax(1)
                losses[chunk] = (teacher.exp() * (teacher - logits + total)).sum(1)
            else:
                losses[chunk] = (total - logits.gather(1, targets[chunk, None])).squeeze(1)
            if not any(needs_grad):
                continue
            logit_grad = torch.exp(logits - total)
            if targets.is_floating_point():
                logit_grad -= teacher.exp_()
            else:
                logit_grad.scatter_add_(1, targets[chunk, None], torch.full_like(total, -1.0))
            if weights is not None:
                logit_grad *= weights[chunk, None]
            if softcap is not None:
                logit_grad *= 1 - (logits / softcap) ** 2
            logit_grad *= scale
            if grad_bias is not None:
                grad_bias += logit_grad.sum(0)
            logit_grad = logit_grad.to(compute)
            if grad_hidden is not None:
                torch.matmul(logit_grad, matrix, out=grad_hidden[chunk])
            if grad_weight is not None:
                _accumulate(grad_weight, logit_grad, states[chunk])
        ctx.deferred = (logit_grad, states) if deferred else None
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(losses)
        total_loss = losses.sum() if weights is None else (losses * weights).sum()
        return total_loss, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the chunked cross-entropy can be differentiated only once")
        scaled = [
            None if gradient is None else gradient.mul_(grads[0]).to(dtype)
            for gradient, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        if ctx.deferred is not None:
            logit_grad, states = ctx.deferred
            scaled[1] = (logit_grad.t() @ (states * grads[0]).to(states.dtype)).to(ctx.dtypes[1])
        ctx.grads = ctx.deferred = None
        return (*scaled, None, None, None, None, None, None)


def _chunk_logits(states: Tensor, matrix: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """Logits of a chunk, in fp32."""
    logits = (states @ matrix.t()).float()
    if bias is not None:
        logits += bias
    logits *= scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _accumulate(total: Tensor, logit_grad: Tensor, states: Tensor) -> None:
    if logit_grad.dtype == total.dtype:
        total.addmm_(logit_grad.t(), states)
    else:
        total += logit_grad.t() @ states
