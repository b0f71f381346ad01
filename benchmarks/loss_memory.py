"""Peak memory of the loss: chunked at trained positions, compared with full logits.

Each case runs in its own process and reports the growth of its peak resident memory (on a GPU, its CUDA peak) over the
memory of weights, hidden states and their gradients. The chunked loss must not grow with vocabulary times length.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from common import arguments, report
from metalm_cli.models.loss import Head, linear_cross_entropy

WIDTH = 128


def case(method: str, vocabulary: int, positions: int) -> float:
    """Mebibytes that a forward and backward pass adds to the peak memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.randn(vocabulary, WIDTH, device=device, requires_grad=True)
    hidden = torch.randn(positions, WIDTH, device=device, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,), device=device)
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    before = _peak(device)
    if method == "chunked":
        loss, _ = linear_cross_entropy(hidden, Head(weight), targets)
    else:
        loss = cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    loss.backward()
    return (_peak(device) - before) / 2**20


def _peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "case":
        print(case(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
        return
    options = arguments(__doc__ or "")
    figures: dict[str, Any] = {}
    lengths = (1024, 4096) if options.quick else (1024, 4096, 16384)
    for vocabulary in (8192, 32768):
        for positions in lengths:
            for method in ("chunked", "full"):
                completed = subprocess.run(
                    [sys.executable, __file__, "case", method, str(vocabulary), str(positions)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                figures[f"{method}, vocabulary {vocabulary:,}, {positions:,} trained positions: MiB"] = float(
                    completed.stdout
                )
    report("peak memory of the loss", figures, options)


if __name__ == "__main__":
    main()
