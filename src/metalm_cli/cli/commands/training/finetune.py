"""``metalm finetune`` and ``metalm instruct``: training on tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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

TaskNames = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="TASK", help="Train on this task (data.tasks); repeatable."),
]
ClusterNames = Annotated[
    list[str] | None,
    typer.Option("--cluster", metavar="CLUSTER", help="Train on the core tasks of this cluster; repeatable."),
]
AllCards = Annotated[bool, typer.Option("--all-cards", help="Clusters also include tasks that are not core.")]
Templates = Annotated[
    str | None, typer.Option("--templates", metavar="NAME", help="Template collection (data.templates.collection).")
]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(
        "--hold-out", metavar="CLUSTER", help="Hold out this cluster or task, and tasks that leak it; repeatable."
    ),
]
EncoderOnly = Annotated[
    bool, typer.Option("--encoder-only", help="Train encoders and connectors only; freeze the decoder.")
]


def finetune(
    arguments: Arguments = None,
    model: BaseOption = None,
    task: TaskNames = None,
    cluster: ClusterNames = None,
    all_cards: AllCards = False,
    templates: Templates = None,
    encoder_only: EncoderOnly = False,
    out: OutOption = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    data_root: DataRoot = None,
    seeds: SeedsOption = None,
) -> None:
    """Finetune a MetaLM or a causal language model on one or many tasks, as a whole or the encoder alone.

    The default recipe is multitask. Without --model, training starts from the newest finished pretraining run.
    """
    flags = _recipe_values(model, task, cluster, all_cards, templates, None)
    if encoder_only:
        flags |= {"model.trains.decoder": "none", "model.trains.encoders": "all", "model.trains.connectors": "all"}
    train("finetune", arguments or [], flags, TrainOptions(out, resume, dry_run, offline, data_root, seeds))


def instruct(
    arguments: Arguments = None,
    model: BaseOption = None,
    templates: Templates = None,
    hold_out: HoldOut = None,
    task: TaskNames = None,
    cluster: ClusterNames = None,
    all_cards: AllCards = False,
    out: OutOption = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    offline: Offline = False,
    data_root: DataRoot = None,
    seeds: SeedsOption = None,
) -> None:
    """Tune a model on instructions: many templates per task, whole clusters held out, overlap with them audited.

    The default recipe is flan. Without --model, training starts from the newest finished pretraining run.
    """
    flags = _recipe_values(model, task, cluster, all_cards, templates, hold_out)
    train("instruct", arguments or [], flags, TrainOptions(out, resume, dry_run, offline, data_root, seeds))


def _recipe_values(
    model: str | None,
    tasks: list[str] | None,
    clusters: list[str] | None,
    all_cards: bool,
    templates: str | None,
    hold_out: list[str] | None,
) -> dict[str, Any]:
    """Recipe values that the options set, by dotted key; None for options that are not used."""
    return {
        "model.checkpoint": model,
        "data.tasks": [*(tasks or []), *(clusters or [])] or None,
        "data.all_cards": True if all_cards else None,
        "data.templates.collection": templates,
        "data.hold_out": hold_out or None,
    }
