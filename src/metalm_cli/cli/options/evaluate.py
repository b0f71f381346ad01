"""Arguments and options of ``metalm evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PROTOCOLS = "auto|finetuned|in_context|instruct"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run folder, a model folder or a hub id. Default: the newest finished run that holds a MetaLM.",
        show_default=False,
    ),
]
Task = Annotated[list[str] | None, typer.Option("--task", "-t", help="A task to evaluate; repeatable.")]
Cluster = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster", "-c", help="Evaluate a cluster's core tasks, or a group: core, non_core, world, all; repeatable."
    ),
]
AllCards = Annotated[bool, typer.Option("--all-cards", help="Clusters also include tasks that are not core.")]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", metavar="DIR", help="A folder with your own task cards; repeatable.")
]
Protocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar=PROTOCOLS,
        help="finetuned: generate each answer; in_context and instruct: rank the options, without and with the end "
        "token; auto: what the model was trained for.",
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        help="Template collection: flan, t5, plain, none, or a folder. Default: as in training, else flan.",
        show_default=False,
    ),
]
ListOptions = Annotated[
    bool | None,
    typer.Option(
        "--show-options/--no-show-options",
        help="List the answer options in prompts whose template supports it. Default: as in training, else yes.",
        show_default=False,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="first|paper|all|K|NAME",
        help="Templates to score for each task. Default: first; for the instruct protocol: paper (five templates).",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split to score, by its role in the cards. Default: validation, else test."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Maximum number of examples per task, always the same ones. Default: all."),
]
Shots = Annotated[
    str | None,
    typer.Option(
        "--shots", metavar="K[,K…]", help="Numbers of demonstrations to evaluate with, such as 0,1,4. Default: 0."
    ),
]
Demonstrations = Annotated[
    str,
    typer.Option(
        "--demonstrations",
        metavar="frozen|drawn",
        help="frozen: the same for all examples of a task; drawn: new ones for each example.",
    ),
]
DemonstrationLayout = Annotated[
    str | None,
    typer.Option(
        "--demonstration-layout",
        metavar="docks|joined",
        help="docks: each demonstration is a dock of its own; joined: one text together with the input. Default: as "
        "in training, else docks.",
    ),
]
InputRoute = Annotated[
    str | None,
    typer.Option(
        "--input-route",
        metavar="template|encoder|decoder",
        help="Where inputs go: as the template says, all docked (encoder), or all in the decoder. Default: as in "
        "training, else template.",
    ),
]
Rationale = Annotated[
    bool | None,
    typer.Option(
        "--rationales/--no-rationales",
        help="Let the model reason before it answers, where the data has rationales. Default: as in training, else no.",
        show_default=False,
    ),
]
SampledAnswers = Annotated[
    int,
    typer.Option(
        "--sampled-answers",
        min=1,
        help="Sampled answers per example; the most frequent one is scored. 1: greedy decoding.",
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Sampling temperature of sampled answers.")]
Normalise = Annotated[
    bool, typer.Option("--normalise", help="Ignore case, punctuation and articles when comparing answers.")
]
SequenceLength = Annotated[
    int | None,
    typer.Option(
        "--sequence-length", min=16, help="Maximum decoder positions of a session. Default: the model's limit."
    ),
]
Versus = Annotated[
    list[str] | None,
    typer.Option(
        "--versus",
        metavar="MODEL",
        help="Another model to score on the same inputs and to compare with MODEL; repeatable.",
    ),
]
MatchLengthsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--match-input-lengths-of",
        metavar="TOKENIZER:LENGTH",
        help="Truncate long inputs to what this other encoder can also read, for a fair comparison; repeatable.",
    ),
]
RequireHeldOut = Annotated[
    bool,
    typer.Option("--require-held-out", help="Fail if the model's lineage does not show that all tasks were held out."),
]
Contamination = Annotated[
    list[Path] | None,
    typer.Option(
        "--contamination",
        metavar="FILE",
        help="Count rows that share 13 consecutive words with this training data (JSONL file or folder).",
    ),
]
Harness = Annotated[
    list[str] | None,
    typer.Option(
        "--harness",
        metavar="TASK",
        help="Score this task of lm-evaluation-harness by its own rules instead; repeatable.",
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Sequences per forward pass when generating answers.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of drawn demonstrations and sampled answers.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of local data sets. Default: $METALM_DATA.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not open network connections.")]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Results file. Default: a new file in results/ of the run folder."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore the cached answers of earlier evaluations.")]
SaveSamples = Annotated[
    bool, typer.Option("--save-samples", help="Also write every answer, as JSONL next to the results file.")
]
