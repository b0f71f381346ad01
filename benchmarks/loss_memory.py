"""Peak memory of the loss: chunked at trained positions, against full logits.

Each case runs in a process of its own and reports the growth of its peak resident memory (its CUDA peak on a GPU)
over what weights, hidden states and their gradients take. Chunked, it must not grow with vocabulary times length.
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


def case(way: str, vocabulary: int, positions: int) -> float:
    """Mebibytes that a forward and backward pass adds to the peak."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.randn(vocabulary, WIDTH, device=device, requires_grad=True)
    hidden = torch.randn(positions, WIDTH, device=device, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,), device=device)
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    before = _peak(device)
    if way == "chunked":
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
            for way in ("chunked", "full"):
                made = subprocess.run(
                    [sys.executable, __file__, "case", way, str(vocabulary), str(positions)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                figures[f"{way}, vocabulary {vocabulary:,}, {positions:,} trained positions: MiB"] = float(made.stdout)
    report("peak memory of the loss", figures, options)


if __name__ == "__main__":
    main()
