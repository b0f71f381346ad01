"""Full state dicts of the model and the optimiser, by parameter name, for checkpoints.

Works with one process, DDP and FSDP2: sharded tensors are gathered before they are saved and distributed again after
they are loaded, so that a checkpoint can be resumed on another number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from metalm_cli.errors import MetalmError

Tensors = dict[str, Tensor]

MAX_LISTED = 4
"""Parameters listed in the error about a checkpoint of another model."""


def gather_state(module: nn.Module, optimizer: Any, keep: bool = True) -> dict[str, Tensors]:
    """Gather the state of a model and its optimiser, by parameter name, on the CPU.

    Frozen parameters of a model with adapters are omitted: they belong to its base, which a resumed run loads again.

    Args:
        module: The trained root module, not its wrapper.
        optimizer: Its optimiser.
        keep: Whether this process stores the tensors; the other processes take part in gathering shards and return
            empty groups.
    """
    model = gather_model(module, keep)
    first_names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizer_state: Tensors = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                _add_full_tensor(optimizer_state, f"{first_names[id(parameter)]}:{key}", value, keep)
    return {"model": model, "optimizer": optimizer_state}


def gather_model(module: nn.Module, keep: bool = True) -> Tensors:
    """Gather the state of a model as :func:`gather_state` does, without that of the optimiser."""
    state_dict = module.state_dict()  # first, because this reshards parameters that a forward pass has gathered
    first_names: dict[int, str] = {}
    canonical_names: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        canonical_names[name] = first_names.setdefault(id(parameter), name)
    model: Tensors = {}
    seen: set[str] = set()
    frozen = _frozen_names(module)
    for name, tensor in state_dict.items():
        if name in frozen:
            continue
        # Tied names share one tensor, sharded or not.
        canonical_name = canonical_names.get(name, name)
        if canonical_name in seen:
            model.update({name: model[canonical_name]} if keep else {})
        else:
            _add_full_tensor(model, name, tensor, keep)
        seen.add(name)
    return model


def _frozen_names(module: nn.Module) -> set[str]:
    """Names of the frozen base parameters of a model with adapters."""
    if not getattr(getattr(module, "model", None), "adapted", False):
        return set()
    return {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def _add_full_tensor(target: Tensors, name: str, tensor: Tensor, keep: bool) -> None:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if keep:
        target[name] = full.detach().to("cpu")


@torch.no_grad()
def restore_state(module: nn.Module, optimizer: Any, tensors: Mapping[str, Tensors]) -> None:
    """Restore gathered state.

    Args:
        module: The root module, sharded or not.
        optimizer: Its optimiser.
        tensors: State from :func:`gather_state`.

    Raises:
        MetalmError: The state is that of a model with other parameters.
    """
    state_dict = module.state_dict()
    _check_names_and_shapes(module, state_dict, tensors)
    for name, value in tensors["model"].items():
        state_dict[name].copy_(_place_like(value, state_dict[name]))
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    inner_optimizer = getattr(optimizer, "optimizer", optimizer)
    states: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        name, _, field = key.rpartition(":")
        parameter = parameters[name]
        placed = _place_like(value, parameter) if value.shape == parameter.shape else value.to(_device(parameter))
        states.setdefault(parameter, {})[field] = placed
    for parameter, fields in states.items():
        inner_optimizer.state[parameter] = fields


def _check_names_and_shapes(
    module: nn.Module, state_dict: Mapping[str, Tensor], tensors: Mapping[str, Tensors]
) -> None:
    """Compare the saved tensors with the model before any of them is copied."""
    saved = {name: tuple(value.shape) for name, value in tensors.get("model", {}).items()}
    current = {name: tuple(value.shape) for name, value in state_dict.items()}
    required = current.keys() - _frozen_names(module)
    names = sorted(name for name in saved.keys() | required if saved.get(name) != current.get(name))
    parameters = dict(module.named_parameters())
    names += sorted(key for key in tensors.get("optimizer", {}) if key.rpartition(":")[0] not in parameters)
    if names:
        described = [f"{name} was {saved.get(name)} and is {current.get(name)}" for name in names[:MAX_LISTED]]
        more = f"; and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        raise MetalmError(
            "the checkpoint is not one of this model: its parameters have other names or shapes",
            where="the run's checkpoints",
            why="; ".join(described) + more,
            remedy="restore the recipe and the base model that the run started with, or start a new run",
        )


def _device(parameter: Tensor) -> torch.device:
    return parameter.to_local().device if isinstance(parameter, DTensor) else parameter.device


def _place_like(value: Tensor, other: Tensor) -> Tensor:
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(_device(other)), other.device_mesh, other.placements)
    return value.to(other.device)
