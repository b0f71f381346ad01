"""Protection of a training run from what is computed between its steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from metalm_cli.inference.evaluation_mode import evaluation_mode


@contextmanager
def unchanged_training(model: nn.Module) -> Iterator[None]:
    """Context manager with a model in evaluation mode, without gradients, that restores mode and random numbers.

    Args:
        model: The model; its weights must not be changed.
    """
    random_state = _random_state()
    try:
        # Not in inference mode: a tensor that a module caches there could not take part in training.
        with evaluation_mode(model), torch.no_grad():
            yield
    finally:
        _restore_random_state(random_state)


def _random_state() -> tuple[Any, ...]:
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_devices


def _restore_random_state(state: tuple[Any, ...]) -> None:
    of_python, of_numpy, on_cpu, on_devices = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(on_cpu)
    if on_devices:
        torch.cuda.set_rng_state_all(on_devices)
