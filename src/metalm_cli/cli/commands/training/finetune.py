"""``metalm finetune`` and ``metalm instruct``: training on tasks."""

from __future__ import annotations

from metalm_cli.cli.commands.training.train_run import train
from metalm_cli.cli.options import training as options
from metalm_cli.cli.options.groups import expand_groups
from metalm_cli.cli.options.shared import BaseOption


@expand_groups
def finetune(
    arguments: options.Arguments = None,
    model: BaseOption = None,
    encoder_only: options.EncoderOnly = False,
    *,
    tasks: options.TaskOptions,
    run: options.TrainOptions,
) -> None:
    """Finetune a MetaLM, a decoder or an encoder–decoder on one or many tasks, or an encoder alone.

    The default recipe is multitask. Without --model, training starts from the newest finished run that holds a
    MetaLM; one of pretraining before one of finetuning.
    """
    flags = {"model.checkpoint": model, **tasks.recipe_values()}
    if encoder_only:
        flags |= {"model.trains.decoder": "none", "model.trains.encoders": "all", "model.trains.connectors": "all"}
    train("finetune", arguments or [], flags, run)


@expand_groups
def instruct(
    arguments: options.Arguments = None,
    model: BaseOption = None,
    hold_out: options.HoldOut = None,
    *,
    tasks: options.TaskOptions,
    run: options.TrainOptions,
) -> None:
    """Tune a model on instructions: many templates per task, whole clusters held out, overlap with them audited.

    The default recipe is flan. Without --model, training starts from the newest finished run that holds a
    MetaLM; one of pretraining before one of finetuning.
    """
    flags = {"model.checkpoint": model, **tasks.recipe_values(), "data.hold_out": hold_out or None}
    train("instruct", arguments or [], flags, run)
