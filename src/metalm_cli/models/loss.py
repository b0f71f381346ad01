"""Cross-entropy at trained positions only, in chunks.

Memory is independent of vocabulary times sequence length: a chunk's logits exist only while the chunk is worked on,
because its gradients are computed along with its loss. The matrix products run in the compute dtype, softmax in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Logits that exist at once on a CPU (times 4 bytes: 16 MiB, about its cache)."""
CUDA_CHUNK_ELEMENTS = 1 << 27
"""... and on a GPU (512 MiB), whose matrix products want more rows, and whose additions to the gradient cost more."""


def chunk_elements(cuda: bool) -> int:
    """Logits that exist at once on a GPU, or on a CPU."""
    return CUDA_CHUNK_ELEMENTS if cuda else CHUNK_ELEMENTS


@dataclass(frozen=True)
class Head:
    """What turns a decoder's last hidden state into logits.

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
        """``[..., h]`` to ``[..., v]``, in the dtype of the matrix product."""
        return self._cap(torch.nn.functional.linear(hidden, self.weight, self.bias) * self.scale)

    def _cap(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def linear_cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a head over the vocabulary.

    Letters: m targets, h width, v vocabulary.

    Args:
        hidden: Hidden states that predict. ``[m, h]``
        head: The output head.
        targets: ``[m]`` int64.
        weights: Weight of each target, or None for 1. ``[m]``

    Returns:
        The weighted sum of ``-log p(target)`` in nats (fp32, differentiable), and each target's, without weight and
        without gradient. ``[m]`` fp32.
    """
    dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
    grad = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(
        hidden, head.weight, head.bias, targets, weights, head.scale, head.softcap, dtype, grad
    )


class _LinearCrossEntropy(torch.autograd.Function):
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
        states, matrix = hidden.to(compute), weight.to(compute)
        losses = torch.empty(m, dtype=torch.float32, device=hidden.device)
        need = [grad and flag for flag in ctx.needs_input_grad[:3]]
        grad_hidden = torch.empty_like(states) if need[0] else None
        step = max(16, chunk_elements(hidden.is_cuda) // v)
        # One chunk of few targets waits for backward: its slopes are smaller than the weight's gradient.
        late = need[1] and m <= min(step, weight.shape[1])
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need[1] and not late else None
        grad_bias = torch.zeros(v, dtype=torch.float32, device=hidden.device) if need[2] else None
        slope = states.new_zeros(0, v)
        for at in range(0, m, step):
            part = slice(at, at + step)
            logits = (states[part] @ matrix.t()).float()
            if bias is not None:
                logits += bias
            logits *= scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            target = targets[part, None]
            total = torch.logsumexp(logits, dim=1, keepdim=True)
            losses[part] = (total - logits.gather(1, target)).squeeze(1)
            if not any(need):
                continue
            slope = torch.exp(logits - total)
            slope.scatter_add_(1, target, torch.full_like(total, -1.0))
            if weights is not None:
                slope *= weights[part, None]
            if softcap is not None:
                slope *= 1 - (logits / softcap) ** 2
            slope *= scale
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            slope = slope.to(compute)
            if grad_hidden is not None:
                torch.matmul(slope, matrix, out=grad_hidden[part])
            if grad_weight is not None:
                _accumulate(grad_weight, slope, states[part])
        ctx.late = (slope, states) if late else None
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(losses)
        total_loss = losses.sum() if weights is None else (losses * weights).sum()
        return total_loss, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the chunked cross-entropy can be differentiated once")
        scaled = [
            None if one is None else one.mul_(grads[0]).to(dtype)
            for one, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        if ctx.late is not None:
            slope, states = ctx.late
            scaled[1] = (slope.t() @ (states * grads[0]).to(states.dtype)).to(ctx.dtypes[1])
        ctx.grads = ctx.late = None
        return (*scaled, None, None, None, None, None, None)


def _accumulate(total: Tensor, slope: Tensor, states: Tensor) -> None:
    if slope.dtype == total.dtype:
        total.addmm_(slope.t(), states)
    else:
        total += slope.t() @ states
