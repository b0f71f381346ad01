"""A run's tensors, whole and by name: what a checkpoint holds of the model and the optimiser.

Works for one process, DDP and FSDP2 alike: sharded tensors are put together before they are written, and dealt out
again after they are read, so that a checkpoint can be resumed on another number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Tensors = dict[str, Tensor]


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together from its shards (all processes must ask)."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu")


def gather(module: nn.Module, optimizer: Any) -> dict[str, Tensors]:
    """All state of a model and its optimiser, by parameter name.

    Args:
        module: The root module that was trained, not its wrapper.
        optimizer: Its optimiser.
    """
    own = module.state_dict()  # first: sharded modules put back what a forward pass had gathered
    names: dict[int, str] = {}
    first: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first[name] = names.setdefault(id(parameter), name)
    model: Tensors = {}
    for name, tensor in own.items():
        # Tied names stay one tensor, sharded or not.
        same = first.get(name, name)
        model[name] = model[same] if same in model else whole(tensor)
    states: Tensors = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                states[f"{names[id(parameter)]}:{key}"] = whole(value)
    return {"model": model, "optimizer": states}


@torch.no_grad()
def restore(module: nn.Module, optimizer: Any, tensors: Mapping[str, Tensors]) -> None:
    """Put gathered state back.

    Args:
        module: The root module, as it is trained (sharded or not).
        optimizer: Its optimiser.
        tensors: From :func:`gather`.
    """
    own = module.state_dict()
    for name, value in tensors["model"].items():
        own[name].copy_(_like(value, own[name]))
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    inner = getattr(optimizer, "optimizer", optimizer)
    states: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        name, _, field = key.rpartition(":")
        parameter = parameters[name]
        placed = _like(value, parameter) if value.shape == parameter.shape else value.to(_device(parameter))
        states.setdefault(parameter, {})[field] = placed
    for parameter, fields in states.items():
        inner.state[parameter] = fields


def _device(parameter: Tensor) -> torch.device:
    return parameter.to_local().device if isinstance(parameter, DTensor) else parameter.device


def _like(value: Tensor, other: Tensor) -> Tensor:
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(_device(other)), other.device_mesh, other.placements)
    return value.to(other.device)
