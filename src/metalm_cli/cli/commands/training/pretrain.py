"""``metalm pretrain``: pretraining of a MetaLM, a causal twin or an encoder from a recipe."""

from __future__ import annotations

from metalm_cli.cli.commands.training.train_run import train
from metalm_cli.cli.options import training as options
from metalm_cli.cli.options.groups import expand_groups
from metalm_cli.cli.options.shared import BaseOption


@expand_groups
def pretrain(
    arguments: options.Arguments = None,
    model: BaseOption = None,
    *,
    run: options.TrainOptions,
) -> None:
    """Pretrain a MetaLM on documents, from encoder and decoder checkpoints or from scratch.

    The default recipe is small.
    """
    train("pretrain", arguments or [], {"model.checkpoint": model}, run)
