"""``metalm pretrain``: pretraining of a MetaLM, a causal twin or an encoder from a recipe."""

from __future__ import annotations

from metalm_cli.cli.commands.training.train_run import TrainOptions, train
from metalm_cli.cli.options.training import (
    Arguments,
    BaseOption,
    DataRoot,
    DryRun,
    Offline,
    OutOption,
    Resume,
    SeedsOption,
)


def pretrain(
    arguments: Arguments = None,
    model: BaseOption = None,
    out: OutOption = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    data_root: DataRoot = None,
    seeds: SeedsOption = None,
) -> None:
    """Pretrain a MetaLM on documents, from encoder and decoder checkpoints or from scratch.

    The default recipe is small.
    """
    options = TrainOptions(out, resume, dry_run, offline, data_root, seeds)
    train("pretrain", arguments or [], {"model.checkpoint": model}, options)
