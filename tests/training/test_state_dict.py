"""Gathering and restoring the state of a model and its optimiser."""

from __future__ import annotations

import copy

import torch
from torch import nn

from metalm_cli.training.distributed.state_dict import gather_state, restore_state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("table", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def trained() -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = Tied()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return module, optimizer


def test_gathered_state_is_restored_and_tied_tensors_stay_tied() -> None:
    module, optimizer = trained()
    tensors = gather_state(module, optimizer)
    assert tensors["model"].keys() == {"first.weight", "last.weight", "table"}
    assert tensors["model"]["first.weight"] is tensors["model"]["last.weight"]
    saved = copy.deepcopy(tensors)
    other = Tied()
    again = torch.optim.AdamW(other.parameters(), lr=0.1)
    restore_state(other, again, tensors)
    restored = gather_state(other, again)
    for group, named in saved.items():
        assert named.keys() == restored[group].keys()
        assert all(torch.equal(tensor, restored[group][name]) for name, tensor in named.items())


def test_a_process_that_does_not_write_stores_no_tensors() -> None:
    assert gather_state(*trained(), keep=False) == {"model": {}, "optimizer": {}}
