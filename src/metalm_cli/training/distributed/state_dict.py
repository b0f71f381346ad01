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


def gather_state(module: nn.Module, optimizer: Any, keep: bool = True) -> dict[str, Tensors]:
    """All state of a model and its optimiser, by parameter name, on the CPU.

    Of a model with adapters, what is frozen is left out: it is its base's, which a resumed run loads again.

    Args:
        module: The root module that was trained, not its wrapper.
        optimizer: Its optimiser.
        keep: Whether this process wants it; one that does not still takes part, because shards are put together by
            all processes, and gets empty groups.
    """
    own = module.state_dict()  # first: sharded modules put back what a forward pass had gathered
    names: dict[int, str] = {}
    first: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first[name] = names.setdefault(id(parameter), name)
    model: Tensors = {}
    seen: set[str] = set()
    frozen = _frozen(module)
    for name, tensor in own.items():
        if name in frozen:
            continue
        # Tied names stay one tensor, sharded or not.
        same = first.get(name, name)
        if same in seen:
            model.update({name: model[same]} if keep else {})
        else:
            _take(model, name, tensor, keep)
        seen.add(name)
    states: Tensors = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                _take(states, f"{names[id(parameter)]}:{key}", value, keep)
    return {"model": model, "optimizer": states}


def _frozen(module: nn.Module) -> set[str]:
    """Names of the parameters that a base keeps."""
    if not getattr(getattr(module, "model", None), "adapted", False):
        return set()
    return {name for name, one in module.named_parameters(remove_duplicate=False) if not one.requires_grad}


def _take(into: Tensors, name: str, tensor: Tensor, keep: bool) -> None:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if keep:
        into[name] = full.detach().to("cpu")


@torch.no_grad()
def restore_state(module: nn.Module, optimizer: Any, tensors: Mapping[str, Tensors]) -> None:
    """Put gathered state back.

    Args:
        module: The root module, as it is trained (sharded or not).
        optimizer: Its optimiser.
        tensors: From :func:`gather_state`.
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
