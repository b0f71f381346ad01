"""``metalm finetune`` and ``metalm instruct``: train on tasks."""

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
    typer.Option("--task", metavar="TASK", help="Train on this task (data.tasks); again for more."),
]
ClusterNames = Annotated[
    list[str] | None,
    typer.Option("--cluster", metavar="CLUSTER", help="Train on the core tasks of this cluster."),
]
AllCards = Annotated[bool, typer.Option("--all-cards", help="Clusters also stand for cards that are not core.")]
Templates = Annotated[
    str | None, typer.Option("--templates", metavar="NAME", help="Collection of templates (data.templates.collection).")
]
Held = Annotated[
    list[str] | None,
    typer.Option("--hold-out", metavar="CLUSTER", help="A cluster or task to leave out, with all that leaks; again."),
]
EncoderOnly = Annotated[
    bool, typer.Option("--encoder-only", help="Train encoders and connectors; the decoder is frozen.")
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
    """Finetune a MetaLM or a causal language model on tasks: many, one, or the encoder alone.

    RECIPE left out is multitask. Without --model it begins from the newest finished pretraining run.
    """
    flags = _flags(model, task, cluster, all_cards, templates, None)
    if encoder_only:
        flags |= {"model.trains.decoder": "none", "model.trains.encoders": "all", "model.trains.connectors": "all"}
    train("finetune", arguments or [], flags, TrainOptions(out, resume, dry_run, offline, data_root, seeds))


def instruct(
    arguments: Arguments = None,
    model: BaseOption = None,
    templates: Templates = None,
    hold_out: Held = None,
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
    """Tune on instructions: many templates a task, whole clusters held out, what was left out and audited recorded.

    RECIPE left out is flan. Without --model it begins from the newest finished pretraining run.
    """
    flags = _flags(model, task, cluster, all_cards, templates, hold_out)
    train("instruct", arguments or [], flags, TrainOptions(out, resume, dry_run, offline, data_root, seeds))


def _flags(
    model: str | None,
    tasks: list[str] | None,
    clusters: list[str] | None,
    all_cards: bool,
    templates: str | None,
    held: list[str] | None,
) -> dict[str, Any]:
    """Flags by the keys that they stand for; what is not given is None."""
    return {
        "model.checkpoint": model,
        "data.tasks": [*(tasks or []), *(clusters or [])] or None,
        "data.all_cards": True if all_cards else None,
        "data.templates.collection": templates,
        "data.hold_out": held or None,
    }
