"""Where a run trains: Accelerate's accelerator, sharding, compilation."""

from __future__ import annotations

import os
from typing import Any

import torch

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly


def make_accelerator(recipe: Recipe) -> Any:
    """Accelerate's accelerator; processes and sharding come from ``accelerate launch``."""
    from accelerate import Accelerator

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    mixed = {"bf16": "bf16", "fp32": "no"}[recipe.train.precision]
    made = Accelerator(
        mixed_precision=mixed,
        cpu=not torch.cuda.is_available(),
        log_with=list(recipe.train.trackers) or None,
        project_dir=os.curdir,  # trackers want one now; the run names its own before they start
    )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and made.num_processes > 1 and made.device.type == "cpu":
        _shard_on_cpu(made, mixed)
    return made


def _shard_on_cpu(accelerator: Any, mixed: str) -> None:
    """Accelerate drops a sharding configuration on CPUs without a word; FSDP2 itself runs there, over gloo."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin()
    if mixed != "no":
        plugin.set_mixed_precision(mixed)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def compile_layers(assembly: Assembly) -> None:
    """Compile the layers of every stack, each once: they are alike, so that one compilation serves all."""
    from metalm_cli.models.trainable import transformer_layers

    for name, part in assembly.parts().items():
        if not name.startswith("connectors."):
            for layer in transformer_layers(part):
                layer.compile()
