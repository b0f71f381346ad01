"""Accelerate's accelerator, and sharding on CPUs."""

from __future__ import annotations

import os
from typing import Any

import torch

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.training.distributed.collectives import Collectives


def connect_processes() -> Collectives:
    """Connect the processes that a launcher has started; a process alone is connected to none.

    Raises:
        MetalmError: The processes cannot be connected, or the launcher's variables are invalid.
    """
    from accelerate import PartialState

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return Collectives(PartialState(cpu=not torch.cuda.is_available()))
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise MetalmError(
            "the processes of the run cannot be connected",
            where=f"MASTER_ADDR:MASTER_PORT {address}, RANK {os.environ.get('RANK')} of "
            f"WORLD_SIZE {os.environ.get('WORLD_SIZE')}",
            why=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy="start as many processes as WORLD_SIZE says, with an address and a free port that all can reach; "
            "accelerate launch and torchrun set these variables",
            exit_code=Exit.FAILED,
        ) from error


def disconnect_processes() -> None:
    """Close the connections to the other processes, after the last run of the command."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_accelerator(recipe: Recipe) -> Any:
    """Make Accelerate's accelerator; processes and sharding are configured by ``accelerate launch``."""
    from accelerate import Accelerator

    mixed_precision = {"bf16": "bf16", "fp32": "no"}[recipe.train.precision]
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        cpu=not torch.cuda.is_available(),
        log_with=list(recipe.train.trackers) or None,
        project_dir=os.curdir,  # trackers require a folder here; the run sets its own before they start
    )
    if (
        os.environ.get("ACCELERATE_USE_FSDP") == "true"
        and accelerator.num_processes > 1
        and accelerator.device.type == "cpu"
    ):
        _shard_on_cpu(accelerator, mixed_precision)
    return accelerator


def _shard_on_cpu(accelerator: Any, mixed_precision: str) -> None:
    """Enable FSDP2 on CPUs over gloo: Accelerate silently ignores the sharding configuration there."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin()
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
