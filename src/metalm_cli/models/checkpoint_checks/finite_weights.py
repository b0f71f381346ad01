"""Check that loaded weights are finite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metalm_cli.errors import MetalmError


@torch.no_grad()
def check_finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Check that weights are finite: attention can turn NaN into ordinary outputs, so that no loss would show it.

    Args:
        tensors: Names and tensors.
        where: The folder that they were loaded from.

    Raises:
        MetalmError: A tensor holds NaN or an infinite value.
    """
    checked: set[int] = set()
    for name, tensor in tensors:
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.data_ptr() in checked:
            continue
        checked.add(tensor.data_ptr())  # tied weights have several names
        # The sum reads the tensor once without a copy; it may overflow, and then the values decide.
        if bool(torch.isfinite(tensor.sum())):
            continue
        count = int((~torch.isfinite(tensor)).sum())
        if count:
            raise MetalmError(
                "a model's weights are not finite",
                where=where,
                why=f"{count:,} of the {tensor.numel():,} values of {name} are NaN or infinite",
                remedy="restore the weights, or use an earlier checkpoint of the run that wrote them",
            )
